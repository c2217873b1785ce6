//! Memory for outputs, and memory that threads keep from call to call: fresh memory costs as much as
//! a small product.

use std::cell::RefCell;
use std::thread::LocalKey;

use rayon::prelude::*;

/// Zeros that a thread writes by itself: a quarter of a megabyte.
const ZEROS: usize = 1 << 16;

/// Zeros, written by all threads.
pub(crate) fn zeros(count: usize) -> Vec<f32> {
    rayon::iter::repeat_n(0.0, count).with_min_len(ZEROS).collect()
}

/// Numbers of a line of the cache.
pub(super) const LINE: usize = 16;

/// Memory of a thread.
pub(super) type Scratch<T> = LocalKey<RefCell<Vec<T>>>;

/// Lends values that a thread keeps, of any value; `value` is used where there are too few yet.
/// `work` must not share out work to other threads: while it waits, this one might do another's, and
/// borrow the same.
pub(super) fn lend<T: Copy, R>(
    scratch: &'static Scratch<T>,
    (count, value): (usize, T),
    work: impl FnOnce(&mut [T]) -> R,
) -> R {
    scratch.with_borrow_mut(|kept| {
        if kept.len() < count {
            kept.resize(count, value);
        }
        work(&mut kept[..count])
    })
}

/// The same where `work` may share out: what another call of this thread needs meanwhile is made anew.
#[cfg(target_arch = "x86_64")]
pub(super) fn lend_to_all<T: Copy, R>(
    scratch: &'static Scratch<T>,
    (count, value): (usize, T),
    work: impl FnOnce(&mut [T]) -> R,
) -> R {
    let mut kept = scratch.take();
    if kept.len() < count {
        kept.resize(count, value);
    }
    let result = work(&mut kept[..count]);
    scratch.set(kept);
    result
}

/// Lends numbers that a thread keeps, of any value; they start with a line of the cache.
pub(super) fn with_scratch<R>(count: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static NUMBERS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    lend(&NUMBERS, (count + LINE, 0.0), |numbers| {
        let first = numbers.as_ptr().align_offset(LINE * size_of::<f32>());
        work(&mut numbers[first..][..count])
    })
}
