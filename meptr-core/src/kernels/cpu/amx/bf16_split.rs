//! Splits f32 into bf16 terms, packed in tile order.

use std::arch::x86_64::*;

use super::super::avx512::{load_up_to_16, transpose_16x16};
use super::super::prefetch::{L1, prefetch};
use super::registers::Amx;

/// Rows of a tile.
pub(super) const SIDE: usize = 16;
/// bf16 values of a tile row: depths that one tile multiplication accumulates.
pub(super) const DEPTH: usize = 32;
/// Steps of [`DEPTH`] that the rows of a right operand are prefetched ahead.
const STEPS_AHEAD: usize = 2;
/// Rows or outputs of a block: two tiles side by side.
pub(super) const BLOCK: usize = 2 * SIDE;

/// Memory of one tile: bits of bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [[u16; DEPTH]; SIDE]);

impl Tile {
    pub(super) const ZERO: Self = Self([[0; DEPTH]; SIDE]);
}

/// Number of bf16 terms that an f32 value is split into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Bf16Terms {
    /// The nearest bf16 value.
    One = 1,
    /// Three terms, whose sum is the f32 value exactly.
    Three = 3,
}

impl Bf16Terms {
    /// Tiles of a block of this depth: for each [`DEPTH`] depths, for each term, two.
    pub(super) fn tiles(self, depth: usize) -> usize {
        depth.div_ceil(DEPTH) * self as usize * 2
    }
}

/// Operand of a tile multiplication that a block becomes.
#[derive(Clone, Copy)]
pub(super) enum Operand {
    /// Left operand, packed row by row.
    Left,
    /// Left operand from transposed memory: value `d` of row `r` is `values[d * stride + r]`.
    LeftTransposed,
    /// Right operand, packed with pairs of depths side by side.
    Right,
}

/// Rows of a block: row `r` is `values[r * stride..][..depth]`, but see
/// [`Operand::LeftTransposed`].
#[derive(Clone, Copy)]
pub(super) struct RowBlock<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    /// Rows, at most [`BLOCK`]; the rows beyond are packed as 0.
    pub(super) count: usize,
    pub(super) depth: usize,
}

impl<'a> RowBlock<'a> {
    fn row(&self, row: usize) -> &'a [f32] {
        if row < self.count { &self.values[row * self.stride..][..self.depth] } else { &[] }
    }

    /// Packs the block. Overwrites `tiles`, as many as [`Bf16Terms::tiles`] says.
    pub(super) fn pack(self, _: Amx, terms: Bf16Terms, operand: Operand, tiles: &mut [Tile]) {
        assert_eq!(tiles.len(), terms.tiles(self.depth));
        #[expect(unsafe_code, reason = "the CPU has the instructions")]
        // SAFETY: `Amx` exists only where the CPU has AVX-512F and AVX-512BW.
        unsafe {
            match terms {
                Bf16Terms::One => self.pack_terms::<1>(operand, tiles),
                Bf16Terms::Three => self.pack_terms::<3>(operand, tiles),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack_terms<const TERMS: usize>(self, operand: Operand, tiles: &mut [Tile]) {
        match operand {
            Operand::Left => self.pack_left::<TERMS>(tiles),
            Operand::LeftTransposed => self.pack_left_transposed::<TERMS>(tiles),
            Operand::Right => self.pack_right::<TERMS>(tiles),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack_left<const TERMS: usize>(self, tiles: &mut [Tile]) {
        for row in 0..BLOCK {
            let (half, line) = (row / SIDE, row % SIDE);
            let (values, next) = (self.row(row), self.row(row + 1));
            let steps = tiles.chunks_exact_mut(2 * TERMS).enumerate();
            for (step, tiles) in steps {
                prefetch_32(next, step);
                let terms = split_to_bf16::<TERMS>(load_32(values, step));
                for (term, bits) in terms.into_iter().enumerate() {
                    store_32(&mut tiles[2 * term + half].0[line], bits);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack_right<const TERMS: usize>(self, tiles: &mut [Tile]) {
        let rows: [&[f32]; BLOCK] = std::array::from_fn(|row| self.row(row));
        for (step, tiles) in tiles.chunks_exact_mut(2 * TERMS).enumerate() {
            for (half, rows) in rows.chunks_exact(SIDE).enumerate() {
                let mut lines = [[_mm512_setzero_ps(); SIDE]; TERMS];
                for (line, values) in rows.iter().enumerate() {
                    prefetch_32(values, step + STEPS_AHEAD);
                    let terms = split_to_bf16::<TERMS>(load_32(values, step));
                    for (term, bits) in terms.into_iter().enumerate() {
                        lines[term][line] = _mm512_castsi512_ps(bits);
                    }
                }
                for (term, lines) in lines.into_iter().enumerate() {
                    let pairs = transpose_16x16(lines);
                    for (line, bits) in tiles[2 * term + half].0.iter_mut().zip(pairs) {
                        store_32(line, _mm512_castps_si512(bits));
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack_left_transposed<const TERMS: usize>(self, tiles: &mut [Tile]) {
        for (step, tiles) in tiles.chunks_exact_mut(2 * TERMS).enumerate() {
            for half in 0..2 {
                let mut squares = [[_mm512_setzero_ps(); SIDE]; 2];
                for (at, square) in squares.as_flattened_mut().iter_mut().enumerate() {
                    let depth = step * DEPTH + at;
                    if depth < self.depth {
                        let values = &self.values[depth * self.stride..][..self.count];
                        *square = load_up_to_16(values.get(half * SIDE..).unwrap_or(&[]));
                    }
                }
                let [first, second] = [transpose_16x16(squares[0]), transpose_16x16(squares[1])];
                for (line, (first, second)) in first.into_iter().zip(second).enumerate() {
                    let terms = split_to_bf16::<TERMS>([first, second]);
                    for (term, bits) in terms.into_iter().enumerate() {
                        store_32(&mut tiles[2 * term + half].0[line], bits);
                    }
                }
            }
        }
    }
}

/// Prefetches values `32 step..` of a row, which are read soon.
#[inline]
fn prefetch_32(row: &[f32], step: usize) {
    let address = row.as_ptr().wrapping_add(step * DEPTH);
    prefetch::<L1>(address);
    prefetch::<L1>(address.wrapping_add(SIDE));
}

/// Loads values `32 step..` of a row, 0 beyond its end.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_32(row: &[f32], step: usize) -> [__m512; 2] {
    let from = |first: usize| row.get(first..).unwrap_or(&[]);
    [load_up_to_16(from(step * DEPTH)), load_up_to_16(from(step * DEPTH + SIDE))]
}

/// Splits 32 values into terms, each in the upper 16 bits of its lane: the first is the nearest bf16
/// value, the second the nearest to the remainder. The third is the last remainder, whose lower bits
/// have no meaning.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn split_32<const TERMS: usize>(mut values: [__m512; 2]) -> [[__m512i; 2]; TERMS] {
    let (half, upper) = (_mm512_set1_epi32(0x8000), _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
    let mut terms = [[_mm512_setzero_si512(); 2]; TERMS];
    for (term, bits) in terms.iter_mut().enumerate() {
        for (value, bits) in values.iter_mut().zip(bits) {
            *bits = _mm512_castps_si512(*value);
            if term > 0 && term + 1 == TERMS {
                continue;
            }
            // Where the addition overflows the bits of a NaN, the next term is NaN.
            let nearest = _mm512_and_si512(_mm512_add_epi32(*bits, half), upper);
            *bits = match TERMS {
                // There is no next term.
                1 => {
                    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(*value, *value);
                    let quiet = _mm512_set1_epi32(0x7FC0_0000); // a NaN by its upper half alone
                    _mm512_mask_mov_epi32(nearest, is_nan, quiet)
                }
                _ => nearest,
            };
            *value = _mm512_sub_ps(*value, _mm512_castsi512_ps(*bits));
        }
    }
    terms
}

/// Splits 32 values into bf16 terms, the 32 values of a term side by side.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn split_to_bf16<const TERMS: usize>(values: [__m512; 2]) -> [__m512i; TERMS] {
    let mut split = [_mm512_setzero_si512(); TERMS];
    for (split, [first, second]) in split.iter_mut().zip(split_32::<TERMS>(values)) {
        *split = upper_halves(first, second);
    }
    split
}

/// Packs the upper 16 bits of 16 and 16 lanes into one vector.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn upper_halves(first: __m512i, second: __m512i) -> __m512i {
    const ODD: [i16; 32] = {
        let mut odd = [0; 32];
        let mut at = 0;
        while at < 32 {
            odd[at] = 2 * at as i16 + 1;
            at += 1;
        }
        odd
    };
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array holds 64 bytes; the load asks for no alignment.
    let odd = unsafe { _mm512_loadu_si512(ODD.as_ptr().cast()) };
    _mm512_permutex2var_epi16(first, odd, second)
}

/// Stores 32 bf16 values.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store_32(into: &mut [u16; DEPTH], bits: __m512i) {
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array holds 64 bytes; the store asks for no alignment.
    unsafe {
        _mm512_storeu_si512(into.as_mut_ptr().cast(), bits);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from_bf16(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    /// Terms of one value, from a left operand of one row and depth.
    fn terms_of(amx: Amx, terms: Bf16Terms, value: f32) -> Vec<u16> {
        let mut memory = vec![Tile::ZERO; terms.tiles(1)];
        let block = RowBlock { values: &[value], stride: 1, count: 1, depth: 1 };
        block.pack(amx, terms, Operand::Left, &mut memory);
        memory.iter().step_by(2).map(|tile| tile.0[0][0]).collect()
    }

    proptest! {
        #[test]
        fn three_terms_sum_to_the_value_and_one_is_the_nearest(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            let Some(amx) = Amx::new() else { return Ok(()) };
            let three = terms_of(amx, Bf16Terms::Three, x);
            let sum: f64 = three.into_iter().map(|bits| f64::from(from_bf16(bits))).sum();
            let one = from_bf16(terms_of(amx, Bf16Terms::One, x)[0]);
            if x.is_nan() {
                prop_assert!(sum.is_nan() && one.is_nan());
            } else if x.abs() < 3e38 {
                // Terms below the least normal number have fewer bits.
                prop_assert!((sum - f64::from(x)).abs() < 1e-39, "{x}: {sum}");
                prop_assert!((one - x).abs() <= x.abs() / 256.0 + 1e-39, "{x}: {one}");
            }
        }

        #[test]
        fn every_value_is_packed_at_its_index(
            count in 1usize..=BLOCK, depth in 1usize..70, more in 0usize..9
        ) {
            let Some(amx) = Amx::new() else { return Ok(()) };
            let stride = depth.max(count) + more;
            let values: Vec<f32> =
                (0..stride * depth.max(count)).map(|at| (at % 251) as f32 + 1.0).collect();
            let block = RowBlock { values: &values, stride, count, depth };
            let mut memory = [(); 3].map(|()| vec![Tile::ZERO; Bf16Terms::One.tiles(depth)]);
            let [left, right, transposed] = &mut memory;
            block.pack(amx, Bf16Terms::One, Operand::Left, left);
            block.pack(amx, Bf16Terms::One, Operand::Right, right);
            block.pack(amx, Bf16Terms::One, Operand::LeftTransposed, transposed);
            for (row, at) in (0..BLOCK).flat_map(|row| (0..depth).map(move |at| (row, at))) {
                let is_there = row < count;
                let expected = |index: usize| if is_there { values[index] } else { 0.0 };
                let (tile, line) = (at / DEPTH * 2 + row / SIDE, row % SIDE);
                let (pair, side) = (at % DEPTH / 2, at % 2);
                let natural = expected(row * stride + at);
                prop_assert_eq!(from_bf16(left[tile].0[line][at % DEPTH]), natural);
                prop_assert_eq!(from_bf16(right[tile].0[pair][2 * line + side]), natural);
                let other = expected(at * stride + row);
                prop_assert_eq!(from_bf16(transposed[tile].0[line][at % DEPTH]), other);
            }
        }
    }
}
