//! Optimizer states of published checkpoints: mapped to the parameters that PyTorch says, not accused of anything, and
//! damaged copies of them seen by the rules that can see the damage, and by no others (`docs/forensics.md`).
//!
//! `FLASHPOINT_REAL_INPUTS=DIR cargo test --test real_optimizer`.

mod common;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use flashpoint::analysis::model::MeasureLevel;
use flashpoint::analysis::{measure_checkpoint, of_checkpoints};
use flashpoint::checkpoint::optimizer::{ParameterState, Place, Quantity};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::files::InputFile;
use flashpoint::format::zip::Archive;
use flashpoint::rules::{self, Overrides, Severity};
use serde_json::Value;

/// Path and oracle of each checkpoint; none, said loudly, where there are no inputs.
fn inputs(test: &str) -> Vec<(PathBuf, Value)> {
    let Some(folder) = std::env::var_os("FLASHPOINT_REAL_INPUTS").filter(|folder| !folder.is_empty()) else {
        eprintln!("SKIPPED {test}: FLASHPOINT_REAL_INPUTS is not set, no real input was read");
        return Vec::new();
    };
    let oracle = common::oracle(Path::new("fixtures/oracle/optimizer/real.json"));
    let files = oracle.as_object().expect("a table");
    files.iter().map(|(file, truth)| (Path::new(&folder).join(file), truth.clone())).collect()
}

fn read(path: &Path) -> Checkpoint {
    Checkpoint::read(path, &NameRules::default(), &Context::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Rules of optimizer state that fire as warnings or worse.
fn fired(checkpoint: &Checkpoint) -> BTreeSet<String> {
    let analysis = measure_checkpoint(checkpoint, MeasureLevel::Norms, &Context::default());
    let assessment =
        rules::evaluate(&of_checkpoints(vec![analysis], MeasureLevel::Norms), &Overrides::default());
    let alarms = assessment.findings.into_iter().filter(|finding| finding.severity > Severity::Note);
    alarms.map(|finding| finding.rule).filter(|rule| !rule.starts_with("FP9")).collect()
}

#[test]
fn every_parameter_is_the_one_that_pytorch_says() {
    for (path, truth) in inputs("mapping") {
        let checkpoint = read(&path);
        let names = truth["names"].as_object().expect("a table");
        let optimizer = &checkpoint.optimizers[0];
        assert_eq!(optimizer.parameters.len(), names.len(), "{}", path.display());
        for parameter in &optimizer.parameters {
            let tensor = parameter.parameter.map(|index| checkpoint.tensors[index].name.as_str());
            let expected = names[&parameter.key].as_str().expect("a name");
            // Stored names begin with the key that holds the model.
            assert!(
                tensor.is_some_and(|name| name.ends_with(expected)),
                "{}: {tensor:?} for {expected}",
                path.display()
            );
        }
        let steps: BTreeSet<String> =
            optimizer.parameters.iter().filter_map(|state| Some(format!("{:.0}", state.step?))).collect();
        let told: BTreeSet<String> =
            truth["steps"].as_array().expect("a list").iter().map(Value::to_string).collect();
        assert_eq!(steps, told, "{}", path.display());
    }
}

#[test]
fn no_real_state_is_accused_of_anything() {
    for (path, _) in inputs("false alarms") {
        assert_eq!(fired(&read(&path)), BTreeSet::new(), "{}", path.display());
    }
}

/// Two parameters of one shape, with moments, that are matrices; the first as large as there are.
fn pair(checkpoint: &Checkpoint) -> (usize, usize) {
    let states = &checkpoint.optimizers[0].parameters;
    let shape = |state: &ParameterState| {
        let tensor = checkpoint.tensors[state.exp_avg?].tensor.as_ref().ok()?;
        (tensor.shape.len() >= 2).then(|| tensor.shape.clone())
    };
    let pairs = (0..states.len()).flat_map(|one| (one + 1..states.len()).map(move |other| (one, other)));
    let alike = pairs.filter(|&(one, other)| {
        shape(&states[one]).is_some() && shape(&states[one]) == shape(&states[other])
    });
    let size = |&(one, _): &(usize, usize)| shape(&states[one]).map(|shape| shape.iter().product::<u64>());
    alike.max_by_key(size).expect("layers of one shape")
}

/// A copy of a checkpoint's file, to be damaged before it was saved: its checksums are those of what is in it.
struct Copy {
    checkpoint: Checkpoint,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Copy {
    fn of(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("a checkpoint");
        Self { checkpoint: read(path), path: path.to_owned(), bytes }
    }

    fn states(&self) -> Vec<ParameterState> {
        self.checkpoint.optimizers[0].parameters.clone()
    }

    /// Where the elements of a tensor lie.
    fn place(&self, index: Option<usize>) -> Range<usize> {
        let tensor =
            self.checkpoint.tensors[index.expect("it is kept")].tensor.as_ref().expect("it can be read");
        let [piece] = tensor.pieces.as_slice() else { panic!("a tensor of one piece") };
        piece.bytes.start as usize..piece.bytes.end as usize
    }

    fn change(&mut self, index: Option<usize>, change: fn(f32) -> f32) {
        let place = self.place(index);
        for element in self.bytes[place].chunks_exact_mut(4) {
            let value = f32::from_le_bytes(element.try_into().expect("four bytes"));
            element.copy_from_slice(&change(value).to_le_bytes());
        }
    }

    fn swap(&mut self, one: Option<usize>, other: Option<usize>) {
        let (one, other) = (self.place(one), self.place(other));
        let elements = self.bytes[one.clone()].to_vec();
        self.bytes.copy_within(other.clone(), one.start);
        self.bytes[other].copy_from_slice(&elements);
    }

    /// Replaces what the pickle holds at a place by an opcode of the same length.
    fn pickle(&mut self, place: (u32, u32), opcode: &[u8]) {
        assert_eq!((place.1 - place.0) as usize, opcode.len(), "an opcode of another length");
        let start = if let Some((_, archive)) = self.archive() {
            let pickle = archive.members().iter().find(|member| member.name.ends_with("/data.pkl"));
            pickle.expect("the pickle").data.start as usize
        } else {
            // Before the object of a file of before 1.6 stand three pickles: two numbers, and sizes.
            let ends = self.bytes.windows(3).enumerate().filter(|(_, bytes)| *bytes == b".\x80\x02");
            ends.map(|(end, _)| end + 1).nth(2).expect("three pickles before the object")
        };
        assert_eq!(self.bytes[start + place.0 as usize], opcode[0], "another opcode stands there");
        self.bytes[start + place.0 as usize..start + place.1 as usize].copy_from_slice(opcode);
    }

    fn set_step(&mut self, state: &ParameterState, step: i32) {
        match state.step_place.expect("each counts its own steps") {
            Place::Tensor(index) => {
                let place = self.place(Some(index));
                self.bytes[place].copy_from_slice(&(step as f32).to_le_bytes());
            }
            Place::Pickled { start, end } => {
                self.pickle((start, end), &[&b"J"[..], &step.to_le_bytes()].concat());
            }
        }
    }

    fn set_beta2(&mut self, beta2: f64) {
        for number in self.checkpoint.optimizers[0].hyperparameters.clone() {
            if number.quantity == Quantity::Beta2 {
                let Some(Place::Pickled { start, end }) = number.place else { panic!("{number:?}") };
                self.pickle((start, end), &[&b"G"[..], &beta2.to_be_bytes()].concat());
            }
        }
    }

    fn archive(&self) -> Option<(InputFile, Archive)> {
        let file = InputFile::open(&self.path, &Context::default()).expect("a checkpoint");
        let archive = Archive::open(&file).ok()?;
        Some((file, archive))
    }

    /// The checkpoint that the changed bytes are, read from `folder`, where they are written with their checksums.
    fn saved_in(mut self, folder: &Path) -> Checkpoint {
        if let Some((file, archive)) = self.archive() {
            let places = archive.checksum_places(&file).expect("an archive of PyTorch's");
            for member in archive.members() {
                let mut crc = flate2::Crc::new();
                crc.update(&self.bytes[member.data.start as usize..member.data.end as usize]);
                for place in places[&member.name] {
                    self.bytes[place as usize..place as usize + 4].copy_from_slice(&crc.sum().to_le_bytes());
                }
            }
        }
        let path = folder.join(self.path.file_name().expect("a name"));
        std::fs::write(&path, &self.bytes).expect("a temporary file");
        let checkpoint = read(&path);
        assert_eq!(checkpoint.problems, [], "the copy is damaged in what it says, not as a file");
        checkpoint
    }
}

/// What the rules say of a copy, written and read again, in which something was changed.
fn fired_by(path: &Path, edit: impl FnOnce(&mut Copy)) -> BTreeSet<String> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut copy = Copy::of(path);
    edit(&mut copy);
    fired(&copy.saved_in(folder.path()))
}

/// As that, in which the elements of one tensor are changed.
fn fired_by_change(
    path: &Path,
    pick: fn(&ParameterState) -> Option<usize>,
    change: fn(f32) -> f32,
) -> BTreeSet<String> {
    fired_by(path, |copy| {
        let (one, _) = pair(&copy.checkpoint);
        let index = pick(&copy.states()[one]);
        copy.change(index, change);
    })
}

fn rules_of(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_copy_of_which_nothing_is_changed_is_accused_of_nothing() {
    for (path, _) in inputs("an unchanged copy") {
        assert_eq!(fired_by(&path, |_| {}), BTreeSet::new(), "{}", path.display());
    }
}

#[test]
fn a_lost_step_is_seen() {
    for (path, _) in inputs("a lost step") {
        for step in [0, 1] {
            let fired =
                fired_by(&path, |copy| copy.states().iter().for_each(|state| copy.set_step(state, step)));
            assert!(fired.contains("FP308"), "{} at {step}: {fired:?}", path.display());
        }
        let fired = fired_by(&path, |copy| {
            let (one, _) = pair(&copy.checkpoint);
            let state = copy.states()[one].clone();
            copy.set_step(&state, 1000);
        });
        assert!(fired.contains("FP708"), "{}: {fired:?}", path.display());
    }
}

#[test]
fn a_restarted_step_is_seen_where_the_checkpoint_says_its_own() {
    for (path, truth) in inputs("a restarted step") {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut copy = Copy::of(&path);
        copy.states().iter().for_each(|state| copy.set_step(state, 10));
        let mut checkpoint = copy.saved_in(folder.path());
        // These files do not say theirs: this is what a framework that does would have written.
        checkpoint.step = truth["steps"][0].as_u64();
        assert!(fired(&checkpoint).contains("FP308"), "{}", path.display());
    }
}

/// The root of the mean of û², and of v̂ where it is not zero over ε, of one parameter's moments, by plain loops. They are of `v`
/// times the real one.
fn next_update(checkpoint: &Checkpoint, state: &ParameterState, times: f64) -> (f64, f64) {
    let group = &checkpoint.optimizers[0].groups[state.group];
    let number = |value: Option<f64>| value.expect("the group says it");
    let (beta1, beta2) = (number(group.beta1), number(group.beta2));
    let (epsilon, step) = (number(group.epsilon), number(state.step));
    let [m, v] = [state.exp_avg, state.exp_avg_sq].map(|index| {
        let tensor = checkpoint.tensors[index.expect("it is kept")].tensor.as_ref().expect("it can be read");
        let mut elements = Vec::new();
        tensor.read_f64(0..tensor.count(), &mut elements).expect("elements");
        elements
    });
    let (mut updates, mut second, mut moving) = (0.0, 0.0, 0.0);
    for (m, v) in m.iter().zip(&v) {
        let corrected = times * v / (1.0 - beta2.powf(step));
        updates += (m / (1.0 - beta1.powf(step)) / (corrected.sqrt() + epsilon)).powi(2);
        second += corrected;
        moving += f64::from(u8::from(corrected > 0.0));
    }
    ((updates / m.len() as f64).sqrt(), (second / moving).sqrt() / epsilon)
}

/// v of a millionth is too small for m (FP702). Beside that, either the update is too large (FP303), or ε holds it (FP304).
#[test]
fn second_moments_that_are_too_small_are_seen() {
    const TIMES: f32 = 1e-6;
    for (path, _) in inputs("v too small") {
        let checkpoint = read(&path);
        let (one, _) = pair(&checkpoint);
        let (update, denominator) =
            next_update(&checkpoint, &checkpoint.optimizers[0].parameters[one], TIMES.into());
        let decided = |value: f64| (value - 1.0).abs() > 0.01;
        assert!(decided(update) && decided(denominator), "{}: {update} {denominator}", path.display());
        let fired = fired_by_change(&path, |state| state.exp_avg_sq, |v| v * TIMES);
        assert!(fired.contains("FP702"), "{}: {fired:?}", path.display());
        assert_eq!(fired.contains("FP303"), update > 1.0, "{}: {update}", path.display());
        assert_eq!(fired.contains("FP304"), denominator < 1.0, "{}: {denominator}", path.display());
        eprintln!(
            "{}: RMS of the update {update:.3}, of the denominator {denominator:.3} epsilon",
            path.display()
        );
    }
}

/// The limit of the failure catalogue for C4, which FP304 does not use.
const CATALOGUE: f64 = 10.0;

#[test]
fn the_catalogues_limit_for_epsilon_would_accuse_healthy_matrices() {
    let (mut matrices, mut accused, mut smallest) = (0, 0, f64::INFINITY);
    for (path, _) in inputs("the catalogue's limit") {
        let checkpoint = read(&path);
        let states = checkpoint.optimizers[0].parameters.iter();
        let is_matrix = |state: &&ParameterState| {
            let tensor = state.exp_avg_sq.map(|index| checkpoint.tensors[index].tensor.as_ref());
            tensor.is_some_and(|tensor| tensor.expect("it can be read").shape.len() >= 2)
        };
        for state in states.filter(is_matrix) {
            let (_, denominator) = next_update(&checkpoint, state, 1.0);
            matrices += 1;
            accused += usize::from(denominator < CATALOGUE);
            smallest = denominator.min(smallest);
        }
    }
    if matrices > 0 {
        eprintln!(
            "C4: {accused} of {matrices} matrices below {CATALOGUE} epsilon, the smallest at {smallest:.2}"
        );
        assert_eq!((accused, matrices), (11, 67));
        assert!((2.39..2.40).contains(&smallest), "{smallest}");
    }
}

#[test]
fn second_moments_that_are_negative_are_seen() {
    for (path, _) in inputs("negative v") {
        assert!(
            fired_by_change(&path, |state| state.exp_avg_sq, |v| -v).contains("FP701"),
            "{}",
            path.display()
        );
    }
}

/// The largest |m|/sqrt(v) of a file, by a plain loop.
fn largest_ratio(checkpoint: &Checkpoint) -> f64 {
    let mut largest = 0.0f64;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for state in &checkpoint.optimizers[0].parameters {
        let (Some(m), Some(v)) = (state.exp_avg, state.exp_avg_sq) else { continue };
        let [m, v] = [m, v].map(|index| checkpoint.tensors[index].tensor.as_ref().expect("it can be read"));
        m.read_f64(0..m.count(), &mut first).expect("elements");
        v.read_f64(0..v.count(), &mut second).expect("elements");
        // Far above where f32 loses v to rounding.
        let ratios = first.iter().zip(&second).filter(|(_, v)| **v > 1e-30).map(|(m, v)| m.abs() / v.sqrt());
        largest = ratios.fold(largest, f64::max);
    }
    largest
}

/// Cauchy and Schwarz for beta1 0.9, beta2 0.82 and many steps: (1 - b1)/sqrt(1 - b2)/sqrt(1 - b1^2/b2), by hand.
const BOUND_OF_FALSE_BETAS: f64 = 2.134_4;

#[test]
fn betas_are_seen_exactly_where_the_bound_they_give_is_broken() {
    for (path, _) in inputs("betas") {
        let ratio = largest_ratio(&read(&path));
        assert!(
            (ratio / BOUND_OF_FALSE_BETAS - 1.0).abs() > 0.01,
            "{}: {ratio} decides nothing",
            path.display()
        );
        let fired = fired_by(&path, |copy| copy.set_beta2(0.82));
        assert_eq!(fired.contains("FP702"), ratio > BOUND_OF_FALSE_BETAS, "{}: {ratio}", path.display());
        eprintln!(
            "{}: |m|/sqrt(v) reaches {ratio}, betas (0.9, 0.82) allow {BOUND_OF_FALSE_BETAS}",
            path.display()
        );
    }
}

/// Exchanges the moments of two parameters of one shape.
fn exchange(copy: &mut Copy) {
    let (one, other) = pair(&copy.checkpoint);
    let states = copy.states();
    copy.swap(states[one].exp_avg, states[other].exp_avg);
    copy.swap(states[one].exp_avg_sq, states[other].exp_avg_sq);
}

#[test]
fn what_no_single_checkpoint_shows_is_not_made_up() {
    for (path, _) in inputs("what is not seen") {
        let halved = fired_by_change(&path, |state| state.exp_avg_sq, |v| v / 2.0);
        assert_eq!(halved, BTreeSet::new(), "v halved: {}", path.display());
        let swapped = fired_by(&path, exchange);
        // What may show is how large the next step of a layer is, where the two layers' gradients differ that much.
        assert!(swapped.is_subset(&rules_of(&["FP307"])), "swapped: {}: {swapped:?}", path.display());
    }
}

#[test]
fn a_first_moment_of_another_time_is_seen_only_where_it_is_larger_than_any_history_gives() {
    for (path, _) in inputs("m of another step") {
        // Smaller, and of the other sign: as good as any.
        let older = fired_by_change(&path, |state| state.exp_avg, |m| -0.8 * m);
        assert_eq!(older, BTreeSet::new(), "{}", path.display());
        let louder = fired_by_change(&path, |state| state.exp_avg, |m| m * 1e3);
        assert!(louder.contains("FP702"), "{}", path.display());
    }
}

/// A copy of a run of fixtures, every optimizer's file of it edited.
fn edited_run(edit: impl Fn(&mut Copy, &Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let files = ["config.json", "model.safetensors", "scheduler.pt", "trainer_state.json"];
    for step in [25, 50, 75, 100, 125] {
        let from = Path::new("fixtures/runs/gpt-steady-attention").join(format!("checkpoint-{step}"));
        let to = folder.path().join(format!("checkpoint-{step}"));
        std::fs::create_dir(&to).expect("a new directory");
        for file in files.iter().filter(|file| from.join(file).is_file()) {
            std::fs::copy(from.join(file), to.join(file)).expect("a copy");
        }
        let mut copy = Copy::of(&from.join("optimizer.pt"));
        edit(&mut copy, &from);
        copy.saved_in(&to);
    }
    folder
}

/// Tensors whose movement contradicts their state (I9), by what `postmortem` says of a run.
fn contradicted(run: &Path) -> BTreeSet<String> {
    // Its tensors have 576 elements, and chance stays below 3/24: enough for intervals of 25 steps, of which the right pair gives
    // 0.44.
    let policy = run.join("small-tensors.toml");
    std::fs::write(&policy, "[rules.FP709]\nelements = 500.0\n").expect("a temporary file");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .args(["postmortem", "--format", "json", "--quiet", "--policy"])
        .arg(&policy)
        .arg(run)
        .output()
        .expect("the binary under test can be started");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let findings = report["findings"].as_array().expect("a list").iter();
    let told = findings.filter(|finding| finding["rule"] == "FP709");
    told.map(|finding| finding["subject"]["tensor"].as_str().expect("a tensor").to_owned()).collect()
}

/// What no single checkpoint shows, two of them do.
#[test]
fn exchanged_moments_are_contradicted_by_how_the_tensors_moved() {
    assert_eq!(contradicted(edited_run(|_, _| {}).path()), BTreeSet::new());
    let run = edited_run(|copy, _| exchange(copy));
    let whole = read(&run.path().join("checkpoint-75"));
    // The optimizer's file by itself numbers its parameters as that of the whole checkpoint does.
    let (one, other) = pair(&read(&run.path().join("checkpoint-75/optimizer.pt")));
    let names = [one, other].map(|place| {
        let parameter = whole.optimizers[0].parameters[place].parameter.expect("it is joined");
        whole.tensors[parameter].name.clone()
    });
    assert_eq!(contradicted(run.path()), BTreeSet::from(names));
}

#[test]
fn first_moments_of_another_step_break_no_bound_of_a_single_checkpoint() {
    let run = edited_run(|copy, from| {
        let other = from.with_file_name(if from.ends_with("checkpoint-25") {
            "checkpoint-50"
        } else {
            "checkpoint-25"
        });
        let earlier = Copy::of(&other.join("optimizer.pt"));
        for (state, old) in copy.states().iter().zip(earlier.states()) {
            let elements = earlier.bytes[earlier.place(old.exp_avg)].to_vec();
            let place = copy.place(state.exp_avg);
            copy.bytes[place].copy_from_slice(&elements);
        }
    });
    let exact = rules_of(&["FP701", "FP708", "FP308"]);
    for step in [75, 100] {
        let fired = fired(&read(&run.path().join(format!("checkpoint-{step}"))));
        assert!(fired.is_disjoint(&exact), "{step}: {fired:?}");
    }
}
