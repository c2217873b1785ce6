//! What comes out of the tiles.

use std::arch::x86_64::*;

use super::super::avx512::{load_16, load_up_to_16, store_up_to_16, turn_16};
use super::super::fetch::{TO_WRITE, prefetch};
use super::Tiles;
use super::pieces::SIDE;

/// What a block of outputs and one of rows give: for both halves of the outputs, for both halves of
/// the rows, `(outputs, rows)`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[[[f32; SIDE]; SIDE]; 2]; 2]);

impl Sums {
    pub(super) const ZERO: Self = Self([[[[0.0; SIDE]; SIDE]; 2]; 2]);

    /// Multiplies the sums of each row with its number.
    pub(super) fn scale(&mut self, _: Tiles, factors: &[[f32; SIDE]; 2]) {
        #[expect(unsafe_code, reason = "the CPU has the instructions")]
        // SAFETY: `Tiles` exists only where the CPU has AVX-512F.
        unsafe {
            scale(self, factors);
        }
    }

    /// Sets columns from `first` on, as many as a block has or are left, of a block's lines of the
    /// output, or adds to them.
    pub(super) fn write(&self, _: Tiles, lines: &mut [&mut [f32]], first: usize, adds: bool) {
        #[expect(unsafe_code, reason = "the CPU has the instructions")]
        // SAFETY: `Tiles` exists only where the CPU has AVX-512F.
        unsafe {
            write(self, lines, first, adds);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn scale(sums: &mut Sums, factors: &[[f32; SIDE]; 2]) {
    for sums in &mut sums.0 {
        for (outputs, factors) in sums.iter_mut().zip(factors) {
            for sums in outputs {
                sums.iter_mut().zip(factors).for_each(|(sum, factor)| *sum *= factor);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
fn write(sums: &Sums, lines: &mut [&mut [f32]], first: usize, adds: bool) {
    for (sums, first) in sums.0.iter().zip([first, first + SIDE]) {
        for (sums, lines) in sums.iter().zip(lines.chunks_mut(SIDE)) {
            let mut rows = [_mm512_setzero_ps(); SIDE];
            for (row, sums) in rows.iter_mut().zip(sums) {
                *row = load_16(sums);
            }
            for (line, sums) in lines.iter_mut().zip(turn_16(rows)) {
                let Some(line) = line.get_mut(first..) else { break };
                let sums = if adds { _mm512_add_ps(load_up_to_16(line), sums) } else { sums };
                store_up_to_16(line, sums);
            }
        }
    }
}

/// Fetches columns from `first` on of a block's lines, which are to be written.
pub(super) fn fetch(lines: &[&mut [f32]], first: usize) {
    for line in lines {
        let place = line.as_ptr().wrapping_add(first);
        for place in [place, place.wrapping_add(SIDE)] {
            prefetch::<TO_WRITE>(place);
        }
    }
}
