//! Losses on both tasks with fixed weights: stages 1 and 2.

use candle::{Result, Tensor};

use super::{EmotionTargets, PersonalityLoss, emotion};
use crate::data::Labels;
use crate::data::labels::{rows_where, select_rows};

/// `emotion_weight * emotion + personality_weight * traits`, on batches labelled in full.
///
/// The emotion part is the cross-entropy. The trait part with [`PersonalityLoss::Ccc`] is the sum
/// over traits, with the others it is one loss over the whole matrix.
#[derive(Debug, Clone)]
pub struct MultiTaskLoss {
    /// Weight of the emotion part.
    pub emotion_weight: f64,
    /// Weight of the trait part.
    pub personality_weight: f64,
    /// `(7,)`, f32: weights of the classes.
    pub class_weights: Option<Tensor>,
    /// The trait part.
    pub personality_loss: PersonalityLoss,
}

impl MultiTaskLoss {
    /// The loss of the tasks that are given.
    ///
    /// - `emotion`: logits `(batch, 7)`, f32, with their targets
    /// - `personality`: scores and true scores, both `(batch, 5)`, f32
    /// - returns a scalar; none when neither is given
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn of(
        &self,
        emotion: Option<(&Tensor, &EmotionTargets)>,
        personality: Option<(&Tensor, &Tensor)>,
    ) -> Result<Option<Tensor>> {
        let emotion = emotion.map(|(logits, targets)| self.of_emotion(logits, targets));
        let personality = personality.map(|(scores, truth)| self.of_personality(scores, truth));
        match (emotion, personality) {
            (Some(emotion), Some(personality)) => Ok(Some((emotion? + personality?)?)),
            (one, other) => one.or(other).transpose(),
        }
    }

    /// The loss of the tasks that are given, each over the rows that have its labels in full; the
    /// emotion labels are taken as shares.
    ///
    /// - `emotion_logits`: `(batch, 7)`, `personality_scores`: `(batch, 5)`, f32
    /// - returns a scalar; none when no row has labels of a given task
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn of_labelled(
        &self,
        emotion_logits: Option<&Tensor>,
        personality_scores: Option<&Tensor>,
        labels: &Labels,
    ) -> Result<Option<Tensor>> {
        let labelled = |found: Option<&Tensor>, truth: &Tensor, has: &[bool]| {
            let rows = rows_where(has, true);
            match found {
                Some(_) if rows.is_empty() => Ok(None),
                None => Ok(None),
                Some(found) if rows.len() == has.len() => Ok(Some((found.clone(), truth.clone()))),
                Some(found) => Ok::<_, candle::Error>(Some((
                    select_rows(found, &rows)?,
                    select_rows(truth, &rows)?,
                ))),
            }
        };
        let emotion = labelled(emotion_logits, &labels.emotion, &labels.has_emotion)?;
        let emotion = emotion.map(|(logits, labels)| (logits, EmotionTargets::Shares(labels)));
        let traits = labelled(personality_scores, &labels.personality, &labels.has_personality)?;
        self.of(
            emotion.as_ref().map(|(logits, targets)| (logits, targets)),
            traits.as_ref().map(|(scores, truth)| (scores, truth)),
        )
    }

    fn of_emotion(&self, logits: &Tensor, targets: &EmotionTargets) -> Result<Tensor> {
        let class_weights = self.class_weights.as_ref();
        let loss = match targets {
            EmotionTargets::Shares(shares) => {
                emotion::cross_entropy_soft(logits, shares, class_weights)
            }
            EmotionTargets::Classes(classes) => {
                emotion::cross_entropy_index(logits, classes, class_weights)
            }
        };
        loss? * self.emotion_weight
    }

    fn of_personality(&self, scores: &Tensor, truth: &Tensor) -> Result<Tensor> {
        let loss = if self.personality_loss == PersonalityLoss::Ccc {
            let mut sum = Tensor::zeros((), scores.dtype(), scores.device())?;
            for index in 0..scores.dim(1)? {
                let (truth, scores) = (truth.narrow(1, index, 1)?, scores.narrow(1, index, 1)?);
                sum = (sum + self.personality_loss.between(&truth, &scores)?)?;
            }
            sum
        } else {
            self.personality_loss.between(truth, scores)?
        };
        loss * self.personality_weight
    }
}

/// Trait loss over the rows with trait labels; none when there are none.
///
/// With [`PersonalityLoss::Ccc`], the mean over the traits that any row has a label of, each over
/// its rows; otherwise one loss over the matrix, NaN when a labelled row misses a label.
///
/// - `scores`: `(batch, 5)`, f32
///
/// # Errors
/// When a shape differs from the above.
pub(super) fn over_labelled_traits(
    loss: PersonalityLoss,
    scores: &Tensor,
    labels: &Labels,
) -> Result<Option<Tensor>> {
    let rows = rows_where(&labels.has_personality, true);
    if rows.is_empty() {
        return Ok(None);
    }
    let scores = select_rows(scores, &rows)?;
    let truth = select_rows(&labels.personality, &rows)?;
    if loss != PersonalityLoss::Ccc {
        return loss.between(&truth, &scores).map(Some);
    }
    let mut sum = None;
    let mut traits = 0.0;
    for index in 0..truth.dim(1)? {
        let truth = truth.narrow(1, index, 1)?;
        let is_known: Vec<bool> =
            truth.flatten_all()?.to_vec1::<f32>()?.iter().map(|score| !score.is_nan()).collect();
        let rows = rows_where(&is_known, true);
        if rows.is_empty() {
            continue;
        }
        let scores = select_rows(&scores.narrow(1, index, 1)?.contiguous()?, &rows)?;
        let one = loss.between(&select_rows(&truth.contiguous()?, &rows)?, &scores)?;
        sum = Some(match sum {
            None => one,
            Some(sum) => (sum + one)?,
        });
        traits += 1.0;
    }
    sum.map(|sum: Tensor| sum / traits).transpose()
}
