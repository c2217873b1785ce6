//! The innermost loops: some rows times one panel of outputs.

use pulp::Simd;

use super::super::fetch::{FAR, NEAR, prefetch};
use super::super::scratch::LINE;

/// Vectors of outputs in a panel.
pub(super) const PANEL_VECTORS: usize = 2;

/// Most rows that are multiplied at a time where there are 32 registers: 24 sums leave room for the
/// weights of a depth and a row's number.
const MAX_ROWS: usize = 12;
/// The same where something is fetched meanwhile: the compiler then loads all rows' numbers together.
const MAX_ROWS_WITH_FETCHES: usize = 10;
/// The same where there are 16 registers.
const MAX_ROWS_OF_FEW_REGISTERS: usize = 6;

/// Rows times a panel.
#[derive(Clone, Copy)]
pub(super) struct Times<'a> {
    /// Row `r` starts at number `r * row_step`, rows may overlap.
    pub(super) x: &'a [f32],
    pub(super) row_step: usize,
    pub(super) depth: usize,
    /// `depth x width`, `width` being [`PANEL_VECTORS`] vectors.
    pub(super) panel: &'a [f32],
    /// Whether sums are added to what is there, or overwrite it.
    pub(super) adds: bool,
}

/// Rows of numbers that are needed soon, fetched from memory a line at a time between the products:
/// weights lie too far apart for the CPU to guess.
#[derive(Clone, Copy)]
pub(super) struct Next<'a> {
    /// Row `r` starts at number `r * row_step`.
    numbers: &'a [f32],
    row_step: usize,
    count: usize,
    /// Rows for each block of products.
    at_once: usize,
}

impl<'a> Next<'a> {
    pub(super) const NOTHING: Self = Self { numbers: &[], row_step: 0, count: 0, at_once: 0 };

    /// Rows to be fetched evenly within so many blocks.
    pub(super) fn new(numbers: &'a [f32], row_step: usize, count: usize, blocks: usize) -> Self {
        Self { numbers, row_step, count, at_once: count.div_ceil(blocks.max(1)) }
    }

    /// Those for one block, which are then done with.
    fn take(&mut self) -> Self {
        let count = self.at_once.min(self.count);
        let now = Self { count, ..*self };
        self.numbers = self.numbers.get(count * self.row_step..).unwrap_or(&[]);
        self.count -= count;
        now
    }

    /// Fetches the line of each row that holds its number `depth` into the second-level cache.
    #[inline(always)]
    fn fetch(&self, depth: usize) {
        for row in 0..self.count {
            prefetch::<FAR>(self.numbers.as_ptr().wrapping_add(row * self.row_step + depth));
        }
    }
}

impl Times<'_> {
    /// Sets columns from `first` on, as many as a panel has or are left, of some rows of the output.
    #[inline(always)]
    pub(super) fn run<S: Simd>(
        self,
        simd: S,
        out: &mut [&mut [f32]],
        first: usize,
        next: &mut Next,
    ) {
        if next.count == 0 {
            self.run_blocks::<S, false>(simd, out, first, next);
        } else {
            self.run_blocks::<S, true>(simd, out, first, next);
        }
    }

    #[inline(always)]
    fn run_blocks<S: Simd, const FETCH: bool>(
        self,
        simd: S,
        out: &mut [&mut [f32]],
        first: usize,
        next: &mut Next,
    ) {
        // Blocks of nearly one size: a short last one would not fill the pipeline.
        let mut blocks = blocks_of::<S>(out.len(), FETCH);
        let mut done = 0;
        while done < out.len() {
            let count = (out.len() - done).div_ceil(blocks);
            blocks -= 1;
            let times = Self { x: &self.x[done * self.row_step..], ..self };
            times.block_of::<S, FETCH>(simd, &mut out[done..done + count], first, next.take());
            done += count;
        }
    }

    #[inline(always)]
    fn block_of<S: Simd, const FETCH: bool>(
        self,
        simd: S,
        out: &mut [&mut [f32]],
        first: usize,
        next: Next,
    ) {
        match out.len() {
            1 => self.block::<S, 1, FETCH>(simd, out, first, next),
            2 => self.block::<S, 2, FETCH>(simd, out, first, next),
            3 => self.block::<S, 3, FETCH>(simd, out, first, next),
            4 => self.block::<S, 4, FETCH>(simd, out, first, next),
            5 => self.block::<S, 5, FETCH>(simd, out, first, next),
            6 => self.block::<S, 6, FETCH>(simd, out, first, next),
            7 => self.block::<S, 7, FETCH>(simd, out, first, next),
            8 => self.block::<S, 8, FETCH>(simd, out, first, next),
            9 => self.block::<S, 9, FETCH>(simd, out, first, next),
            10 => self.block::<S, 10, FETCH>(simd, out, first, next),
            11 => self.block::<S, 11, FETCH>(simd, out, first, next),
            _ => self.block::<S, 12, FETCH>(simd, out, first, next),
        }
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep sums in registers")]
    fn block<S: Simd, const P: usize, const FETCH: bool>(
        self,
        simd: S,
        out: &mut [&mut [f32]],
        first: usize,
        next: Next,
    ) {
        const C: usize = PANEL_VECTORS;
        if P > most_rows::<S>(FETCH) {
            return; // never called; the condition is constant, so that no code is made for it
        }
        let (weights, _) = S::as_simd_f32s(&self.panel[..self.depth * C * S::F32_LANES]);
        let mut rows = [&self.x[..0]; P];
        for (number, row) in rows.iter_mut().enumerate() {
            *row = &self.x[number * self.row_step..][..self.depth];
        }
        let mut sums = [[simd.splat_f32s(0.0); C]; P];
        for out in &*out {
            let place = out.as_ptr().wrapping_add(first);
            (0..C).for_each(|c| prefetch::<NEAR>(place.wrapping_add(c * S::F32_LANES)));
        }
        for (depth, weights) in (0..self.depth).zip(weights.chunks_exact(C)) {
            if FETCH && depth.is_multiple_of(LINE) {
                next.fetch(depth);
            }
            let place = weights.as_ptr().wrapping_add(C * AHEAD);
            (0..C).for_each(|c| prefetch::<NEAR>(place.wrapping_add(c)));
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
                    into[c] =
                        if self.adds { simd.add_f32s(into[c], sums[p][c]) } else { sums[p][c] };
                }
            }
            return;
        }
        // The last columns.
        for (out, sums) in out.iter_mut().zip(sums) {
            for (into, sum) in out[first..].chunks_mut(S::F32_LANES).zip(sums) {
                let before = simd.partial_load_f32s(into);
                let sum = if self.adds { simd.add_f32s(before, sum) } else { sum };
                simd.partial_store_f32s(into, sum);
            }
        }
    }
}

/// The number of blocks that so many rows are multiplied in, with something to fetch meanwhile or not.
pub(super) fn blocks_of<S: Simd>(rows: usize, fetches: bool) -> usize {
    rows.div_ceil(most_rows::<S>(fetches))
}

const fn most_rows<S: Simd>(fetches: bool) -> usize {
    match (S::REGISTER_COUNT >= 32, fetches) {
        (true, false) => MAX_ROWS,
        (true, true) => MAX_ROWS_WITH_FETCHES,
        (false, _) => MAX_ROWS_OF_FEW_REGISTERS,
    }
}

/// How many depths ahead of its use a panel is fetched from the second-level cache.
const AHEAD: usize = 6;
