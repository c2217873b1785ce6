//! Parallel work in few large items, one core each.

use std::sync::{Mutex, OnceLock, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Maps all items, started in their order on all cores. Results come in the same order.
///
/// Each item runs on one core, even where its work would split over the Rayon pool: a training step
/// is many short operations, and waking another core for each takes longer than most of them.
pub fn map<I: Send, T: Send>(items: Vec<I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    let pools = match rayon::current_num_threads().min(items.len()) {
        0 | 1 => &[],
        count => pools().get(..count).unwrap_or_default(),
    };
    if pools.is_empty() {
        return items.into_iter().map(work).collect();
    }
    let (waiting, done) = (Mutex::new(items.into_iter().enumerate()), Mutex::new(Vec::new()));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    on_each(pools, &|| {
        while let Some((index, item)) = next() {
            let result = work(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Runs `work` on all pools at once; a panic propagates to the caller.
fn on_each(pools: &[ThreadPool], work: &(impl Fn() + Sync)) {
    match pools {
        [] => {}
        [last] => last.install(work),
        [first, others @ ..] => first.in_place_scope(|scope| {
            scope.spawn(|_| work());
            on_each(others, work);
        }),
    }
}

/// Pools of one thread, one per core; none where the system refuses threads.
fn pools() -> &'static [ThreadPool] {
    static POOLS: OnceLock<Vec<ThreadPool>> = OnceLock::new();
    POOLS.get_or_init(|| {
        let pool = |_| ThreadPoolBuilder::new().num_threads(1).build();
        (0..rayon::current_num_threads()).map(pool).collect::<Result<_, _>>().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_items_stay_on_their_thread() {
        for count in [0, 1, 2, 50] {
            let items: Vec<usize> = (0..count).collect();
            let found = map(items.clone(), |item| (item, rayon::current_num_threads()));
            assert!(found.iter().map(|(item, _)| *item).eq(items));
            let is_parallel = count > 1 && rayon::current_num_threads() > 1;
            assert!(!is_parallel || found.iter().all(|(_, threads)| *threads == 1));
        }
    }

    #[test]
    #[should_panic(expected = "item 3")]
    fn a_panic_reaches_the_caller() {
        map((0..5).collect(), |item| assert!(item != 3, "item {item}"));
    }
}
