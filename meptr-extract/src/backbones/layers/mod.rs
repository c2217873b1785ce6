//! Layers of the frozen backbones, on any device and without gradients.

mod conv1d;
mod layer_norm;
mod linear;
mod transformer_encoder;

pub(crate) use conv1d::Conv1d;
pub(crate) use layer_norm::FrozenLayerNorm;
pub(crate) use linear::FrozenLinear;
pub(crate) use transformer_encoder::{LayerNames, TransformerEncoder, TransformerEncoderConfig};
