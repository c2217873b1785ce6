//! Micro-kernel: some rows times one packed panel of outputs, accumulated in registers.

use pulp::Simd;

use super::super::prefetch::{L1, L2, prefetch};
use super::super::scratch::CACHE_LINE;

/// Vectors of outputs in a panel.
pub(super) const PANEL_VECTORS: usize = 2;

/// Most rows of a block with 32 registers: 24 accumulators leave room for the weights of a depth and
/// one broadcast value.
const MAX_ROWS: usize = 12;
/// Like [`MAX_ROWS`], with prefetches between the multiply-accumulate: the compiler then loads the values
/// of all rows together.
const MAX_ROWS_WITH_PREFETCH: usize = 10;
/// Like [`MAX_ROWS`], with 16 registers.
const MAX_ROWS_OF_16_REGISTERS: usize = 6;

/// Rows times one panel.
#[derive(Clone, Copy)]
pub(super) struct MicroKernel<'a> {
    /// Row `r` starts at value `r * row_stride`; rows may overlap.
    pub(super) x: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) depth: usize,
    /// `(depth, width)`, `width` being [`PANEL_VECTORS`] vectors.
    pub(super) panel: &'a [f32],
    /// Whether sums are added to the output or overwrite it.
    pub(super) accumulate: bool,
}

/// Queue of rows that are needed soon, prefetched a cache line at a time between the multiply-accumulate:
/// weights lie too far apart for the CPU's own prefetcher.
#[derive(Clone, Copy)]
pub(super) struct RowPrefetch<'a> {
    /// Row `r` starts at value `r * row_stride`.
    values: &'a [f32],
    row_stride: usize,
    count: usize,
    /// Rows per block of the micro-kernel.
    rows_per_block: usize,
}

impl<'a> RowPrefetch<'a> {
    pub(super) const NONE: Self = Self { values: &[], row_stride: 0, count: 0, rows_per_block: 0 };

    /// Queues `count` rows, spread evenly over the next `blocks` blocks.
    pub(super) fn new(values: &'a [f32], row_stride: usize, count: usize, blocks: usize) -> Self {
        Self { values, row_stride, count, rows_per_block: count.div_ceil(blocks.max(1)) }
    }

    /// Takes the rows of one block out of the queue.
    fn take(&mut self) -> Self {
        let count = self.rows_per_block.min(self.count);
        let now = Self { count, ..*self };
        self.values = self.values.get(count * self.row_stride..).unwrap_or(&[]);
        self.count -= count;
        now
    }

    /// Prefetches the cache line of each row that holds value `depth` into the second-level cache.
    #[inline(always)]
    fn prefetch_lines(&self, depth: usize) {
        for row in 0..self.count {
            prefetch::<L2>(self.values.as_ptr().wrapping_add(row * self.row_stride + depth));
        }
    }
}

impl MicroKernel<'_> {
    /// Fills columns from `first` on of some rows of the output, as many as a panel has or are left.
    #[inline(always)]
    pub(super) fn run<S: Simd>(
        self,
        simd: S,
        out: &mut [&mut [f32]],
        first: usize,
        prefetch: &mut RowPrefetch,
    ) {
        if prefetch.count == 0 {
            self.run_blocks::<S, false>(simd, out, first, prefetch);
        } else {
            self.run_blocks::<S, true>(simd, out, first, prefetch);
        }
    }

    #[inline(always)]
    fn run_blocks<S: Simd, const PREFETCH: bool>(
        self,
        simd: S,
        out: &mut [&mut [f32]],
        first: usize,
        prefetch: &mut RowPrefetch,
    ) {
        // Blocks of nearly one size: a short last one would not fill the pipeline.
        let mut blocks = block_count::<S>(out.len(), PREFETCH);
        let mut done = 0;
        while done < out.len() {
            let count = (out.len() - done).div_ceil(blocks);
            blocks -= 1;
            let kernel = Self { x: &self.x[done * self.row_stride..], ..self };
            let rows = &mut out[done..done + count];
            kernel.block_of::<S, PREFETCH>(simd, rows, first, prefetch.take());
            done += count;
        }
    }

    #[inline(always)]
    fn block_of<S: Simd, const PREFETCH: bool>(
        self,
        simd: S,
        out: &mut [&mut [f32]],
        first: usize,
        prefetch_rows: RowPrefetch,
    ) {
        match out.len() {
            1 => self.block::<S, 1, PREFETCH>(simd, out, first, prefetch_rows),
            2 => self.block::<S, 2, PREFETCH>(simd, out, first, prefetch_rows),
            3 => self.block::<S, 3, PREFETCH>(simd, out, first, prefetch_rows),
            4 => self.block::<S, 4, PREFETCH>(simd, out, first, prefetch_rows),
            5 => self.block::<S, 5, PREFETCH>(simd, out, first, prefetch_rows),
            6 => self.block::<S, 6, PREFETCH>(simd, out, first, prefetch_rows),
            7 => self.block::<S, 7, PREFETCH>(simd, out, first, prefetch_rows),
            8 => self.block::<S, 8, PREFETCH>(simd, out, first, prefetch_rows),
            9 => self.block::<S, 9, PREFETCH>(simd, out, first, prefetch_rows),
            10 => self.block::<S, 10, PREFETCH>(simd, out, first, prefetch_rows),
            11 => self.block::<S, 11, PREFETCH>(simd, out, first, prefetch_rows),
            _ => self.block::<S, 12, PREFETCH>(simd, out, first, prefetch_rows),
        }
    }

    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "constant indices keep accumulators in registers"
    )]
    fn block<S: Simd, const P: usize, const PREFETCH: bool>(
        self,
        simd: S,
        out: &mut [&mut [f32]],
        first: usize,
        prefetch_rows: RowPrefetch,
    ) {
        const C: usize = PANEL_VECTORS;
        if P > max_rows::<S>(PREFETCH) {
            return; // never called; the condition is constant, so that no code is made for it
        }
        let (weights, _) = S::as_simd_f32s(&self.panel[..self.depth * C * S::F32_LANES]);
        let mut rows = [&self.x[..0]; P];
        for (number, row) in rows.iter_mut().enumerate() {
            *row = &self.x[number * self.row_stride..][..self.depth];
        }
        let mut sums = [[simd.splat_f32s(0.0); C]; P];
        for out in &*out {
            let address = out.as_ptr().wrapping_add(first);
            (0..C).for_each(|c| prefetch::<L1>(address.wrapping_add(c * S::F32_LANES)));
        }
        for (depth, weights) in (0..self.depth).zip(weights.chunks_exact(C)) {
            if PREFETCH && depth.is_multiple_of(CACHE_LINE) {
                prefetch_rows.prefetch_lines(depth);
            }
            let address = weights.as_ptr().wrapping_add(C * DEPTHS_AHEAD);
            (0..C).for_each(|c| prefetch::<L1>(address.wrapping_add(c)));
            for p in 0..P {
                let value = simd.splat_f32s(rows[p][depth]);
                for c in 0..C {
                    sums[p][c] = simd.mul_add_e_f32s(value, weights[c], sums[p][c]);
                }
            }
        }
        if first + C * S::F32_LANES <= out[0].len() {
            for p in 0..P {
                let (into, _) = S::as_mut_simd_f32s(&mut out[p][first..][..C * S::F32_LANES]);
                for c in 0..C {
                    into[c] = if self.accumulate {
                        simd.add_f32s(into[c], sums[p][c])
                    } else {
                        sums[p][c]
                    };
                }
            }
            return;
        }
        // Last columns, fewer than a panel has.
        for (out, sums) in out.iter_mut().zip(sums) {
            for (into, sum) in out[first..].chunks_mut(S::F32_LANES).zip(sums) {
                let before = simd.partial_load_f32s(into);
                let sum = if self.accumulate { simd.add_f32s(before, sum) } else { sum };
                simd.partial_store_f32s(into, sum);
            }
        }
    }
}

/// Number of blocks that `rows` rows are multiplied in, with or without prefetches.
pub(super) fn block_count<S: Simd>(rows: usize, prefetches: bool) -> usize {
    rows.div_ceil(max_rows::<S>(prefetches))
}

const fn max_rows<S: Simd>(prefetches: bool) -> usize {
    match (S::REGISTER_COUNT >= 32, prefetches) {
        (true, false) => MAX_ROWS,
        (true, true) => MAX_ROWS_WITH_PREFETCH,
        (false, _) => MAX_ROWS_OF_16_REGISTERS,
    }
}

/// Depths ahead of its use that a panel is prefetched from the second-level cache.
const DEPTHS_AHEAD: usize = 6;
