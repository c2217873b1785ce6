//! From a raw video to features and predictions.
//!
//! [`Predictor`] does all of it in one call. Behind it, [`extractor`] turns a video into the
//! features of its modalities, by way of [`decode`] (FFmpeg), [`detect`] (faces and bodies) and
//! [`backbones`] (CLIP, Wav2Vec2, BERT).

pub mod assemble;
pub mod backbones;
pub mod collect;
pub mod decode;
pub mod detect;
pub mod error;
pub mod extractor;
pub mod image;
pub mod init;
pub mod memory;
pub mod predictor;
pub mod progress;
pub mod sample;
pub mod speech;
pub mod synth;
mod unfit;

pub use error::{Error, Result};
pub use image::RgbImage;
pub use meptr_core::{DeviceChoice, Precision};
pub use predictor::{PersonChoice, Predictor, PredictorOptions, Request};
pub use progress::Progress;
