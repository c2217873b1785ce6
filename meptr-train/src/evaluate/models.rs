//! The models of a bundle, and what each of them says about stored clips.

use std::collections::BTreeSet;

use candle::{D, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::softmax;
use meptr_core::bundle::{Bundle, BundleModels};
use meptr_core::models::{
    CrossTaskModel, FusionModel, ScoreTransform, UnimodalConfig, UnimodalModel,
};
use meptr_core::nn::Mode;
use meptr_core::weights::load_file;
use meptr_core::{Emotion, Modality, PerModality, PersonalityTrait, Task};

use crate::data::{FusionRows, StoredClips, StoredSequence};
use crate::stage::{Control, Stage};
use crate::{Error, Result};

/// Rows that the fusion model reads at once.
const BATCH: usize = 256;

/// Prediction of a model for one clip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipScores {
    /// Before the softmax.
    pub emotion_logits: [f32; Emotion::COUNT],
    /// 0 low to 1 high; not every model keeps within.
    pub traits: [f32; PersonalityTrait::COUNT],
}

impl ClipScores {
    /// Softmax of the logits.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn probabilities(&self) -> candle::Result<[f32; Emotion::COUNT]> {
        let logits = Tensor::new(&self.emotion_logits, &Device::Cpu)?.unsqueeze(0)?;
        let [row] = rows::<{ Emotion::COUNT }>(&softmax(&logits, D::Minus1)?)?[..] else {
            candle::bail!("one row in, another number out")
        };
        Ok(row)
    }
}

impl ModelScores {
    /// Clips that it says something about that is no finite number.
    pub fn not_finite(&self) -> usize {
        let is_finite = |said: &&ClipScores| {
            said.emotion_logits.iter().chain(&said.traits).all(|one| one.is_finite())
        };
        self.clips.iter().flatten().filter(|said| !is_finite(said)).count()
    }
}

/// Predictions of one model for all clips of a split.
#[derive(Debug, Clone)]
pub struct ModelScores {
    /// The stage that trained it; both models of a modality's stage 1 count as one here.
    pub stage: Stage,
    /// `body` to `text`, or `fusion`.
    pub model: &'static str,
    /// In the order of the clips; none where the clip lacks the modality.
    pub clips: Vec<Option<ClipScores>>,
}

/// Trained models of a bundle, with the stage-1 models inside them as models of their own.
#[derive(Debug)]
pub struct EvaluatedModels {
    stage1: PerModality<[UnimodalModel; 2]>,
    heads: PerModality<Option<CrossTaskModel>>,
    fusion: FusionModel,
    /// Modalities that the fusion model was trained without.
    disabled: Vec<Modality>,
    transform: ScoreTransform,
    device: Device,
}

impl EvaluatedModels {
    /// Loads the models of all stages.
    ///
    /// # Errors
    /// As [`BundleModels::open`].
    pub fn open(bundle: &Bundle, device: &Device) -> Result<Self> {
        let models = BundleModels::open(bundle, device)?;
        let disabled = Modality::ALL.into_iter().filter(|one| !models.uses(*one)).collect();
        let parts = &bundle.manifest().parts;
        let stage1 = PerModality::try_from_fn(|modality| {
            let part = &parts.heads[modality];
            let prefixes = part.config.frozen_prefixes();
            let load = |config: &UnimodalConfig, task: Task, prefix: &str| {
                let path = bundle.path(&part.file);
                let build = |vb: VarBuilder<'_>| UnimodalModel::load(config, task, vb.pp(prefix));
                load_file(&path, device, |_| true, build) // the rest of the file is stage 2
            };
            Ok::<_, Error>([
                load(&part.config.emotion, Task::Emotion, prefixes.0)?,
                load(&part.config.personality, Task::Personality, prefixes.1)?,
            ])
        })?;
        let BundleModels { heads, fusion, score_transform: transform, .. } = models;
        let heads = heads.map(|_, head| Some(head));
        Ok(Self { stage1, heads, fusion, disabled, transform, device: device.clone() })
    }

    /// Predictions of the models of some stages; `on_row` is called for every clip that is read.
    ///
    /// # Errors
    /// When a stored sequence cannot be read, does not fit a model, or the device fails.
    pub fn scores(
        &self,
        clips: &StoredClips,
        stages: &BTreeSet<Stage>,
        mut on_row: impl FnMut(usize),
    ) -> Result<Vec<ModelScores>> {
        let mut all = Vec::new();
        if stages.contains(&Stage::Stage1) {
            for modality in Modality::ALL {
                all.push(self.stage1(clips, modality)?);
            }
        }
        if stages.contains(&Stage::Stage2) || stages.contains(&Stage::Stage3) {
            let raw = ScoreTransform::Scores;
            let rows = clips.fusion_rows(&self.heads, raw, &self.device, |row| {
                on_row(row);
                Control::Continue
            })?;
            let Some(rows) = rows else { return Ok(all) }; // nobody stops it
            let doing = || Error::doing("reading what the models say");
            if stages.contains(&Stage::Stage2) {
                for modality in Modality::ALL {
                    all.push(stage2(&rows, modality).map_err(doing())?);
                }
            }
            if stages.contains(&Stage::Stage3) {
                all.push(self.fused(rows).map_err(doing())?);
            }
        }
        Ok(all)
    }

    fn stage1(&self, clips: &StoredClips, modality: Modality) -> Result<ModelScores> {
        let row = |row: usize| {
            let Some(sequence) = clips.sequence(row, modality)? else { return Ok(None) };
            let doing = Error::doing(format!("running the {modality} models of stage 1"));
            self.alone(modality, &sequence).map(Some).map_err(doing)
        };
        let scores = (0..clips.clips().len()).map(row).collect::<Result<_>>()?;
        Ok(ModelScores { stage: Stage::Stage1, model: modality.name(), clips: scores })
    }

    /// Both stage-1 models of a modality; pieces are averaged by their length, as in stage 2.
    fn alone(&self, modality: Modality, sequence: &StoredSequence) -> candle::Result<ClipScores> {
        let features = sequence.features.to_device(&self.device)?.unsqueeze(0)?;
        let total: usize = sequence.pieces.iter().sum();
        let mean = |model: &UnimodalModel| -> candle::Result<Tensor> {
            let (mut start, mut parts) = (0, Vec::new());
            for steps in &sequence.pieces {
                let piece = features.narrow(1, start, *steps)?.contiguous()?;
                let said = model.forward(&piece, None, &mut Mode::Eval)?.prediction;
                parts.push((said * (*steps as f64 / total as f64))?);
                start += steps;
            }
            Tensor::stack(&parts, 0)?.sum(0)
        };
        let [emotion, personality] = &self.stage1[modality];
        let (logits, scores) = (rows(&mean(emotion)?)?, rows(&mean(personality)?)?);
        let scores = logits.into_iter().zip(scores);
        let mut scores =
            scores.map(|(emotion_logits, traits)| ClipScores { emotion_logits, traits });
        scores.next().ok_or_else(|| candle::Error::msg("a model gave no row"))
    }

    fn fused(&self, mut rows: FusionRows) -> candle::Result<ModelScores> {
        for modality in &self.disabled {
            rows.input[*modality] = None;
        }
        let is_anything = is_anything_there(&rows)?;
        for modality in Modality::ALL {
            if let Some(input) = &mut rows.input[modality] {
                let values = input.trait_values.as_ref();
                input.trait_values = values.map(|raw| self.transform.apply(raw)).transpose()?;
            }
        }
        let mut clips = Vec::new();
        let numbers: Vec<u32> = (0u32..).take(rows.len()).collect();
        for batch in numbers.chunks(BATCH) {
            let batch = rows.select(batch)?;
            let output = self.fusion.forward(&batch.input, &mut Mode::Eval)?;
            clips.extend(pairs(&output.emotion_logits, &output.personality_scores)?);
        }
        let clips = clips.into_iter().zip(is_anything);
        let clips = clips.map(|(scores, is_there)| is_there.then_some(scores)).collect();
        Ok(ModelScores { stage: Stage::Stage3, model: "fusion", clips })
    }
}

fn stage2(rows: &FusionRows, modality: Modality) -> candle::Result<ModelScores> {
    let count = rows.len();
    let mut clips = vec![None; count];
    if let Some(input) = &rows.input[modality]
        && let (Some(logits), Some(traits)) = (&input.emotion_logits, &input.trait_values)
    {
        let is_present = presence(input.is_present.as_ref(), count)?;
        let scores = pairs(logits, traits)?.into_iter().zip(is_present);
        clips = scores.map(|(scores, is_there)| is_there.then_some(scores)).collect();
    }
    Ok(ModelScores { stage: Stage::Stage2, model: modality.name(), clips })
}

/// Per row: has it any modality?
fn is_anything_there(rows: &FusionRows) -> candle::Result<Vec<bool>> {
    let mut anything = vec![false; rows.len()];
    for (_, input) in rows.input.iter() {
        let Some(input) = input else { continue };
        let is_present = presence(input.is_present.as_ref(), rows.len())?;
        anything.iter_mut().zip(is_present).for_each(|(any, one)| *any |= one);
    }
    Ok(anything)
}

fn presence(is_present: Option<&Tensor>, count: usize) -> candle::Result<Vec<bool>> {
    let Some(is_present) = is_present else { return Ok(vec![true; count]) };
    Ok(is_present.to_vec1::<f32>()?.into_iter().map(|one| one > 0.0).collect())
}

fn pairs(logits: &Tensor, traits: &Tensor) -> candle::Result<Vec<ClipScores>> {
    let both = rows(logits)?.into_iter().zip(rows(traits)?);
    Ok(both.map(|(emotion_logits, traits)| ClipScores { emotion_logits, traits }).collect())
}

fn rows<const N: usize>(matrix: &Tensor) -> candle::Result<Vec<[f32; N]>> {
    let rows = matrix.to_vec2::<f32>()?.into_iter();
    rows.map(|row| {
        let found = row.len();
        row.try_into().map_err(|_| candle::Error::msg(format!("{found} values instead of {N}")))
    })
    .collect()
}
