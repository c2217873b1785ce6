//! Affine maps of the last axis.

use candle::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::{Mode, Tape, fused};

/// `y = x W^T + b`.
///
/// Weights: `weight` `(outputs, inputs)` and, unless made by [`Linear::load_no_bias`], `bias`
/// `(outputs,)`. Both start uniform within `1 / sqrt(inputs)`, as in PyTorch.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// Rows of `weight` that are the layer's: the first and how many.
    rows: (usize, usize),
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
        Ok(Self { weight, bias: None, rows: (0, outputs) })
    }

    /// A layer of given numbers: `rows`, the first and how many, of a packed `weight`, with a bias
    /// of its own.
    pub(crate) fn of_rows(weight: Tensor, rows: (usize, usize), bias: Tensor) -> Self {
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

    /// As [`Linear::forward`]; on a tape, the weight's gradient goes there instead of to Candle's.
    ///
    /// # Errors
    /// When the last axis of `x` is not `inputs` long.
    pub fn forward_in(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.map(x, mode.tape().filter(|_| self.weight.is_variable()))
    }

    fn map(&self, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        let is_fusable = fused::is_fusable(x) && self.weight.is_contiguous();
        let is_whole = self.rows == (0, self.weight.dim(0)?);
        if is_fusable && (is_whole || tape.is_some()) {
            return fused::linear(x, &self.weight, self.rows, self.bias.as_ref(), tape);
        }
        let weight = match is_whole {
            true => self.weight.clone(),
            false => self.weight.narrow(0, self.rows.0, self.rows.1)?,
        };
        if is_fusable {
            return fused::linear(x, &weight, (0, self.rows.1), self.bias.as_ref(), None);
        }
        let mut shape = x.dims().to_vec();
        let inputs = x.dim(D::Minus1)?;
        let rows = x.reshape(((), inputs))?; // one large product instead of a batch of small ones
        let mut y = rows.matmul(&weight.t()?)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some(last) = shape.last_mut() {
            *last = self.rows.1;
        }
        y.reshape(shape)
    }
}

fn initial(inputs: usize) -> Init {
    let bound = 1.0 / (inputs.max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}
