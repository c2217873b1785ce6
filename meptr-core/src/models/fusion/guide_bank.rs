//! Learned example vectors of each class or trait.

use candle::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// One learned vector per output; an output is the cosine between a task's vector and its guide.
///
/// Weights: `embeddings` `(outputs, h)`.
#[derive(Debug, Clone)]
pub(in crate::models) struct GuideBank {
    embeddings: Tensor,
}

impl GuideBank {
    const EPSILON: f32 = 1e-8;

    pub(in crate::models) fn load(
        outputs: usize,
        hidden_dim: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let start = Init::Randn { mean: 0.0, stdev: 1.0 };
        Ok(Self { embeddings: vb.get_with_hints((outputs, hidden_dim), "embeddings", start)? })
    }

    /// `x . g / (max(|x|, 1e-8) max(|g|, 1e-8))` for each guide `g`: `(rows, h)` to
    /// `(rows, outputs)`.
    pub(in crate::models) fn similarity(&self, vector: &Tensor) -> Result<Tensor> {
        unit(vector)?.matmul(&unit(&self.embeddings)?.t()?)
    }
}

fn unit(x: &Tensor) -> Result<Tensor> {
    let length = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    x.broadcast_div(&length.maximum(GuideBank::EPSILON)?)
}
