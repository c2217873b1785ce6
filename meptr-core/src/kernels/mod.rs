//! Kernels: the arithmetic that takes the time, for CPUs and for NVIDIA GPUs.
//!
//! [`ops`] picks the implementation by device and dtype; [`cpu`] has the CPU's, `cuda` (feature
//! `cuda`) the GPU's. `README.md` in this folder says when each kernel runs, how to add one, and how
//! each is tested.

mod activation;
pub mod bicubic;
pub mod bilinear;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod ops;

pub use activation::Activation;
