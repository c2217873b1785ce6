//! True lengths in padded batches.

use candle::{Device, Result, Tensor};

use crate::nn::ops;

/// Real steps of each row of a padded batch. A length beyond the sequence means all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lengths {
    /// Padding takes part in nothing: every mean and every attention sees real steps only.
    Everywhere(Vec<usize>),
    /// As the reference has it: only the mean of the stage-1 audio encoders sees the lengths,
    /// everything else takes padding for real steps. Equal to the above when nothing is padded.
    StageOneAudio(Vec<usize>),
}

impl Lengths {
    /// Mask of real steps `(rows, steps)` for all but the mean of the stage-1 audio encoders.
    pub(super) fn mask(&self, steps: usize, device: &Device) -> Result<Option<Tensor>> {
        match self {
            Self::Everywhere(lengths) => Ok(Some(ops::length_mask(lengths, steps, device)?)),
            Self::StageOneAudio(_) => Ok(None),
        }
    }

    /// Mask of real steps `(rows, steps)` for the mean of the stage-1 audio encoders.
    pub(super) fn audio_mask(&self, steps: usize, device: &Device) -> Result<Tensor> {
        let (Self::Everywhere(lengths) | Self::StageOneAudio(lengths)) = self;
        ops::length_mask(lengths, steps, device)
    }
}
