//! Products of the CPU for the frozen backbones: rows of numbers times weights, and attention.
//!
//! Weights are read where they lie, `(outputs, depth)` row by row as checkpoints have them, so that
//! a mapped file needs no second copy: some outputs at a time are laid out for the CPU, multiplied
//! with all rows and finished (bias, activation or residual) while they are in the cache. CPUs with
//! tile registers use those (`tiles`) where there are rows enough, others their vectors (`vectors`).

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod fetch;
mod multiply;
mod scratch;
mod task;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vectors;

use meptr_core::Precision;
use pulp::{Arch, Scalar128b, Simd, WithSimd};

pub use attention::{Attend, attend};
pub use multiply::{Ending, Part, Rows, multiply};
pub(crate) use scratch::zeros;

/// Whether this CPU multiplies numbers of bf16 faster than those of f32.
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return tiles::Tiles::new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// What of the CPU multiplies.
#[derive(Debug, Clone, Copy)]
enum Unit {
    /// Its vectors.
    Vectors(Arch),
    /// Its tile registers.
    #[cfg(target_arch = "x86_64")]
    Tiles(tiles::Tiles, tiles::Pieces),
}

impl Unit {
    /// The fastest whose factors have this precision or a greater.
    fn best(precision: Precision) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = tiles::Tiles::new() {
            let pieces = match precision {
                Precision::Bf16 => tiles::Pieces::One,
                Precision::F16 | Precision::F32 => tiles::Pieces::Three,
            };
            return Self::Tiles(tiles, pieces);
        }
        let _ = precision;
        Self::Vectors(Arch::new())
    }

    /// All that this CPU has.
    #[cfg(test)]
    fn all() -> Vec<Self> {
        let mut all = vec![Self::Vectors(Arch::Scalar), Self::Vectors(Arch::new())];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(pulp::x86::V3::try_new().map(|v3| Self::Vectors(Arch::V3(v3))));
            all.extend(tiles::Tiles::new().map(|tiles| Self::Tiles(tiles, tiles::Pieces::Three)));
        }
        all
    }
}

/// Runs `work` with the CPU's vectors.
fn dispatch<W: WithSimd>(arch: Arch, work: W) -> W::Output {
    match arch {
        // Vectors of four that the compiler makes of what every CPU of the kind has.
        Arch::Scalar => Simd::vectorize(Scalar128b, work),
        arch => arch.dispatch(work),
    }
}
