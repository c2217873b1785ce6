//! Layer norm with gradient.

use candle::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::kernels::cpu::autograd;

/// `(x - mean) / sqrt(variance + 1e-5) * weight + bias` over the last axis, population variance.
///
/// Ba et al. 2016, <https://arxiv.org/abs/1607.06450>. Weights: `weight` and `bias` `(width,)`,
/// starting at 1 and 0.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    const EPSILON: f64 = 1e-5;

    /// Loads `weight` and `bias`.
    ///
    /// # Errors
    /// When `vb` lacks one or holds another shape.
    pub fn load(width: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(width, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(width, "bias", Init::Const(0.0))?,
        })
    }

    /// Normalises the last axis.
    ///
    /// - `x`: `(.., width)`, f32
    /// - returns the same shape, f32
    ///
    /// # Errors
    /// When the last axis of `x` is not `width` long.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if autograd::is_fusable(x) {
            return autograd::layer_norm(x, &self.weight, &self.bias, Self::EPSILON);
        }
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + Self::EPSILON)?.sqrt()?)?;
        normed.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}
