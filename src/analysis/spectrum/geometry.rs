//! What a convolution is beside its weight, as far as the config or the shapes around it prove it.
//!
//! A weight says its kernel and nothing of stride, padding, dilation, groups or the size of what it reads. A config says some of them,
//! of networks that are made by it in one known way; the layers around say that a kernel of one input channel has one filter a channel.
//! What neither proves is left open, and the caller assumes it and says so. Every claim here is held against the modules of
//! transformers (`fixtures/oracle/spectra/convolutions.json`).

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::config_convolutions;
use crate::analysis::model::{GeometrySource, GeometrySources, Role, Section, TensorAnalysis};
use crate::checkpoint::names::Glob;
use crate::context::{Context, StatedConvolution};

/// What is known of a convolution; what is not is empty or 0, and its source is [`GeometrySource::Assumed`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stated {
    pub input: Vec<u64>,
    pub stride: Vec<u64>,
    pub padding: Vec<u64>,
    pub dilation: Vec<u64>,
    pub groups: u64,
    pub sources: GeometrySources,
}

impl Stated {
    /// What a config says: stride and padding, no dilation, one group.
    pub fn by_config(stride: Vec<u64>, padding: Vec<u64>) -> Self {
        let config = GeometrySource::Config;
        Self {
            input: Vec::new(),
            dilation: vec![1; stride.len()],
            stride,
            padding,
            groups: 1,
            sources: GeometrySources {
                stride: config,
                padding: config,
                dilation: config,
                groups: config,
                ..GeometrySources::default()
            },
        }
    }

    /// The same on inputs of the size that the config says.
    pub fn on(self, input: Vec<u64>) -> Self {
        let sources = GeometrySources { input: GeometrySource::Config, ..self.sources };
        Self { input, sources, ..self }
    }

    /// Takes over what the user says, as far as it fits so many axes.
    fn follow(&mut self, flag: &StatedConvolution, axes: usize) {
        let Self { input, stride, padding, dilation, groups, sources } = self;
        let told = [
            (&flag.input, input, &mut sources.input),
            (&flag.stride, stride, &mut sources.stride),
            (&flag.padding, padding, &mut sources.padding),
            (&flag.dilation, dilation, &mut sources.dilation),
        ];
        for (said, own, source) in told {
            let all_axes = if let [one] = said[..] { vec![one; axes] } else { said.clone() };
            if all_axes.len() == axes {
                (*own, *source) = (all_axes, GeometrySource::Flag);
            }
        }
        if let Some(said) = flag.groups {
            (*groups, sources.groups) = (said, GeometrySource::Flag);
        }
    }

    /// The same with the groups that the config says.
    pub fn in_groups(self, groups: u64) -> Self {
        Self { groups, ..self }
    }
}

/// A tensor of the model: what is looked at around a convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub name: &'a str,
    pub shape: &'a [u64],
    /// Position in forward order, as far as names tell it.
    pub order: u64,
}

/// What there is to tell a geometry by.
pub(super) struct Evidence<'a> {
    /// Sizes of the input that the user named; empty where there are none.
    input: &'a [u64],
    /// What the user says of convolutions by their names.
    flags: Vec<(Glob, &'a StatedConvolution)>,
    sections: Vec<ConfigSection<'a>>,
    /// The first convolution in forward order: one of one input channel may read the input of the network.
    first: Option<&'a str>,
    /// In forward order.
    places: Vec<Place<'a>>,
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Evidence<'a> {
    pub fn of(
        config: Option<&'a BTreeMap<String, Value>>,
        analyses: &'a [TensorAnalysis],
        context: &'a Context,
    ) -> Self {
        let own = analyses.iter().filter(|analysis| analysis.section == Section::Model);
        let place = |analysis: &'a TensorAnalysis| Place {
            name: &analysis.canonical_name,
            shape: &analysis.shape,
            order: analysis.layer.order,
        };
        let first = analyses.iter().filter(|analysis| is_convolution(analysis));
        let first = first.min_by_key(|analysis| analysis.layer.order);
        let first = first.map(|analysis| analysis.canonical_name.as_str());
        let flag = |flag: &'a StatedConvolution| Some((Glob::new(&flag.names).ok()?, flag));
        Self {
            input: &context.input_size,
            flags: context.convolutions.iter().filter_map(flag).collect(),
            first,
            ..Self::from_places(config, own.map(place).collect())
        }
    }

    fn from_places(config: Option<&'a BTreeMap<String, Value>>, mut places: Vec<Place<'a>>) -> Self {
        places.sort_by_key(|place| place.order);
        let by_name = places.iter().enumerate().map(|(index, place)| (place.name, index)).collect();
        let sections = config.map(sections).unwrap_or_default();
        Self { input: &[], flags: Vec::new(), first: None, sections, places, by_name }
    }

    /// What is known of a tensor as a convolution, and its groups as they are assumed where nothing says them.
    pub fn stated(&self, analysis: &TensorAnalysis) -> Stated {
        if !is_convolution(analysis) {
            return Stated::default();
        }
        let (name, shape) = (analysis.canonical_name.as_str(), analysis.shape.as_slice());
        let mut stated = self.proven(name, shape);
        if self.input.len() == shape.len() - 2 {
            stated.input = self.input.to_vec();
            stated.sources.input = GeometrySource::Flag;
        }
        let is_named = |(names, _): &&(Glob, _)| names.is_match(&analysis.name) || names.is_match(name);
        for (_, flag) in self.flags.iter().filter(is_named) {
            stated.follow(flag, shape.len() - 2);
        }
        if stated.groups == 0 {
            let is_one_a_channel = shape[1] == 1 && self.first.is_some_and(|first| first != name);
            stated.groups = if is_one_a_channel { shape[0] } else { 1 };
        }
        stated
    }

    /// What the config and the shapes say of the convolution of this name and shape: outputs, inputs of a group, kernel.
    fn proven(&self, name: &str, shape: &[u64]) -> Stated {
        let mut stated = self.by_config(name, shape).unwrap_or_default();
        if stated.groups == 0
            && let Some(groups) = self.groups_by_shapes(name, shape)
        {
            stated.groups = groups;
            stated.sources.groups = GeometrySource::Shapes;
        }
        stated
    }

    /// What the config says; nothing where its parts contradict each other.
    fn by_config(&self, name: &str, shape: &[u64]) -> Option<Stated> {
        let mut claims =
            self.sections.iter().filter_map(|section| config_convolutions::claim(section, name, shape));
        let first = claims.next()?;
        claims.all(|other| other == first).then_some(first)
    }

    fn groups_by_shapes(&self, name: &str, shape: &[u64]) -> Option<u64> {
        match *shape {
            [outputs, 1, ..] if outputs > 1 => self.is_one_filter_a_channel(name, outputs).then_some(outputs),
            [outputs, inputs, ..] => self.groups_of_bottleneck(name, outputs, inputs),
            _ => None,
        }
    }

    /// Whether what comes in has as many channels as come out. The map before makes so many, or twice as many for a gate (Conformer), or
    /// stands beside as `in_proj`, which makes the channels of a state-space layer and more (Mamba).
    fn is_one_filter_a_channel(&self, name: &str, outputs: u64) -> bool {
        let parent = name.rsplitn(3, '.').nth(2).unwrap_or_default();
        let beside = self.by_name.get(format!("{parent}.in_proj.weight").as_str());
        if beside.is_some_and(|index| self.places[*index].shape.first() >= Some(&outputs)) {
            return true;
        }
        let Some(&own) = self.by_name.get(name) else { return false };
        // Factors that are spread over all places ([1, 1, 1, C] of ConvNeXt V2) are none.
        let is_map = |place: &&Place<'_>| place.shape.len() > 1 && place.shape[..2] != [1, 1];
        // Filters of one channel pass on as many channels as they get: several may follow one another.
        let is_another = |place: &&Place<'_>| place.shape[0] == outputs && place.shape[1] == 1;
        let before = self.places[..own].iter().rev().filter(is_map).find(|place| !is_another(place));
        before.is_some_and(|before| before.shape[0] == outputs || before.shape[0] == 2 * outputs)
    }

    /// The groups of `conv2` in a block of `conv1`, `bn1`, `conv2` (torchvision, timm): it reads what `conv1` gives.
    fn groups_of_bottleneck(&self, name: &str, outputs: u64, inputs: u64) -> Option<u64> {
        let block = name.strip_suffix("conv2.weight")?;
        let find = |end: &str| Some(self.places[*self.by_name.get(format!("{block}{end}").as_str())?].shape);
        let channels = *find("conv1.weight")?.first()?;
        if find("bn1.weight")? != [channels] || inputs == 0 || !channels.is_multiple_of(inputs) {
            return None;
        }
        let groups = channels / inputs;
        outputs.is_multiple_of(groups).then_some(groups)
    }
}

fn is_convolution(analysis: &TensorAnalysis) -> bool {
    analysis.role == Role::Convolution && analysis.shape.len() > 2
}

/// The config of the network, or of a part of it: `vision_config`, `backbone_config`, timm's `pretrained_cfg`.
pub(super) enum ConfigSection<'a> {
    Whole(&'a BTreeMap<String, Value>),
    Part(&'a serde_json::Map<String, Value>),
}

/// A config is untrusted: sizes that no convolution has would overflow what is made of them.
const LARGEST: u64 = 1 << 20;

impl<'a> ConfigSection<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        match self {
            ConfigSection::Whole(map) => map.get(key),
            ConfigSection::Part(map) => map.get(key),
        }
    }

    pub fn text(&self, key: &str) -> &'a str {
        self.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the key is there and neither null nor false.
    pub fn says(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)))
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(size)
    }

    /// A list of sizes.
    pub fn list(&self, key: &str) -> Option<Vec<u64>> {
        self.get(key)?.as_array()?.iter().map(size).collect()
    }

    /// A size for each of `axes` axes: a list, or one for all of them.
    pub fn sizes(&self, key: &str, axes: usize) -> Option<Vec<u64>> {
        match self.list(key) {
            Some(list) => Some(list).filter(|list| list.len() == axes),
            None => self.number(key).map(|size| vec![size; axes]),
        }
    }
}

fn size(value: &Value) -> Option<u64> {
    value.as_u64().filter(|size| (1..=LARGEST).contains(size))
}

/// Parts of parts that are looked into, and how many altogether.
const DEEPEST: usize = 3;
const MOST_SECTIONS: usize = 64;

fn sections(config: &BTreeMap<String, Value>) -> Vec<ConfigSection<'_>> {
    let mut found = vec![ConfigSection::Whole(config)];
    let mut level: Vec<&Value> = config.values().collect();
    for _ in 0..DEEPEST {
        let parts: Vec<_> = level.iter().filter_map(|value| value.as_object()).collect();
        level = parts.iter().flat_map(|part| part.values()).collect();
        found.extend(parts.into_iter().map(ConfigSection::Part));
    }
    found.truncate(MOST_SECTIONS);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::names::{self, NameRules, Subject};

    /// Name, stride, padding, dilation and groups.
    type Module = (String, Vec<u64>, Vec<u64>, Vec<u64>, u64);

    /// The tensors of a network under the names and the order that their names give them.
    fn network(tensors: &Value) -> Vec<(String, Vec<u64>, u64)> {
        let tensors: Vec<(String, Vec<u64>)> = serde_json::from_value(tensors.clone()).unwrap();
        let subjects: Vec<Subject<'_>> =
            tensors.iter().map(|(name, shape)| Subject { name, shape: Some(shape), dtype: None }).collect();
        let named = names::assign(&subjects, &NameRules::default());
        let own = tensors.iter().zip(named);
        own.map(|((_, shape), named)| (named.canonical_name, shape.clone(), named.layer.order)).collect()
    }

    /// Every claim on the networks of transformers is what its modules are.
    #[test]
    fn what_is_claimed_of_networks_of_transformers_is_what_their_modules_say() {
        let path = "fixtures/oracle/spectra/convolutions.json";
        let oracle: BTreeMap<String, Value> =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let (mut all, mut with_stride, mut with_groups) = (0, 0, 0);
        let (mut missed, mut wrong) = (Vec::new(), Vec::new());
        for (model, own) in &oracle {
            let config: BTreeMap<String, Value> = serde_json::from_value(own["config"].clone()).unwrap();
            let tensors = network(&own["tensors"]);
            let places = tensors.iter().map(|(name, shape, order)| Place { name, shape, order: *order });
            let evidence = Evidence::from_places(Some(&config), places.collect());
            let shape_of = |name: &str| {
                let own = tensors.iter().find(|(own, ..)| name == own || name.ends_with(&format!(".{own}")));
                own.map(|(name, shape, _)| (name.as_str(), shape.as_slice()))
            };
            let convolutions: Vec<Module> = serde_json::from_value(own["convolutions"].clone()).unwrap();
            for (name, stride, padding, dilation, groups) in convolutions {
                let (name, shape) = shape_of(&name).unwrap_or_else(|| panic!("{model} has no {name}"));
                let found = evidence.proven(name, shape);
                all += 1;
                with_stride += usize::from(found.sources.stride != GeometrySource::Assumed);
                with_groups += usize::from(found.groups > 0);
                let is = |claim: &[u64], truth: &[u64]| claim.is_empty() || claim == truth;
                let is_true = is(&found.stride, &stride)
                    && is(&found.padding, &padding)
                    && is(&found.dilation, &dilation)
                    && [0, groups].contains(&found.groups);
                if !is_true {
                    wrong.push(format!(
                        "{model} {name}: {found:?}, not {stride:?} {padding:?} {dilation:?} {groups}"
                    ));
                }
                let is_strided = stride.iter().any(|stride| *stride > 1);
                if (groups > 1 && found.groups == 0) || (is_strided && found.stride.is_empty()) {
                    missed
                        .push(format!("{model} {name} {:?} stride {stride:?} groups {groups}", &shape[2..]));
                }
            }
        }
        println!(
            "{all} convolutions, the stride of {with_stride} and the groups of {with_groups} are told; not of"
        );
        for one in &missed {
            println!("  {one}");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(with_stride > 100 && with_groups > 100, "{with_stride} {with_groups} of {all}");
    }
}
