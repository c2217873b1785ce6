//! Attention of task queries over the context.

use candle::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::graph::Context;
use crate::nn::{AttentionMemory, Mode, MultiHeadAttention, ops};

/// A learned question, `(1, 1, h)`, by which a task reads the context.
#[derive(Debug, Clone)]
pub(in crate::models) struct TaskQuery {
    query: Tensor,
}

impl TaskQuery {
    pub(in crate::models) fn load(hidden_dim: usize, name: &str, vb: &VarBuilder) -> Result<Self> {
        let start = Init::Randn { mean: 0.0, stdev: 1.0 };
        Ok(Self { query: vb.get_with_hints((1, 1, hidden_dim), name, start)? })
    }

    /// The task's vector `(rows, h)`; without attention, the mean of the context.
    pub(in crate::models) fn read(
        &self,
        context: &Context,
        reading: Option<&Reading>,
        mode: &mut Mode,
    ) -> Result<Tensor> {
        let Context { nodes, mask } = context;
        let Some(Reading { attention, memory }) = reading else {
            return ops::masked_mean(nodes, mask.as_ref());
        };
        attention.attend(&self.query, memory, mask.as_ref(), mode)?.squeeze(1)
    }
}

/// Attention of tasks over a context; all tasks share keys and values.
pub(in crate::models) struct Reading<'a> {
    attention: &'a MultiHeadAttention,
    memory: AttentionMemory,
}

impl<'a> Reading<'a> {
    pub(in crate::models) fn of(
        context: &Context,
        attention: &'a MultiHeadAttention,
        mode: &Mode,
    ) -> Result<Self> {
        let memory = attention.memory(&context.nodes, &context.nodes, mode)?;
        Ok(Self { attention, memory })
    }
}
