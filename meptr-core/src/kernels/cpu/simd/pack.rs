//! Packs rows for the micro-kernel: the values of one depth side by side.

use pulp::Arch;

/// Rows to pack.
#[derive(Clone, Copy)]
pub(super) struct PackSource<'a> {
    /// Row `r` starts at value `r * row_stride`.
    pub(super) values: &'a [f32],
    pub(super) row_stride: usize,
    /// Number of rows.
    pub(super) count: usize,
    /// Values of a row that are packed.
    pub(super) depth: usize,
}

impl<'a> PackSource<'a> {
    fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.row_stride..][..self.depth]
    }
}

/// Packs rows into panels of `(depth, width)` values: row `r` becomes column `r % width` of panel
/// `r / width`. Columns beyond the last row are 0.
///
/// - `panels`: `source.count.div_ceil(width) * depth * width` values, overwritten
pub(super) fn pack(arch: Arch, source: PackSource, width: usize, panels: &mut [f32]) {
    let PackSource { values, row_stride, count, depth } = source;
    for (number, panel) in panels.chunks_exact_mut(depth * width).enumerate() {
        let first = number * width;
        let count = width.min(count - first);
        if count < width {
            panel.fill(0.0);
        }
        let values = &values[first * row_stride..];
        pack_panel(arch, PackSource { values, row_stride, count, depth }, width, panel);
    }
}

fn pack_panel(arch: Arch, block: PackSource, width: usize, panel: &mut [f32]) {
    // Squares are transposed in registers; of the last rows' squares only a part is stored.
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
    //! Transposes of 16x16 and 8x8 squares in registers.

    use std::arch::x86_64::*;

    use super::super::super::avx512::{load_16, store_up_to_16, transpose_16x16};

    /// Columns `first..first + count` of a panel and the rows they come from, as far as whole squares
    /// go.
    pub(super) struct Squares<'a> {
        /// Rows of one length; those from `count` on are not used.
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
                let columns =
                    transpose_16x16(std::array::from_fn(|row| load_16(&rows[row][square])));
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
                let groups = [interleave_rows(&r, 0), interleave_rows(&r, 4)];
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

    /// Interleaves rows `first..first + 4`: vector `n` holds columns `n` and `n + 4` of the four.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn interleave_rows(rows: &[__m256; 8], first: usize) -> [__m256; 4] {
        let [a, b, c, d] = [0, 1, 2, 3].map(|row| rows[first + row]);
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
            _mm256_shuffle_ps::<0xEE>(ab_low, cd_low),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xEE>(ab_high, cd_high),
        ]
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    fn load_256(from: &[f32; 8]) -> __m256 {
        // SAFETY: the array holds eight values; the load asks for no alignment.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    fn store_256(into: &mut [f32], vector: __m256) {
        assert!(into.len() <= 8);
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(into.len() as i32), lanes);
        // SAFETY: the mask excludes lanes beyond the slice; the store asks for no alignment.
        unsafe { _mm256_maskstore_ps(into.as_mut_ptr(), mask, vector) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_to_its_column_and_depth() {
        for (count, depth, row_stride) in
            [(1usize, 1, 1), (16, 16, 16), (7, 19, 23), (33, 40, 40), (70, 17, 18)]
        {
            let values: Vec<f32> = (0..count * row_stride).map(|index| index as f32).collect();
            let source = PackSource { values: &values, row_stride, count, depth };
            for (arch, width) in
                [(Arch::Scalar, 8), (Arch::new(), 16), (Arch::new(), 32), (Arch::new(), 11)]
            {
                let panel_count = count.div_ceil(width);
                let mut panels = vec![f32::NAN; panel_count * depth * width];
                pack(arch, source, width, &mut panels);
                for (panel, packed) in panels.chunks_exact(depth * width).enumerate() {
                    for (at, value) in packed.iter().enumerate() {
                        let row = panel * width + at % width;
                        let expected =
                            if row < count { values[row * row_stride + at / width] } else { 0.0 };
                        assert_eq!(*value, expected, "row {row} of {count}, depth {}", at / width);
                    }
                }
            }
        }
    }
}
