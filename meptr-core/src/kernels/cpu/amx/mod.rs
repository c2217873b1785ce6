//! Products on the tile registers of x86-64 CPUs that have AMX ("Advanced Matrix Extensions").
//!
//! A tile product multiplies numbers of 8 significant bits (bf16) and adds the products in f32, 32
//! times as many at a time as a vector does in f32. A number of f32 has 24 bits and is the exact
//! sum of three such numbers ([`pieces`]). Six of the nine products of pieces are added up; the
//! other three together are at most `2^-24` of the product, what f32 rounds off. Sums are as exact
//! as those of the vectors, because 32 depths are summed apart before they meet the long sum, which
//! rounds six times then where a chain of multiply-adds rounds 32 times (measured against f64 on
//! 768 depths: 2.1e-7 of the result, 2.9e-7 with the vectors). What is not finite, or within half a
//! step of bf16 of the largest number, gives NaN; pieces below the least normal number count as 0.
//!
//! With one piece instead of three the products are those of bf16.
//!
//! Weights are the left factor, row by row as they lie; rows are the right factor, whose pairs of
//! depths a tile has side by side. What comes out is turned over: outputs by rows.

mod attention;
mod kernel;
mod multiply;
mod pieces;
mod softmax;
mod sums;

use std::sync::OnceLock;

pub(super) use attention::attend;
pub(super) use multiply::multiply;
pub(super) use pieces::Pieces;

/// Shows that this CPU has the tiles and that the system lets us use them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles(());

impl Tiles {
    /// Asks the system once a process.
    pub(super) fn new() -> Option<Self> {
        static MAY_USE: OnceLock<bool> = OnceLock::new();
        MAY_USE.get_or_init(|| has_tiles() && is_permitted()).then_some(Self(()))
    }

    /// Sets the thread's tiles to 16 rows of 64 bytes as long as the result lives.
    fn configure(self) -> Configured {
        #[repr(C, align(64))]
        struct Shapes([u8; 64]);
        let mut shapes = Shapes([0; 64]);
        shapes.0[0] = 1; // the only layout of this record there is
        for tile in 0..8 {
            shapes.0[16 + 2 * tile] = 64; // bytes of a row
            shapes.0[48 + tile] = 16; // rows
        }
        #[expect(unsafe_code, reason = "the instruction is only reachable by its name")]
        // SAFETY: `Tiles` exists only where the CPU and the system allow it; the record is whole.
        unsafe {
            std::arch::asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, readonly));
        }
        Configured(std::marker::PhantomData)
    }
}

/// The thread's tiles are set up. It stays on its thread.
struct Configured(std::marker::PhantomData<*const ()>);

impl Drop for Configured {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the instruction is only reachable by its name")]
        // SAFETY: the tiles were set up when this was made; nobody needs their contents any more.
        unsafe {
            std::arch::asm!("tilerelease", options(nostack, nomem));
        }
    }
}

fn has_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    #[allow(unused_unsafe, unsafe_code, reason = "the oldest compiler we allow asks for it")]
    // SAFETY: every CPU of 64 bits tells its features.
    let features = unsafe { std::arch::x86_64::__cpuid_count(7, 0) }.edx;
    features & BF16 != 0
        && features & TILE != 0
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
}

/// Linux gives a process the room for tiles when it asks; others are not asked.
fn is_permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        const REQUEST: libc::c_ulong = 0x1023; // ARCH_REQ_XCOMP_PERM
        const TILE_DATA: libc::c_ulong = 18;
        #[expect(unsafe_code, reason = "there is no other way to ask")]
        // SAFETY: the call takes two numbers and writes nothing.
        let refused = unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) };
        refused == 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}
