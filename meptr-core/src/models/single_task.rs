//! Stage 3 for one task alone.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::fusion::{
    FusionInput, Graph, GuideBank, ModalityInput, PredictProjector, Reading, TaskQuery,
};
use crate::nn::{Linear, Mode, MultiHeadAttention, ops};
use crate::{Modality, PerModality, Task};

/// Part of each modality's vector `[emotion ; personality]` that a single-task model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeatureSlice {
    /// All of it.
    #[serde(rename = "both")]
    Both,
    /// The emotion part, on the left.
    #[serde(rename = "emo")]
    Emotion,
    /// The personality part, on the right.
    #[serde(rename = "pkl")]
    Personality,
}

/// Shape of a single-task model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SingleTaskConfig {
    /// Width of every node and of the task's vector, even.
    pub hidden_dim: usize,
    /// Attention heads, which divide `hidden_dim`.
    pub num_heads: usize,
    /// Probability of dropout, 0 to 1.
    pub dropout: f32,
    /// Width of each modality's whole vector.
    pub input_dims: PerModality<usize>,
    /// Width of each vector's emotion part; `None` splits in the middle ("slim").
    #[serde(default)]
    pub emotion_dims: Option<PerModality<usize>>,
    /// Part of the vectors that is read.
    pub slice: FeatureSlice,
    /// Predicted task.
    pub task: Task,
}

impl SingleTaskConfig {
    /// Widths of the emotion part for vectors of the published stage-1 models' features ("asym").
    pub const ASYM_EMOTION_DIMS: PerModality<usize> =
        PerModality { body: 256, face: 1024, scene: 512, audio: 256, text: 256 };

    /// Start and width of what is read of a modality's vector.
    fn range(&self, modality: Modality) -> (usize, usize) {
        let whole = self.input_dims[modality];
        let emotion = self.emotion_dims.map_or(whole / 2, |dims| dims[modality].min(whole));
        match self.slice {
            FeatureSlice::Both => (0, whole),
            FeatureSlice::Emotion => (0, emotion),
            FeatureSlice::Personality => (emotion, whole - emotion),
        }
    }
}

/// The stage-3 model with one query and one task; emotions keep their guide bank, traits have none.
///
/// Weights: `projectors`, `gat`, `query`, `cross`, `logit_proj`, `head`, and `guide` for emotions.
#[derive(Debug, Clone)]
pub struct SingleTaskModel {
    graph: Graph,
    query: TaskQuery,
    cross: MultiHeadAttention,
    logit_proj: PredictProjector,
    head: Linear,
    guide: Option<GuideBank>,
    config: SingleTaskConfig,
}

impl SingleTaskModel {
    /// Asks for the weights.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or holds another shape, or when the heads do not divide the width.
    pub fn load(config: &SingleTaskConfig, vb: VarBuilder) -> Result<Self> {
        let SingleTaskConfig { hidden_dim, num_heads, dropout, task, .. } = *config;
        let input_dims = PerModality::from_fn(|modality| config.range(modality).1);
        let guide = (task == Task::Emotion)
            .then(|| GuideBank::load(task.outputs(), hidden_dim, vb.pp("guide")))
            .transpose()?;
        Ok(Self {
            graph: Graph::load(&input_dims, hidden_dim, dropout, Some("gat"), &vb)?,
            query: TaskQuery::load(hidden_dim, "query", &vb)?,
            cross: MultiHeadAttention::load(hidden_dim, num_heads, dropout, vb.pp("cross"))?,
            logit_proj: PredictProjector::load(task, hidden_dim, vb.pp("logit_proj"))?,
            head: Linear::load(hidden_dim, task.outputs(), vb.pp("head"))?,
            guide,
            config: config.clone(),
        })
    }

    /// Predicted task.
    pub fn task(&self) -> Task {
        self.config.task
    }

    /// Fuses a batch.
    ///
    /// - `input`: whole vectors; only the predictions of this model's own task are read
    /// - returns emotion logits `(rows, 7)` or trait scores `(rows, 5)`, f32
    ///
    /// # Errors
    /// When there is no modality, or when a shape differs from that of [`ModalityInput`].
    pub fn forward(&self, input: &FusionInput, mode: &mut Mode) -> Result<Tensor> {
        let mut parts = Vec::with_capacity(Modality::COUNT);
        for (modality, part) in input.iter() {
            let Some(part) = part else { continue };
            let (start, width) = self.config.range(modality);
            let vector = part.vector.narrow(1, start, width)?;
            parts.push((modality, ModalityInput { vector, ..part.clone() }));
        }
        if parts.is_empty() {
            candle::bail!("none of the five modalities is there")
        }
        let parts: Vec<_> = parts.iter().map(|(modality, part)| (*modality, part)).collect();
        let context = self.graph.forward(&parts, mode)?;
        let parts: Vec<&ModalityInput> = parts.into_iter().map(|(_, part)| part).collect();
        let reading = Reading::of(&context, &self.cross, mode)?;
        let vector = self.query.read(&context, Some(&reading), mode)?;
        let vector = self.logit_proj.add(&vector, &parts)?;
        let answer = self.head.forward(&vector)?;
        match &self.guide {
            Some(guide) => (answer + guide.similarity(&vector)?)? / 2.0,
            None => ops::sigmoid(&answer),
        }
    }
}
