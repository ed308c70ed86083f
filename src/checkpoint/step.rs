//! How many optimizer steps a checkpoint has behind it: what files state, and what names suggest.

use std::path::Path;

use super::optimizer::{OptimizerState, scalar};
use crate::error::{Error, ErrorKind};
use crate::format::{Container, Node};

/// One place that states a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// The place, for people.
    pub place: String,
    pub step: u64,
    /// Whether the number can only be a step. That of `ckpt_3.pt` may as well be an epoch.
    pub certain: bool,
}

/// Keys of pickled dicts that hold the step: Lightning, nanoGPT, Megatron, hand-written loops, fairseq.
const STEP_KEYS: &[&str] =
    &["global_step", "global_steps", "step", "steps", "iter_num", "iteration", "num_iters", "num_updates"];

/// Words before the number in names, the most telling first.
const CERTAIN_WORDS: &[&str] = &["step", "steps", "iter", "iteration", "iterations"];
const UNCERTAIN_WORDS: &[&str] = &["checkpoint", "ckpt"];

/// What the root of a pickle states, in a number or in a tensor of one element.
pub(super) fn in_container(container: &Container, file: &str) -> Option<Claim> {
    let objects = container.objects.as_ref()?;
    let root = objects.root?;
    STEP_KEYS.iter().find_map(|key| {
        let value = objects.get(root, key)?;
        let step = match *objects.node(value) {
            Node::Tensor(entry) => whole(scalar::of_entry(container.entries.get(entry)?)?)?,
            _ => objects.count(value)?,
        };
        Some(Claim { place: format!("{key} in {file}"), step, certain: true })
    })
}

/// The most steps that an optimizer took. It is none the wiser for steps that mixed precision skipped.
pub(super) fn in_optimizers(optimizers: &[OptimizerState]) -> Option<Claim> {
    let parameters = optimizers.iter().flat_map(|optimizer| &optimizer.parameters);
    let steps = parameters.filter_map(|parameter| whole(parameter.step?));
    Some(Claim { place: "the optimizer's state".to_owned(), step: steps.max()?, certain: false })
}

fn whole(value: f64) -> Option<u64> {
    let is_whole = value.fract() == 0.0 && value.abs() < 9e15;
    u64::try_from(is_whole.then_some(value as i64)?).ok()
}

/// What the name of a file or directory says: `checkpoint-400`, `global_step400`, `epoch=3-step=400.ckpt`.
pub(super) fn in_name(path: &Path) -> Option<Claim> {
    let name = path.file_name()?.to_str()?;
    let lower = name.to_ascii_lowercase();
    let after = |words: &[&str]| words.iter().find_map(|word| number_after(&lower, word));
    let certain = after(CERTAIN_WORDS);
    // The Trainer's directories, which count steps and nothing else.
    let trainer = || lower.strip_prefix("checkpoint-").and_then(|number| number.parse().ok());
    let step = certain.or_else(trainer);
    let claim = |step, certain| Claim { place: format!("the name {}", name.escape_debug()), step, certain };
    step.map(|step| claim(step, true)).or_else(|| after(UNCERTAIN_WORDS).map(|step| claim(step, false)))
}

/// The number that follows `word` in `name`, with one separator or none between, and no letter behind.
fn number_after(name: &str, word: &str) -> Option<u64> {
    name.match_indices(word).find_map(|(start, _)| {
        let before = name[..start].chars().next_back();
        let rest = &name[start + word.len()..];
        let rest = rest.strip_prefix(['-', '_', '=', '.']).unwrap_or(rest);
        let digits = rest.len() - rest.trim_start_matches(|character: char| character.is_ascii_digit()).len();
        let behind = rest[digits..].chars().next();
        let apart = !before.is_some_and(char::is_alphanumeric) && !behind.is_some_and(char::is_alphanumeric);
        if apart { rest[..digits].parse().ok() } else { None }
    })
}

/// Whether a name is that of a step and of nothing else, so that files of another step in it are misplaced: `checkpoint-400`,
/// `global_step400`, `iter_0000400`, `epoch=3-step=400.ckpt`. In `two-stage-step2` the number counts the experiment's own steps.
fn is_of_a_step(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
    let name = name.strip_prefix("global_").or(name.strip_prefix("global-")).unwrap_or(&name);
    let words = || CERTAIN_WORDS.iter().chain(UNCERTAIN_WORDS);
    words().any(|word| name.starts_with(word)) || words().any(|word| name.contains(&format!("{word}=")))
}

/// The claim to believe: the first certain one of `claims` and the path, or else the first. And a problem where they disagree.
pub(super) fn settle(path: &Path, claims: &[Claim]) -> (Option<Claim>, Option<Error>) {
    let around = path.parent().filter(|_| path.is_file());
    let named = [Some(path), around].into_iter().flatten().find_map(|path| Some((path, in_name(path)?)));
    // A name that may mean something else than a step is only listened to where the files say nothing certain.
    let own_word = claims.iter().any(|claim| claim.certain);
    let by_name = named.filter(|(path, _)| !own_word || is_of_a_step(path)).map(|(_, claim)| claim);
    let claims: Vec<&Claim> = claims.iter().chain(&by_name).collect();
    let certain: Vec<&Claim> = claims.iter().copied().filter(|claim| claim.certain).collect();
    let believed = certain.first().or(claims.first()).map(|&claim| claim.clone());
    let agree = certain.iter().all(|claim| Some(claim.step) == certain.first().map(|first| first.step));
    let disagreement = (!agree).then(|| {
        let claims = certain.iter().map(|claim| format!("{} in {}", claim.step, claim.place)).collect();
        ErrorKind::StepsDisagree { claims }.in_file(path)
    });
    (believed, disagreement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_count_steps_are_understood() {
        let cases = [
            ("checkpoint-400", Some((400, true))),
            ("step-400", Some((400, true))),
            ("global_step400", Some((400, true))),
            ("iter_0000400", Some((400, true))),
            ("ckpt_400.pt", Some((400, false))),
            ("checkpoint_400.pth", Some((400, false))),
            ("epoch=3-step=400.ckpt", Some((400, true))),
            ("step400-unsharded", Some((400, true))),
            ("model-00001-of-00003.safetensors", None),
            ("checkpoint_11July2024.pth", None),
            ("footstep-3", None),
            ("epoch_3.pt", None),
            ("step-99999999999999999999", None),
        ];
        for (name, expected) in cases {
            let found = in_name(Path::new(name)).map(|claim| (claim.step, claim.certain));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn places_that_disagree_are_reported_and_the_file_is_believed() {
        let claim = |step, certain| Claim { place: "trainer_state.json".to_owned(), step, certain };
        let path = Path::new("run/checkpoint-500");
        let settled = |path: &str, claims: &[Claim]| {
            let (claim, problem) = settle(Path::new(path), claims);
            (claim.map(|claim| claim.step), problem)
        };
        let (claimed, problem) = settle(path, &[claim(400, true)]);
        assert_eq!(claimed, Some(claim(400, true)));
        assert!(matches!(problem.unwrap().kind, ErrorKind::StepsDisagree { .. }));
        assert_eq!(settled("run/checkpoint-500", &[claim(500, true)]), (Some(500), None));
        assert_eq!(settled("ckpt_3.pt", &[claim(400, true)]), (Some(400), None));
        assert_eq!(settled("ckpt_3.pt", &[claim(120, false)]), (Some(120), None));
        assert_eq!(settled("step-400.pt", &[claim(390, false)]), (Some(400), None));
        assert_eq!(settled("model.pt", &[]), (None, None));
        for misplaced in ["global_step400", "iter_0000400", "step-400.pt", "last-epoch=3-step=400.ckpt"] {
            assert!(settled(misplaced, &[claim(60, true)]).1.is_some(), "{misplaced}");
        }
    }

    #[test]
    fn a_step_of_an_experiment_is_no_optimizer_step() {
        let claim = Claim { place: "iter_num".to_owned(), step: 60, certain: true };
        for name in ["two-stage-step2", "sweep-step0", "recipe_step_1.pt", "rlhf-step3-ppo"] {
            let (believed, problem) = settle(Path::new(name), std::slice::from_ref(&claim));
            assert_eq!((believed, problem), (Some(claim.clone()), None), "{name}");
        }
        // Where nothing else says one, it is believed.
        assert_eq!(settle(Path::new("gpt-step-400.pt"), &[]).0.map(|claim| claim.step), Some(400));
    }
}
