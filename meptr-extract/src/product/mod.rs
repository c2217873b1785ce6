//! Products of the CPU for the frozen backbones: rows of numbers times weights, and attention.
//!
//! Weights are read where they lie, `(outputs, depth)` row by row as checkpoints have them, so that
//! a mapped file needs no second copy: some outputs at a time are laid out for the vectors of the
//! CPU (`pack`), multiplied with all rows (`kernel`) and finished (bias, activation or residual)
//! while they are in the cache. Threads share the outputs or, where there are many rows, the rows.

mod attention;
mod kernel;
mod multiply;
mod pack;

use pulp::{Arch, Scalar128b, Simd, WithSimd};

pub use attention::{Attend, attend};
pub use multiply::{Ending, Part, Rows, multiply};

/// Runs `work` with the CPU's vectors.
fn dispatch<W: WithSimd>(arch: Arch, work: W) -> W::Output {
    match arch {
        // Vectors of four that the compiler makes of what every CPU of the kind has.
        Arch::Scalar => Simd::vectorize(Scalar128b, work),
        arch => arch.dispatch(work),
    }
}
