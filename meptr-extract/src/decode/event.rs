//! Events of a file that is decoded, the options of decoding, and its report.

use serde::{Deserialize, Serialize};

use super::frame_sampling::FRAMES_PER_CLIP;
use super::limits::Limits;
use super::transcript::Cue;
use crate::RgbImage;

/// Options of decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeOptions {
    /// Frames to keep of each window, at least 1; 30.
    pub frames_per_window: usize,
    /// Frame threads of the video decoder, 1 for none; 2. Memory grows with each. The frames are
    /// the same with any number: at the first error, all are decoded again with one thread. (Of
    /// files with flipped bytes that FFmpeg 5.1's HEVC decoder did not notice, 1 in 20 differed.)
    pub threads: usize,
    /// Limits on one file.
    pub limits: Limits,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { frames_per_window: FRAMES_PER_CLIP, threads: 2, limits: Limits::default() }
    }
}

/// Output of the decoder.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A frame to keep, upright, at its own size.
    Frame {
        /// Number of the window in the [`WindowPlan`](crate::windows::WindowPlan).
        window: usize,
        /// Position among the frames kept of that window, from 0.
        index_in_window: usize,
        /// Position among all frames that decode, from 0.
        index: usize,
        /// Presentation time since time zero of the file.
        time_seconds: f64,
        /// The pixels.
        image: RgbImage,
    },
    /// The next samples of the sound; they follow one another without gaps.
    Audio {
        /// Mono, 16 kHz, -1 to 1.
        samples: Vec<f32>,
        /// Time of the first sample since time zero of the file.
        start_seconds: f64,
    },
    /// A subtitle of the chosen embedded stream.
    Subtitle(Cue),
    /// The file is damaged or has other frames than its headers state: all frames of these windows
    /// are to be discarded and come again. Sound and subtitles do not.
    Restart {
        /// Numbers of the windows.
        windows: Vec<usize>,
    },
    /// The last event.
    End(DecodeReport),
}

/// Counts and times of a file that was decoded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DecodeReport {
    /// Frames that decoded.
    pub frames_decoded: u64,
    /// Of these, frames that the decoder marked as damaged; they are used nevertheless.
    pub frames_damaged: u64,
    /// Packets of all streams that could not be read or decoded; skipped.
    pub corrupt_packets: u64,
    /// Changes of size or pixel format from one frame to the next.
    pub size_changes: u64,
    /// Whether the frames were decoded twice because the file had others than it stated.
    pub second_pass: bool,
    /// Length of the sound, including silence inserted where the file has gaps.
    pub audio_seconds: f64,
    /// Presentation time of the first frame since time zero of the file.
    pub first_frame_seconds: Option<f64>,
    /// Presentation time of the last frame since time zero of the file.
    pub last_frame_seconds: Option<f64>,
}
