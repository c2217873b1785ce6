//! Trained models: from the features of each modality to emotions and traits.

use candle::{D, DType, Device, Tensor};
use candle_nn::ops::softmax;
use meptr_core::bundle::{Bundle, BundleModels};
use meptr_core::models::FusionInput;
pub use meptr_core::models::HeadScores;
use meptr_core::nn::Mode;
use meptr_core::prediction::{EmotionScore, TraitScore};
use meptr_core::{Emotion, Modality, PerModality, PersonalityTrait};

use crate::{Error, Result};

/// Scores of the fusion model.
#[derive(Debug, Clone, PartialEq)]
pub struct FusedScores {
    /// Probability and logit of each emotion.
    pub emotions: Vec<EmotionScore>,
    /// Emotions that count as shown, by the decision rule ([`Emotion::decided`]).
    pub shown: Vec<Emotion>,
    /// Score of each trait.
    pub traits: Vec<TraitScore>,
}

/// Scores of a bundle's trained models on the features of one window.
#[derive(Debug)]
pub struct Scorer {
    models: BundleModels,
}

impl Scorer {
    /// Loads the models from a bundle.
    ///
    /// # Errors
    /// As [`BundleModels::open`].
    pub fn open(bundle: &Bundle, device: &Device) -> Result<Self> {
        Ok(Self { models: BundleModels::open(bundle, device)? })
    }

    /// Whether the fusion model uses a modality; `false` for one that it was trained without.
    pub fn uses(&self, modality: Modality) -> bool {
        self.models.uses(modality)
    }

    /// Runs the cross-task model of a modality over its sequence.
    ///
    /// - `features`: `(1, steps, width)`, f32, from the backbone
    ///
    /// # Errors
    /// When the shape differs from the above or the device fails.
    pub fn head(&self, modality: Modality, features: &Tensor) -> Result<HeadScores> {
        HeadScores::of(&self.models.heads[modality], features)
            .map_err(Error::doing(format!("running the {modality} model")))
    }

    /// Runs the fusion model over the modalities that are present, at least one.
    ///
    /// # Errors
    /// When none is present, the device fails, or a result is not finite.
    pub fn fuse(&self, heads: &PerModality<Option<HeadScores>>) -> Result<FusedScores> {
        let run = || -> candle::Result<FusedScores> {
            let input: FusionInput = PerModality::try_from_fn(|modality| {
                let input = |head: &HeadScores| head.input(self.models.score_transform);
                heads[modality].as_ref().map(input).transpose()
            })?;
            let output = self.models.fusion.forward(&input, &mut Mode::Eval)?;
            let logits = row(&output.emotion_logits)?;
            let probabilities = row(&softmax(&output.emotion_logits, D::Minus1)?)?;
            let scores = row(&output.personality_scores)?;
            Ok(FusedScores::new(&logits, &probabilities, &scores))
        };
        let scores = run().map_err(Error::doing("running the fusion model"))?;
        let emotions = scores.emotions.iter().flat_map(|one| [one.probability, one.logit]);
        ensure_finite("fusion model", emotions.chain(scores.traits.iter().map(|one| one.score)))?;
        Ok(scores)
    }
}

impl FusedScores {
    /// Scores by name, with the decision rule applied to the probabilities.
    pub(super) fn new(
        logits: &[f32; Emotion::COUNT],
        probabilities: &[f32; Emotion::COUNT],
        scores: &[f32; PersonalityTrait::COUNT],
    ) -> Self {
        let emotions = Emotion::ALL.into_iter().zip(probabilities).zip(logits);
        let traits = PersonalityTrait::ALL.into_iter().zip(scores);
        Self {
            emotions: emotions
                .map(|((emotion, probability), logit)| EmotionScore {
                    emotion,
                    probability: *probability,
                    logit: *logit,
                })
                .collect(),
            shown: Emotion::decided(probabilities),
            traits: traits
                .map(|(one, score)| TraitScore { personality_trait: one, score: *score })
                .collect(),
        }
    }
}

/// Refuses results of a model that are NaN or infinite.
pub(super) fn ensure_finite(what: &str, values: impl IntoIterator<Item = f32>) -> Result<()> {
    match values.into_iter().all(f32::is_finite) {
        true => Ok(()),
        false => Err(Error::NotFinite { what: what.to_owned() }),
    }
}

/// Values of a `(1, N)` tensor.
pub(super) fn row<const N: usize>(tensor: &Tensor) -> candle::Result<[f32; N]> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let length = values.len();
    values.try_into().map_err(|_| candle::Error::msg(format!("{length} values instead of {N}")))
}
