//! Kernels for NVIDIA GPUs: resizing, the operations between GEMMs, attention, and GEMM of f32.
//!
//! Candle's operations pass over memory once each, and add biases and transpose dimensions element
//! by element; in bf16 that took three times as long as the GEMMs. Forward only.
//!
//! `build.rs` compiles `kernels.cu`, which includes the other files, to PTX.

mod attention;
mod elementwise;
mod gemm;
mod launch;
mod resize;

pub use attention::{attention, supports_attention};
pub use elementwise::{add_bias, add_bias_residual, im2col_1d, layer_norm, transpose_12};
pub use gemm::{CudaEpilogue, CudaGemm};
pub use launch::supports;
pub use resize::{ResizeAxis, ResizeSource, SampleSource, resize_crops, sample};
