//! Whether a forward pass predicts or trains.

use super::Tape;
use crate::rng::RandomStream;

/// What a forward pass is for; decides whether dropout acts.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Prediction: no dropout.
    Eval,
    /// Training: dropout draws its masks from this stream, one after another.
    Train(RandomStream),
    /// The same, and large weights leave their gradients to the tape; on the processor alone.
    Taped(RandomStream, Tape),
}

impl Mode {
    /// Where dropout masks come from; none in prediction.
    pub fn dropout(&mut self) -> Option<&mut RandomStream> {
        match self {
            Self::Eval => None,
            Self::Train(stream) | Self::Taped(stream, _) => Some(stream),
        }
    }

    pub(super) fn tape(&self) -> Option<&Tape> {
        match self {
            Self::Taped(_, tape) => Some(tape),
            Self::Eval | Self::Train(_) => None,
        }
    }
}
