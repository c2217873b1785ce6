//! From a raw video to features and predictions.

pub mod detect;
pub mod error;
pub mod image;

pub use error::{Error, Result};
pub use image::RgbImage;
