//! Stretches in which the loss scale fell again and again (A4).

use crate::analysis::model::ScaleFall;
use crate::history::Record;

/// Halvings that lie further apart are the regular search for the largest scale: Megatron doubles after 1000 good steps.
const TOGETHER: u64 = 500;

/// Every stretch of falls without a rise and without a long quiet between. Falls of a log that begins with the run, before the scale
/// has once risen or stayed for [`TOGETHER`] steps, are the search for where to begin.
pub fn falls(records: &[Record]) -> Vec<ScaleFall> {
    let scaled: Vec<(u64, f64)> = records
        .iter()
        .filter_map(|record| {
            Some((record.step, record.loss_scale.filter(|scale| scale.is_finite() && *scale > 0.0)?))
        })
        .collect();
    let mut falls: Vec<ScaleFall> = Vec::new();
    let mut open: Option<ScaleFall> = None;
    // A log that begins in the middle of a run does not show the search.
    let mut settled = scaled.first().is_some_and(|(step, _)| *step >= TOGETHER);
    let mut since = scaled.first().map_or(0, |(step, _)| *step);
    for pair in scaled.windows(2) {
        let ((before_step, before), (step, scale)) = (pair[0], pair[1]);
        if scale < before {
            settled |= before_step - since >= TOGETHER;
            let halvings = u64::try_from((before / scale).log2().round() as i64).unwrap_or(0).max(1);
            match &mut open {
                Some(fall) if step - fall.last_step <= TOGETHER.max(step - before_step) => {
                    fall.last_step = step;
                    fall.halvings += halvings;
                    fall.to = scale;
                }
                _ => {
                    falls.extend(open.take());
                    open = Some(ScaleFall {
                        since: before_step,
                        first_step: step,
                        last_step: step,
                        halvings,
                        from: before,
                        to: scale,
                        initial: !settled,
                    });
                }
            }
            since = step;
        } else if scale > before {
            falls.extend(open.take());
            settled = true;
            since = step;
        }
    }
    falls.extend(open);
    falls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rows: &[(u64, f64)]) -> Vec<(u64, u64, u64, bool)> {
        let records: Vec<Record> = rows
            .iter()
            .map(|(step, scale)| Record { step: *step, loss_scale: Some(*scale), ..Record::default() })
            .collect();
        falls(&records)
            .iter()
            .map(|fall| (fall.first_step, fall.last_step, fall.halvings, fall.initial))
            .collect()
    }

    #[test]
    fn falls_that_follow_each_other_are_one() {
        // The last rows of tr8b-104B, behind a scale that had risen.
        let rows = [
            (17_000, 524_288.0),
            (17_060, 1_048_576.0),
            (17_062, 1_048_576.0),
            (17_063, 524_288.0),
            (17_064, 262_144.0),
            (17_065, 131_072.0),
            (17_066, 131_072.0),
            (17_067, 65_536.0),
            (17_068, 32_768.0),
        ];
        assert_eq!(measured(&rows), [(17_063, 17_068, 5, false)]);
    }

    #[test]
    fn the_search_for_the_first_scale_is_marked() {
        let rows = [(1, 65_536.0), (2, 32_768.0), (3, 16_384.0), (4, 8192.0), (2000, 8192.0), (2001, 4096.0)];
        assert_eq!(measured(&rows), [(2, 4, 3, true), (2001, 2001, 1, false)]);
    }

    #[test]
    fn a_log_that_begins_late_shows_no_search() {
        assert_eq!(measured(&[(13_251, 524_288.0), (14_000, 4096.0)]), [(14_000, 14_000, 7, false)]);
    }

    #[test]
    fn one_halving_between_doublings_is_one() {
        let rows = [(0, 1024.0), (1000, 2048.0), (1100, 1024.0), (2100, 2048.0), (2200, 1024.0)];
        assert_eq!(measured(&rows), [(1100, 1100, 1, false), (2200, 2200, 1, false)]);
    }
}
