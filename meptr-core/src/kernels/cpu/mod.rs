//! CPU kernels: GEMM and attention of the frozen backbones, convolutions of the detectors, row
//! functions, resizing, and the fused operations with gradients of training.
//!
//! GEMM reads weights where they lie, `(outputs, depth)` row-major as checkpoints have them, so that
//! a mapped file needs no second copy: a few outputs at a time are packed, multiplied with all rows
//! and finished (bias, activation or residual) while they are in the cache. With enough rows it runs
//! on AMX (`amx`) where the CPU has it, else on SIMD (`simd`).

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod attention_args;
pub(crate) mod autograd;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod conv2d;
mod dispatch;
mod gemm;
mod gemm_args;
mod isa;
mod matmul;
pub mod parallel;
mod partition;
mod prefetch;
pub mod resize;
pub(crate) mod row_ops;
mod scratch;
mod simd;
pub mod slices;

pub use attention::attention;
pub use attention_args::AttentionArgs;
pub use gemm::gemm;
pub use gemm_args::{Epilogue, GemmArgs, GemmRows, GemmWeights};
pub use isa::has_bf16;
pub use matmul::matmul;
pub(crate) use scratch::zeros;
