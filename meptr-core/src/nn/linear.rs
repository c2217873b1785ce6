//! Affine maps of the last axis.

use candle::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::{GradientTape, Mode};
use crate::kernels::cpu::autograd::{self, WeightRows};

/// Trainable affine map `y = x W^T + b`.
///
/// Frozen backbones have a layer of their own, without gradients, that keeps weights in mapped
/// files.
///
/// Weights: `weight` `(outputs, inputs)` and, unless made by [`Linear::load_no_bias`], `bias`
/// `(outputs,)`. Both start uniform within `1 / sqrt(inputs)`, as in PyTorch.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// Rows of `weight` that the layer uses.
    rows: WeightRows,
}

impl Linear {
    /// Loads `weight` and `bias`.
    ///
    /// # Errors
    /// When `vb` lacks one or holds another shape.
    pub fn load(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let bias = vb.get_with_hints(outputs, "bias", initial(inputs))?;
        Ok(Self { bias: Some(bias), ..Self::load_no_bias(inputs, outputs, vb)? })
    }

    /// Loads `weight` alone.
    ///
    /// # Errors
    /// When `vb` lacks it or holds another shape.
    pub fn load_no_bias(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints((outputs, inputs), "weight", initial(inputs))?;
        Ok(Self { weight, bias: None, rows: WeightRows { first: 0, count: outputs } })
    }

    /// Makes a layer of some rows of a packed weight, with a bias of its own.
    pub(crate) fn from_rows(weight: Tensor, rows: WeightRows, bias: Tensor) -> Self {
        Self { weight, bias: Some(bias), rows }
    }

    /// Maps the last axis.
    ///
    /// - `x`: `(.., inputs)`, f32
    /// - returns `(.., outputs)`, f32
    ///
    /// # Errors
    /// When the last axis of `x` is not `inputs` long.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.map(x, None)
    }

    /// Like [`Linear::forward`]; with a tape in `mode`, the weight's gradient goes there instead of
    /// to Candle's gradients.
    ///
    /// # Errors
    /// When the last axis of `x` is not `inputs` long.
    pub fn forward_in(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.map(x, mode.tape().filter(|_| self.weight.is_variable()))
    }

    fn map(&self, x: &Tensor, tape: Option<&GradientTape>) -> Result<Tensor> {
        let WeightRows { first, count } = self.rows;
        let is_fusable = autograd::is_fusable(x) && self.weight.is_contiguous();
        let is_whole = (first, count) == (0, self.weight.dim(0)?);
        if is_fusable && (is_whole || tape.is_some()) {
            let sink = tape.map(|tape| tape.sink(&self.weight, first));
            return autograd::linear(x, &self.weight, self.rows, self.bias.as_ref(), sink);
        }
        let weight = match is_whole {
            true => self.weight.clone(),
            false => self.weight.narrow(0, first, count)?,
        };
        if is_fusable {
            let rows = WeightRows { first: 0, count };
            return autograd::linear(x, &weight, rows, self.bias.as_ref(), None);
        }
        let mut shape = x.dims().to_vec();
        let inputs = x.dim(D::Minus1)?;
        let rows = x.reshape(((), inputs))?; // one large matmul instead of a batch of small ones
        let mut y = rows.matmul(&weight.t()?)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some(last) = shape.last_mut() {
            *last = count;
        }
        y.reshape(shape)
    }
}

fn initial(inputs: usize) -> Init {
    let bound = 1.0 / (inputs.max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}
