//! How long a video is, and the windows it is cut into.

use std::path::Path;

use super::Windowing;
use crate::decode::{DecodeReport, FramePlan, Limits, MediaInfo, TimeWindow, length_seconds};
use crate::{Error, Result};

/// The windows that were asked for; the last ones are cut off where the video ends.
pub(super) fn plan(
    video: &Path,
    media: &MediaInfo,
    window: Option<Windowing>,
    limits: &Limits,
) -> Result<FramePlan> {
    let Some(Windowing { window_seconds, hop_seconds }) = window else {
        return Ok(FramePlan::Whole);
    };
    let Some(length) = length_seconds(video, media, limits)? else {
        let what = "its length is unknown, so it cannot be cut into windows; repack it, for \
                    example with `ffmpeg -i IN -c copy OUT.mkv`";
        return Err(Error::Decode { path: video.to_owned(), what: what.to_owned(), source: None });
    };
    let count = ((length / hop_seconds).ceil() as usize).max(1);
    let window = |number: usize| {
        let start_seconds = number as f64 * hop_seconds;
        TimeWindow { start_seconds, end_seconds: start_seconds + window_seconds }
    };
    Ok(FramePlan::Windows((0..count).map(window).collect()))
}

/// Where the last picture or sound ends, in seconds.
pub(super) fn end_of(media: &MediaInfo, report: &DecodeReport) -> f64 {
    let rate = media.video.as_ref().and_then(|video| video.frame_rate).unwrap_or(25.0);
    let seen = report.last_frame_seconds.map_or(0.0, |last| last + 1.0 / rate);
    report.audio_seconds.max(seen)
}

/// What the windows of a plan really cover; those after the end are none.
pub(super) fn spans(plan: &FramePlan, end: f64) -> Vec<TimeWindow> {
    match plan {
        FramePlan::Whole => vec![TimeWindow { start_seconds: 0.0, end_seconds: end }],
        FramePlan::Windows(windows) => windows
            .iter()
            .filter(|window| window.start_seconds < end)
            .map(|window| TimeWindow { end_seconds: window.end_seconds.min(end), ..*window })
            .collect(),
    }
}

/// A note when pictures and sound end much earlier than the container states: by more than half a
/// second and 2 %. `last_cue` is the end of the last subtitle, which may come later than they do.
///
/// Of raw AAC, FFmpeg only estimates the length; some containers count it from zero, not from
/// the first timestamp.
pub(super) fn cut_short(media: &MediaInfo, end: f64, last_cue: f64) -> Option<String> {
    let stated = media.duration_seconds.filter(|_| media.container != "aac")?;
    let missing = stated - media.start_seconds.max(0.0) - end.max(last_cue);
    (missing > 0.5 + 0.02 * stated).then(|| {
        format!(
            "the file states a length of {stated:.1} s, but its pictures and sound end at {end:.1} s; \
             it may be cut off"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(container: &str, duration_seconds: Option<f64>, start_seconds: f64) -> MediaInfo {
        let container = container.to_owned();
        let (video, audio, subtitles) = (None, None, Vec::new());
        MediaInfo { container, duration_seconds, start_seconds, video, audio, subtitles }
    }

    #[test]
    fn much_less_than_the_container_states_is_told() {
        let note = |container: &str, stated: f64, start: f64| {
            cut_short(&media(container, Some(stated), start), 3.0, 0.0)
        };
        assert!(note("mp3", 8.0, 0.0).is_some_and(|note| note.contains("8.0 s")));
        assert_eq!(note("mp3", 3.4, 0.0), None);
        assert_eq!(note("matroska,webm", 3603.0, 3600.0), None, "it counts from zero");
        assert_eq!(note("aac", 8.0, 0.0), None, "an estimate");
        assert_eq!(cut_short(&media("flv", None, 0.0), 3.0, 0.0), None);
        assert_eq!(cut_short(&media("flv", Some(8.0), 0.0), 3.0, 7.9), None, "a late subtitle");
    }

    #[test]
    fn windows_end_where_the_video_does() {
        let window = |start_seconds, end_seconds| TimeWindow { start_seconds, end_seconds };
        let plan =
            FramePlan::Windows((0..9).map(|n| window(f64::from(n), 2.0 + f64::from(n))).collect());
        assert_eq!(spans(&plan, 1.5), [window(0.0, 1.5), window(1.0, 1.5)]);
    }
}
