//! Softmax of attention scores as the tiles give them: one key per row, one query per column.

use std::arch::x86_64::*;

use super::super::avx512::{load_16, store_up_to_16};
use super::accumulators::Accumulators;
use super::bf16_split::{BLOCK, Bf16Terms, SIDE, Tile, split_32, store_32};
use super::registers::Amx;

/// Turns scores into weights that are not yet divided by their sum, `exp(score - max)` with the
/// query's largest score, packed as the right operand for the multiplication with the values.
///
/// - `scores`: one block of keys after the other, for one block of queries
/// - `keys`: number of keys; scores beyond them are not read
/// - `weights`: right operand, overwritten
/// - returns one over the sum of each query's weights
pub(super) fn unnormalized_softmax(
    _: Amx,
    terms: Bf16Terms,
    scores: &[Accumulators],
    keys: usize,
    weights: &mut [Tile],
) -> [[f32; SIDE]; 2] {
    assert_eq!(weights.len(), terms.tiles(keys));
    assert_eq!(scores.len(), keys.div_ceil(BLOCK));
    [0, 1].map(|half| {
        #[expect(unsafe_code, reason = "the CPU has the instructions")]
        // SAFETY: `Amx` exists only where the CPU has AVX-512F and AVX-512BW.
        unsafe {
            match terms {
                Bf16Terms::One => half_softmax::<1>(scores, keys, half, weights),
                Bf16Terms::Three => half_softmax::<3>(scores, keys, half, weights),
            }
        }
    })
}

/// [`unnormalized_softmax`] of one half of the queries.
#[target_feature(enable = "avx512f,avx512bw")]
fn half_softmax<const TERMS: usize>(
    scores: &[Accumulators],
    keys: usize,
    half: usize,
    weights: &mut [Tile],
) -> [f32; SIDE] {
    let rows = |number: usize| {
        let [first, second] = &scores[number].0;
        let rows = first[half].iter().chain(&second[half]);
        rows.take(keys - number * BLOCK)
    };
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); 4];
    for number in 0..scores.len() {
        for (at, row) in rows(number).enumerate() {
            // NaN is ignored here and reaches the sum below.
            largest[at % 4] = _mm512_max_ps(load_16(row), largest[at % 4]);
        }
    }
    let [a, b, c, d] = largest;
    let largest = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
    let mut sum = _mm512_setzero_ps();
    for (number, tiles) in weights.chunks_exact_mut(2 * TERMS).enumerate() {
        let mut rows = rows(number);
        let mut block_sum = _mm512_setzero_ps();
        for pair in 0..SIDE {
            let mut next = || match rows.next() {
                Some(row) => exp(_mm512_sub_ps(load_16(row), largest)),
                None => _mm512_setzero_ps(),
            };
            let both = [next(), next()];
            block_sum = _mm512_add_ps(block_sum, _mm512_add_ps(both[0], both[1]));
            for (term, bits) in split_32::<TERMS>(both).into_iter().enumerate() {
                store_32(&mut tiles[2 * term + half].0[pair], interleave_upper_halves(bits));
            }
        }
        sum = _mm512_add_ps(sum, block_sum);
    }
    let mut inverse = [0.0; SIDE];
    store_up_to_16(&mut inverse, _mm512_div_ps(_mm512_set1_ps(1.0), sum));
    inverse
}

/// Interleaves the upper 16 bits of the first and the second vector.
#[target_feature(enable = "avx512f")]
#[inline]
fn interleave_upper_halves([first, second]: [__m512i; 2]) -> __m512i {
    let upper = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
    _mm512_or_si512(_mm512_srli_epi32::<16>(first), _mm512_and_si512(second, upper))
}

/// `e^x` for x up to 0: `2^n` times the Taylor series of the remainder, at most ln(2) / 2.
#[target_feature(enable = "avx512f")]
#[inline]
fn exp(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let x = _mm512_max_ps(_mm512_set1_ps(-104.0), x); // 0 from there on; NaN stays
    let log2 = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E));
    let whole = _mm512_roundscale_ps::<NEAREST>(log2);
    let rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693_359_4), x); // upper bits of ln(2)
    let rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.121_944_4e-4), rest); // lower bits
    let series = [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]
        .into_iter()
        .fold(_mm512_set1_ps(1.0 / 720.0), |series, next| {
            _mm512_fmadd_ps(series, rest, _mm512_set1_ps(next))
        });
    _mm512_scalef_ps(series, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_equals_the_exact_one() {
        if Amx::new().is_none() {
            return;
        }
        let far = [-1e3, -1e15, f32::NEG_INFINITY];
        for x in (-9000..=0).map(|step| step as f32 * 0.01).chain(far) {
            let mut found = [0.0; 16];
            // SAFETY: the CPU has AVX-512F.
            #[expect(unsafe_code, reason = "the CPU has the instructions")]
            unsafe {
                store_up_to_16(&mut found, exp(_mm512_set1_ps(x)));
            }
            let exact = f64::from(x).exp();
            assert!((f64::from(found[3]) - exact).abs() <= 3e-7 * exact + 1e-40, "exp {x}");
        }
    }
}
