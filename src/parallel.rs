//! Work over all cores, whose machinery is compiled once: rayon's own iterators bring it along for every task.

use std::ops::Range;
use std::sync::Mutex;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// What `task` makes of every item, in their order.
pub fn map<I: Sync, T: Send>(items: &[I], task: impl Fn(&I) -> T + Sync) -> Vec<T> {
    map_indices(items.len(), |index| task(&items[index]))
}

/// What `task` makes of every number of a range, in their order.
pub fn map_range<T: Send>(range: Range<u64>, task: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let count = range.end.saturating_sub(range.start) as usize;
    map_indices(count, |index| task(range.start + index as u64))
}

/// What `task` makes of every number below `count`, in their order.
///
/// For work of a microsecond and more: every result has a lock of its own, which nobody waits for.
pub fn map_indices<T: Send>(count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    each(count, &|index| {
        let result = task(index);
        *results[index].lock().expect("nothing that can panic holds it") = Some(result);
    });
    let done = results.into_iter().map(|result| result.into_inner().expect("nothing that can panic held it"));
    done.map(|result| result.expect("each was done")).collect()
}

fn each(count: usize, task: &(dyn Fn(usize) + Sync)) {
    (0..count).into_par_iter().for_each(task);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..1000).collect();
        assert_eq!(map(&items, |item| item * item), items.iter().map(|item| item * item).collect::<Vec<_>>());
        assert_eq!(map_indices(3, |index| map_indices(index, |own| own)), [vec![], vec![0], vec![0, 1]]);
        assert_eq!(map_range(3..6, |number| number), [3, 4, 5]);
        assert!(map_indices(0, |index| index).is_empty() && map_range(6..6, |number| number).is_empty());
    }
}
