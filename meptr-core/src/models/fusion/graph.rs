//! From modality vectors to the context that the tasks read.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::input::presence;
use super::{ModalityInput, ModalityProjector};
use crate::nn::{GraphAttention, Mode};
use crate::{Modality, PerModality};

/// Projects the modalities that are there and lets them read each other.
///
/// Weights: `projectors.M` for each modality `M`, and the graph attention under its own name.
#[derive(Debug, Clone)]
pub(in crate::models) struct Graph {
    projectors: PerModality<ModalityProjector>,
    attention: Option<GraphAttention>,
}

/// Nodes of a batch of graphs, `(rows, nodes, h)`, and which exist, `(rows, nodes)`.
pub(in crate::models) struct Context {
    pub(in crate::models) nodes: Tensor,
    pub(in crate::models) mask: Option<Tensor>,
}

impl Graph {
    /// `attention` is the name of the graph attention; `None` leaves it out.
    pub(in crate::models) fn load(
        input_dims: &PerModality<usize>,
        hidden_dim: usize,
        dropout: f32,
        attention: Option<&str>,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let projectors = vb.pp("projectors");
        Ok(Self {
            projectors: PerModality::try_from_fn(|modality| {
                let vb = projectors.pp(modality.name());
                ModalityProjector::load(input_dims[modality], hidden_dim, dropout, vb)
            })?,
            attention: attention
                .map(|name| GraphAttention::load(hidden_dim, dropout, vb.pp(name)))
                .transpose()?,
        })
    }

    /// One node per part, in the order of `parts`.
    pub(in crate::models) fn forward(
        &self,
        parts: &[(Modality, &ModalityInput)],
        mode: &mut Mode,
    ) -> Result<Context> {
        let mut nodes = Vec::with_capacity(parts.len());
        for (modality, part) in parts {
            nodes.push(self.projectors[*modality].forward(&part.vector, mode)?);
        }
        let inputs: Vec<_> = parts.iter().map(|(_, part)| *part).collect();
        let mask = presence(&inputs)?;
        let mut nodes = Tensor::stack(&nodes, 1)?; // (rows, nodes, h)
        if let Some(attention) = &self.attention {
            nodes = attention.forward(&nodes, mask.as_ref(), mode)?;
        }
        Ok(Context { nodes, mask })
    }
}
