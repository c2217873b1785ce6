//! Losses of unlabelled rows against the model's own confident predictions.

use candle::{DType, Result, Tensor};

use super::{EmotionLoss, emotion};
use crate::data::Labels;
use crate::data::labels::{rows_where, select_rows};

/// Rule that says which predictions are confident enough to be labels.
///
/// Source: SSL-MEPR `main`, `utils/losses.py`, `MultiTaskLossWithNaN_v2`. The trait targets of 0 and
/// 1 are the reference's own (`(score > 0.5)`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PseudoLabels {
    /// Emotion loss, which also says what a probability is: softmax ("CE") or sigmoid ("BCE").
    pub emotion_loss: EmotionLoss,
    /// An emotion is a label when its probability is above this, 0 to 1.
    pub min_emotion_probability: f64,
    /// A trait score is a label above this or below 1 minus this, 0.5 to 1.
    pub min_trait_confidence: f64,
}

impl PseudoLabels {
    /// Emotion loss of the rows without emotion labels whose most probable emotion is confident,
    /// against that emotion; none without such a row.
    ///
    /// - `logits`: `(batch, 7)`, f32
    /// - `class_weights`: `(7,)`, f32
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn emotion(
        &self,
        logits: &Tensor,
        labels: &Labels,
        class_weights: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        let by_row = logits.detach().to_vec2::<f32>()?;
        let (rows, classes): (Vec<u32>, Vec<u32>) = rows_where(&labels.has_emotion, false)
            .into_iter()
            .filter_map(|row| {
                let (class, probability) = self.most_probable(&by_row[row as usize]);
                (probability > self.min_emotion_probability as f32).then_some((row, class))
            })
            .unzip();
        if rows.is_empty() {
            return Ok(None);
        }
        let logits = select_rows(logits, &rows)?;
        match self.emotion_loss {
            EmotionLoss::CrossEntropy => {
                let classes = Tensor::new(classes.as_slice(), logits.device())?;
                emotion::cross_entropy_index(&logits, &classes, class_weights)
            }
            EmotionLoss::BinaryCrossEntropy => {
                let one_hot = classes.iter().flat_map(|class| {
                    (0..logits.dims()[1] as u32).map(move |index| f32::from(index == *class))
                });
                let one_hot = Tensor::from_vec(one_hot.collect(), logits.shape(), logits.device())?;
                emotion::binary_cross_entropy(&logits, &one_hot, class_weights)
            }
        }
        .map(Some)
    }

    /// Class and probability of the most probable emotion of a row of logits.
    fn most_probable(&self, logits: &[f32]) -> (u32, f32) {
        match self.emotion_loss {
            EmotionLoss::CrossEntropy => {
                let (class, highest) = largest(logits);
                let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
                (class, sum.recip())
            }
            // Of probabilities that round to the same number, the first counts.
            EmotionLoss::BinaryCrossEntropy => {
                let probability = |logit: &f32| (1.0 + (-logit).exp()).recip();
                largest(&logits.iter().map(probability).collect::<Vec<f32>>())
            }
        }
    }

    /// Binary cross-entropy of confident scores of rows without trait labels to the side of one half
    /// they are on, mean over these scores; none without such a score.
    ///
    /// The loss is `-ln(score)` above one half and `-ln(1 - score)` below. Confident scores lie well
    /// inside, so no logarithm is large. At and beyond 0 and 1 there is no gradient.
    ///
    /// - `scores`: `(batch, 5)`, f32
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn personality(&self, scores: &Tensor, labels: &Labels) -> Result<Option<Tensor>> {
        let rows = rows_where(&labels.has_personality, false);
        if rows.is_empty() {
            return Ok(None);
        }
        let scores = select_rows(scores, &rows)?;
        let values = scores.detach();
        let threshold = self.min_trait_confidence;
        let high = values.gt(threshold as f32)?.to_dtype(DType::F32)?;
        let low = values.lt((1.0 - threshold) as f32)?.to_dtype(DType::F32)?;
        let confident = high.add(&low)?.sum_all()?.to_scalar::<f32>()?;
        if confident == 0.0 {
            return Ok(None);
        }
        let above_0 = values.gt(0f32)?.to_dtype(DType::F32)?;
        let below_1 = values.lt(1f32)?.to_dtype(DType::F32)?;
        let has_loss = (((high + low)? * above_0)? * below_1)?.gt(0f32)?;
        let above_half = values.gt(0.5f32)?;
        let agreement = above_half.where_cond(&scores, &(1.0 - &scores)?)?;
        let agreement = has_loss.where_cond(&agreement, &agreement.ones_like()?)?;
        Ok(Some((agreement.log()?.sum_all()?.neg()? / f64::from(confident))?))
    }
}

/// Index and value of the largest number, the first of equals; NaN is larger than all, as in PyTorch.
pub(super) fn largest(row: &[f32]) -> (u32, f32) {
    let numbered = (0u32..).zip(row.iter().copied());
    let is_larger = |next: f32, best: f32| next > best || next.is_nan() && !best.is_nan();
    let larger =
        |best: (u32, f32), next: (u32, f32)| if is_larger(next.1, best.1) { next } else { best };
    numbered.reduce(larger).unwrap_or((0, f32::NAN))
}
