//! Streams of a file, read without decoding.

use std::path::Path;

use ffmpeg_next as ffmpeg;

use ffmpeg::codec::packet::side_data;
use ffmpeg::format::context::Input;
use ffmpeg::{codec, media};
use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::orientation::Orientation;
use super::source;
use crate::{Error, Result};

/// Streams of a file that are used, as its headers describe them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MediaInfo {
    /// FFmpeg's name of the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
    pub container: String,
    /// Length in seconds, if the container states it.
    pub duration_seconds: Option<f64>,
    /// Time zero in the container's own clock: the earliest first timestamp of its streams.
    /// Every time this crate reports counts from here.
    pub start_seconds: f64,
    /// Video stream; a cover image does not count.
    pub video: Option<VideoInfo>,
    /// Audio stream.
    pub audio: Option<AudioInfo>,
    /// Subtitle streams that hold text, in file order.
    pub subtitles: Vec<SubtitleInfo>,
}

impl MediaInfo {
    /// Whether a subtitle stream holds text.
    pub fn has_subtitles(&self) -> bool {
        !self.subtitles.is_empty()
    }
}

/// A video stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VideoInfo {
    /// Index among the streams of the file.
    pub stream: usize,
    /// FFmpeg's name of the codec.
    pub codec: String,
    /// Pixels per row as stored, before rotation.
    pub width: usize,
    /// Rows as stored, before rotation.
    pub height: usize,
    /// Rotation and mirroring that turn stored frames upright.
    pub orientation: Orientation,
    /// Number of frames that the container states; may be wrong.
    pub claimed_frames: Option<u64>,
    /// Average frames per second, if the container states it.
    pub frame_rate: Option<f64>,
}

/// An audio stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioInfo {
    /// Index among the streams of the file.
    pub stream: usize,
    /// FFmpeg's name of the codec.
    pub codec: String,
    /// Samples per second as stored.
    pub rate_hz: u32,
    /// Channels as stored.
    pub channels: u16,
    /// FFmpeg's channel layout as a bit mask; 0 when the file does not state it.
    pub layout_mask: u64,
}

/// A subtitle stream that holds text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtitleInfo {
    /// Index among the streams of the file.
    pub stream: usize,
    /// FFmpeg's name of the codec: `subrip`, `mov_text`, `ass`, `ssa`, `webvtt` or `text`.
    pub codec: String,
    /// Language tag of the file, if it has one.
    pub language: Option<String>,
}

/// Reads the streams of a file.
///
/// # Errors
/// When the file cannot be read, is no known container, holds neither video nor audio, or is over
/// a limit.
pub fn probe(path: &Path, limits: &Limits) -> Result<MediaInfo> {
    media_info(path, &source::open(path)?, limits)
}

/// Like [`probe`], for a file that is already open.
pub(super) fn media_info(path: &Path, input: &Input, limits: &Limits) -> Result<MediaInfo> {
    let duration = input.duration() as f64 / f64::from(ffmpeg::ffi::AV_TIME_BASE);
    let info = MediaInfo {
        container: input.format().name().to_owned(),
        duration_seconds: (duration > 0.0).then_some(duration),
        start_seconds: source::start_microseconds(input) as f64 / 1e6,
        video: video_info(path, input, limits)?,
        audio: audio_info(path, input, limits)?,
        subtitles: input.streams().filter_map(|stream| subtitle_info(&stream)).collect(),
    };
    if info.video.is_none() && info.audio.is_none() {
        return Err(source::decode_error(path, "it holds neither a video nor an audio stream"));
    }
    Ok(info)
}

fn video_info(path: &Path, input: &Input, limits: &Limits) -> Result<Option<VideoInfo>> {
    let Some(index) = source::best_stream(input, media::Type::Video) else { return Ok(None) };
    let decoder = source::decoder_of(input, index, 1, ffmpeg::Dictionary::new())
        .and_then(codec::decoder::Opened::video)
        .map_err(cannot_open(path, "video"))?;
    let (width, height) = (decoder.width(), decoder.height());
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.max_pixels {
        let what = format!(
            "its frames of {width} x {height} have more than {} pixels (`meptr predict --max-pixels` \
             raises that)",
            limits.max_pixels
        );
        return Err(source::over_limit(path, what));
    }
    let stream = input.stream(index).expect("the stream was found above");
    let rate = f64::from(stream.avg_frame_rate());
    Ok(Some(VideoInfo {
        stream: index,
        codec: decoder.id().name().to_owned(),
        width: width as usize,
        height: height as usize,
        orientation: stream_orientation(&stream).unwrap_or_default(),
        claimed_frames: u64::try_from(stream.frames()).ok().filter(|&frames| frames > 0),
        frame_rate: (rate.is_finite() && rate > 0.0).then_some(rate),
    }))
}

/// Orientation that the container states for the whole stream.
fn stream_orientation(stream: &ffmpeg::Stream) -> Option<Orientation> {
    let matrix = stream.side_data().find(|data| data.kind() == side_data::Type::DisplayMatrix)?;
    Orientation::from_display_matrix(matrix.data())
}

fn audio_info(path: &Path, input: &Input, limits: &Limits) -> Result<Option<AudioInfo>> {
    let Some(index) = source::best_stream(input, media::Type::Audio) else { return Ok(None) };
    let decoder = source::decoder_of(input, index, 1, ffmpeg::Dictionary::new())
        .and_then(codec::decoder::Opened::audio)
        .map_err(cannot_open(path, "audio"))?;
    if decoder.channels() > limits.max_audio_channels {
        let what = format!(
            "its {} channels of sound are more than the {} that are read; mix them down, for example \
             with `ffmpeg -i IN -c:v copy -ac 2 OUT`",
            decoder.channels(),
            limits.max_audio_channels
        );
        return Err(source::over_limit(path, what));
    }
    if decoder.rate() > limits.max_audio_rate_hz {
        let what = format!(
            "its {} samples of sound a second are more than the {} that are read; resample it, for \
             example with `ffmpeg -i IN -c:v copy -ar 48000 OUT`",
            decoder.rate(),
            limits.max_audio_rate_hz
        );
        return Err(source::over_limit(path, what));
    }
    Ok(Some(AudioInfo {
        stream: index,
        codec: decoder.id().name().to_owned(),
        rate_hz: decoder.rate(),
        channels: decoder.channels(),
        layout_mask: decoder.channel_layout().bits(),
    }))
}

fn subtitle_info(stream: &ffmpeg::Stream) -> Option<SubtitleInfo> {
    use codec::Id;
    let parameters = stream.parameters();
    if parameters.medium() != media::Type::Subtitle {
        return None;
    }
    let id = parameters.id();
    let is_text =
        matches!(id, Id::SUBRIP | Id::MOV_TEXT | Id::ASS | Id::SSA | Id::WEBVTT | Id::TEXT);
    is_text.then(|| SubtitleInfo {
        stream: stream.index(),
        codec: id.name().to_owned(),
        language: stream.metadata().get("language").map(str::to_owned),
    })
}

/// For `map_err`: error of a stream that no decoder of this FFmpeg can read.
pub(super) fn cannot_open(path: &Path, kind: &str) -> impl FnOnce(ffmpeg::Error) -> Error {
    let (path, what) = (path.to_owned(), format!("no decoder can read its {kind} stream"));
    move |source| Error::Decode { path, what, source: Some(source) }
}
