//! The stage-3 model.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::input::taking_part;
use super::{
    Ablation, FusionConfig, FusionInput, Graph, GuideBank, ModalityInput, PredictProjector,
    Reading, TaskQuery,
};
use crate::Task;
use crate::nn::{Linear, Mode, MultiHeadAttention, ops};

/// Output of the stage-3 model for a batch of `rows` videos.
#[derive(Debug, Clone)]
pub struct FusionOutput {
    /// `(rows, 7)`, f32.
    pub emotion_logits: Tensor,
    /// `(rows, 5)`, f32, 0 to 1.
    pub personality_scores: Tensor,
    /// `(rows, h)`, f32: what the emotion head reads.
    pub emotion_vector: Tensor,
    /// `(rows, h)`, f32: what the trait head reads.
    pub personality_vector: Tensor,
}

/// Fuses the modalities that exist and answers for both tasks.
///
/// Each modality's vector becomes a node; graph attention over the nodes gives the context; one
/// shared multi-head attention reads it with a learned query per task; the modalities' own
/// predictions are added to what was read. Emotion logits are `(Linear(v) + cosine(v, guides)) / 2`,
/// trait scores `(sigmoid(Linear(v)) + sigmoid(cosine(v, guides))) / 2`, or the heads alone where
/// the guide bank is off. A row that no modality is present in gets a finite result without
/// meaning.
///
/// Weights: `projectors`, `graph_attn`, `emo_query`, `pkl_query`, `cross_attn`, `emo_logit_proj`,
/// `per_logit_proj`, `emo_head`, `pkl_head`, `guide_bank_emo`, `guide_bank_pkl`.
#[derive(Debug, Clone)]
pub struct FusionModel {
    graph: Graph,
    cross_attn: Option<MultiHeadAttention>,
    emotion: TaskPart,
    personality: TaskPart,
    ablation: Ablation,
}

/// Layers of one task.
#[derive(Debug, Clone)]
struct TaskPart {
    query: TaskQuery,
    predict_projector: Option<PredictProjector>,
    head: Linear,
    guide_bank: Option<GuideBank>,
}

impl FusionModel {
    /// Loads the weights of every part that the ablation keeps.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or holds another shape, or when the heads do not divide the width.
    pub fn load(config: &FusionConfig, vb: VarBuilder) -> Result<Self> {
        let FusionConfig { hidden_dim, num_heads, dropout, ref ablation, .. } = *config;
        let attention = (!ablation.disable_graph_attn).then_some("graph_attn");
        let cross_attn = (!ablation.disable_cross_attn)
            .then(|| MultiHeadAttention::load(hidden_dim, num_heads, dropout, vb.pp("cross_attn")))
            .transpose()?;
        Ok(Self {
            graph: Graph::load(&config.input_dims, hidden_dim, dropout, attention, &vb)?,
            cross_attn,
            emotion: TaskPart::load(Task::Emotion, config, &vb)?,
            personality: TaskPart::load(Task::Personality, config, &vb)?,
            ablation: ablation.clone(),
        })
    }

    /// Fuses a batch.
    ///
    /// # Errors
    /// When no modality is left, or when a shape differs from that of [`ModalityInput`].
    pub fn forward(&self, input: &FusionInput, mode: &mut Mode) -> Result<FusionOutput> {
        let parts = taking_part(input, &self.ablation.disabled_modalities)?;
        let context = self.graph.forward(&parts, mode)?;
        let parts: Vec<&ModalityInput> = parts.into_iter().map(|(_, part)| part).collect();
        let attention = self.cross_attn.as_ref();
        let reading = attention.map(|attention| Reading::of(&context, attention, mode));
        let reading = reading.transpose()?;
        // Each task asks for itself: what a loss of one task does not reach gets no gradient at all.
        let emotion_vector = self.emotion.query.read(&context, reading.as_ref(), mode)?;
        let personality_vector = self.personality.query.read(&context, reading.as_ref(), mode)?;
        let emotion_vector = self.emotion.with_predictions(emotion_vector, &parts)?;
        let personality_vector = self.personality.with_predictions(personality_vector, &parts)?;
        Ok(FusionOutput {
            emotion_logits: self.emotion.decide(&emotion_vector, Ok)?,
            personality_scores: self
                .personality
                .decide(&personality_vector, |x| ops::sigmoid(&x))?,
            emotion_vector,
            personality_vector,
        })
    }
}

impl TaskPart {
    fn load(task: Task, config: &FusionConfig, vb: &VarBuilder) -> Result<Self> {
        let (hidden_dim, ablation) = (config.hidden_dim, &config.ablation);
        let (query, projector, head, guide_bank) = match task {
            Task::Emotion => ("emo_query", "emo_logit_proj", "emo_head", "guide_bank_emo"),
            Task::Personality => ("pkl_query", "per_logit_proj", "pkl_head", "guide_bank_pkl"),
        };
        let (without_projector, without_guide) = match task {
            Task::Emotion => (ablation.disable_emo_logit_proj, ablation.disable_guide_emo),
            Task::Personality => (ablation.disable_pkl_logit_proj, ablation.disable_guide_pkl),
        };
        let predict_projector = (!without_projector)
            .then(|| PredictProjector::load(task, hidden_dim, vb.pp(projector)))
            .transpose()?;
        // A file holds the guides of a task that decides without them, so they are asked for.
        let guide_bank = (!ablation.disable_guide_bank)
            .then(|| GuideBank::load(task.outputs(), hidden_dim, vb.pp(guide_bank)))
            .transpose()?;
        Ok(Self {
            query: TaskQuery::load(hidden_dim, query, vb)?,
            predict_projector,
            head: Linear::load(hidden_dim, task.outputs(), vb.pp(head))?,
            guide_bank: guide_bank.filter(|_| !without_guide),
        })
    }

    fn with_predictions(&self, vector: Tensor, parts: &[&ModalityInput]) -> Result<Tensor> {
        match &self.predict_projector {
            Some(projector) => projector.add(&vector, parts),
            None => Ok(vector),
        }
    }

    /// The head's answer, averaged with the guides' where there are guides.
    fn decide(
        &self,
        vector: &Tensor,
        activation: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let answer = activation(self.head.forward(vector)?)?;
        let Some(guide_bank) = &self.guide_bank else { return Ok(answer) };
        (answer + activation(guide_bank.similarity(vector)?)?)? / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{generate, generated_tensor};
    use crate::{Modality, PerModality};
    use candle::{Device, Shape};

    const DIMS: PerModality<usize> =
        PerModality { body: 12, face: 10, scene: 8, audio: 6, text: 4 };

    fn model(ablation: Ablation) -> Result<FusionModel> {
        let config = FusionConfig {
            hidden_dim: 16,
            num_heads: 4,
            input_dims: DIMS,
            ablation,
            ..FusionConfig::published()
        };
        Ok(generate(3, &Device::Cpu, |vb| FusionModel::load(&config, vb))?.0)
    }

    fn input() -> Result<FusionInput> {
        PerModality::try_from_fn(|modality| {
            let tensor = |what: &str, width: usize| {
                let shape = Shape::from((2, width));
                generated_tensor(&format!("{modality}.{what}"), &shape, 1, &Device::Cpu)
            };
            Ok(Some(ModalityInput {
                vector: tensor("vector", DIMS[modality])?,
                emotion_logits: Some(tensor("logits", 7)?),
                trait_values: Some(tensor("scores", 5)?),
                is_present: None,
            }))
        })
    }

    fn assert_same_row(found: &FusionOutput, expected: &FusionOutput, row: usize) -> Result<()> {
        for (found, expected) in [
            (&found.emotion_logits, &expected.emotion_logits),
            (&found.personality_scores, &expected.personality_scores),
        ] {
            let off = (found.get(row)? - expected.get(row)?)?.abs()?.max(0)?.to_scalar::<f32>()?;
            assert!(off < 1e-6, "off by {off}");
        }
        Ok(())
    }

    #[test]
    fn a_missing_modality_equals_a_graph_without_its_node_row_by_row() -> Result<()> {
        for ablation in [
            Ablation::default(),
            Ablation { disable_graph_attn: true, ..Ablation::default() },
            Ablation { disable_cross_attn: true, ..Ablation::default() },
        ] {
            let model = model(ablation)?;
            let complete = model.forward(&input()?, &mut Mode::Eval)?;
            let mut without = input()?;
            without.face = None;
            let without = model.forward(&without, &mut Mode::Eval)?;
            let mut mixed = input()?;
            if let Some(face) = &mut mixed.face {
                face.is_present = Some(Tensor::new(&[0.0_f32, 1.0], &Device::Cpu)?);
            }
            let mixed = model.forward(&mixed, &mut Mode::Eval)?;
            assert_same_row(&mixed, &without, 0)?;
            assert_same_row(&mixed, &complete, 1)?;
        }
        Ok(())
    }

    #[test]
    fn a_disabled_modality_is_a_missing_one() -> Result<()> {
        let disabled = vec![Modality::Audio, Modality::Text];
        let disabled = model(Ablation { disabled_modalities: disabled, ..Ablation::default() })?;
        let mut without = input()?;
        without.audio = None;
        without.text = None;
        let expected = model(Ablation::default())?.forward(&without, &mut Mode::Eval)?;
        assert_same_row(&disabled.forward(&input()?, &mut Mode::Eval)?, &expected, 0)
    }

    #[test]
    fn the_order_of_modalities_does_not_matter() -> Result<()> {
        let model = model(Ablation::default())?;
        let input = input()?;
        let parts = taking_part(&input, &[])?;
        let reversed: Vec<_> = parts.iter().copied().rev().collect();
        let read = |parts: &[(Modality, &ModalityInput)]| -> Result<Tensor> {
            let context = model.graph.forward(parts, &mut Mode::Eval)?;
            let attention = model.cross_attn.as_ref();
            let reading = attention.map(|attention| Reading::of(&context, attention, &Mode::Eval));
            model.emotion.query.read(&context, reading.transpose()?.as_ref(), &mut Mode::Eval)
        };
        let off = (read(&parts)? - read(&reversed)?)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(off < 1e-6, "off by {off}");
        Ok(())
    }

    #[test]
    fn no_modality_at_all_is_an_error_and_an_empty_row_is_finite() -> Result<()> {
        let model = model(Ablation::default())?;
        assert!(model.forward(&FusionInput::default(), &mut Mode::Eval).is_err());
        let mut empty_row = input()?;
        for modality in Modality::ALL {
            if let Some(part) = &mut empty_row[modality] {
                part.is_present = Some(Tensor::new(&[0.0_f32, 1.0], &Device::Cpu)?);
            }
        }
        let output = model.forward(&empty_row, &mut Mode::Eval)?;
        let logits = output.emotion_logits.flatten_all()?.to_vec1::<f32>()?;
        assert!(logits.iter().all(|x| x.is_finite()));
        Ok(())
    }
}
