//! Runs generic vector code with the instructions that the CPU has.

use pulp::{Arch, Scalar128b, Simd, WithSimd};

/// Runs `work` with the vector instructions of `arch`.
pub(super) fn dispatch<W: WithSimd>(arch: Arch, work: W) -> W::Output {
    match arch {
        // Four lanes that the compiler vectorises with what every CPU of the architecture has.
        Arch::Scalar => Simd::vectorize(Scalar128b, work),
        arch => arch.dispatch(work),
    }
}

/// Number of f32 lanes of a vector of `arch`.
pub(super) fn f32_lanes(arch: Arch) -> usize {
    dispatch(arch, F32Lanes)
}

struct F32Lanes;

impl WithSimd for F32Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// Loads a vector, or its first lanes when `values` holds fewer.
#[inline(always)]
pub(super) fn load<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    match S::as_simd_f32s(values) {
        ([whole], []) => *whole,
        _ => simd.partial_load_f32s(values),
    }
}

/// Stores a vector, or its first lanes when `into` holds fewer.
#[inline(always)]
pub(super) fn store<S: Simd>(simd: S, into: &mut [f32], values: S::f32s) {
    match S::as_mut_simd_f32s(into) {
        ([whole], []) => *whole = values,
        _ => simd.partial_store_f32s(into, values),
    }
}
