//! AVX-512 vectors of 16 f32: loads, stores, and a 16x16 transpose in registers.

use std::arch::x86_64::*;

/// Transposes a 16x16 matrix: vector `c` of the result holds lane `c` of every given vector.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn transpose_16x16(rows: [__m512; 16]) -> [__m512; 16] {
    // Groups of four rows: vector `n` holds columns n, n + 4, n + 8, n + 12 of the four.
    let mut groups = [[_mm512_setzero_ps(); 4]; 4];
    for (group, rows) in groups.iter_mut().zip(rows.chunks_exact(4)) {
        let (a, b) = (_mm512_unpacklo_ps(rows[0], rows[1]), _mm512_unpackhi_ps(rows[0], rows[1]));
        let (c, d) = (_mm512_unpacklo_ps(rows[2], rows[3]), _mm512_unpackhi_ps(rows[2], rows[3]));
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        let (c, d) = (_mm512_castps_pd(c), _mm512_castps_pd(d));
        group[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        group[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        group[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        group[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    let mut columns = rows;
    for column in 0..4 {
        let [a, b, c, d] =
            [groups[0][column], groups[1][column], groups[2][column], groups[3][column]];
        let (ab, cd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
        let (ef, gh) = (_mm512_shuffle_f32x4::<0xDD>(a, b), _mm512_shuffle_f32x4::<0xDD>(c, d));
        columns[column] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
        columns[4 + column] = _mm512_shuffle_f32x4::<0x88>(ef, gh);
        columns[8 + column] = _mm512_shuffle_f32x4::<0xDD>(ab, cd);
        columns[12 + column] = _mm512_shuffle_f32x4::<0xDD>(ef, gh);
    }
    columns
}

/// Loads 16 values.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load_16(from: &[f32; 16]) -> __m512 {
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array holds sixteen values; the load asks for no alignment.
    unsafe {
        _mm512_loadu_ps(from.as_ptr())
    }
}

/// Loads the first 16 values; lanes beyond the end of `from` are 0.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load_up_to_16(from: &[f32]) -> __m512 {
    if let Some((whole, _)) = from.split_first_chunk() {
        return load_16(whole);
    }
    let mask = (1_u32 << from.len()) - 1;
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the mask excludes lanes beyond the slice; the load asks for no alignment.
    unsafe {
        _mm512_maskz_loadu_ps(mask as u16, from.as_ptr())
    }
}

/// Stores the first lanes, as many as `into` holds, 16 at most.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store_up_to_16(into: &mut [f32], vector: __m512) {
    let mask = (1_u32 << into.len().min(16)) - 1;
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the mask excludes lanes beyond the slice; the store asks for no alignment.
    unsafe {
        _mm512_mask_storeu_ps(into.as_mut_ptr(), mask as u16, vector);
    }
}
