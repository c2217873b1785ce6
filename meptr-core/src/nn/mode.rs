//! Mode of a forward pass: prediction or training.

use super::GradientTape;
use crate::rng::RandomStream;

/// Purpose of a forward pass; decides whether dropout acts.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Prediction: no dropout.
    Eval,
    /// Training: dropout draws its masks from this stream, one after another.
    Train(RandomStream),
    /// Training, with the gradients of large weights recorded on the tape; CPU only.
    Taped(RandomStream, GradientTape),
}

impl Mode {
    /// Source of dropout masks; `None` in prediction.
    pub fn dropout(&mut self) -> Option<&mut RandomStream> {
        match self {
            Self::Eval => None,
            Self::Train(stream) | Self::Taped(stream, _) => Some(stream),
        }
    }

    pub(super) fn tape(&self) -> Option<&GradientTape> {
        match self {
            Self::Taped(_, tape) => Some(tape),
            Self::Eval | Self::Train(_) => None,
        }
    }
}
