//! The innermost loop: a block of outputs times a block of rows.

use std::arch::asm;

use super::Configured;
use super::pieces::{BLOCK, DEPTH, Pieces, Tile};
use super::sums::Sums;

/// Lines of the cache that are needed soon and lie in memory, fetched between the products.
#[derive(Clone, Copy)]
pub(super) struct Next {
    place: *const f32,
    lines: usize,
}

impl Next {
    /// Numbers of a line of the cache.
    const LINE: usize = 16;

    /// Nothing to fetch.
    pub(super) const NOTHING: Self = Self { place: std::ptr::null(), lines: 0 };

    /// So many numbers from `place` on, whether they exist or not.
    pub(super) fn new(place: *const f32, numbers: usize) -> Self {
        Self { place, lines: numbers.div_ceil(Self::LINE) }
    }

    /// Where a product of so many steps fetches, and how far it goes on after each line. With nothing
    /// to fetch it stays at `idle`, which exists: looking for a page that does not takes time.
    fn take(&mut self, pieces: Pieces, steps: usize, idle: *const Tile) -> (*const f32, usize) {
        let place = self.place;
        if self.lines == 0 {
            return (idle.cast(), 0);
        }
        let lines_per_step = match pieces {
            Pieces::One => 16,
            Pieces::Three => 48, // 3 kB, where the step's outputs have 4 kB of weights
        };
        let lines = self.lines.min(steps * lines_per_step);
        self.place = place.wrapping_add(lines * Self::LINE);
        self.lines -= lines;
        (place, Self::LINE * size_of::<f32>())
    }
}

/// After a product of tiles: fetches what the next step reads from the second-level cache (four
/// lines of either factor, all of it after 24 products), and two lines of what comes next. The
/// instructions have a second use: while the CPU runs tiles at less than their full rate, loads right
/// after one another cost a third of that (docs/PERFORMANCE.md).
macro_rules! fetch {
    () => {
        "prefetcht0 [{ahead_left}]
         prefetcht0 [{ahead_right}]
         prefetcht0 [{ahead_left} + 64]
         prefetcht0 [{ahead_right} + 64]
         prefetcht0 [{ahead_left} + 128]
         prefetcht0 [{ahead_right} + 128]
         prefetcht0 [{ahead_left} + 192]
         prefetcht0 [{ahead_right} + 192]
         add {ahead_left}, 256
         add {ahead_right}, 256
         prefetcht1 [{next}]
         add {next}, {next_step}
         prefetcht1 [{next}]
         add {next}, {next_step}"
    };
}

/// The four products of the tiles that are loaded, each followed by so many [`fetch`].
macro_rules! products {
    ($($fetch:expr),+) => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            $($fetch, "\n",)+
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            $($fetch, "\n",)+
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            $($fetch, "\n",)+
            "tdpbf16ps tmm3, tmm5, tmm7\n",
            $($fetch, "\n",)+
        )
    };
}

/// Loads a piece of both halves of the left factor; a piece has 2048 bytes.
macro_rules! left {
    ($bytes:literal) => {
        concat!(
            "tileloadd tmm4, [{left} + {row} + ",
            $bytes,
            "]\ntileloadd tmm5, [{left} + {row} + ",
            $bytes,
            " + 1024]\n",
        )
    };
}

/// The same of the right factor.
macro_rules! right {
    ($bytes:literal) => {
        concat!(
            "tileloadd tmm6, [{right} + {row} + ",
            $bytes,
            "]\ntileloadd tmm7, [{right} + {row} + ",
            $bytes,
            " + 1024]\n",
        )
    };
}

macro_rules! run {
    ($left:ident, $right:ident, $steps:ident, $sums:ident, $next:ident, $bytes:literal: $($step:expr),+) => {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            $($step,)+
            "add {left}, {bytes}",
            "add {right}, {bytes}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 1024], tmm1",
            "tilestored [{sums} + {row} + 2048], tmm2",
            "tilestored [{sums} + {row} + 3072], tmm3",
            left = inout(reg) $left => _,
            right = inout(reg) $right => _,
            ahead_left = inout(reg) $left.wrapping_byte_add($bytes) => _,
            ahead_right = inout(reg) $right.wrapping_byte_add($bytes) => _,
            next = inout(reg) $next.0 => _,
            next_step = in(reg) $next.1,
            steps = inout(reg) $steps => _,
            sums = in(reg) $sums,
            row = in(reg) 64_usize,
            bytes = const $bytes,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// Sets `sums` to the products of a block of outputs and a block of rows of one depth.
pub(super) fn product(
    _: &Configured,
    pieces: Pieces,
    left: &[Tile],
    right: &[Tile],
    sums: &mut Sums,
    next: &mut Next,
) {
    assert_eq!(left.len(), right.len());
    let steps = left.len() / pieces.tiles_of(DEPTH);
    if steps == 0 {
        *sums = Sums::ZERO;
        return;
    }
    assert_eq!(left.len(), pieces.tiles_of(steps * DEPTH));
    const { assert!(size_of::<Sums>() == BLOCK * BLOCK * size_of::<f32>()) };
    let next = next.take(pieces, steps, left.as_ptr());
    let (left, right, sums) = (left.as_ptr(), right.as_ptr(), std::ptr::from_mut(sums));
    #[expect(unsafe_code, reason = "the instructions are only reachable by their names")]
    // SAFETY: the tiles are set up; both factors have as many steps of so many bytes, and the sums
    // four tiles. Prefetches of what is not there do nothing.
    unsafe {
        match pieces {
            Pieces::One => {
                run!(left, right, steps, sums, next, 2048: left!(0), right!(0), products!(fetch!(), fetch!()))
            }
            // From one product to the next one side stays; the largest comes last.
            Pieces::Three => run!(left, right, steps, sums, next, 6144:
                left!(0), right!(4096), products!(fetch!()),
                right!(2048), products!(fetch!()),
                left!(2048), products!(fetch!()),
                right!(0), products!(fetch!()),
                left!(4096), products!(fetch!()),
                left!(0), products!(fetch!())
            ),
        }
    }
}
