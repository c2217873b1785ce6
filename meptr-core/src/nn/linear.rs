//! Affine maps of the last axis.

use candle::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// `y = x W^T + b`.
///
/// Weights: `weight` `(outputs, inputs)` and, unless made by [`Linear::load_no_bias`], `bias`
/// `(outputs,)`. Both start uniform within `1 / sqrt(inputs)`, as in PyTorch.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Asks for `weight` and `bias`.
    ///
    /// # Errors
    /// When `vb` lacks one or holds another shape.
    pub fn load(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let bias = vb.get_with_hints(outputs, "bias", initial(inputs))?;
        Ok(Self { bias: Some(bias), ..Self::load_no_bias(inputs, outputs, vb)? })
    }

    /// Asks for `weight` alone.
    ///
    /// # Errors
    /// When `vb` lacks it or holds another shape.
    pub fn load_no_bias(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints((outputs, inputs), "weight", initial(inputs))?;
        Ok(Self { weight, bias: None })
    }

    /// A layer of given numbers, such as parts of a packed tensor.
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// Maps the last axis.
    ///
    /// - `x`: `(.., inputs)`, f32
    /// - returns `(.., outputs)`, f32
    ///
    /// # Errors
    /// When the last axis of `x` is not `inputs` long.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let inputs = x.dim(D::Minus1)?;
        let rows = x.reshape(((), inputs))?; // one large product instead of a batch of small ones
        let mut y = rows.matmul(&self.weight.t()?)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some(last) = shape.last_mut() {
            *last = self.weight.dim(0)?;
        }
        y.reshape(shape)
    }
}

fn initial(inputs: usize) -> Init {
    let bound = 1.0 / (inputs.max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}
