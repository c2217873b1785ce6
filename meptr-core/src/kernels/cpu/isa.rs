//! Instruction sets that GEMM and attention have kernels for.

use pulp::Arch;

#[cfg(target_arch = "x86_64")]
use super::amx::{Amx, Bf16Terms};
use crate::Precision;

/// Whether this CPU multiplies bf16 faster than f32 (it has AMX).
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Amx::new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Instruction set that a kernel runs on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Isa {
    /// Vector instructions: AVX-512, AVX2, or those that every CPU of the architecture has.
    Simd(Arch),
    /// Tile registers.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx, Bf16Terms),
}

impl Isa {
    /// Fastest instruction set whose factors have at least this precision.
    pub(super) fn best(precision: Precision) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(amx) = Amx::new() {
            let terms = match precision {
                Precision::Bf16 => Bf16Terms::One,
                Precision::F16 | Precision::F32 => Bf16Terms::Three,
            };
            return Self::Amx(amx, terms);
        }
        let _ = precision;
        Self::Simd(Arch::new())
    }

    /// Every instruction set of this CPU, at f32 precision.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Simd(Arch::Scalar), Self::Simd(Arch::new())];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(pulp::x86::V3::try_new().map(|v3| Self::Simd(Arch::V3(v3))));
            all.extend(Amx::new().map(|amx| Self::Amx(amx, Bf16Terms::Three)));
        }
        all
    }
}
