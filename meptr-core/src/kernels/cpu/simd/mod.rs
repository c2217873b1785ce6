//! GEMM and attention on vector instructions: AVX-512, AVX2, or what every CPU of the architecture
//! has.
//!
//! A few outputs at a time are packed for the vectors (`pack`), multiplied with all rows
//! (`microkernel`) and finished while they are in the cache.

mod attention;
mod gemm;
mod microkernel;
mod pack;

pub(super) use attention::attention;
pub(super) use gemm::gemm;
