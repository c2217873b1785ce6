//! What the packets of a file say, read without decoding.

use std::path::Path;

use ffmpeg_next as ffmpeg;

use ffmpeg::Packet;
use ffmpeg::format::context::Input;

use super::limits::Limits;
use super::probe::{MediaInfo, VideoInfo};
use super::source;
use super::timestamps::Clock;
use crate::{Error, Result};

/// The timestamps of the pictures' packets, ascending.
pub(super) fn ticks(
    path: &Path,
    video: &VideoInfo,
    clock: Clock,
    limits: &Limits,
) -> Result<Vec<i64>> {
    let mut ticks: Vec<i64> = Vec::new();
    let step = clock.ticks_per_frame(video.frame_rate.unwrap_or(25.0));
    for_each_packet(&mut source::open(path)?, limits, |packet| {
        if packet.stream() == video.stream && packet.size() > 0 {
            let following = |last: &i64| last.saturating_add(step);
            let following = ticks.last().map_or(clock.start_ticks(), following);
            ticks.push(packet.pts().or(packet.dts()).unwrap_or(following));
        }
        ticks.len() as u64 <= limits.max_frames
    });
    ticks.sort_unstable();
    Ok(ticks)
}

/// Seconds from time zero to the end of the last picture or sound; no more than the container
/// states, and all that it states where packets have no times. `None` when neither is known.
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
    let clocks: Vec<(usize, Clock)> = input
        .streams()
        .filter(|stream| streams.contains(&Some(stream.index())))
        .map(|stream| (stream.index(), Clock::of(&stream, start)))
        .collect();
    let mut end = 0f64;
    for_each_packet(&mut input, limits, |packet| {
        let clock = clocks.iter().find(|(stream, _)| *stream == packet.stream());
        if let (Some((_, clock)), Some(tick)) = (clock, packet.pts().or(packet.dts())) {
            end = end.max(clock.seconds(tick.saturating_add(packet.duration().max(0))));
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

/// A file that goes on after the limit on seconds.
pub(super) fn too_long(path: &Path, limits: &Limits) -> Error {
    let what = format!(
        "it is longer than {} seconds (`meptr predict --max-seconds` raises that)",
        limits.max_seconds
    );
    source::over_limit(path, what)
}

/// Hands on packets until `take` has enough, the file ends, or too many are unreadable.
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
