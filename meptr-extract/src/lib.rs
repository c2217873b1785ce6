//! From a raw video to features and predictions.

pub mod error;
pub mod image;
pub mod speech;

pub use error::{Error, Result};
pub use image::RgbImage;
