//! Detection and configuration of the tile registers.

use std::sync::OnceLock;

/// Proof that this CPU has AMX with bf16 and AVX-512, and that the system lets this process use it.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Amx(());

impl Amx {
    /// Asks the system, once per process.
    pub(in super::super) fn new() -> Option<Self> {
        static MAY_USE: OnceLock<bool> = OnceLock::new();
        MAY_USE.get_or_init(|| has_amx() && is_permitted()).then_some(Self(()))
    }

    /// Configures the thread's tiles to 16 rows of 64 bytes, as long as the result lives.
    pub(super) fn configure(self) -> TileConfig {
        #[repr(C, align(64))]
        struct TileShapes([u8; 64]);
        let mut shapes = TileShapes([0; 64]);
        shapes.0[0] = 1; // palette 1, the only one there is
        for tile in 0..8 {
            shapes.0[16 + 2 * tile] = 64; // bytes of a row
            shapes.0[48 + tile] = 16; // rows
        }
        #[expect(unsafe_code, reason = "the instruction is only reachable by its name")]
        // SAFETY: `Amx` exists only where the CPU and the system allow it; the record is whole.
        unsafe {
            std::arch::asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, readonly));
        }
        TileConfig(std::marker::PhantomData)
    }
}

/// Proof that the thread's tiles are configured. It is not `Send`.
pub(super) struct TileConfig(std::marker::PhantomData<*const ()>);

impl Drop for TileConfig {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the instruction is only reachable by its name")]
        // SAFETY: the tiles were configured when this was made; their contents are stored already.
        unsafe {
            std::arch::asm!("tilerelease", options(nostack, nomem));
        }
    }
}

fn has_amx() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    #[allow(unused_unsafe, unsafe_code, reason = "the oldest compiler we allow asks for it")]
    // SAFETY: every x86-64 CPU has this leaf of `cpuid` or returns zeros.
    let features = unsafe { std::arch::x86_64::__cpuid_count(7, 0) }.edx;
    features & BF16 != 0
        && features & TILE != 0
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
}

/// Asks Linux for the tile state of this process; other systems are not asked.
fn is_permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const TILE_DATA: libc::c_ulong = 18;
        #[expect(unsafe_code, reason = "there is no other way to ask")]
        // SAFETY: the call takes two integers and writes nothing.
        let refused =
            unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) };
        refused == 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}
