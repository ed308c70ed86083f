//! The Jacobians of a checkpoint's network on its page: what they were measured at, every part, along depth, through time.

use std::collections::BTreeMap;

use super::parts::tone;
use super::tables::{Row, TableView, row};
use crate::analysis::model::{
    CheckpointAnalysis, DepthGain, GradientSource, JacobianAnalysis, Measured, PartJacobian,
    RecurrenceAnalysis, RecurrenceAtScale,
};
use crate::number::{counted, grouped, short};
use crate::report::items::Item;
use crate::report::jacobian::{device, exponent, mean_or_dash, or_dash, row as cells, setting, spread, why};
use crate::report::text::{safe, safe_sentence};
use crate::rules::{Severity, Subject};

/// Parameters outside of the network that are named; more are counted.
const UNUSED: usize = 40;

/// What was measured of one network.
pub(super) struct Jacobian {
    /// The network, what it was measured at, what was taken for granted, what was not measured.
    pub facts: Vec<String>,
    /// Parts, depths, and each recurrence.
    pub tables: Vec<TableView>,
}

/// The Jacobians of a checkpoint; nothing where they were not asked for.
pub(super) fn jacobian(
    checkpoint: &CheckpointAnalysis,
    is_asked: bool,
    items: &[Item<'_>],
) -> Option<Jacobian> {
    let own = match &checkpoint.jacobian {
        Measured::Value(own) => own,
        _ if !is_asked => return None,
        other => {
            let facts = vec![format!("Jacobians were not measured: {}", why(other))];
            return Some(Jacobian { facts, tables: Vec::new() });
        }
    };
    let tables = [parts(&checkpoint.name, own, items), depths(own)].into_iter().flatten();
    let tables = tables.chain(own.recurrences.iter().filter_map(recurrence));
    Some(Jacobian { facts: facts(checkpoint, own), tables: tables.collect() })
}

fn facts(checkpoint: &CheckpointAnalysis, own: &JacobianAnalysis) -> Vec<String> {
    let mut facts = vec![format!("network {}, {}", safe(&own.architecture), setting(&own.setting))];
    facts.extend(device(checkpoint, own).map(|device| format!("device of the Jacobians: {}", safe(device))));
    if own.setting.gradient == GradientSource::Labels {
        facts.push("gradients are those of the labels".to_owned());
    }
    if !own.unused.is_empty() {
        let named = own.unused.iter().take(UNUSED).map(|name| safe(name)).collect::<Vec<_>>().join(", ");
        let more = match own.unused.len().saturating_sub(UNUSED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let count = counted(own.unused.len() as u64, "parameter");
        facts.push(format!("not used by the network: {count}: {named}{more}"));
    }
    let assumptions = own.assumptions.iter().map(|one| format!("taken for granted: {}", safe_sentence(one)));
    facts.extend(assumptions);
    if own.end_to_end.value().is_none() {
        facts.push(format!("end to end was not measured: {}", why(&own.end_to_end)));
    }
    match &own.initial {
        Measured::Value(initial) => {
            facts.push(format!("as initialised: weights {}", safe_sentence(&initial.scheme)));
        }
        other => facts.push(format!("the architecture as initialised was not measured: {}", why(other))),
    }
    if own.depths.value().is_none() {
        facts.push(format!("the gain by depth was not measured: {}", why(&own.depths)));
    }
    facts
}

/// Every part, the whole, and the whole as it is initialised.
fn parts(checkpoint: &str, own: &JacobianAnalysis, items: &[Item<'_>]) -> Option<TableView> {
    let mut found: BTreeMap<&str, (Vec<&str>, Severity)> = BTreeMap::new();
    for item in items.iter().filter(|item| item.checkpoint == checkpoint) {
        if let Subject::Layer(name) = item.subject {
            let entry = found.entry(name).or_insert((Vec::new(), item.severity));
            entry.0.push(item.check);
            entry.1 = entry.1.max(item.severity);
        }
    }
    let told = |part: &PartJacobian| {
        let mut told = cells(part);
        // What the terminal says in words about an attention are two numbers.
        told.pop();
        told.insert(1, found.get(part.name.as_str()).map_or_else(String::new, |one| one.0.join(" ")));
        told.insert(4, bracket(part));
        let paths = part.paths.value().map(|paths| [paths.value, paths.softmax].map(short));
        told.extend(paths.unwrap_or_else(|| ["–".to_owned(), "–".to_owned()]));
        Row { tone: found.get(part.name.as_str()).map_or("", |one| tone(one.1)), cells: told }
    };
    let initial = own.initial.value().map(|initial| {
        let none = || "–".to_owned();
        let (norm, gain) = (spread(&initial.spectral_norm), spread(&initial.gain));
        let name = "as initialised".to_owned();
        row(vec![name, String::new(), none(), norm, none(), gain, none(), none(), none(), none(), none()])
    });
    let columns = [
        ("part", "operations, branches and blocks in the order in which signals pass them"),
        ("found", "rules that found something in it"),
        ("size", "numbers it gives × numbers it takes"),
        ("σ₁", "largest singular value, over the draws: the most any small change grows"),
        (
            "bracket of σ₁",
            "from the least lower bound of the draws to the largest upper one, which fails once in a thousand",
        ),
        ("gain", "‖J‖_F/√rows: growth of independent small changes in root mean square"),
        ("stable rank", "Σσ²/σ₁²"),
        ("RMS in", "of what it takes"),
        ("RMS out", "of what it gives"),
        ("values", "σ₁ through the values of an attention, its softmax held still"),
        ("softmax", "σ₁ through its queries and keys alone"),
    ];
    let all = own.parts.iter().chain(own.end_to_end.value());
    let table = TableView::new("Parts", 2, &columns, all.map(told).chain(initial).collect())?;
    Some(table.fitted(&["RMS in", "RMS out", "size", "stable rank", "softmax", "values", "bracket of σ₁"]))
}

/// What holds σ₁ of every draw; a dash where one has no bound from above.
fn bracket(part: &PartJacobian) -> String {
    let bounds = part.draws.iter().map(|draw| {
        let norm = &draw.value()?.spectral_norm;
        Some([norm.value, *norm.upper.value()?])
    });
    let all: Option<Vec<[f64; 2]>> = bounds.collect();
    let ends = all
        .unwrap_or_default()
        .into_iter()
        .reduce(|[low, high], [lower, upper]| [low.min(lower), high.max(upper)]);
    ends.map_or_else(|| "–".to_owned(), |[low, high]| format!("{} to {}", short(low), short(high)))
}

fn depths(own: &JacobianAnalysis) -> Option<TableView> {
    let depths = own.depths.value()?;
    let of_norm = depths.iter().any(|depth| depth.spectral_norm.value().is_some());
    let told = |depth: &DepthGain| {
        let norm = of_norm.then(|| or_dash(&depth.spectral_norm));
        let cells = vec![
            safe(&depth.name),
            or_dash(&depth.from_input),
            or_dash(&depth.gradient),
            mean_or_dash(&depth.state_rms),
        ];
        row(cells.into_iter().chain(norm).collect())
    };
    let columns = [
        ("behind", "the block before this depth"),
        ("gain from the start", "of the map from the first state to this one, in root mean square"),
        (
            "gradient gain to before it",
            "by how much a gradient of the last state has grown before this block",
        ),
        ("RMS of the state", ""),
        ("σ₁ from the start", "the most any small change of the first state has grown"),
    ];
    let shown = if of_norm { &columns[..] } else { &columns[..columns.len() - 1] };
    let table = TableView::new("Along depth", 1, shown, depths.iter().map(told).collect())?;
    Some(table.fitted(&["RMS of the state"]))
}

fn recurrence(recurrence: &RecurrenceAnalysis) -> Option<TableView> {
    let told = |at: &RecurrenceAtScale| {
        let exponents = at.exponents.iter().map(exponent).collect::<Vec<_>>().join(", ");
        row(vec![short(at.scale), grouped(at.steps), or_dash(&at.step_norm), exponents])
    };
    let columns = [
        ("input scale", "factor of the probe"),
        ("steps", ""),
        ("σ₁ of a step", ""),
        ("Lyapunov exponents a step", "largest first: growth of a small change of the state, as a logarithm"),
    ];
    let title = format!("Through time: {}, state of {}", safe(&recurrence.name), grouped(recurrence.state));
    TableView::new(&title, 0, &columns, recurrence.scales.iter().map(told).collect())
}
