//! Receiver of the features of a video.

use candle::Tensor;
use meptr_core::prediction::ChosenFrame;

use super::audio_encoder::AudioChunkFeatures;
use super::timings::StepTimings;
use super::visual_features::VisualFeatures;
use crate::Result;

/// Frames of a window and their features.
#[derive(Debug, Clone)]
pub struct VisualWindow {
    /// Frames kept of the window.
    pub frames: Vec<ChosenFrame>,
    /// Boxes, crops and CLIP features of the frames; `None` without frames.
    pub features: Option<VisualFeatures>,
}

/// Receives the features of a video, window by window; a whole video is window 0.
///
/// The modalities of a window come in any order, mixed with those of other windows.
pub trait FeatureSink {
    /// Receives the frames of a window. They may come a second time, when a file has other frames
    /// than it states; the second time replaces the first.
    ///
    /// # Errors
    /// An error ends the extraction.
    fn visual(
        &mut self,
        window: usize,
        visual: VisualWindow,
        timings: &mut StepTimings,
    ) -> Result<()>;

    /// Receives the next chunk of a window's sound.
    ///
    /// # Errors
    /// An error ends the extraction.
    fn audio(
        &mut self,
        window: usize,
        chunk: AudioChunkFeatures,
        timings: &mut StepTimings,
    ) -> Result<()>;

    /// Receives the text features of a window, `(1, tokens, width)`, or the reason why there are
    /// none.
    ///
    /// # Errors
    /// An error ends the extraction.
    fn text(
        &mut self,
        window: usize,
        features: std::result::Result<Tensor, String>,
        timings: &mut StepTimings,
    ) -> Result<()>;
}
