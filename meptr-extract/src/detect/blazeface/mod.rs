//! BlazeFace, the single-shot face detector of MediaPipe, in its two published forms.
//!
//! Source: Bazarevsky et al. 2019, "BlazeFace: Sub-millisecond Neural Face Detection on Mobile
//! GPUs", <https://arxiv.org/abs/1907.05047>, and the model files of the `mediapipe` 0.10.21
//! package. Weights are named `opN` after the operators of those files, in order of execution.
//!
//! Images and features are channels-last, (batch, height, width, channels), as in the originals: a
//! 1x1 convolution is then one GEMM, and a depthwise convolution runs along the channels.

mod depthwise;
mod features;
mod full_range;
mod layers;
mod letterbox;
mod pointwise;
mod separable;
mod short_range;
mod warp;

pub use full_range::FullRange;
pub use letterbox::Letterbox;
pub use short_range::ShortRange;

use candle::{Result, Tensor};
use features::Features;

/// Output of a network for each of its anchors.
#[derive(Debug)]
pub struct RawOutput {
    /// Box and keypoints relative to the anchor, in pixels of the network's input: centre x and y,
    /// width, height, then x and y of right eye, left eye, nose, mouth, right ear, left ear, as
    /// seen by the viewer; `(batch, anchors, 16)`, f32.
    pub regressors: Tensor,
    /// Face logits, before the sigmoid; `(batch, anchors)`, f32.
    pub scores: Tensor,
}

impl RawOutput {
    /// Runs a network, which gives regressors and scores, over all images.
    fn of_pictures(
        pictures: Vec<Features>,
        network: impl Fn(Features) -> Result<[Tensor; 2]>,
    ) -> Result<Self> {
        let outputs = pictures.into_iter().map(network).collect::<Result<Vec<_>>>()?;
        let joined = |which: fn(&[Tensor; 2]) -> &Tensor| match &outputs[..] {
            [one] => Ok(which(one).clone()),
            several => Tensor::cat(&several.iter().map(which).collect::<Vec<_>>(), 0),
        };
        Ok(Self { regressors: joined(|[first, _]| first)?, scores: joined(|[_, second]| second)? })
    }
}
