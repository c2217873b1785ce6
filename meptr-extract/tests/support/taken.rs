//! Features of an extraction, kept for inspection; and the models after it, run by hand.

use anyhow::{Context, Result, ensure};
use candle::{D, Device, Tensor};
use candle_nn::ops::softmax;
use meptr_core::bundle::Bundle;
use meptr_core::models::{self, FusionInput, FusionModel, ModalityInput};
use meptr_core::nn::Mode;
use meptr_core::prediction::Scores;
use meptr_core::weights::load_file;
use meptr_core::{Modality, PerModality};
use meptr_extract::pipeline::{
    AudioChunkFeatures, ExtractRequest, Extraction, Extractor, FeatureSink, StepTimings,
    VisualWindow,
};
use meptr_extract::predictor::{FusedScores, Scorer};
use meptr_extract::progress::Unwatched;

/// The features of a video that is one window.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) visual: Option<VisualWindow>,
    pub(crate) audio: Vec<AudioChunkFeatures>,
    pub(crate) text: Option<std::result::Result<Tensor, String>>,
    windows: Vec<usize>,
}

impl FeatureSink for Taken {
    fn visual(
        &mut self,
        window: usize,
        visual: VisualWindow,
        _: &mut StepTimings,
    ) -> meptr_extract::Result<()> {
        self.windows.push(window);
        self.visual = Some(visual);
        Ok(())
    }

    fn audio(
        &mut self,
        window: usize,
        chunk: AudioChunkFeatures,
        _: &mut StepTimings,
    ) -> meptr_extract::Result<()> {
        self.windows.push(window);
        self.audio.push(chunk);
        Ok(())
    }

    fn text(
        &mut self,
        window: usize,
        features: std::result::Result<Tensor, String>,
        _: &mut StepTimings,
    ) -> meptr_extract::Result<()> {
        self.windows.push(window);
        self.text = Some(features);
        Ok(())
    }
}

impl Taken {
    /// Runs the extractor on a video.
    pub(crate) fn of(
        extractor: &Extractor,
        video: &std::path::Path,
        request: &ExtractRequest,
    ) -> Result<(Self, Extraction)> {
        let mut taken = Self::default();
        let extraction = extractor.extract(video, request, &mut taken, &Unwatched)?;
        ensure!(taken.windows.iter().all(|window| *window == 0), "more than one window");
        Ok((taken, extraction))
    }

    /// The sequence that a modality's model reads, `(1, steps, width)`; `None` without any.
    pub(crate) fn features(&self, modality: Modality) -> Result<Option<Tensor>> {
        match modality {
            Modality::Audio => {
                ensure!(self.audio.len() <= 1, "sound in {} chunks", self.audio.len());
                Ok(self.audio.first().and_then(|chunk| chunk.features.clone().ok()))
            }
            Modality::Text => Ok(self.text.as_ref().and_then(|text| text.as_ref().ok()).cloned()),
            _ => {
                let features = self.visual.as_ref().and_then(|visual| visual.features.as_ref());
                let Some(features) = features else { return Ok(None) };
                Ok(features.select(&features.crop_indices(modality).collect::<Vec<_>>())?)
            }
        }
    }

    /// Output of each modality's model on its sequence, ready for fusion.
    pub(crate) fn fusion_input(&self, scorer: &Scorer, bundle: &Bundle) -> Result<FusionInput> {
        let transform = bundle.manifest().parts.fusion.config.score_transform;
        PerModality::try_from_fn(|modality| {
            let Some(features) = self.features(modality)? else { return Ok(None) };
            let head = scorer.head(modality, &features)?;
            Ok(Some(ModalityInput {
                vector: head.vector,
                emotion_logits: Some(head.emotion_logits),
                trait_values: Some(transform.apply(&head.trait_scores)?),
                is_present: None,
            }))
        })
    }
}

/// Emotion logits and probabilities, and trait scores, as rows.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) logits: Tensor,
    pub(crate) probabilities: Tensor,
    pub(crate) traits: Tensor,
}

impl Outcome {
    /// The fusion model of a bundle on these values, without the program's own way to it.
    pub(crate) fn of_model(bundle: &Bundle, input: &FusionInput) -> Result<Self> {
        let part = &bundle.manifest().parts.fusion;
        let model = load_file(&bundle.path(&part.file), &Device::Cpu, models::may_be_left, |vb| {
            FusionModel::load(&part.config, vb)
        })?;
        let output = model.forward(input, &mut Mode::Eval)?;
        Ok(Self {
            probabilities: softmax(&output.emotion_logits, D::Minus1)?.squeeze(0)?,
            logits: output.emotion_logits.squeeze(0)?,
            traits: output.personality_scores.squeeze(0)?,
        })
    }

    /// Scores of the whole video in a prediction.
    pub(crate) fn of_row(row: &Scores) -> Result<Self> {
        let named = FusedScores {
            emotions: row.emotions.clone(),
            shown: row.shown.clone(),
            traits: row.traits.clone(),
        };
        Self::of_scores(&named)
    }

    pub(crate) fn of_scores(scores: &FusedScores) -> Result<Self> {
        let logits: Vec<f32> = scores.emotions.iter().map(|one| one.logit).collect();
        let probabilities: Vec<f32> = scores.emotions.iter().map(|one| one.probability).collect();
        let traits: Vec<f32> = scores.traits.iter().map(|one| one.score).collect();
        let tensor = |values: Vec<f32>| Tensor::new(values, &Device::Cpu);
        let found = Self {
            logits: tensor(logits)?,
            probabilities: tensor(probabilities)?,
            traits: tensor(traits)?,
        };
        ensure!(
            found.logits.dims() == [7] && found.traits.dims() == [5],
            "7 emotions and 5 traits"
        );
        Ok(found)
    }

    /// Largest difference to another one, by part.
    pub(crate) fn differences(&self, other: &Self) -> Result<[f32; 3]> {
        let largest = |a: &Tensor, b: &Tensor| (a - b)?.abs()?.max_all()?.to_scalar::<f32>();
        Ok([
            largest(&self.logits, &other.logits)?,
            largest(&self.probabilities, &other.probabilities)?,
            largest(&self.traits, &other.traits)?,
        ])
    }
}

/// The whole-video row of a prediction.
pub(crate) fn whole(prediction: &meptr_core::prediction::VideoPrediction) -> Result<&Scores> {
    prediction.predictions.first().context("a prediction has a row")
}
