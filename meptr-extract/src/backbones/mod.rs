//! Frozen networks that turn crops, audio and text into sequences of feature vectors.
//!
//! | backbone | modality | output |
//! |---|---|---|
//! | [`ClipVision`] | face, body, scene | one vector per image |
//! | [`Wav2Vec2`] | audio | 50 vectors a second |
//! | [`Bert`] | text | one vector per token |
//!
//! Each opens from a folder in the form of the Hugging Face Hub (`config.json`,
//! `model.safetensors`, a tokenizer or preprocessor file) with [`FromCheckpoint::open`], or from a
//! configuration and any `VarBuilder` with `load`. Unsupported options of a configuration are refused
//! by name. No result carries gradients.
//!
//! - `layers`: the layers they share, on the kernels of `meptr_core::kernels`
//! - `preprocess`: their inputs
//! - `checkpoint_folder`: reading and checking of a folder's files

mod bert;
pub(crate) mod checkpoint_folder;
mod clip;
mod from_checkpoint;
pub(crate) mod layers;
pub(crate) mod preprocess;
mod wav2vec2;

pub use bert::{Bert, BertConfig};
pub use checkpoint_folder::CheckpointConfig;
pub use clip::{ClipConfig, ClipVision, ClipVisionConfig};
pub use from_checkpoint::FromCheckpoint;
pub use preprocess::{BertTokenizer, ClipPreprocessor, Wav2Vec2Preprocessor};
pub use wav2vec2::{FeatureNorm, Wav2Vec2, Wav2Vec2Config};
