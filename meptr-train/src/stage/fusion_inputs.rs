//! Rows of stage 3 from stored sequences, by the models of a modality.

use candle::{Device, Tensor};
use meptr_core::models::{CrossTaskModel, HeadScores, ModalityInput, ScoreTransform};
use meptr_core::{Modality, PerModality, Task};
use rayon::prelude::*;

use super::observer::Control;
use crate::data::{FusionRows, StoredClips};
use crate::{Error, Result};

/// Rows between two calls of `on_row`; enough to keep all cores at work.
const ROWS_AT_ONCE: usize = 32;

/// The model, or the models, of one modality that stage 3 reads.
pub trait EncodesModality: Sync {
    /// Vector and predictions of a video.
    ///
    /// - `features`: `(1, steps, width)`, f32, the pieces one after another
    /// - `pieces`: steps of each
    ///
    /// # Errors
    /// When the pieces are not as long as the sequence, its width is not that of the model, or the
    /// device fails.
    fn encode(&self, features: &Tensor, pieces: &[usize]) -> candle::Result<HeadScores>;

    /// Is there a prediction of the task? One that is not is zeros in [`Self::encode`], and absent
    /// in [`FusionRows`].
    fn predicts(&self, task: Task) -> bool;
}

impl EncodesModality for CrossTaskModel {
    fn encode(&self, features: &Tensor, pieces: &[usize]) -> candle::Result<HeadScores> {
        HeadScores::of_pieces(self, features, pieces)
    }

    fn predicts(&self, _task: Task) -> bool {
        true
    }
}

impl StoredClips {
    /// Inputs of stage 3: for each video and modality, the vector and the predictions of the
    /// modality's model, bit for bit those of a prediction on the same features. `on_row` is
    /// called for every video that is done; none when it returns [`Control::Stop`].
    ///
    /// A video that lacks a modality has zeros there and leaves that modality's place in the
    /// graph; a modality that no video has, or that there is no model of, is absent.
    ///
    /// # Errors
    /// As [`StoredClips::sequence`]; also when a model does not fit the features or the device
    /// fails.
    pub fn fusion_rows(
        &self,
        heads: &PerModality<Option<impl EncodesModality>>,
        transform: ScoreTransform,
        device: &Device,
        mut on_row: impl FnMut(usize) -> Control,
    ) -> Result<Option<FusionRows>> {
        let rows: Vec<usize> = (0..self.clips().len()).collect();
        let mut scores: PerModality<Vec<Option<HeadScores>>> = PerModality::default();
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let row = |row: &usize| self.encode_row(*row, heads, device);
            let all = rows.par_iter().map(row).collect::<Result<Vec<_>>>()?;
            for (row, mut one) in rows.iter().zip(all) {
                for modality in Modality::ALL {
                    scores[modality].push(one[modality].take());
                }
                if on_row(*row) == Control::Stop {
                    return Ok(None);
                }
            }
        }
        let join = || {
            Ok(FusionRows {
                input: PerModality::try_from_fn(|modality| {
                    let input = HeadScores::inputs(&scores[modality], transform, device)?;
                    Ok::<_, candle::Error>(match (input, &heads[modality]) {
                        (Some(input), Some(head)) => Some(predicted(input, head)),
                        _ => None,
                    })
                })?,
                labels: self.labels(&rows, device)?,
            })
        };
        join().map(Some).map_err(Error::doing("joining the rows of stage 3"))
    }

    fn encode_row(
        &self,
        row: usize,
        heads: &PerModality<Option<impl EncodesModality>>,
        device: &Device,
    ) -> Result<PerModality<Option<HeadScores>>> {
        PerModality::try_from_fn(|modality| {
            let Some(head) = &heads[modality] else { return Ok(None) };
            let Some(sequence) = self.sequence(row, modality)? else { return Ok(None) };
            let name = &self.clips()[row].name;
            let encode = || {
                let features = sequence.features.to_device(device)?.unsqueeze(0)?;
                head.encode(&features, &sequence.pieces)
            };
            let doing = Error::doing(format!("running the {modality} model on `{name}`"));
            encode().map(Some).map_err(doing)
        })
    }
}

/// Without the predictions that the modality's models do not make.
fn predicted(input: ModalityInput, head: &impl EncodesModality) -> ModalityInput {
    ModalityInput {
        emotion_logits: input.emotion_logits.filter(|_| head.predicts(Task::Emotion)),
        trait_values: input.trait_values.filter(|_| head.predicts(Task::Personality)),
        ..input
    }
}
