//! Decoding of video files: frames, sound and subtitles, in one forward pass and constant memory.
//!
//! The output of this folder is images, samples and text. No other part of the crate reads with FFmpeg.
//!
//! ```no_run
//! use meptr_extract::decode::{DecodeOptions, Event, Reader};
//! use meptr_extract::windows::WindowPlan;
//!
//! # fn main() -> meptr_extract::Result<()> {
//! let path = "video.mp4".as_ref();
//! let mut frames = Vec::new();
//! for event in Reader::open(path, WindowPlan::Whole, &DecodeOptions::default())? {
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
mod event;
mod frame_convert;
mod frame_sampling;
mod frame_selection;
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
pub use event::{DecodeOptions, DecodeReport, Event};
pub use frame_sampling::{FRAMES_PER_CLIP, frame_indices};
pub use limits::Limits;
pub use orientation::Orientation;
pub use packet_scan::length_seconds;
pub use probe::{AudioInfo, MediaInfo, SubtitleInfo, VideoInfo, probe};
pub use reader::Reader;
pub(crate) use source::prepare_ffmpeg;
pub use source::{FfmpegLog, set_ffmpeg_log};
pub use transcript::{Cue, Transcript, read_transcript};
