//! 2D convolutions of the frozen detectors: dense ([`Conv2d`]) and depthwise ([`Depthwise3x3`]).
//!
//! Images lie channels last, `(batch, height, width, channels)`. A task takes some output rows of
//! one image, copies the input rows that they read once, with their zero padding, and multiplies
//! them where they lie: a kernel row and the channels of a pixel are adjacent in memory, so there is
//! no im2col copy. Bias, activation and residual are applied while the rows are in the cache.

mod args;
mod convolution;
mod depthwise;
mod input;
mod microkernel;

pub use args::{Conv2dActivation, Conv2dGeometry, ConvInput};
pub use convolution::Conv2d;
pub use depthwise::{Depthwise3x3, DepthwiseGeometry};
