//! A loss of NaN that the trainer shows as something else.
//!
//! The Hugging Face Trainer (`logging_nan_inf_filter`, on unless switched off) adds the mean of the window so far in place of a
//! loss that is not finite: the logged loss stands still, and is 0.0 once all of a window is NaN (transformers #13619).

use super::super::{LogSemantics, Record, RemarkKind};
use super::Say;

/// Equal losses in a row that are no chance, where the norm says NaN.
const FROZEN: usize = 3;

/// Exact zeros in a row that are no chance, where no norm is logged.
const ZEROS: usize = 2;

/// A loss below this may be rounded to 0 by the logger (the Trainer writes four digits).
const ROUNDED: f64 = 0.01;

/// Puts NaN back where it was hidden.
pub(super) fn settle(records: &mut [Record], semantics: &mut LogSemantics, say: &mut Say<'_>) {
    let logged: Vec<usize> = (0..records.len()).filter(|at| records[*at].loss.is_some()).collect();
    let mut start = 0;
    let mut before: Option<f64> = None;
    while start < logged.len() {
        let first = records[logged[start]].loss.unwrap_or_default();
        let same = |at: &&usize| records[**at].loss.is_some_and(|loss| loss.to_bits() == first.to_bits());
        let end = start + logged[start..].iter().take_while(same).count();
        if is_hidden(records, &logged[start..end], first, before) {
            let steps = [records[logged[start]].step, records[logged[end - 1]].step];
            semantics.nan_filtered = true;
            semantics.hidden_nan.push(steps);
            logged[start..end].iter().for_each(|at| records[*at].loss = Some(f64::NAN));
            let shown = if first == 0.0 { "0" } else { "a mean that stands still" };
            let message = format!("the trainer shows {shown} for a loss that is NaN: read as NaN");
            say(Some(steps), RemarkKind::Semantics, message);
        } else if first.is_finite() && first != 0.0 {
            before = Some(first);
        }
        start = end.max(start + 1);
    }
}

/// Whether these equal losses stand for NaN; `before` is the last loss that was a loss.
fn is_hidden(records: &[Record], run: &[usize], loss: f64, before: Option<f64>) -> bool {
    if !loss.is_finite() {
        return false;
    }
    let norms = || run.iter().map(|at| records[*at].grad_norm);
    let all_nan = norms().all(|norm| norm.is_some_and(|norm| !norm.is_finite()));
    let none_measured = norms().all(|norm| norm.is_none_or(|norm| !norm.is_finite()));
    let fell = before.is_none_or(|before| before > ROUNDED);
    if loss == 0.0 {
        all_nan || (none_measured && run.len() >= ZEROS && fell)
    } else {
        all_nan && run.len() >= FROZEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(rows: &[(f64, Option<f64>)]) -> (Vec<f64>, Vec<[u64; 2]>) {
        let record = |(index, (loss, norm)): (usize, &(f64, Option<f64>))| Record {
            step: index as u64,
            loss: Some(*loss),
            grad_norm: *norm,
            ..Record::default()
        };
        let mut records: Vec<Record> = rows.iter().enumerate().map(record).collect();
        let mut semantics = LogSemantics::default();
        settle(&mut records, &mut semantics, &mut |_, _, _| {});
        (records.iter().filter_map(|record| record.loss).collect(), semantics.hidden_nan)
    }

    #[test]
    fn zeros_and_standing_losses_beside_a_norm_of_nan_are_nan() {
        let nan = Some(f64::NAN);
        let rows = [(2.1, Some(1.0)), (2.0, Some(1.1)), (1.2, nan), (0.0, nan), (0.0, nan)];
        let (losses, hidden) = settled(&rows);
        assert_eq!(losses[..3], [2.1, 2.0, 1.2]);
        assert!(losses[3].is_nan() && losses[4].is_nan());
        assert_eq!(hidden, [[3, 4]]);
        let (_, hidden) = settled(&[(2.0, Some(1.0)), (1.3, nan), (1.3, nan), (1.3, nan)]);
        assert_eq!(hidden, [[1, 3]]);
    }

    #[test]
    fn zeros_without_any_norm_count_after_a_loss_that_no_rounding_explains() {
        assert_eq!(settled(&[(2.0, None), (0.0, None), (0.0, None)]).1, [[1, 2]]);
        assert!(settled(&[(0.0002, None), (0.0, None), (0.0, None)]).1.is_empty());
        assert!(settled(&[(2.0, None), (0.0, None), (1.9, None)]).1.is_empty());
        assert!(settled(&[(2.0, Some(1.0)), (0.0, Some(1e-9)), (0.0, Some(1e-9))]).1.is_empty());
    }
}
