//! From a raw video to features and predictions.
//!
//! [`Predictor`] does all of it in one call. These are its parts, in the order of the data:
//!
//! - [`decode`]: FFmpeg, from a file to frames, sound and subtitles; [`windows`]: division by time
//! - [`detect`]: faces, bodies, tracking, persons; [`speech`]: Whisper; [`image`]: images
//! - [`backbones`]: CLIP, Wav2Vec2, BERT
//! - [`pipeline`]: all of these on one video, up to the features of its modalities
//! - [`predictor`]: heads and fusion, up to emotions and traits
//! - [`bundle_builder`]: new weight bundles; [`synth`]: synthetic videos
//! - [`progress`]: progress of a video; [`error`], `load_errors`: errors, one or several together
//! - [`allocator`]: settings of the memory allocator

pub mod allocator;
pub mod backbones;
pub mod bundle_builder;
pub mod decode;
pub mod detect;
pub mod error;
pub mod image;
mod load_errors;
pub mod pipeline;
pub mod predictor;
pub mod progress;
pub mod speech;
pub mod synth;
pub mod windows;

pub use error::{Error, Result};
pub use image::RgbImage;
pub use meptr_core::{DeviceChoice, Precision};
pub use predictor::{PersonChoice, Predictor, PredictorOptions, Request};
pub use progress::Progress;
