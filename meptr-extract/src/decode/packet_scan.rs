//! Timestamps of the packets of a file, read without decoding.

use std::path::Path;

use ffmpeg_next as ffmpeg;

use ffmpeg::Packet;
use ffmpeg::format::context::Input;

use super::limits::Limits;
use super::probe::{MediaInfo, VideoInfo};
use super::source;
use super::timestamps::TimeBase;
use crate::{Error, Result};

/// Timestamps of the packets of the video stream, ascending.
pub(super) fn ticks(
    path: &Path,
    video: &VideoInfo,
    time_base: TimeBase,
    limits: &Limits,
) -> Result<Vec<i64>> {
    let mut ticks: Vec<i64> = Vec::new();
    let step = time_base.ticks_per_frame(video.frame_rate.unwrap_or(25.0));
    for_each_packet(&mut source::open(path)?, limits, |packet| {
        if packet.stream() == video.stream && packet.size() > 0 {
            let following = |last: &i64| last.saturating_add(step);
            let following = ticks.last().map_or(time_base.start_ticks(), following);
            ticks.push(packet.pts().or(packet.dts()).unwrap_or(following));
        }
        ticks.len() as u64 <= limits.max_frames
    });
    ticks.sort_unstable();
    Ok(ticks)
}

/// Seconds from time zero to the end of the last frame or sound.
///
/// At most the length that the container states, and that length where packets have no timestamps.
/// `None` when neither is known.
///
/// # Errors
/// When the file cannot be opened, or is longer than the limit.
pub fn length_seconds(path: &Path, media: &MediaInfo, limits: &Limits) -> Result<Option<f64>> {
    let mut input = source::open(path)?;
    let start = source::start_microseconds(&input);
    let streams = [
        media.video.as_ref().map(|video| video.stream),
        media.audio.as_ref().map(|audio| audio.stream),
    ];
    let time_bases: Vec<(usize, TimeBase)> = input
        .streams()
        .filter(|stream| streams.contains(&Some(stream.index())))
        .map(|stream| (stream.index(), TimeBase::of(&stream, start)))
        .collect();
    let mut end = 0f64;
    for_each_packet(&mut input, limits, |packet| {
        let time_base = time_bases.iter().find(|(stream, _)| *stream == packet.stream());
        if let (Some((_, time_base)), Some(tick)) = (time_base, packet.pts().or(packet.dts())) {
            end = end.max(time_base.seconds(tick.saturating_add(packet.duration().max(0))));
        }
        true
    });
    let found = (end > 0.0).then_some(end);
    let length = match (media.duration_seconds, found) {
        (Some(stated), Some(found)) => Some(stated.min(found)),
        (stated, found) => stated.or(found),
    };
    match length {
        Some(length) if length > limits.max_seconds => Err(too_long(path, limits)),
        length => Ok(length),
    }
}

/// Error of a file that is longer than the limit.
pub(super) fn too_long(path: &Path, limits: &Limits) -> Error {
    let what = format!(
        "it is longer than {} seconds (`meptr predict --max-seconds` raises that)",
        limits.max_seconds
    );
    source::over_limit(path, what)
}

/// Calls `take` with packets until it returns `false`, the file ends, or too many are unreadable.
fn for_each_packet(input: &mut Input, limits: &Limits, mut take: impl FnMut(&Packet) -> bool) {
    let mut failures = 0;
    while failures <= limits.max_corrupt_packets {
        let mut packet = Packet::empty(); // a reused one would leak what it held
        match packet.read(input) {
            Ok(()) if take(&packet) => {}
            Err(ffmpeg::Error::InvalidData | ffmpeg::Error::Other { .. }) => failures += 1,
            Ok(()) | Err(_) => return,
        }
    }
}
