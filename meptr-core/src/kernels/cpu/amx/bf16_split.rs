//! Numbers of f32 as sums of bf16, in the order in which tiles are read.

use std::arch::x86_64::*;

use super::super::avx512::{load_up_to_16, turn_16};
use super::super::fetch::{NEAR, prefetch};
use super::Tiles;

/// Rows of a tile.
pub(super) const SIDE: usize = 16;
/// Numbers of bf16 in a row of a tile, and depths that one product of tiles adds up.
pub(super) const DEPTH: usize = 32;
/// Steps of [`DEPTH`] that a right factor's rows are fetched ahead.
const FETCHED_AHEAD: usize = 2;
/// Rows or outputs of a block: two tiles side by side.
pub(super) const BLOCK: usize = 2 * SIDE;

/// The memory of one tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [[u16; DEPTH]; SIDE]);

impl Tile {
    pub(super) const ZERO: Self = Self([[0; DEPTH]; SIDE]);
}

/// How many numbers of bf16 stand for one of f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Pieces {
    /// The nearest number of bf16.
    One = 1,
    /// All bits.
    Three = 3,
}

impl Pieces {
    /// Tiles of a block of this depth: for [`DEPTH`] depths after the other, for each piece, two.
    pub(super) fn tiles_of(self, depth: usize) -> usize {
        depth.div_ceil(DEPTH) * self as usize * 2
    }
}

/// Which factor of a product of tiles a block is.
#[derive(Clone, Copy)]
pub(super) enum Factor {
    /// Row by row.
    Left,
    /// The same, of numbers that lie turned over: number `d` of row `r` is `numbers[d * step + r]`.
    LeftTurned,
    /// Pairs of depths side by side.
    Right,
}

/// Rows of numbers of a block: row `r` is `numbers[r * step..][..depth]`, but see
/// [`Factor::LeftTurned`].
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) step: usize,
    /// At most [`BLOCK`]; the rows beyond are 0.
    pub(super) count: usize,
    pub(super) depth: usize,
}

impl<'a> Block<'a> {
    fn row(&self, row: usize) -> &'a [f32] {
        if row < self.count { &self.numbers[row * self.step..][..self.depth] } else { &[] }
    }

    /// Lays the numbers out. Overwrites `tiles`, as many as [`Pieces::tiles_of`] says.
    pub(super) fn lay_out(self, _: Tiles, pieces: Pieces, factor: Factor, tiles: &mut [Tile]) {
        assert_eq!(tiles.len(), pieces.tiles_of(self.depth));
        #[expect(unsafe_code, reason = "the CPU has the instructions")]
        // SAFETY: `Tiles` exists only where the CPU has AVX-512F and AVX-512BW.
        unsafe {
            match pieces {
                Pieces::One => self.lay_out_in::<1>(factor, tiles),
                Pieces::Three => self.lay_out_in::<3>(factor, tiles),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn lay_out_in<const PIECES: usize>(self, factor: Factor, tiles: &mut [Tile]) {
        match factor {
            Factor::Left => self.left::<PIECES>(tiles),
            Factor::LeftTurned => self.left_turned::<PIECES>(tiles),
            Factor::Right => self.right::<PIECES>(tiles),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn left<const PIECES: usize>(self, tiles: &mut [Tile]) {
        for row in 0..BLOCK {
            let (half, line) = (row / SIDE, row % SIDE);
            let (numbers, next) = (self.row(row), self.row(row + 1));
            let steps = tiles.chunks_exact_mut(2 * PIECES).enumerate();
            for (step, tiles) in steps {
                fetch_32(next, step);
                for (piece, bits) in split::<PIECES>(load_32(numbers, step)).into_iter().enumerate()
                {
                    store_32(&mut tiles[2 * piece + half].0[line], bits);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn right<const PIECES: usize>(self, tiles: &mut [Tile]) {
        let rows: [&[f32]; BLOCK] = std::array::from_fn(|row| self.row(row));
        for (step, tiles) in tiles.chunks_exact_mut(2 * PIECES).enumerate() {
            for (half, rows) in rows.chunks_exact(SIDE).enumerate() {
                let mut lines = [[_mm512_setzero_ps(); SIDE]; PIECES];
                for (line, numbers) in rows.iter().enumerate() {
                    fetch_32(numbers, step + FETCHED_AHEAD);
                    for (piece, bits) in
                        split::<PIECES>(load_32(numbers, step)).into_iter().enumerate()
                    {
                        lines[piece][line] = _mm512_castsi512_ps(bits);
                    }
                }
                for (piece, lines) in lines.into_iter().enumerate() {
                    let pairs = turn_16(lines);
                    for (line, bits) in tiles[2 * piece + half].0.iter_mut().zip(pairs) {
                        store_32(line, _mm512_castps_si512(bits));
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn left_turned<const PIECES: usize>(self, tiles: &mut [Tile]) {
        for (step, tiles) in tiles.chunks_exact_mut(2 * PIECES).enumerate() {
            for half in 0..2 {
                let mut squares = [[_mm512_setzero_ps(); SIDE]; 2];
                for (at, square) in squares.as_flattened_mut().iter_mut().enumerate() {
                    let depth = step * DEPTH + at;
                    if depth < self.depth {
                        let numbers = &self.numbers[depth * self.step..][..self.count];
                        *square = load_up_to_16(numbers.get(half * SIDE..).unwrap_or(&[]));
                    }
                }
                let [first, second] = [turn_16(squares[0]), turn_16(squares[1])];
                for (line, (first, second)) in first.into_iter().zip(second).enumerate() {
                    let pieces = split::<PIECES>([first, second]);
                    for (piece, bits) in pieces.into_iter().enumerate() {
                        store_32(&mut tiles[2 * piece + half].0[line], bits);
                    }
                }
            }
        }
    }
}

/// Fetches numbers `32 step..` of a row, which are to be read soon.
#[inline]
fn fetch_32(row: &[f32], step: usize) {
    let place = row.as_ptr().wrapping_add(step * DEPTH);
    prefetch::<NEAR>(place);
    prefetch::<NEAR>(place.wrapping_add(SIDE));
}

/// Numbers `32 step..` of a row, 0 beyond its end.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_32(row: &[f32], step: usize) -> [__m512; 2] {
    let from = |first: usize| row.get(first..).unwrap_or(&[]);
    [load_up_to_16(from(step * DEPTH)), load_up_to_16(from(step * DEPTH + SIDE))]
}

/// 32 numbers as pieces: the first is the nearest number of bf16, the next the nearest to what is
/// left, in the upper 16 bits. The last of three is what is left, its lower bits have no meaning.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn pieces_of<const PIECES: usize>(mut numbers: [__m512; 2]) -> [[__m512i; 2]; PIECES] {
    let (half, upper) = (_mm512_set1_epi32(0x8000), _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
    let mut pieces = [[_mm512_setzero_si512(); 2]; PIECES];
    for (piece, bits) in pieces.iter_mut().enumerate() {
        for (number, bits) in numbers.iter_mut().zip(bits) {
            *bits = _mm512_castps_si512(*number);
            if piece > 0 && piece + 1 == PIECES {
                continue;
            }
            // Where that turns the bits of a NaN over, the next piece is NaN.
            let nearest = _mm512_and_si512(_mm512_add_epi32(*bits, half), upper);
            *bits = match PIECES {
                // There is no next piece.
                1 => {
                    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(*number, *number);
                    let quiet = _mm512_set1_epi32(0x7FC0_0000); // has its bits in the upper half
                    _mm512_mask_mov_epi32(nearest, is_nan, quiet)
                }
                _ => nearest,
            };
            *number = _mm512_sub_ps(*number, _mm512_castsi512_ps(*bits));
        }
    }
    pieces
}

/// The same with the bits of the 32 numbers side by side.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn split<const PIECES: usize>(numbers: [__m512; 2]) -> [__m512i; PIECES] {
    let mut split = [_mm512_setzero_si512(); PIECES];
    for (split, [first, second]) in split.iter_mut().zip(pieces_of::<PIECES>(numbers)) {
        *split = upper_halves(first, second);
    }
    split
}

/// The upper 16 bits of 16 and 16 numbers.
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
    // SAFETY: 64 bytes are there; the load asks for no alignment.
    let odd = unsafe { _mm512_loadu_si512(ODD.as_ptr().cast()) };
    _mm512_permutex2var_epi16(first, odd, second)
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store_32(into: &mut [u16; DEPTH], bits: __m512i) {
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: 64 bytes have room; the store asks for no alignment.
    unsafe {
        _mm512_storeu_si512(into.as_mut_ptr().cast(), bits);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    /// The pieces of one number, out of a left factor of one row and depth.
    fn pieces(tiles: Tiles, pieces: Pieces, number: f32) -> Vec<u16> {
        let mut memory = vec![Tile::ZERO; pieces.tiles_of(1)];
        let block = Block { numbers: &[number], step: 1, count: 1, depth: 1 };
        block.lay_out(tiles, pieces, Factor::Left, &mut memory);
        memory.iter().step_by(2).map(|tile| tile.0[0][0]).collect()
    }

    proptest! {
        #[test]
        fn three_pieces_are_the_number_and_one_is_the_nearest(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            let Some(tiles) = Tiles::new() else { return Ok(()) };
            let sum: f64 =
                pieces(tiles, Pieces::Three, x).into_iter().map(|bits| f64::from(number(bits))).sum();
            let one = number(pieces(tiles, Pieces::One, x)[0]);
            if x.is_nan() {
                prop_assert!(sum.is_nan() && one.is_nan());
            } else if x.abs() < 3e38 {
                // What lies below the least normal number has fewer bits.
                prop_assert!((sum - f64::from(x)).abs() < 1e-39, "{x}: {sum}");
                prop_assert!((one - x).abs() <= x.abs() / 256.0 + 1e-39, "{x}: {one}");
            }
        }

        #[test]
        fn every_number_comes_to_its_place(
            count in 1usize..=BLOCK, depth in 1usize..70, more in 0usize..9
        ) {
            let Some(tiles) = Tiles::new() else { return Ok(()) };
            let step = depth.max(count) + more;
            let numbers: Vec<f32> =
                (0..step * depth.max(count)).map(|at| (at % 251) as f32 + 1.0).collect();
            let block = Block { numbers: &numbers, step, count, depth };
            let mut memory = [(); 3].map(|()| vec![Tile::ZERO; Pieces::One.tiles_of(depth)]);
            let [left, right, turned] = &mut memory;
            block.lay_out(tiles, Pieces::One, Factor::Left, left);
            block.lay_out(tiles, Pieces::One, Factor::Right, right);
            block.lay_out(tiles, Pieces::One, Factor::LeftTurned, turned);
            for (row, at) in (0..BLOCK).flat_map(|row| (0..depth).map(move |at| (row, at))) {
                let is_there = row < count;
                let expected = |index: usize| if is_there { numbers[index] } else { 0.0 };
                let (tile, line) = (at / DEPTH * 2 + row / SIDE, row % SIDE);
                let (pair, side) = (at % DEPTH / 2, at % 2);
                let natural = expected(row * step + at);
                prop_assert_eq!(number(left[tile].0[line][at % DEPTH]), natural);
                prop_assert_eq!(number(right[tile].0[pair][2 * line + side]), natural);
                let other = expected(at * step + row);
                prop_assert_eq!(number(turned[tile].0[line][at % DEPTH]), other);
            }
        }
    }
}
