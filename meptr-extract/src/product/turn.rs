//! Squares of 16 x 16 numbers turned over in registers.

use std::arch::x86_64::*;

/// Vector `c` of the result holds number `c` of every given vector.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn turn_16(rows: [__m512; 16]) -> [__m512; 16] {
    let pair = |a: usize, b: usize| {
        let (low, high) =
            (_mm512_unpacklo_ps(rows[a], rows[b]), _mm512_unpackhi_ps(rows[a], rows[b]));
        (_mm512_castps_pd(low), _mm512_castps_pd(high))
    };
    // Groups of four rows: vector `n` holds columns n, n + 4, n + 8, n + 12 of the four.
    let group = |row: usize| -> [__m512; 4] {
        let ((a, b), (c, d)) = (pair(row, row + 1), pair(row + 2, row + 3));
        [
            _mm512_unpacklo_pd(a, c),
            _mm512_unpackhi_pd(a, c),
            _mm512_unpacklo_pd(b, d),
            _mm512_unpackhi_pd(b, d),
        ]
        .map(|vector| _mm512_castpd_ps(vector))
    };
    let groups = [group(0), group(4), group(8), group(12)];
    let mut columns = rows;
    for column in 0..4 {
        let [a, b, c, d] = groups.map(|group| group[column]);
        let (ab, cd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
        let (ef, gh) = (_mm512_shuffle_f32x4::<0xDD>(a, b), _mm512_shuffle_f32x4::<0xDD>(c, d));
        columns[column] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
        columns[4 + column] = _mm512_shuffle_f32x4::<0x88>(ef, gh);
        columns[8 + column] = _mm512_shuffle_f32x4::<0xDD>(ab, cd);
        columns[12 + column] = _mm512_shuffle_f32x4::<0xDD>(ef, gh);
    }
    columns
}
