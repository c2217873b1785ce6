//! Attention over a fully connected graph.

use candle::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::{Linear, Mode, ops};
use crate::kernels::cpu::autograd;

/// Graph attention: `h'_i = sum_j alpha_ij W h_j`, with
/// `alpha_ij = softmax_j(leaky_relu_0.2(a^T [W h_i ; W h_j]))` and dropout on `alpha`.
///
/// Velickovic et al. 2018, section 2.1, <https://arxiv.org/abs/1710.10903>, with one head, every
/// node a neighbour of every node and of itself, and no activation after the sum.
///
/// Weights, with `d = width`: `W.weight` `(d, d)`, `a` `(2 d, 1)`.
#[derive(Debug, Clone)]
pub struct GraphAttention {
    w: Linear,
    a: Tensor,
    dropout: f32,
}

impl GraphAttention {
    const SLOPE: f64 = 0.2;

    /// Loads the weights.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or holds another shape.
    pub fn load(width: usize, dropout: f32, vb: VarBuilder) -> Result<Self> {
        let bound = 1.414 * (6.0 / (2 * width + 1) as f64).sqrt();
        let spread = Init::Uniform { lo: -bound, up: bound };
        Ok(Self {
            w: Linear::load_no_bias(width, width, vb.pp("W"))?,
            a: vb.get_with_hints((2 * width, 1), "a", spread)?,
            dropout,
        })
    }

    /// Attends from every node to all nodes.
    ///
    /// - `nodes`: `(rows, nodes, d)`, f32
    /// - `mask`: `(rows, nodes)`, f32, 1 = node of this row's graph, 0 = absent; `None` = all
    /// - returns `(rows, nodes, d)`, f32; unspecified at absent nodes
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn forward(
        &self,
        nodes: &Tensor,
        mask: Option<&Tensor>,
        mode: &mut Mode,
    ) -> Result<Tensor> {
        let values = self.w.forward_in(nodes, mode)?; // (rows, nodes, d)
        if autograd::is_fusable(&values) {
            let (rows, count, _) = values.dims3()?;
            let scales = ops::dropout_scales(rows * count * count, self.dropout, mode);
            return autograd::graph_attention(&values, &self.a, Self::SLOPE, mask, scales);
        }
        let width = values.dim(2)?;
        // a^T [u ; v] is a sum of two products, so pairs need no tensor of their own.
        let score = |start: usize| -> Result<Tensor> {
            values.broadcast_matmul(&self.a.narrow(0, start, width)?)
        };
        let own = score(0)?; // (rows, nodes, 1)
        let other = score(width)?.transpose(1, 2)?; // (rows, 1, nodes)
        let scores = ops::leaky_relu(&own.broadcast_add(&other)?, Self::SLOPE)?;
        let mask = mask.map(|mask| mask.unsqueeze(1)).transpose()?; // (rows, 1, nodes)
        let weights = ops::masked_softmax(&scores, mask.as_ref())?; // (rows, nodes, nodes)
        ops::dropout(&weights, self.dropout, mode)?.matmul(&values)
    }
}
