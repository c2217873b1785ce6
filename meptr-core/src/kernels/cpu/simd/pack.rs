//! Laying out rows for the kernel: the numbers of one depth side by side.

use pulp::Arch;

/// Panels of a block of rows, each `depth x width` numbers: row `r` of the block is column
/// `r % width` of panel `r / width`.
///
/// - `rows`: the block's rows, row `r` from number `r * row_step` on
/// - `count`: rows of the block; columns beyond them are 0
/// - `panels`: `count.div_ceil(width) * depth * width` numbers, overwritten
pub(super) fn pack(
    arch: Arch,
    rows: &[f32],
    row_step: usize,
    count: usize,
    depth: usize,
    width: usize,
    panels: &mut [f32],
) {
    for (number, panel) in panels.chunks_exact_mut(depth * width).enumerate() {
        let first = number * width;
        let rows = &rows[first * row_step..];
        let here = width.min(count - first);
        if here < width {
            panel.fill(0.0);
        }
        pack_panel(arch, Block { rows, row_step, count: here, depth }, width, panel);
    }
}

/// The rows of one panel.
#[derive(Clone, Copy)]
struct Block<'a> {
    rows: &'a [f32],
    row_step: usize,
    count: usize,
    depth: usize,
}

impl<'a> Block<'a> {
    fn row(&self, index: usize) -> &'a [f32] {
        &self.rows[index * self.row_step..][..self.depth]
    }
}

fn pack_panel(arch: Arch, block: Block, width: usize, panel: &mut [f32]) {
    // Squares are turned over in registers; of the last rows' squares only a part is stored.
    let side = match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => 16,
        #[cfg(target_arch = "x86_64")]
        Arch::V3(_) => 8,
        _ => 0,
    };
    let done = block.depth.checked_div(side).unwrap_or(0) * side;
    #[cfg(target_arch = "x86_64")]
    for first in (0..block.count).step_by(side.max(1)) {
        let count = side.min(block.count - first);
        let rows: [&[f32]; 16] =
            std::array::from_fn(|row| &block.row(first + row.min(count.max(1) - 1))[..done]);
        let square = x86::Squares { rows, first, count, width };
        #[expect(unsafe_code, reason = "the CPU has the instructions")]
        match arch {
            // SAFETY: `Arch::V4` exists only where the CPU has AVX-512F.
            Arch::V4(_) => unsafe { square.transpose_16(panel) },
            // SAFETY: `Arch::V3` exists only where the CPU has AVX2.
            Arch::V3(_) => unsafe { square.transpose_8(panel) },
            _ => break,
        }
    }
    for row in 0..block.count {
        let column = panel[done * width..].chunks_exact_mut(width);
        for (into, from) in column.zip(&block.row(row)[done..]) {
            into[row] = *from;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! Squares of numbers turned over in registers.

    use std::arch::x86_64::*;

    use super::super::super::avx512::{load_16, store_up_to_16, turn_16};

    /// Columns `first..first + count` of a panel from as many rows, as far as whole squares go.
    pub(super) struct Squares<'a> {
        /// Of one length; those from `count` on are not used.
        pub(super) rows: [&'a [f32]; 16],
        pub(super) first: usize,
        pub(super) count: usize,
        pub(super) width: usize,
    }

    impl Squares<'_> {
        #[target_feature(enable = "avx512f")]
        pub(super) fn transpose_16(&self, panel: &mut [f32]) {
            let Self { rows, first, count, width } = *self;
            let squares = rows[0].len() / 16;
            let mut rows = rows.map(|row| row.as_chunks::<16>().0);
            rows.iter_mut().for_each(|row| *row = &row[..squares]);
            #[allow(clippy::needless_range_loop, reason = "all rows are indexed with it")]
            for square in 0..squares {
                let columns = turn_16(std::array::from_fn(|row| load_16(&rows[row][square])));
                for (column, vector) in columns.into_iter().enumerate() {
                    let depth = square * 16 + column;
                    store_up_to_16(&mut panel[depth * width + first..][..count], vector);
                }
            }
        }

        #[target_feature(enable = "avx2")]
        pub(super) fn transpose_8(&self, panel: &mut [f32]) {
            let Self { rows, first, count, width } = *self;
            for square in 0..rows[0].len() / 8 {
                let r: [__m256; 8] =
                    std::array::from_fn(|row| load_256(&rows[row].as_chunks::<8>().0[square]));
                // Groups of four rows: vector `n` holds columns n and n + 4 of the four.
                let group = |row: usize| -> [__m256; 4] {
                    let (a, b) = (
                        _mm256_unpacklo_ps(r[row], r[row + 1]),
                        _mm256_unpackhi_ps(r[row], r[row + 1]),
                    );
                    let (c, d) = (
                        _mm256_unpacklo_ps(r[row + 2], r[row + 3]),
                        _mm256_unpackhi_ps(r[row + 2], r[row + 3]),
                    );
                    [
                        _mm256_shuffle_ps::<0x44>(a, c),
                        _mm256_shuffle_ps::<0xEE>(a, c),
                        _mm256_shuffle_ps::<0x44>(b, d),
                        _mm256_shuffle_ps::<0xEE>(b, d),
                    ]
                };
                let groups = [group(0), group(4)];
                for column in 0..4 {
                    let [a, b] = groups.map(|group| group[column]);
                    let halves = [
                        _mm256_permute2f128_ps::<0x20>(a, b),
                        _mm256_permute2f128_ps::<0x31>(a, b),
                    ];
                    for (number, vector) in halves.into_iter().enumerate() {
                        let depth = square * 8 + number * 4 + column;
                        store_256(&mut panel[depth * width + first..][..count], vector);
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    fn load_256(from: &[f32; 8]) -> __m256 {
        // SAFETY: eight numbers are there; the load asks for no alignment.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    fn store_256(into: &mut [f32], vector: __m256) {
        assert!(into.len() <= 8);
        let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(into.len() as i32), numbers);
        // SAFETY: as many numbers are stored as have room; the store asks for no alignment.
        unsafe { _mm256_maskstore_ps(into.as_mut_ptr(), mask, vector) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_to_its_column_and_depth() {
        for (count, depth, row_step) in
            [(1usize, 1, 1), (16, 16, 16), (7, 19, 23), (33, 40, 40), (70, 17, 18)]
        {
            let rows: Vec<f32> = (0..count * row_step).map(|number| number as f32).collect();
            for (arch, width) in
                [(Arch::Scalar, 8), (Arch::new(), 16), (Arch::new(), 32), (Arch::new(), 11)]
            {
                let panel_count = count.div_ceil(width);
                let mut panels = vec![f32::NAN; panel_count * depth * width];
                pack(arch, &rows, row_step, count, depth, width, &mut panels);
                for (panel, numbers) in panels.chunks_exact(depth * width).enumerate() {
                    for (at, number) in numbers.iter().enumerate() {
                        let row = panel * width + at % width;
                        let expected =
                            if row < count { rows[row * row_step + at / width] } else { 0.0 };
                        assert_eq!(*number, expected, "row {row} of {count}, depth {}", at / width);
                    }
                }
            }
        }
    }
}
