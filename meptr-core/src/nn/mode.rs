//! Whether a forward pass predicts or trains.

use crate::rng::RandomStream;

/// What a forward pass is for; decides whether dropout acts.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Prediction: no dropout.
    Eval,
    /// Training: dropout draws its masks from this stream, one after another.
    Train(RandomStream),
}
