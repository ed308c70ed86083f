//! What findings about optimizer state say where it was joined to tensors by an order that nothing in the file confirms.

use std::collections::HashSet;

use super::{Finding, Subject};
use crate::analysis::model::{CheckpointAnalysis, MappingSource};

/// Behind the sentence of such a finding.
const CAVEAT: &str = "; which tensor it is stands on the assumed order of the optimizer's parameters alone";

/// Says so in the `findings` of one rule about optimizer state.
pub(super) fn tell(checkpoint: &CheckpointAnalysis, findings: &mut [Finding]) {
    let Some(state) = checkpoint.optimizer.value() else { return };
    let by_order = [MappingSource::FrameworkOrder, MappingSource::NamedParametersOrder];
    let is_assumed: Vec<bool> = state
        .optimizers
        .iter()
        .map(|optimizer| {
            !optimizer.mapping.confirmed_by_shapes && by_order.contains(&optimizer.mapping.source)
        })
        .collect();
    if findings.is_empty() || !is_assumed.contains(&true) {
        return;
    }
    let joined = state.parameters.iter().filter(|parameter| parameter.tensor.is_some());
    let assumed: HashSet<&str> = joined
        .filter(|parameter| {
            usize::try_from(parameter.optimizer).is_ok_and(|index| is_assumed.get(index) == Some(&true))
        })
        .map(|parameter| parameter.name.as_str())
        .collect();
    for finding in findings {
        if matches!(&finding.subject, Subject::Tensor(name) if assumed.contains(name.as_str())) {
            finding.message.push_str(CAVEAT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{checkpoint, moments};
    use crate::rules::{Findings, find};

    fn message(confirmed: bool) -> String {
        let mut saved = checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, _| {});
        let Measured::Value(state) = &mut saved.optimizer else { panic!("it has state") };
        for optimizer in &mut state.optimizers {
            optimizer.mapping.source = MappingSource::NamedParametersOrder;
            optimizer.mapping.confirmed_by_shapes = confirmed;
        }
        let mut findings = Findings::new(find("FP702").expect("a rule"), "x", None);
        findings.push(Subject::Tensor("a.weight".to_owned()), "a.weight is broken".to_owned(), "mend it");
        tell(&saved, &mut findings.found);
        findings.found.remove(0).message
    }

    #[test]
    fn a_finding_that_stands_on_an_assumed_order_says_so() {
        assert_eq!(message(true), "a.weight is broken");
        assert_eq!(message(false), format!("a.weight is broken{CAVEAT}"));
    }
}
