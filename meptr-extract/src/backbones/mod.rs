//! The frozen networks that turn crops, sound and text into sequences of feature vectors.
//!
//! | backbone | modality | output |
//! |---|---|---|
//! | [`ClipVision`] | face, body, scene | one vector per picture |
//! | [`Wav2Vec2`] | audio | 50 vectors a second |
//! | [`Bert`] | text | one vector per token |
//!
//! Each loads from a folder in the form of the Hugging Face Hub (`config.json`,
//! `model.safetensors`, a tokenizer or preprocessor file) with `open`, or from a configuration and
//! any `VarBuilder` with `load`. Options of a configuration that we do not compute are refused by
//! name. Nothing here carries gradients.

mod audio_input;
mod bert;
mod clip;
pub(crate) mod convolution;
pub(crate) mod encoder;
pub(crate) mod folder;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod ops;
pub(crate) mod text_input;
pub(crate) mod vector_math;
mod wav2vec2;

pub use audio_input::AudioInput;
pub use bert::{Bert, BertConfig};
pub use clip::{ClipConfig, ClipVision, ClipVisionConfig};
pub use encoder::Activation;
pub use text_input::TextInput;
pub use wav2vec2::{FeatureNorm, Wav2Vec2, Wav2Vec2Config};
