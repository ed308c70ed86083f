//! F1: a tensor that every tensor-parallel rank keeps whole differs between ranks.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Thresholds, replicas};
use crate::analysis::model::Analysis;

pub(super) static RULE: Rule = Rule {
    code: "FP601",
    name: "tensor-parallel-drift",
    summary: "a tensor that every tensor-parallel rank keeps whole differs between ranks",
    page: include_str!("../../docs/rules/FP601-tensor-parallel-drift.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::LIST,
    thresholds: &[],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, _: &Thresholds, findings: &mut Findings) {
    replicas::tell(analysis, true, ADVICE, findings);
}

const ADVICE: &str = "broadcast w, m and v of this tensor from one rank before the parts are merged, and clip and reduce the gradients of norms over all ranks";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Role;
    use crate::rules::test_support::{difference, judge_run, replica, run_of};

    #[test]
    fn ranks_that_share_matrices_and_those_that_split_them_are_told_apart() {
        let mut run = run_of(1, Vec::new);
        assert_eq!(judge_run(&RULE, &run, &[]).not_evaluated.len(), 1, "no replicas");
        let gain = || difference("ln.weight", Role::NormGain, 1e-3);
        run.replicas = vec![replica(20, vec![gain()]), replica(40, vec![gain()])];
        let copies = judge_run(&RULE, &run, &[]).told();
        run.replicas = vec![replica(20, vec![gain(), difference("fc.weight", Role::MlpIn, 1.41)])];
        let parts = judge_run(&RULE, &run, &[]).told();
        let expected = [(Severity::Critical, "ln.weight".to_owned())];
        assert_eq!(parts, expected);
        assert!(copies.is_empty());
        run.replicas = vec![replica(20, Vec::new())];
        assert!(judge_run(&RULE, &run, &[]).told().is_empty(), "bit for bit the same");
    }
}
