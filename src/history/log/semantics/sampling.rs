//! How often was logged, and whether a point stands for one step or for the steps since the point before.

use std::collections::BTreeMap;

use super::super::{LogSemantics, Quantity, Record, RemarkKind};
use super::Say;

/// Formats whose loss is the mean since the point before, and whose norm is that of the last step.
const WINDOW_MEANS: &[&str] = &["trainer-state", "megatron"];

/// A distance of more than so many strides is a gap.
const GAP: u64 = 3;

/// Gaps that are told one by one.
const MOST_GAPS: usize = 8;

/// Finds the stride, gaps, and what a point stands for.
pub(super) fn settle(
    records: &[Record],
    formats: &BTreeMap<Quantity, &'static str>,
    semantics: &mut LogSemantics,
    say: &mut Say<'_>,
) {
    let steps: Vec<u64> = records
        .iter()
        .filter(|record| record.loss.is_some() || record.grad_norm.is_some())
        .map(|record| record.step)
        .collect();
    let Some(stride) = stride(&steps) else { return };
    semantics.stride = Some(stride);
    let format = formats.get(&Quantity::Loss).copied().unwrap_or_default();
    semantics.loss_is_window_mean = match stride {
        1 => Some(false),
        _ if WINDOW_MEANS.contains(&format) => Some(true),
        _ => None,
    };
    if stride > 1 {
        let what = match semantics.loss_is_window_mean {
            Some(true) => "the loss is their mean, the norm that of the last one",
            _ => "what its numbers say of the others is not known",
        };
        let message =
            format!("one point stands for {stride} steps: {what}, so that a single bad step may not show");
        say(None, RemarkKind::Semantics, message);
    }
    report_gaps(&steps, stride, say);
}

/// The most common distance; of equally common ones the smaller.
fn stride(steps: &[u64]) -> Option<u64> {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for pair in steps.windows(2) {
        *counts.entry(pair[1] - pair[0]).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(distance, count)| (*count, u64::MAX - distance))
        .map(|(distance, _)| distance)
}

fn report_gaps(steps: &[u64], stride: u64, say: &mut Say<'_>) {
    let gaps: Vec<[u64; 2]> = steps
        .windows(2)
        .filter(|pair| pair[1] - pair[0] > GAP.saturating_mul(stride))
        .map(|pair| [pair[0], pair[1]])
        .collect();
    for gap in gaps.iter().take(MOST_GAPS) {
        let message = format!("nothing is logged between steps {} and {}", gap[0], gap[1]);
        say(Some(*gap), RemarkKind::Gap, message);
    }
    if gaps.len() > MOST_GAPS {
        say(
            None,
            RemarkKind::Gap,
            format!("and {} more stretches in which nothing is logged", gaps.len() - MOST_GAPS),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stride_is_the_most_common_distance() {
        assert_eq!(stride(&[10, 20, 30, 31, 40]), Some(10));
        assert_eq!(stride(&[5]), None);
    }

    #[test]
    fn a_loss_of_the_trainer_is_a_mean_unless_every_step_is_logged() {
        let records = |every: u64| -> Vec<Record> {
            (1..9).map(|i| Record { step: i * every, loss: Some(1.0), ..Record::default() }).collect()
        };
        for (every, format, expected) in
            [(10, "trainer-state", Some(true)), (1, "trainer-state", Some(false)), (10, "csv", None)]
        {
            let mut semantics = LogSemantics::default();
            let formats = BTreeMap::from([(Quantity::Loss, format)]);
            settle(&records(every), &formats, &mut semantics, &mut |_, _, _| {});
            assert_eq!((semantics.stride, semantics.loss_is_window_mean), (Some(every), expected));
        }
    }

    #[test]
    fn stretches_without_a_row_are_told() {
        let steps = [10, 20, 30, 100, 110];
        let records: Vec<Record> =
            steps.iter().map(|step| Record { step: *step, loss: Some(1.0), ..Record::default() }).collect();
        let mut gaps = Vec::new();
        settle(&records, &BTreeMap::new(), &mut LogSemantics::default(), &mut |steps, kind, _| {
            if kind == RemarkKind::Gap {
                gaps.push(steps);
            }
        });
        assert_eq!(gaps, [Some([30, 100])]);
    }
}
