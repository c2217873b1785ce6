//! Decoding of video files: frames, sound and subtitles, in one forward pass and flat memory.
//!
//! What leaves this folder are pictures, samples and text; nothing else reads with FFmpeg.
//!
//! ```no_run
//! use meptr_extract::decode::{DecodeOptions, Event, FramePlan, Reader};
//!
//! # fn main() -> meptr_extract::Result<()> {
//! let path = "video.mp4".as_ref();
//! let mut frames = Vec::new();
//! for event in Reader::open(path, FramePlan::Whole, &DecodeOptions::default())? {
//!     match event? {
//!         Event::Frame { image, .. } => frames.push(image),
//!         Event::Restart { .. } => frames.clear(),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod audio;
mod dump;
mod frame_convert;
mod frame_sampling;
mod frame_selection;
mod libraries;
mod limits;
mod orientation;
mod packet_scan;
mod probe;
mod reader;
mod source;
mod subtitle;
mod timestamps;
mod transcript;
mod video;

pub use audio::SAMPLE_RATE_HZ;
pub use dump::Dump;
pub use frame_sampling::{FRAMES_PER_CLIP, frame_indices};
pub use frame_selection::{FramePlan, TimeWindow};
pub use libraries::load_ffmpeg;
pub use limits::Limits;
pub use orientation::Orientation;
pub use packet_scan::length_seconds;
pub use probe::{AudioInfo, MediaInfo, SubtitleInfo, VideoInfo, probe};
pub use reader::{DecodeOptions, DecodeReport, Event, Reader};
pub(crate) use source::prepare_ffmpeg;
pub use source::{FfmpegLog, set_ffmpeg_log};
pub use transcript::{Cue, Transcript, read_transcript};
