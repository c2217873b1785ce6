//! Rows of stage 3: what each modality gives for a video, and the video's labels.

use candle::{DType, Device, Result, Tensor};
use meptr_core::models::{FusionInput, ModalityInput};
use meptr_core::{PerModality, Task};

use super::Labels;
use super::labels::select_rows;
use meptr_core::kernels::cpu::slices;

/// Videos in memory, with what stage 3 reads of each; a batch is of the same kind.
#[derive(Debug, Clone)]
pub struct FusionRows {
    /// Inputs of the fusion model, by modality.
    pub input: FusionInput,
    /// Target labels.
    pub labels: Labels,
}

impl FusionRows {
    /// Number of videos.
    pub fn len(&self) -> usize {
        self.labels.has_emotion.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has any video labels of the task?
    pub fn has_labels(&self, task: Task) -> bool {
        match task {
            Task::Emotion => self.labels.has_emotion.contains(&true),
            Task::Personality => self.labels.has_personality.contains(&true),
        }
    }

    /// The rows of several corpora, one after another. A modality that one of them lacks
    /// altogether is marked absent in its rows.
    ///
    /// # Errors
    /// When there are none, or when they differ in width.
    pub fn joined(parts: &[Self]) -> Result<Self> {
        let input = PerModality::try_from_fn(|modality| {
            let Some(like) = parts.iter().find_map(|part| part.input[modality].as_ref()) else {
                return Ok(None);
            };
            let inputs = parts.iter().map(|part| match &part.input[modality] {
                Some(input) => Ok(input.clone()),
                None => absent(like, part.len()),
            });
            joined_inputs(&inputs.collect::<Result<Vec<_>>>()?).map(Some)
        })?;
        let cat = |of: fn(&Labels) -> &Tensor| {
            Tensor::cat(&parts.iter().map(|part| of(&part.labels)).collect::<Vec<_>>(), 0)
        };
        let labels =
            Labels::new(cat(|labels| &labels.emotion)?, cat(|labels| &labels.personality)?)?;
        Ok(Self { input, labels })
    }

    /// Everything that keeps a model of these input widths from reading the rows.
    pub(crate) fn problems(&self, place: &str, input_dims: &PerModality<usize>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.is_empty() {
            problems.push(format!("{place}: there is no video"));
        }
        for (modality, input) in self.input.iter() {
            let Some(input) = input else { continue };
            let (found, needed) = (input.vector.dims().last().copied(), input_dims[modality]);
            if found != Some(needed) {
                let found = found.unwrap_or_default();
                problems.push(format!(
                    "{place}: {modality} vectors are {found} wide, the model reads {needed}"
                ));
            }
            let parts = [Some(&input.vector), input.emotion_logits.as_ref()];
            let parts = parts.into_iter().chain([input.trait_values.as_ref()]).flatten();
            if parts.into_iter().any(|part| !is_finite(part).unwrap_or(false)) {
                problems.push(format!("{place}: {modality} holds a number that is not finite"));
            }
        }
        problems
    }

    /// The named rows, in this order.
    ///
    /// # Errors
    /// When a row does not exist.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        let index = Tensor::new(rows, self.labels.emotion.device())?;
        let input = self.each_input(|tensor| tensor.index_select(&index, 0))?;
        let chosen = |has: &[bool]| rows.iter().map(|row| has[*row as usize]).collect();
        let labels = Labels {
            emotion: select_rows(&self.labels.emotion, rows)?,
            personality: select_rows(&self.labels.personality, rows)?,
            has_emotion: chosen(&self.labels.has_emotion),
            has_personality: chosen(&self.labels.has_personality),
        };
        Ok(Self { input, labels })
    }

    /// Copies the rows to a device.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let labels = Labels {
            emotion: self.labels.emotion.to_device(device)?,
            personality: self.labels.personality.to_device(device)?,
            ..self.labels.clone()
        };
        Ok(Self { input: self.each_input(|tensor| tensor.to_device(device))?, labels })
    }

    /// Applies `of` to every tensor of the input.
    fn each_input(&self, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<FusionInput> {
        let of_option = |tensor: &Option<Tensor>| tensor.as_ref().map(&of).transpose();
        PerModality::try_from_fn(|modality| {
            let Some(whole) = &self.input[modality] else { return Ok(None) };
            Ok(Some(ModalityInput {
                vector: of(&whole.vector)?,
                emotion_logits: of_option(&whole.emotion_logits)?,
                trait_values: of_option(&whole.trait_values)?,
                is_present: of_option(&whole.is_present)?,
            }))
        })
    }
}

/// Rows that lack a modality which others have as `like`.
fn absent(like: &ModalityInput, rows: usize) -> Result<ModalityInput> {
    let zeros = |like: &Tensor| Tensor::zeros((rows, like.dim(1)?), like.dtype(), like.device());
    let zeros_of = |like: &Option<Tensor>| like.as_ref().map(zeros).transpose();
    Ok(ModalityInput {
        vector: zeros(&like.vector)?,
        emotion_logits: zeros_of(&like.emotion_logits)?,
        trait_values: zeros_of(&like.trait_values)?,
        is_present: Some(Tensor::zeros(rows, DType::F32, like.vector.device())?),
    })
}

fn joined_inputs(parts: &[ModalityInput]) -> Result<ModalityInput> {
    let cat = |of: fn(&ModalityInput) -> Option<Tensor>| {
        let all: Option<Vec<Tensor>> = parts.iter().map(of).collect();
        all.map(|all| Tensor::cat(&all, 0)).transpose()
    };
    let presence = |part: &ModalityInput| match &part.is_present {
        Some(is_present) => Ok(is_present.clone()),
        None => Tensor::ones(part.vector.dim(0)?, DType::F32, part.vector.device()),
    };
    let is_whole = parts.iter().all(|part| part.is_present.is_none());
    let is_present = parts.iter().map(presence).collect::<Result<Vec<_>>>()?;
    let vectors: Vec<&Tensor> = parts.iter().map(|part| &part.vector).collect();
    Ok(ModalityInput {
        vector: Tensor::cat(&vectors, 0)?,
        emotion_logits: cat(|part| part.emotion_logits.clone())?,
        trait_values: cat(|part| part.trait_values.clone())?,
        is_present: match is_whole {
            true => None,
            false => Some(Tensor::cat(&is_present, 0)?),
        },
    })
}

fn is_finite(tensor: &Tensor) -> Result<bool> {
    slices::read_f32(tensor, |values| values.iter().all(|value| value.is_finite()))
}
