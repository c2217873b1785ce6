//! The transformer layer of the reference.

use std::sync::{Arc, Mutex, PoisonError};

use candle::{Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::{LayerNorm, Linear, Mode, MultiHeadAttention, ops};

/// Dropout on position-coded sequences; the reference uses no other value.
const POSITION_DROPOUT: f32 = 0.1;

/// Shape of a [`TransformerLayer`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TransformerLayerConfig {
    /// Width of every sequence.
    pub width: usize,
    /// Attention heads, which divide the width.
    pub heads: usize,
    /// Whether sinusoidal positions are added to query, key and value.
    pub positions: bool,
    /// Probability of dropout.
    pub dropout: f32,
}

/// Attention from one sequence to another, then a feed-forward part, each with add and norm.
///
/// With `p` the sequence plus positions (if any):
/// `x = norm_1(attention(p(query), p(memory)) + dropout(p(query)))`,
/// `y = norm_2(layer_2(dropout(gelu(layer_1(x)))) + dropout(x))`.
///
/// Two departures from Vaswani et al. 2017 are the reference's: the residual is the position-coded
/// query, in every layer, and dropout falls on the residual instead of on the branch.
///
/// Weights, with `d = width`: `self_attention` (see [`MultiHeadAttention`]),
/// `feed_forward.layer_1` and `.layer_2` `(d, d)` with biases, `add_norm_after_attention.norm` and
/// `add_norm_after_ff.norm` `(d,)`. Published files also hold `positional_encoding.pe`, a fixed
/// table that is computed here instead, for any number of steps.
#[derive(Debug, Clone)]
pub struct TransformerLayer {
    self_attention: MultiHeadAttention,
    layer_1: Linear,
    layer_2: Linear,
    norm_after_attention: LayerNorm,
    norm_after_ff: LayerNorm,
    config: TransformerLayerConfig,
    positions: Positions,
}

impl TransformerLayer {
    /// Loads the weights.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or holds another shape, or when the heads do not divide the width.
    pub fn load(config: &TransformerLayerConfig, vb: VarBuilder) -> Result<Self> {
        let TransformerLayerConfig { width, heads, dropout, .. } = *config;
        let ff = vb.pp("feed_forward");
        let attention = vb.pp("self_attention");
        Ok(Self {
            self_attention: MultiHeadAttention::load(width, heads, dropout, attention)?,
            layer_1: Linear::load(width, width, ff.pp("layer_1"))?,
            layer_2: Linear::load(width, width, ff.pp("layer_2"))?,
            norm_after_attention: LayerNorm::load(width, vb.pp("add_norm_after_attention.norm"))?,
            norm_after_ff: LayerNorm::load(width, vb.pp("add_norm_after_ff.norm"))?,
            config: *config,
            positions: Positions::default(),
        })
    }

    /// Attends from `query` to `memory`.
    ///
    /// - `query`: `(rows, steps, d)`, f32
    /// - `memory`: `(rows, other_steps, d)`, f32
    /// - `mask`: `(rows, other_steps)`, f32, 1 = real step, 0 = padding; `None` = all real
    /// - returns `(rows, steps, d)`, f32
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn forward(
        &self,
        query: &Tensor,
        memory: &Tensor,
        mask: Option<&Tensor>,
        mode: &mut Mode,
    ) -> Result<Tensor> {
        let dropout = self.config.dropout;
        let key = self.with_positions(memory, mode)?;
        let value = self.with_positions(memory, mode)?; // drops other elements than `key`
        let query = self.with_positions(query, mode)?;
        let read = self.self_attention.forward(&query, &key, &value, mask, mode)?;
        let x =
            self.norm_after_attention.forward(&(read + ops::dropout(&query, dropout, mode)?)?)?;
        let inner = ops::dropout(&self.layer_1.forward_in(&x, mode)?.gelu_erf()?, dropout, mode)?;
        let branch = self.layer_2.forward_in(&inner, mode)?;
        self.norm_after_ff.forward(&(branch + ops::dropout(&x, dropout, mode)?)?)
    }

    fn with_positions(&self, x: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        if !self.config.positions {
            return Ok(x.clone());
        }
        let table = self.positions.of(x.dim(1)?, self.config.width, x.device())?;
        let table = table.to_dtype(x.dtype())?;
        ops::dropout(&x.broadcast_add(&table)?, POSITION_DROPOUT, mode)
    }
}

/// Cache of the position table: computing it takes the CPU longer than the rest of the layer takes
/// a GPU.
#[derive(Debug, Clone, Default)]
struct Positions(Arc<Mutex<Option<Tensor>>>);

impl Positions {
    /// The first `steps` positions, `(steps, width)`.
    fn of(&self, steps: usize, width: usize, device: &Device) -> Result<Tensor> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = &*kept
            && table.dim(0)? >= steps
            && table.device().same_device(device)
        {
            return table.narrow(0, 0, steps);
        }
        let table = positions(steps, width, device)?;
        *kept = Some(table.clone());
        Ok(table)
    }
}

/// Sinusoidal positions: sine in even columns, cosine in odd ones, base 10000; `(steps, width)`.
fn positions(steps: usize, width: usize, device: &Device) -> Result<Tensor> {
    // Rates are rounded to f32 at the reference's point.
    let step_down = (-(10000.0_f64.ln()) / width as f64) as f32;
    let value = |position: usize, column: usize| {
        let rate = ((column - column % 2) as f32 * step_down).exp();
        let angle = position as f32 * rate;
        if column.is_multiple_of(2) { angle.sin() } else { angle.cos() }
    };
    let table: Vec<f32> = (0..steps)
        .flat_map(|position| (0..width).map(move |column| value(position, column)))
        .collect();
    Tensor::from_vec(table, (steps, width), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_positions_equal_computed_ones() -> Result<()> {
        let (kept, device) = (Positions::default(), Device::Cpu);
        for steps in [3, 9, 1, 9, 4] {
            let found = kept.of(steps, 6, &device)?.to_vec2::<f32>()?;
            assert_eq!(found, positions(steps, 6, &device)?.to_vec2::<f32>()?);
        }
        Ok(())
    }
}
