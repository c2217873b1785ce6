//! Layer norm with frozen weights.

use candle::{Result, Tensor};
use meptr_core::kernels::{Activation, ops};
use meptr_core::weights::FrozenBuilder;

/// Layer norm over the last dimension, without gradient, with mean and variance in f32 at least.
///
/// Weights: `weight` and `bias` `(width,)`. The trainable layer is `meptr_core::nn::LayerNorm`.
#[derive(Debug, Clone)]
pub(crate) struct FrozenLayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl FrozenLayerNorm {
    /// Loads the weights; `eps` is added to the variance.
    pub(crate) fn load(width: usize, eps: f64, vb: &FrozenBuilder) -> Result<Self> {
        Ok(Self { weight: vb.get(width, "weight")?, bias: vb.get(width, "bias")?, eps })
    }

    /// Normalises `(.., width)`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps, None)
    }

    /// Normalises `(.., width)` and applies an activation.
    pub(crate) fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps, Some(activation))
    }
}
