//! Rows of stage 3: what each modality gives for a video, and the video's labels.

use candle::{Result, Tensor};
use meptr_core::PerModality;
use meptr_core::models::{FusionInput, ModalityInput};

use super::Labels;
use super::labels::select_rows;

/// Videos in memory, with what stage 3 reads of each; a batch is of the same kind.
#[derive(Debug, Clone)]
pub struct FusionRows {
    /// What the modalities give.
    pub input: FusionInput,
    /// What should come out.
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

    /// The named rows, in this order.
    ///
    /// # Errors
    /// When a row does not exist.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        let index = Tensor::new(rows, self.labels.emotion.device())?;
        let of = |tensor: &Tensor| tensor.index_select(&index, 0);
        let of_option = |tensor: &Option<Tensor>| tensor.as_ref().map(of).transpose();
        let input = PerModality::try_from_fn(|modality| {
            let Some(whole) = &self.input[modality] else { return Ok(None) };
            Ok::<_, candle::Error>(Some(ModalityInput {
                vector: of(&whole.vector)?,
                emotion_logits: of_option(&whole.emotion_logits)?,
                trait_values: of_option(&whole.trait_values)?,
                is_present: of_option(&whole.is_present)?,
            }))
        })?;
        let chosen = |has: &[bool]| rows.iter().map(|row| has[*row as usize]).collect();
        let labels = Labels {
            emotion: select_rows(&self.labels.emotion, rows)?,
            personality: select_rows(&self.labels.personality, rows)?,
            has_emotion: chosen(&self.labels.has_emotion),
            has_personality: chosen(&self.labels.has_personality),
        };
        Ok(Self { input, labels })
    }
}
