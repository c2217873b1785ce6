//! Time windows: all rules that say which part of a video belongs to which window.
//!
//! A video is processed as a whole, which is window 0, or in windows that slide over it
//! ([`SlidingWindow`]). Decoding, encoding and prediction take their windows from here:
//!
//! | part of a video | rule |
//! | --- | --- |
//! | windows | one every hop from 0 on, as long as they start before the end of the video |
//! | frames | presentation time in `start <= time < end`; 30 of them are kept, evenly spaced |
//! | sound | samples from `round(start * rate)` to before `round(end * rate)` |
//! | words | cues that overlap the window; all words for a whole video |
//! | completion | a window is complete once the decoder has passed its end |
//! | last windows | end where the video does; those that would start later are dropped |
//! | mean of windows | weighted by their duration |

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Windows of one length at a fixed distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlidingWindow {
    /// Length of a window in seconds, above 0.
    pub window_seconds: f64,
    /// Seconds from the start of one window to the start of the next, above 0.
    pub hop_seconds: f64,
}

/// A window of time, in presentation time since time zero of the file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimeWindow {
    /// First instant inside the window, in seconds.
    pub start_seconds: f64,
    /// First instant after the window, in seconds.
    pub end_seconds: f64,
}

impl TimeWindow {
    /// Length in seconds.
    pub fn duration_seconds(&self) -> f64 {
        self.end_seconds - self.start_seconds
    }

    /// Whether something from `start_seconds` to `end_seconds`, such as a cue, lies partly inside.
    pub fn overlaps(&self, start_seconds: f64, end_seconds: f64) -> bool {
        start_seconds < self.end_seconds && end_seconds > self.start_seconds
    }

    /// Samples inside the window, at `rate_hz` samples per second.
    fn samples(&self, rate_hz: u32) -> Range<usize> {
        sample_index(self.start_seconds, rate_hz)..sample_index(self.end_seconds, rate_hz)
    }
}

/// Index of the sample at a time, at `rate_hz` samples per second.
pub(crate) fn sample_index(seconds: f64, rate_hz: u32) -> usize {
    (seconds * f64::from(rate_hz)).round().max(0.0) as usize
}

/// Windows that a video is divided into.
#[derive(Debug, Clone, PartialEq)]
pub enum WindowPlan {
    /// The whole video as one window, number 0, whatever its timestamps say.
    Whole,
    /// Windows, each processed as if the clip had been cut there; they may overlap.
    Windows(Vec<TimeWindow>),
}

/// Text of a transcript that belongs to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextRule {
    /// All of it.
    Everything,
    /// Cues that overlap the window.
    OverlappingCues,
    /// None: without times, it cannot be divided into windows.
    Undividable,
}

impl WindowPlan {
    /// Windows that slide over a video of `length_seconds`; at least one.
    pub fn sliding(length_seconds: f64, window: SlidingWindow) -> Self {
        let SlidingWindow { window_seconds, hop_seconds } = window;
        let count = ((length_seconds / hop_seconds).ceil() as usize).max(1);
        let windows = (0..count).map(|number| {
            let start_seconds = number as f64 * hop_seconds;
            TimeWindow { start_seconds, end_seconds: start_seconds + window_seconds }
        });
        Self::Windows(windows.collect())
    }

    /// Number of windows.
    pub fn window_count(&self) -> usize {
        match self {
            Self::Whole => 1,
            Self::Windows(windows) => windows.len(),
        }
    }

    /// Positions in `ticks` of the frames of one window, in their order.
    ///
    /// `seconds` converts a timestamp to presentation time.
    pub(crate) fn frames(
        &self,
        window: usize,
        ticks: &[i64],
        seconds: impl Fn(i64) -> f64,
    ) -> Vec<usize> {
        match self {
            Self::Whole => (0..ticks.len()).collect(),
            Self::Windows(windows) => {
                let TimeWindow { start_seconds, end_seconds } = windows[window];
                if ticks.is_sorted() {
                    let before = |end| ticks.partition_point(|&tick| seconds(tick) < end);
                    return (before(start_seconds)..before(end_seconds)).collect();
                }
                let inside = start_seconds..end_seconds;
                (0..ticks.len()).filter(|&i| inside.contains(&seconds(ticks[i]))).collect()
            }
        }
    }

    /// Samples of each window at `rate_hz` samples per second, by number of the window.
    pub(crate) fn samples(&self, rate_hz: u32) -> Vec<Range<usize>> {
        match self {
            Self::Whole => std::iter::once(0..usize::MAX).collect(),
            Self::Windows(windows) => windows.iter().map(|one| one.samples(rate_hz)).collect(),
        }
    }

    /// Rule for the text of the windows; `is_timed` says whether the transcript has cues.
    pub(crate) fn text_rule(&self, is_timed: bool) -> TextRule {
        match self {
            Self::Whole => TextRule::Everything,
            Self::Windows(_) if is_timed => TextRule::OverlappingCues,
            Self::Windows(_) => TextRule::Undividable,
        }
    }

    /// Ends of the windows, to tell which of them are complete.
    pub(crate) fn ends(&self) -> WindowEnds {
        WindowEnds(match self {
            Self::Whole => vec![f64::INFINITY],
            Self::Windows(windows) => windows.iter().map(|one| one.end_seconds).collect(),
        })
    }

    /// Time that the windows really cover in a video that ends at `end_seconds`; windows that would
    /// start after the end are dropped.
    pub(crate) fn trimmed(&self, end_seconds: f64) -> Vec<TimeWindow> {
        match self {
            Self::Whole => vec![TimeWindow { start_seconds: 0.0, end_seconds }],
            Self::Windows(windows) => windows
                .iter()
                .filter(|window| window.start_seconds < end_seconds)
                .map(|window| TimeWindow {
                    end_seconds: window.end_seconds.min(end_seconds),
                    ..*window
                })
                .collect(),
        }
    }
}

/// Ends of the windows of a plan, in seconds.
#[derive(Debug)]
pub(crate) struct WindowEnds(Vec<f64>);

impl WindowEnds {
    /// Whether a window is complete when the decoder is at `now`; all are when nothing more comes
    /// (`None`).
    pub(crate) fn is_complete(&self, window: usize, now: Option<f64>) -> bool {
        now.is_none_or(|now| self.0[window] <= now)
    }
}

/// End of a video in seconds: that of its last frame or of its sound, whichever is later.
///
/// The last frame is shown for `1 / frame_rate` seconds, at 25 frames per second if unknown.
pub(crate) fn end_of_video(
    last_frame_seconds: Option<f64>,
    frame_rate: Option<f64>,
    audio_seconds: f64,
) -> f64 {
    let frame_seconds = 1.0 / frame_rate.unwrap_or(25.0);
    audio_seconds.max(last_frame_seconds.map_or(0.0, |last| last + frame_seconds))
}

/// Mean of one value per window, weighted by the duration of the windows.
pub(crate) fn mean_by_duration(windows: &[TimeWindow], values: impl Iterator<Item = f32>) -> f32 {
    let total: f64 = windows.iter().map(TimeWindow::duration_seconds).sum();
    let weighted =
        values.zip(windows).map(|(value, one)| f64::from(value) * one.duration_seconds());
    (weighted.sum::<f64>() / total) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start_seconds: f64, end_seconds: f64) -> TimeWindow {
        TimeWindow { start_seconds, end_seconds }
    }

    #[test]
    fn windows_start_at_every_hop_before_the_end() {
        let sliding = SlidingWindow { window_seconds: 2.0, hop_seconds: 1.5 };
        let found = WindowPlan::sliding(3.1, sliding);
        let expected = [window(0.0, 2.0), window(1.5, 3.5), window(3.0, 5.0)];
        assert_eq!(found, WindowPlan::Windows(expected.to_vec()));
        assert_eq!(WindowPlan::sliding(0.0, sliding).window_count(), 1);
    }

    #[test]
    fn windows_end_where_the_video_does() {
        let windows = (0..9).map(|n| window(f64::from(n), 2.0 + f64::from(n))).collect();
        let plan = WindowPlan::Windows(windows);
        assert_eq!(plan.trimmed(1.5), [window(0.0, 1.5), window(1.0, 1.5)]);
    }

    #[test]
    fn a_window_holds_the_frames_and_cues_from_its_start_to_before_its_end() {
        let plan = WindowPlan::Windows(vec![window(1.0, 2.0)]);
        for ticks in [vec![0, 1, 2, 3, 4], vec![4, 1, 0, 2, 3]] {
            let found = plan.frames(0, &ticks, |tick| tick as f64 / 2.0);
            let found: Vec<i64> = found.into_iter().map(|i| ticks[i]).collect();
            assert_eq!(found, [2, 3]);
        }
        assert!(window(1.0, 2.0).overlaps(0.5, 1.1));
        assert!(!window(1.0, 2.0).overlaps(0.5, 1.0) && !window(1.0, 2.0).overlaps(2.0, 3.0));
    }

    #[test]
    fn a_video_ends_with_its_last_frame_or_its_sound() {
        assert_eq!(end_of_video(Some(1.0), Some(10.0), 0.5), 1.1);
        assert_eq!(end_of_video(Some(1.0), None, 2.0), 2.0);
        assert_eq!(end_of_video(None, None, 0.0), 0.0);
    }

    #[test]
    fn longer_windows_count_for_more() {
        let windows = [window(0.0, 3.0), window(3.0, 4.0)];
        assert_eq!(mean_by_duration(&windows, [1.0, 5.0].into_iter()), 2.0);
    }
}
