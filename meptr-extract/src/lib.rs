//! From a raw video to features and predictions.

pub mod backbones;
pub mod decode;
pub mod detect;
pub mod error;
pub mod image;
pub mod sample;
pub mod speech;

pub use error::{Error, Result};
pub use image::RgbImage;
