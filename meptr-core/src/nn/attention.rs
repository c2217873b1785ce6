//! Multi-head attention with PyTorch's packed weights.

use candle::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::{Linear, Mode, ops};

/// Multi-head attention: `W_o concat_h(softmax(Q_h K_h^T / sqrt(d_head)) V_h) + b_o`.
///
/// Vaswani et al. 2017, section 3.2, <https://arxiv.org/abs/1706.03762>. Weights, with `d = width`:
/// `in_proj_weight` `(3 d, d)` and `in_proj_bias` `(3 d,)` (query, key, value stacked),
/// `out_proj.weight` `(d, d)`, `out_proj.bias` `(d,)`.
#[derive(Debug, Clone)]
pub struct MultiHeadAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
    dropout: f32,
}

impl MultiHeadAttention {
    /// Asks for the weights; `dropout` acts on the attention weights.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or holds another shape, or when `heads` does not divide `width`.
    pub fn load(width: usize, heads: usize, dropout: f32, vb: VarBuilder) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            candle::bail!("{heads} attention heads do not divide the width {width}")
        }
        let bound = (6.0 / (4 * width) as f64).sqrt(); // Glorot and Bengio 2010, as in PyTorch
        let spread = Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((3 * width, width), "in_proj_weight", spread)?;
        let bias = vb.get_with_hints(3 * width, "in_proj_bias", Init::Const(0.0))?;
        let part = |index: usize| -> Result<Linear> {
            let rows = |packed: &Tensor| packed.narrow(0, index * width, width);
            Ok(Linear::new(rows(&weight)?, Some(rows(&bias)?)))
        };
        Ok(Self {
            query: part(0)?,
            key: part(1)?,
            value: part(2)?,
            output: Self::load_output(width, vb.pp("out_proj"))?,
            heads,
            dropout,
        })
    }

    /// Attends from `query` to `key`, and reads `value`.
    ///
    /// - `query`: `(rows, steps, d)`, f32
    /// - `key`, `value`: `(rows, other_steps, d)`, f32
    /// - `mask`: `(rows, other_steps)`, f32, 1 = real step, 0 = not there; `None` = all real
    /// - returns `(rows, steps, d)`, f32; the output bias in rows whose mask is all 0
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn forward(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        mask: Option<&Tensor>,
        mode: &mut Mode,
    ) -> Result<Tensor> {
        let query = self.split_heads(&self.query.forward(query)?)?; // (rows, heads, steps, d_head)
        let key = self.split_heads(&self.key.forward(key)?)?;
        let value = self.split_heads(&self.value.forward(value)?)?;
        let scale = 1.0 / (query.dim(D::Minus1)? as f64).sqrt();
        let scores = (query * scale)?.matmul(&key.t()?)?; // (rows, heads, steps, other_steps)
        let mask = mask.map(|mask| mask.unsqueeze(1)?.unsqueeze(1)).transpose()?;
        let weights = ops::masked_softmax(&scores, mask.as_ref())?;
        let weights = ops::dropout(&weights, self.dropout, mode)?;
        let read = weights.matmul(&value)?.transpose(1, 2)?.flatten_from(2)?; // (rows, steps, d)
        self.output.forward(&read)
    }

    fn split_heads(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, steps, width) = x.dims3()?;
        let split = x.reshape((rows, steps, self.heads, width / self.heads))?;
        split.transpose(1, 2)?.contiguous()
    }

    /// PyTorch starts this bias, unlike that of other linear layers, at 0.
    fn load_output(width: usize, vb: VarBuilder) -> Result<Linear> {
        let bound = 1.0 / (width as f64).sqrt();
        let spread = Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((width, width), "weight", spread)?;
        let bias = vb.get_with_hints(width, "bias", Init::Const(0.0))?;
        Ok(Linear::new(weight, Some(bias)))
    }
}
