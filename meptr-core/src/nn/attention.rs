//! Multi-head attention with PyTorch's packed weights.

use candle::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::{Linear, Mode, ops};
use crate::kernels::cpu::autograd::{self, WeightRows};

/// Most scores computed at once, 32 MB: the queries of longer sequences run in blocks. Five minutes
/// of audio would otherwise take 7 GB.
const MAX_SCORES: usize = 8 << 20;

/// Most scores of a row and head for which attention is one fused operation: matmuls of this size
/// cost more in overhead than in arithmetic.
const FEW_SCORES: usize = 64;

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

/// Keys and values of a [`MultiHeadAttention`], `(rows, other_steps, d)` each.
#[derive(Debug, Clone)]
pub struct AttentionMemory {
    key: Tensor,
    value: Tensor,
}

impl MultiHeadAttention {
    /// Loads the weights; `dropout` acts on the attention weights.
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
        let [query, key, value] = [0, 1, 2].map(|index| -> Result<Linear> {
            let rows = WeightRows { first: index * width, count: width };
            let bias = bias.narrow(0, rows.first, rows.count)?;
            Ok(Linear::from_rows(weight.clone(), rows, bias))
        });
        Ok(Self {
            query: query?,
            key: key?,
            value: value?,
            output: Self::load_output(width, vb.pp("out_proj"))?,
            heads,
            dropout,
        })
    }

    /// Attends from `query` to `key`, and returns the weighted sums of `value`.
    ///
    /// - `query`: `(rows, steps, d)`, f32, or `(1, steps, d)`, shared by all rows
    /// - `key`, `value`: `(rows, other_steps, d)`, f32
    /// - `mask`: `(rows, other_steps)`, f32, 1 = real step, 0 = absent; `None` = all real
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
        let memory = self.memory(key, value, mode)?;
        self.attend(query, &memory, mask, mode)
    }

    /// Projected keys and values, made once for several queries.
    ///
    /// - `key`, `value`: `(rows, other_steps, d)`, f32
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn memory(&self, key: &Tensor, value: &Tensor, mode: &Mode) -> Result<AttentionMemory> {
        let (key, value) = (self.key.forward_in(key, mode)?, self.value.forward_in(value, mode)?);
        Ok(AttentionMemory { key, value })
    }

    /// Like [`MultiHeadAttention::forward`], with keys and values from
    /// [`MultiHeadAttention::memory`].
    ///
    /// # Errors
    /// When a shape differs from those in [`MultiHeadAttention::forward`].
    pub fn attend(
        &self,
        query: &Tensor,
        memory: &AttentionMemory,
        mask: Option<&Tensor>,
        mode: &mut Mode,
    ) -> Result<Tensor> {
        let query = self.query.forward_in(query, mode)?;
        let AttentionMemory { key, value } = memory;
        let (rows, others, width) = key.dims3()?;
        let (query_rows, steps, _) = query.dims3()?;
        if query_rows != rows && query_rows != 1 {
            candle::bail!("{query_rows} rows of queries for {rows} rows of keys")
        }
        if autograd::is_fusable(&query) && steps * others <= FEW_SCORES {
            let count = rows * self.heads * steps * others;
            let scales = ops::dropout_scales(count, self.dropout, mode);
            let read = autograd::attention([&query, key, value], self.heads, mask, scales)?;
            return self.output.forward_in(&read, mode);
        }
        let query = self.split_heads(&query.broadcast_as((rows, steps, width))?)?;
        let (key, value) = (self.split_heads(key)?, self.split_heads(value)?);
        let mask = mask.map(|mask| mask.unsqueeze(1)?.unsqueeze(1)).transpose()?;
        let read = self.attend_heads([&query, &key, &value], mask.as_ref(), MAX_SCORES, mode)?;
        self.output.forward_in(&read.transpose(1, 2)?.flatten_from(2)?, mode)
    }

    /// Attention of each head before the output projection, all tensors `(rows, heads, steps,
    /// d_head)`, in blocks of queries with at most `max_scores` scores.
    fn attend_heads(
        &self,
        [query, key, value]: [&Tensor; 3],
        mask: Option<&Tensor>,
        max_scores: usize,
        mode: &mut Mode,
    ) -> Result<Tensor> {
        let (rows, heads, steps, d_head) = query.dims4()?;
        let query = (query * (1.0 / (d_head as f64).sqrt()))?;
        let block = (max_scores / (rows * heads * key.dim(2)?).max(1)).max(1);
        let blocks = (0..steps).step_by(block).map(|start| {
            let query = query.narrow(2, start, block.min(steps - start))?.contiguous()?;
            let scores = query.matmul(&key.t()?)?; // (rows, heads, block, other_steps)
            let weights = ops::masked_softmax(&scores, mask)?;
            ops::dropout(&weights, self.dropout, mode)?.matmul(value)
        });
        match &blocks.collect::<Result<Vec<_>>>()?[..] {
            [all] => Ok(all.clone()),
            blocks => Tensor::cat(blocks, 2),
        }
    }

    fn split_heads(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, steps, width) = x.dims3()?;
        let split = x.reshape((rows, steps, self.heads, width / self.heads))?;
        split.transpose(1, 2)?.contiguous()
    }

    /// Loads the output projection. PyTorch initialises its bias to 0, unlike other linear layers.
    fn load_output(width: usize, vb: VarBuilder) -> Result<Linear> {
        let bound = 1.0 / (width as f64).sqrt();
        let spread = Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((width, width), "weight", spread)?;
        let bias = vb.get_with_hints(width, "bias", Init::Const(0.0))?;
        Ok(Linear::from_rows(weight, WeightRows { first: 0, count: width }, bias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{generate, generated_tensor};

    #[test]
    fn blocks_of_queries_change_nothing() -> Result<()> {
        let device = candle::Device::Cpu;
        let load = |vb: VarBuilder| MultiHeadAttention::load(8, 2, 0.0, vb);
        let (attention, _) = generate(3, &device, load)?;
        let part = |name: &str| generated_tensor(name, &(2, 2, 7, 4).into(), 5, &device);
        let (query, key, value) = (part("q")?, part("k")?, part("v")?);
        let read = |max_scores| -> Result<Vec<f32>> {
            let parts = [&query, &key, &value];
            attention
                .attend_heads(parts, None, max_scores, &mut Mode::Eval)?
                .flatten_all()?
                .to_vec1()
        };
        let whole = read(MAX_SCORES)?;
        for max_scores in [0, 1, 60, 100] {
            for (found, expected) in read(max_scores)?.iter().zip(&whole) {
                assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
            }
        }
        Ok(())
    }
}
