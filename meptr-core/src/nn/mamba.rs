//! The "Mamba" block of the reference.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{LayerNorm, Linear, Mode, ops};

/// A residual block that maps every step on its own.
///
/// `norm(dropout(out_proj(relu(h + s_B(h) + s_C(h)))) + x)` with `h = in_proj(x)`. In spite of its
/// name it has no state, no scan and no gate; it is what the published weights were trained with.
///
/// Weights: `in_proj` `(inner, width)`, `s_B` and `s_C` `(inner, inner)`, `out_proj`
/// `(width, inner)`, each with a bias, and `norm` `(width,)`.
#[derive(Debug, Clone)]
pub struct MambaBlock {
    in_proj: Linear,
    s_b: Linear,
    s_c: Linear,
    out_proj: Linear,
    norm: LayerNorm,
    dropout: f32,
}

impl MambaBlock {
    /// Loads the weights.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or holds another shape.
    pub fn load(width: usize, inner_width: usize, dropout: f32, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            in_proj: Linear::load(width, inner_width, vb.pp("in_proj"))?,
            s_b: Linear::load(inner_width, inner_width, vb.pp("s_B"))?,
            s_c: Linear::load(inner_width, inner_width, vb.pp("s_C"))?,
            out_proj: Linear::load(inner_width, width, vb.pp("out_proj"))?,
            norm: LayerNorm::load(width, vb.pp("norm"))?,
            dropout,
        })
    }

    /// Maps every step.
    ///
    /// - `x`: `(rows, steps, width)`, f32
    /// - returns the same shape, f32
    ///
    /// # Errors
    /// When the shape differs from the above.
    pub fn forward(&self, x: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let h = self.in_proj.forward_in(x, mode)?; // (rows, steps, inner)
        let h = ((&h + self.s_b.forward_in(&h, mode)?)? + self.s_c.forward_in(&h, mode)?)?;
        let branch = self.out_proj.forward_in(&ops::relu(&h)?, mode)?; // (rows, steps, width)
        self.norm.forward(&(ops::dropout(&branch, self.dropout, mode)? + x)?)
    }
}
