//! Kernels of our own on NVIDIA GPUs, for what stands between the matrix products.
//!
//! Candle's operations pass over memory once each, and add biases and turn dimensions over number by
//! number; in bf16 that took three times as long as the products. Forward only.

mod attention;
mod call;
mod operations;

use candle::{Result, Tensor};

pub(super) use self::attention::attend;
use self::operations::{AddBias, AddResidual, LayerNorm, SwapMiddle, Windows};
use super::encoder::Activation;

/// Whether the kernels can work on a tensor.
pub(super) fn takes(x: &Tensor) -> bool {
    x.device().is_cuda()
        && call::suffix(x.dtype()).is_ok()
        && x.is_contiguous()
        && x.elem_count() > 0
}

/// `activation(x + bias)` in place; `x` is `(.., width)` and nothing else holds it, `bias` `(width,)`.
pub(super) fn add_bias(x: Tensor, bias: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
    x.inplace_op2(bias, &AddBias(activation))?;
    Ok(x)
}

/// `x + bias + residual` in place, as in [`add_bias`]; `residual` is of the shape of `x`.
pub(super) fn add_residual(x: Tensor, bias: &Tensor, residual: &Tensor) -> Result<Tensor> {
    x.inplace_op3(bias, &residual.contiguous()?, &AddResidual)?;
    Ok(x)
}

/// Layer norm over the last dimension and an activation; `weight` and `bias` are `(width,)`.
pub(super) fn layer_norm(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    activation: Option<Activation>,
) -> Result<Tensor> {
    x.apply_op3_no_bwd(weight, bias, &LayerNorm { eps: eps as f32, activation })
}

/// `(outer, first, second, inner)` to `(outer, second, first, inner)`.
pub(super) fn swap_middle(x: &Tensor) -> Result<Tensor> {
    x.apply_op1_no_bwd(&SwapMiddle { kept: x.dim(2)? })
}

/// Windows of a sequence `(steps, channels)`: `(groups, windows, kernel * channels / groups)`.
pub(super) fn windows(x: &Tensor, groups: usize, kernel: usize, stride: usize) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Windows { groups, kernel, stride })
}
