//! A step that mixed precision skips computes no norm: trainers print the one before again.

use super::super::{LogSemantics, Record, RemarkKind};
use super::Say;

/// Fewer digits than this may repeat by chance.
const DIGITS: usize = 5;

/// Takes norms away from skipped steps.
///
/// Equal neighbours are such repeats where one of the run of them is known to be skipped, or lowers the loss scale.
pub(super) fn settle(records: &mut [Record], semantics: &mut LogSemantics, say: &mut Say<'_>) {
    let measured: Vec<usize> = (0..records.len()).filter(|at| records[*at].grad_norm.is_some()).collect();
    let mut steps: Option<[u64; 2]> = None;
    let mut start = 0;
    while start < measured.len() {
        let first = records[measured[start]].grad_norm.unwrap_or_default();
        let same =
            |at: &&usize| records[**at].grad_norm.is_some_and(|norm| norm.to_bits() == first.to_bits());
        let end = start + measured[start..].iter().take_while(same).count();
        let run = &measured[start..end];
        if run.len() > 1 && first.is_finite() && first != 0.0 && is_skipped(records, run, first) {
            for &at in &run[1..] {
                records[at].grad_norm = None;
                records[at].skipped = true;
                semantics.repeated_norms += 1;
                let from = steps.map_or(records[at].step, |[from, _]| from);
                steps = Some([from, records[at].step]);
            }
        }
        start = end.max(start + 1);
    }
    if steps.is_some() {
        let message = format!(
            "{} norms repeat the one before because their steps were skipped: they are no norms",
            semantics.repeated_norms
        );
        say(steps, RemarkKind::Semantics, message);
    }
}

fn is_skipped(records: &[Record], run: &[usize], norm: f64) -> bool {
    let digits = format!("{norm}").bytes().filter(u8::is_ascii_digit).count();
    let falls = |at: &usize| {
        let before = records[..*at].iter().rev().find_map(|record| record.loss_scale);
        before.zip(records[*at].loss_scale).is_some_and(|(before, now)| now < before)
    };
    run[1..].iter().any(|at| records[*at].skipped || (digits >= DIGITS && falls(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows 17061 to 17068 of tr8b-104B, as published: loss scale and norm.
    const TR8B: [(f64, f64); 8] = [
        (1_048_576.0, 464_441.887),
        (1_048_576.0, 464_441.887),
        (524_288.0, 464_441.887),
        (262_144.0, 464_441.887),
        (131_072.0, 464_441.887),
        (131_072.0, 879_946.622),
        (65_536.0, 879_946.622),
        (32_768.0, 879_946.622),
    ];

    #[test]
    fn repeated_norms_of_tr8b_are_skipped_steps() {
        let record = |(index, (scale, norm)): (usize, &(f64, f64))| Record {
            step: 17061 + index as u64,
            loss_scale: Some(*scale),
            grad_norm: Some(*norm),
            ..Record::default()
        };
        let mut records: Vec<Record> = TR8B.iter().enumerate().map(record).collect();
        let mut semantics = LogSemantics::default();
        settle(&mut records, &mut semantics, &mut |_, _, _| {});
        let skipped: Vec<u64> =
            records.iter().filter(|record| record.skipped).map(|record| record.step).collect();
        assert_eq!(skipped, [17062, 17063, 17064, 17065, 17067, 17068]);
        assert_eq!(semantics.repeated_norms, 6);
    }

    #[test]
    fn rounded_norms_that_happen_to_be_equal_are_kept() {
        let mut records: Vec<Record> =
            (0..4).map(|step| Record { step, grad_norm: Some(0.142), ..Record::default() }).collect();
        settle(&mut records, &mut LogSemantics::default(), &mut |_, _, _| {});
        assert!(records.iter().all(|record| record.grad_norm == Some(0.142) && !record.skipped));
    }
}
