//! The innermost loops: some rows times one panel of outputs.

use pulp::Simd;

/// Vectors of outputs in a panel.
pub(super) const PANEL_VECTORS: usize = 2;

/// Most rows that are multiplied at a time where there are 32 registers: 24 sums leave room for the
/// weights of a depth and a row's number.
const MAX_ROWS: usize = 12;
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

impl Times<'_> {
    /// Sets columns from `first` on, as many as a panel has or are left, of some rows of the output.
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, simd: S, out: &mut [&mut [f32]], first: usize) {
        let most = if S::REGISTER_COUNT >= 32 { MAX_ROWS } else { MAX_ROWS_OF_FEW_REGISTERS };
        // Blocks of nearly one size: a short last one would not fill the pipeline.
        let mut blocks = out.len().div_ceil(most);
        let mut done = 0;
        while done < out.len() {
            let count = (out.len() - done).div_ceil(blocks);
            blocks -= 1;
            let times = Self { x: &self.x[done * self.row_step..], ..self };
            times.block_of(simd, &mut out[done..done + count], first);
            done += count;
        }
    }

    #[inline(always)]
    fn block_of<S: Simd>(self, simd: S, out: &mut [&mut [f32]], first: usize) {
        match out.len() {
            1 => self.block::<S, 1>(simd, out, first),
            2 => self.block::<S, 2>(simd, out, first),
            3 => self.block::<S, 3>(simd, out, first),
            4 => self.block::<S, 4>(simd, out, first),
            5 => self.block::<S, 5>(simd, out, first),
            6 => self.block::<S, 6>(simd, out, first),
            7 => self.block::<S, 7>(simd, out, first),
            8 => self.block::<S, 8>(simd, out, first),
            9 => self.block::<S, 9>(simd, out, first),
            10 => self.block::<S, 10>(simd, out, first),
            11 => self.block::<S, 11>(simd, out, first),
            _ => self.block::<S, 12>(simd, out, first),
        }
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep sums in registers")]
    fn block<S: Simd, const P: usize>(self, simd: S, out: &mut [&mut [f32]], first: usize) {
        const C: usize = PANEL_VECTORS;
        if P > MAX_ROWS_OF_FEW_REGISTERS && S::REGISTER_COUNT < 32 {
            return; // never called; the condition is constant, so that no code is made for it
        }
        let (weights, _) = S::as_simd_f32s(&self.panel[..self.depth * C * S::F32_LANES]);
        let mut rows = [&self.x[..0]; P];
        for (number, row) in rows.iter_mut().enumerate() {
            *row = &self.x[number * self.row_step..][..self.depth];
        }
        let mut sums = [[simd.splat_f32s(0.0); C]; P];
        for out in &*out {
            (0..C).for_each(|c| prefetch(out.as_ptr().wrapping_add(first + c * S::F32_LANES)));
        }
        for (depth, weights) in (0..self.depth).zip(weights.chunks_exact(C)) {
            prefetch(weights.as_ptr().wrapping_add(C * AHEAD));
            prefetch(weights.as_ptr().wrapping_add(C * AHEAD + 1));
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

/// How many depths ahead of its use a panel is fetched from the second-level cache.
const AHEAD: usize = 6;

/// Fetches what stands at a place, if anything does.
#[inline(always)]
fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "prefetching is only reachable as an intrinsic")]
    // SAFETY: a prefetch reads nothing; any address is allowed.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
