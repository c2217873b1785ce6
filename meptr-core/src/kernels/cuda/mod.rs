//! Kernels of our own on NVIDIA GPUs: from pictures to the inputs of networks, what stands between
//! matrix products, attention, and the products of f32.
//!
//! Candle's operations pass over memory once each, and add biases and turn dimensions over number by
//! number; in bf16 that took three times as long as the products. Forward only.

mod attention;
mod call;
mod elementwise;
mod pictures;
mod product;

use candle::Tensor;

pub(crate) use self::attention::{attend, attends};
pub(crate) use self::elementwise::{add_bias, add_residual, layer_norm, swap_middle, windows};
pub(crate) use self::pictures::{Axis, Part, resize_parts, sample};
pub(crate) use self::product::{Ending, Product};

/// Whether the kernels can work on a tensor.
pub(crate) fn takes(x: &Tensor) -> bool {
    x.device().is_cuda()
        && call::suffix(x.dtype()).is_ok()
        && x.is_contiguous()
        && x.elem_count() > 0
}
