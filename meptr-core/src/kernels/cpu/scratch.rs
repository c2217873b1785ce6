//! Output memory, and scratch memory that threads keep from call to call: fresh memory costs as much
//! time as a small GEMM.

use std::cell::RefCell;
use std::thread::LocalKey;

use rayon::prelude::*;

/// Zeros that one thread writes: a quarter of a megabyte.
const MIN_ZEROS_PER_TASK: usize = 1 << 16;

/// Zeros, written by all threads.
pub(crate) fn zeros(count: usize) -> Vec<f32> {
    rayon::iter::repeat_n(0.0, count).with_min_len(MIN_ZEROS_PER_TASK).collect()
}

/// f32 values of a cache line.
pub(super) const CACHE_LINE: usize = 16;

/// Scratch memory of a thread.
pub(super) type ThreadScratch<T> = LocalKey<RefCell<Vec<T>>>;

/// Lends `count` values of the thread's scratch memory with unspecified content; it grows by copies
/// of `initial`.
///
/// `work` must not run Rayon tasks: while it waits, this thread could pick up another task that
/// borrows the same memory.
pub(super) fn with_scratch<T: Copy, R>(
    scratch: &'static ThreadScratch<T>,
    count: usize,
    initial: T,
    work: impl FnOnce(&mut [T]) -> R,
) -> R {
    scratch.with_borrow_mut(|kept| {
        if kept.len() < count {
            kept.resize(count, initial);
        }
        work(&mut kept[..count])
    })
}

/// Like [`with_scratch`], where `work` may run Rayon tasks: a nested call on this thread allocates
/// memory of its own.
#[cfg(target_arch = "x86_64")]
pub(super) fn with_taken_scratch<T: Copy, R>(
    scratch: &'static ThreadScratch<T>,
    count: usize,
    initial: T,
    work: impl FnOnce(&mut [T]) -> R,
) -> R {
    let mut kept = scratch.take();
    if kept.len() < count {
        kept.resize(count, initial);
    }
    let result = work(&mut kept[..count]);
    scratch.set(kept);
    result
}

/// Lends `count` f32 values of unspecified content that start at a cache line; see [`with_scratch`].
pub(super) fn with_aligned_scratch<R>(count: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static VALUES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    with_scratch(&VALUES, count + CACHE_LINE, 0.0, |values| {
        let first = values.as_ptr().align_offset(CACHE_LINE * size_of::<f32>());
        work(&mut values[first..][..count])
    })
}
