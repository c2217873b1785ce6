//! From a modality's vector to a node of the graph.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::nn::{LayerNorm, Linear, Mode, ops};

/// Projector `x = norm(dropout(relu(Linear(v))))`, then adapter
/// `layernorm(x + Linear(dropout(relu(Linear(x)))))` through half the width.
///
/// Weights, with `h = hidden_dim` and `w` the width of the vector: `0.proj.0` `(h, w)`, `0.proj.3`
/// `(h,)`, `1.adapter.0` `(h / 2, h)`, `1.adapter.3` `(h, h / 2)`, `1.layernorm` `(h,)`.
#[derive(Debug, Clone)]
pub(in crate::models) struct ModalityProjector {
    linear: Linear,
    norm: LayerNorm,
    adapter_down: Linear,
    adapter_up: Linear,
    adapter_norm: LayerNorm,
    dropout: f32,
}

impl ModalityProjector {
    pub(in crate::models) fn load(
        input_dim: usize,
        hidden_dim: usize,
        dropout: f32,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (projector, adapter) = (vb.pp("0.proj"), vb.pp("1.adapter"));
        let half = hidden_dim / 2;
        Ok(Self {
            linear: Linear::load(input_dim, hidden_dim, projector.pp("0"))?,
            norm: LayerNorm::load(hidden_dim, projector.pp("3"))?,
            adapter_down: Linear::load(hidden_dim, half, adapter.pp("0"))?,
            adapter_up: Linear::load(half, hidden_dim, adapter.pp("3"))?,
            adapter_norm: LayerNorm::load(hidden_dim, vb.pp("1.layernorm"))?,
            dropout,
        })
    }

    /// `(rows, w)` to `(rows, h)`.
    pub(in crate::models) fn forward(&self, vector: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let x = self.linear.forward_in(vector, mode)?;
        let x = self.norm.forward(&ops::relu_dropout(&x, self.dropout, mode)?)?;
        let inner = self.adapter_down.forward_in(&x, mode)?;
        let inner = ops::relu_dropout(&inner, self.dropout, mode)?;
        let branch = self.adapter_up.forward_in(&inner, mode)?;
        self.adapter_norm.forward(&(x + branch)?)
    }
}
