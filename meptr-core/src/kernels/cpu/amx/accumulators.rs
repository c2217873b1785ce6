//! Accumulators: the f32 sums that the tile registers hold for one block of outputs and rows.

use std::arch::x86_64::*;

use super::super::avx512::{load_16, load_up_to_16, store_up_to_16, transpose_16x16};
use super::super::prefetch::{L1_WRITE, prefetch};
use super::bf16_split::SIDE;
use super::registers::Amx;

/// Accumulators of a block of outputs and a block of rows: for both halves of the outputs, for both halves
/// of the rows, `(outputs, rows)`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Accumulators(pub(super) [[[[f32; SIDE]; SIDE]; 2]; 2]);

impl Accumulators {
    pub(super) const ZERO: Self = Self([[[[0.0; SIDE]; SIDE]; 2]; 2]);

    /// Multiplies the sums of each row with its factor.
    pub(super) fn scale(&mut self, _: Amx, factors: &[[f32; SIDE]; 2]) {
        #[expect(unsafe_code, reason = "the CPU has the instructions")]
        // SAFETY: `Amx` exists only where the CPU has AVX-512F.
        unsafe {
            scale(self, factors);
        }
    }

    /// Writes the sums to columns from `first` on of the block's output rows, as many columns as a
    /// block has or are left; with `accumulate`, adds to them.
    pub(super) fn write(&self, _: Amx, rows: &mut [&mut [f32]], first: usize, accumulate: bool) {
        #[expect(unsafe_code, reason = "the CPU has the instructions")]
        // SAFETY: `Amx` exists only where the CPU has AVX-512F.
        unsafe {
            write(self, rows, first, accumulate);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn scale(sums: &mut Accumulators, factors: &[[f32; SIDE]; 2]) {
    for sums in &mut sums.0 {
        for (outputs, factors) in sums.iter_mut().zip(factors) {
            for sums in outputs {
                sums.iter_mut().zip(factors).for_each(|(sum, factor)| *sum *= factor);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
fn write(sums: &Accumulators, rows: &mut [&mut [f32]], first: usize, accumulate: bool) {
    for (sums, first) in sums.0.iter().zip([first, first + SIDE]) {
        for (sums, rows) in sums.iter().zip(rows.chunks_mut(SIDE)) {
            let mut by_output = [_mm512_setzero_ps(); SIDE];
            for (vector, sums) in by_output.iter_mut().zip(sums) {
                *vector = load_16(sums);
            }
            for (row, sums) in rows.iter_mut().zip(transpose_16x16(by_output)) {
                let Some(row) = row.get_mut(first..) else { break };
                let sums = if accumulate { _mm512_add_ps(load_up_to_16(row), sums) } else { sums };
                store_up_to_16(row, sums);
            }
        }
    }
}

/// Prefetches a block's columns from `first` on of the output rows, which are written soon.
pub(super) fn prefetch_output(rows: &[&mut [f32]], first: usize) {
    for row in rows {
        let address = row.as_ptr().wrapping_add(first);
        for address in [address, address.wrapping_add(SIDE)] {
            prefetch::<L1_WRITE>(address);
        }
    }
}
