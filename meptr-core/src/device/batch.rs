//! Batch sizes that fit into the memory of a device.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle::Device;

use super::free_memory;

/// Fraction of the free memory for one batch is 1 over this. The rest is for allocations that the
/// estimate leaves out, and for other workers on the GPU, such as the eight of a CPU with 16 cores.
const SHARE: u64 = 16;

/// Rows to compute at a time: as many as fit into the free memory of a GPU, fewer after it ran out.
///
/// Can be used from several threads; a smaller size found by one holds for all.
#[derive(Debug)]
pub struct BatchSize(AtomicUsize);

impl BatchSize {
    /// A batch size that does not depend on the device.
    pub fn fixed(rows: usize) -> Self {
        Self(AtomicUsize::new(rows.max(1)))
    }

    /// `on_cpu` rows on the CPU; on a GPU, as many as fit into its free memory, at most `most`.
    ///
    /// `bytes_per_row` is an estimate of the peak memory of a row.
    pub fn fitting(device: &Device, bytes_per_row: u64, on_cpu: usize, most: usize) -> Self {
        match free_memory(device) {
            Some(free) => Self::fixed(rows_in(free, bytes_per_row, most)),
            None if device.is_cpu() => Self::fixed(on_cpu),
            None => Self::fixed(most),
        }
    }

    /// Rows to compute at a time, at least 1.
    pub fn rows(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Computes rows 0 to `count` in batches, in order. A batch for which there is no memory is
    /// halved and tried again, and so are those that follow; later runs begin with smaller batches
    /// too if it was a full one.
    ///
    /// # Errors
    /// The first error of `compute` that is not about memory, or that a single row gives.
    pub fn run<T, E: std::error::Error>(
        &self,
        count: usize,
        mut compute: impl FnMut(Range<usize>) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let mut results = Vec::new();
        let (mut start, mut most) = (0, usize::MAX);
        while start < count {
            let full = self.rows();
            let rows = full.min(most).min(count - start);
            match compute(start..start + rows) {
                Ok(result) => {
                    results.push(result);
                    start += rows;
                }
                Err(error) if rows > 1 && is_out_of_memory(&error) => {
                    most = rows.div_ceil(2);
                    if rows == full {
                        self.0.fetch_min(most, Ordering::Relaxed);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(results)
    }
}

fn rows_in(free_bytes: u64, bytes_per_row: u64, most: usize) -> usize {
    let rows = free_bytes / SHARE / bytes_per_row.max(1);
    usize::try_from(rows).unwrap_or(usize::MAX).clamp(1, most.max(1))
}

/// Whether a computation failed because a GPU has no memory left.
///
/// Recognised by the names that NVIDIA's libraries give these failures, since the error types exist
/// only in a build with CUDA.
pub fn is_out_of_memory(error: &dyn std::error::Error) -> bool {
    let names = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"];
    let mut next = Some(error);
    while let Some(error) = next {
        let text = format!("{error:?} {error}");
        if names.iter().any(|name| text.contains(name)) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    /// Fails above a size as a GPU does, by way of an error that names another as its cause.
    fn with_room_for(room: usize) -> impl FnMut(Range<usize>) -> Result<Range<usize>, Error> {
        move |rows| match rows.len() > room {
            true => Err(Error::doing("looking")(candle::Error::msg(
                "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            ))),
            false => Ok(rows),
        }
    }

    #[test]
    fn no_memory_halves_the_batch_and_goes_on() {
        for (size, room, expected) in
            [(64, 100, 64), (64, 64, 64), (64, 10, 8), (5, 2, 2), (100, 1, 1)]
        {
            let batch = BatchSize::fixed(size);
            let parts = batch.run(150, with_room_for(room)).unwrap();
            assert!(parts.iter().cloned().flatten().eq(0..150), "{parts:?}");
            assert!(parts.iter().all(|part| !part.is_empty() && part.len() <= room));
            assert_eq!(batch.rows(), expected);
        }
        assert!(BatchSize::fixed(8).run(0, with_room_for(1)).unwrap().is_empty());
    }

    #[test]
    fn what_is_left_at_the_end_says_nothing_about_full_batches() {
        let batch = BatchSize::fixed(8);
        let mut is_busy = true; // with somebody else's work, when the last three rows are due
        let parts = batch.run(11, |rows| match rows.len() == 3 && std::mem::take(&mut is_busy) {
            true => with_room_for(0)(rows),
            false => Ok(rows),
        });
        assert_eq!(parts.unwrap(), [0..8, 8..10, 10..11]);
        assert_eq!(batch.rows(), 8);
    }

    #[test]
    fn a_row_that_does_not_fit_and_other_failures_end_it() {
        assert!(BatchSize::fixed(8).run(3, with_room_for(0)).is_err());
        let mut calls = 0;
        let result = BatchSize::fixed(8).run(20, |_| -> candle::Result<()> {
            calls += 1;
            candle::bail!("shapes differ")
        });
        assert!(result.is_err());
        assert_eq!(calls, 1);
    }

    #[test]
    fn batches_fit_into_the_free_memory() {
        assert_eq!(rows_in(80 << 30, 4 << 20, 1024), 1024);
        assert_eq!(rows_in(1 << 30, 4 << 20, 1024), 16);
        assert_eq!(rows_in(0, 4 << 20, 1024), 1);
        assert_eq!(rows_in(1 << 30, 0, 7), 7);
        assert_eq!(BatchSize::fitting(&Device::Cpu, 1, 3, 9).rows(), 3);
    }
}
