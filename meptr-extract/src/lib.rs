//! From a raw video to features and predictions.
//!
//! [`Predictor`] does all of it in one call. Behind it, [`pipeline`] turns a video into the
//! features of its modalities, by way of [`decode`] (FFmpeg), [`detect`] (faces and bodies) and
//! [`backbones`] (CLIP, Wav2Vec2, BERT).

pub mod allocator;
pub mod backbones;
pub mod bundle_builder;
pub mod decode;
pub mod detect;
pub mod error;
#[cfg(feature = "cuda")]
mod gpu;
pub mod image;
mod load_errors;
pub mod pipeline;
pub mod predictor;
pub mod product;
pub mod progress;
pub mod speech;
pub mod synth;

pub use error::{Error, Result};
pub use image::RgbImage;
pub use meptr_core::{DeviceChoice, Precision};
pub use predictor::{PersonChoice, Predictor, PredictorOptions, Request};
pub use progress::Progress;
