//! Micro-kernel: a block of outputs times a block of rows, accumulated in tile registers.

use std::arch::asm;

use super::super::scratch::CACHE_LINE;
use super::accumulators::Accumulators;
use super::bf16_split::{BLOCK, Bf16Terms, DEPTH, Tile};
use super::registers::TileConfig;

/// Queue of cache lines that are needed soon and lie in memory, prefetched between the tile
/// multiplications.
#[derive(Clone, Copy)]
pub(super) struct LinePrefetch {
    address: *const f32,
    lines: usize,
}

/// Addresses that one call of the micro-kernel prefetches.
#[derive(Clone, Copy)]
struct PrefetchStream {
    address: *const f32,
    /// Bytes from one prefetch to the next.
    stride: usize,
}

impl LinePrefetch {
    pub(super) const NONE: Self = Self { address: std::ptr::null(), lines: 0 };

    /// Queues `count` values from `address` on, which need not be mapped.
    pub(super) fn new(address: *const f32, count: usize) -> Self {
        Self { address, lines: count.div_ceil(CACHE_LINE) }
    }

    /// Takes the lines of a call of `steps` steps out of the queue. With an empty queue the stream
    /// stays at `idle`, which is mapped: a page walk for an address that is not takes time.
    fn take(&mut self, terms: Bf16Terms, steps: usize, idle: *const Tile) -> PrefetchStream {
        let address = self.address;
        if self.lines == 0 {
            return PrefetchStream { address: idle.cast(), stride: 0 };
        }
        let lines_per_step = match terms {
            Bf16Terms::One => 16,
            Bf16Terms::Three => 48, // 3 kB, where the step's outputs have 4 kB of weights
        };
        let lines = self.lines.min(steps * lines_per_step);
        self.address = address.wrapping_add(lines * CACHE_LINE);
        self.lines -= lines;
        PrefetchStream { address, stride: CACHE_LINE * size_of::<f32>() }
    }
}

/// After a tile multiplication: prefetches the operands of the next step from the second-level cache
/// (four lines of either operand, all of it after 24 multiplications), and two lines of the queue.
/// The instructions have a second use: while the CPU runs tiles below their full rate, back-to-back
/// tile loads cost a third of that rate (docs/PERFORMANCE.md).
macro_rules! prefetches {
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
         prefetcht1 [{stream}]
         add {stream}, {stream_stride}
         prefetcht1 [{stream}]
         add {stream}, {stream_stride}"
    };
}

/// The four multiplications of the loaded tiles, each followed by the given [`prefetches!`].
macro_rules! multiplications {
    ($($prefetch:expr),+) => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            $($prefetch, "\n",)+
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            $($prefetch, "\n",)+
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            $($prefetch, "\n",)+
            "tdpbf16ps tmm3, tmm5, tmm7\n",
            $($prefetch, "\n",)+
        )
    };
}

/// Loads one term of both halves of the left operand; a term has 2048 bytes.
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

/// Loads one term of both halves of the right operand.
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
    ($left:ident, $right:ident, $steps:ident, $sums:ident, $stream:ident, $bytes:literal: $($step:expr),+) => {
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
            stream = inout(reg) $stream.address => _,
            stream_stride = in(reg) $stream.stride,
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

/// Micro-kernel: sets `sums` to the matrix product of a block of outputs (left) and a block of rows
/// (right) of one depth.
pub(super) fn multiply(
    _: &TileConfig,
    terms: Bf16Terms,
    [left, right]: [&[Tile]; 2],
    sums: &mut Accumulators,
    prefetch: &mut LinePrefetch,
) {
    assert_eq!(left.len(), right.len());
    let steps = left.len() / terms.tiles(DEPTH);
    if steps == 0 {
        *sums = Accumulators::ZERO;
        return;
    }
    assert_eq!(left.len(), terms.tiles(steps * DEPTH));
    const { assert!(size_of::<Accumulators>() == BLOCK * BLOCK * size_of::<f32>()) };
    let stream = prefetch.take(terms, steps, left.as_ptr());
    let (left, right, sums) = (left.as_ptr(), right.as_ptr(), std::ptr::from_mut(sums));
    #[expect(unsafe_code, reason = "the instructions are only reachable by their names")]
    // SAFETY: the tiles are configured; both operands have `steps` steps of that many bytes, and the
    // accumulators hold four tiles. Prefetches of unmapped addresses do nothing.
    unsafe {
        match terms {
            Bf16Terms::One => {
                run!(left, right, steps, sums, stream, 2048:
                    left!(0), right!(0), multiplications!(prefetches!(), prefetches!()))
            }
            // From one multiplication to the next one side stays; the largest term comes last.
            Bf16Terms::Three => run!(left, right, steps, sums, stream, 6144:
                left!(0), right!(4096), multiplications!(prefetches!()),
                right!(2048), multiplications!(prefetches!()),
                left!(2048), multiplications!(prefetches!()),
                right!(0), multiplications!(prefetches!()),
                left!(4096), multiplications!(prefetches!()),
                left!(0), multiplications!(prefetches!())
            ),
        }
    }
}
