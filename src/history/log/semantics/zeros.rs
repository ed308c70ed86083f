//! A norm of exactly 0 is a placeholder of loggers that did not measure it (Coqui writes 0 for all of a run).

use super::super::{LogSemantics, Record, RemarkKind};
use super::Say;

/// Takes norms of exactly 0 away, unless norms by layer confirm them.
pub(super) fn settle(records: &mut [Record], semantics: &mut LogSemantics, say: &mut Say<'_>) {
    let measured = records.iter().filter(|record| record.grad_norm.is_some()).count() as u64;
    let mut steps: Option<[u64; 2]> = None;
    for record in records.iter_mut().filter(|record| record.grad_norm == Some(0.0)) {
        let layers = &record.grad_norm_by_layer;
        if !layers.is_empty() && layers.values().all(|norm| *norm == 0.0) {
            continue;
        }
        record.grad_norm = None;
        semantics.unmeasured_zeros += 1;
        steps = Some([steps.map_or(record.step, |[from, _]| from), record.step]);
    }
    if steps.is_some() {
        let message = format!(
            "{} of {measured} gradient norms are exactly 0: read as not measured",
            semantics.unmeasured_zeros
        );
        say(steps, RemarkKind::Semantics, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_not_measured_unless_every_layer_says_zero() {
        let mut records: Vec<Record> =
            (0..3).map(|step| Record { step, grad_norm: Some(0.0), ..Record::default() }).collect();
        records[1].grad_norm_by_layer.insert("a".to_owned(), 0.0);
        records[2].grad_norm = Some(0.5);
        let mut semantics = LogSemantics::default();
        settle(&mut records, &mut semantics, &mut |_, _, _| {});
        let norms: Vec<Option<f64>> = records.iter().map(|record| record.grad_norm).collect();
        assert_eq!(norms, [None, Some(0.0), Some(0.5)]);
        assert_eq!(semantics.unmeasured_zeros, 1);
    }
}
