//! A quantity of every parameter along the depth of the network, by kind.

use std::collections::BTreeMap;

use super::canvas::{
    Area, Axes, Chart, Draw, Drawn, Entry, Mark, PANEL, crosses, dots, horizontal, legend, legend_height,
    panel, series,
};
use super::notes::{Named, Notes, counted};
use super::palette::{AXIS, KINDS, TROUBLE};
use super::scale::Scale;
use crate::analysis::model::{Degenerate, Layer, Measured, Role};
use crate::report::terminal::name_of;
use crate::report::text::safe;
use crate::robust::by_first;

/// What the kinds beyond the colours that there are are called together.
const OTHERS: &str = "others";

/// Whether a kind is no kind: parameters that have nothing in common are no series.
fn is_mixed(kind: &str) -> bool {
    kind == OTHERS || kind == name_of(&Role::Other)
}

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    /// Its layer's position in forward order.
    pub order: u64,
    /// Its layer's path.
    pub layer: String,
    /// What it does there.
    pub role: Role,
    /// The quantity; none where it is not finite.
    pub value: Option<f64>,
}

impl Place {
    /// A parameter of `layer`.
    pub fn new(layer: &Layer, role: Role, value: Option<f64>) -> Self {
        Self { order: layer.order, layer: layer.path.clone(), role, value }
    }
}

/// A quantity along depth.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Depth {
    /// The quantity and its unit.
    quantity: &'static str,
    /// Values by kind, in forward order: those of the most parameters first, biases last.
    kinds: Vec<(String, Vec<(f64, f64)>)>,
    /// Layers in which it is not finite.
    broken: Vec<f64>,
    /// Paths of the layers, by their positions.
    layers: BTreeMap<u64, String>,
    /// Limits to hold it against, with their names.
    limits: Vec<(String, f64)>,
}

impl Depth {
    /// The quantity of `places`; nothing where none has it.
    pub fn new(quantity: &'static str, places: &[Place], limits: Vec<(String, f64)>) -> Option<Self> {
        let mut by_role: BTreeMap<Role, Vec<(f64, f64)>> = BTreeMap::new();
        let mut broken = Vec::new();
        for place in places {
            match place.value {
                // A logarithm has no place for 0: what is all zero is a finding of its own.
                Some(value) if value > 0.0 && value.is_finite() => {
                    by_role.entry(place.role).or_default().push((place.order as f64, value));
                }
                Some(0.0) => {}
                _ => broken.push(place.order as f64),
            }
        }
        if by_role.is_empty() && broken.is_empty() {
            return None;
        }
        let mut by_role: Vec<(Role, Vec<(f64, f64)>)> = by_role.into_iter().collect();
        let is_bias = |role: Role| matches!(role, Role::Bias | Role::NormBias);
        by_role.sort_by_key(|(role, values)| (is_bias(*role), std::cmp::Reverse(values.len())));
        let mut kinds: Vec<(String, Vec<(f64, f64)>)> =
            by_role.into_iter().map(|(role, values)| (name_of(&role), values)).collect();
        if kinds.len() > KINDS.len() {
            let others: Vec<(f64, f64)> =
                kinds.drain(KINDS.len() - 1..).flat_map(|(_, values)| values).collect();
            kinds.push((OTHERS.to_owned(), others));
        }
        for (_, values) in &mut kinds {
            by_first(values);
        }
        broken.sort_by(f64::total_cmp);
        let layers = places.iter().map(|place| (place.order, place.layer.clone())).collect();
        Some(Self { quantity, kinds, broken, layers, limits })
    }

    fn entries(&self) -> Vec<Entry> {
        let mark = |name: &str| if is_mixed(name) { Mark::Dot } else { Mark::Line };
        let kinds =
            self.kinds.iter().zip(KINDS).map(|((name, _), color)| Entry::new(name, color, mark(name)));
        let limits = self.limits.iter().map(|(name, _)| Entry::new(name, AXIS, Mark::Dashes));
        let broken = (!self.broken.is_empty()).then(|| Entry::new("not finite", TROUBLE, Mark::Cross));
        kinds.chain(limits).chain(broken).collect()
    }
}

impl Draw for Depth {
    fn height(&self) -> u32 {
        legend_height(&self.entries()) + PANEL
    }

    fn draw(&self, area: &Area<'_>, notes: &Notes) -> Drawn {
        let body = legend(&self.entries(), area)?;
        let points = self.kinds.iter().flat_map(|(_, values)| values);
        let layers = points.clone().map(|point| point.0).chain(self.broken.iter().copied());
        let (first, last) =
            layers.fold((f64::INFINITY, 0.0), |(low, high), one| (one.min(low), one.max(high)));
        let x = Scale::whole(if first.is_finite() { first - 0.5 } else { 0.0 }, last + 0.5);
        let y = Scale::positive(points.map(|point| point.1).chain(self.limits.iter().map(|limit| limit.1)));
        let axes = Axes { x: &x, y: &y, x_name: "layer, in forward order", y_name: self.quantity };
        let mut chart = panel(&body, &axes)?;
        for (_, limit) in &self.limits {
            horizontal(&mut chart, &axes, *limit, AXIS)?;
        }
        for ((name, values), color) in self.kinds.iter().zip(KINDS) {
            if is_mixed(name) {
                dots(&mut chart, &axes, values, color)?;
            } else {
                series(&body, &mut chart, &axes, values, color)?;
            }
        }
        crosses(&body, &chart, &axes, &self.broken)?;
        self.note(&chart, &axes, notes);
        Ok(())
    }
}

impl Depth {
    /// Every kind of every layer, and what the layer is called.
    fn note(&self, chart: &Chart<'_, '_>, axes: &Axes<'_>, notes: &Notes) {
        let broken: Vec<(f64, f64)> = self.broken.iter().map(|order| (*order, f64::NAN)).collect();
        let kinds = self.kinds.iter().map(|(name, values)| Named { name, values });
        let others = (!broken.is_empty()).then_some(Named { name: "in it", values: &broken });
        let place = |first: f64, last: f64| {
            let name = self.layers.get(&(first as u64)).filter(|_| first == last);
            let name = name.map_or_else(String::new, |name| format!(": {}", safe(name)));
            format!("{}{name}", counted("layer", first, last))
        };
        notes.columns(chart, axes, &kinds.chain(others).collect::<Vec<_>>(), place);
    }
}

/// A parameter's place by a quantity of it: without a value where it is not finite, nothing where it was not measured.
pub(super) fn place_of(layer: &Layer, role: Role, quantity: &Measured<f64>) -> Option<Place> {
    match quantity {
        Measured::Value(value) => Some(Place::new(layer, role, Some(*value))),
        Measured::Degenerate(Degenerate::NoFiniteElement | Degenerate::Overflow) => {
            Some(Place::new(layer, role, None))
        }
        Measured::NotMeasured(_) | Measured::Degenerate(_) => None,
    }
}
