//! Selection of the frames to keep of each time window.

use std::collections::VecDeque;

use super::frame_sampling::frame_indices;
use super::timestamps::TimeBase;
use crate::windows::WindowPlan;

/// Timestamps of the frames of a video, in presentation order.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameTimes<'a> {
    pub(super) ticks: &'a [i64],
    pub(super) time_base: TimeBase,
}

impl FrameTimes<'_> {
    /// Positions of the frames of one window.
    fn in_window(&self, plan: &WindowPlan, window: usize) -> Vec<usize> {
        plan.frames(window, self.ticks, |tick| self.time_base.seconds(tick))
    }

    /// Timestamps of the frames of one window.
    fn ticks_in_window(&self, plan: &WindowPlan, window: usize) -> Vec<i64> {
        self.in_window(plan, window).into_iter().map(|i| self.ticks[i]).collect()
    }

    /// Windows that have other frames here than in `expected`.
    pub(super) fn differing_windows(&self, plan: &WindowPlan, expected: &[i64]) -> Vec<usize> {
        let expected = FrameTimes { ticks: expected, time_base: self.time_base };
        let differs = |&window: &usize| {
            expected.ticks_in_window(plan, window) != self.ticks_in_window(plan, window)
        };
        (0..plan.window_count()).filter(differs).collect()
    }
}

/// Property by which the decoder recognises the frames to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKey {
    /// The timestamp; still right after frames were lost.
    Tick,
    /// The position among all frames.
    Ordinal,
}

/// One frame to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScheduledFrame {
    /// Timestamp or position of the frame, see [`FrameKey`].
    key: i64,
    /// Window that it belongs to.
    pub(super) window: usize,
    /// Position among the frames kept of that window.
    pub(super) index_in_window: usize,
}

/// Frames to keep, in the order in which the decoder gives them.
#[derive(Debug)]
pub(super) struct FrameSchedule {
    frames: VecDeque<ScheduledFrame>,
    key: FrameKey,
}

impl FrameSchedule {
    /// Keeps `per_window` frames of a whole video of `count` frames.
    pub(super) fn whole(count: usize, per_window: usize) -> Self {
        let frames = frame_indices(count, per_window).into_iter().enumerate();
        let frames = frames.map(|(index_in_window, key)| ScheduledFrame {
            key: key as i64,
            window: 0,
            index_in_window,
        });
        Self { frames: frames.collect(), key: FrameKey::Ordinal }
    }

    /// Keeps `per_window` frames of each of `windows` of the plan.
    pub(super) fn windows(
        plan: &WindowPlan,
        windows: impl IntoIterator<Item = usize>,
        times: FrameTimes<'_>,
        per_window: usize,
        key: FrameKey,
    ) -> Self {
        let mut frames = Vec::new();
        for window in windows {
            let members = times.in_window(plan, window);
            let kept = frame_indices(members.len(), per_window).into_iter().enumerate();
            frames.extend(kept.map(|(index_in_window, i)| {
                let key = match key {
                    FrameKey::Tick => times.ticks[members[i]],
                    FrameKey::Ordinal => members[i] as i64,
                };
                ScheduledFrame { key, window, index_in_window }
            }));
        }
        frames.sort_by_key(|frame| (frame.key, frame.window));
        Self { frames: frames.into(), key }
    }

    /// Removes the entries of the frame with this position and timestamp; frames come in ascending
    /// order.
    pub(super) fn take(&mut self, ordinal: usize, tick: i64) -> Vec<ScheduledFrame> {
        let key = match self.key {
            FrameKey::Tick => tick,
            FrameKey::Ordinal => ordinal as i64,
        };
        let mut taken = Vec::new();
        while self.frames.front().is_some_and(|frame| frame.key <= key) {
            taken.extend(self.frames.pop_front().filter(|frame| frame.key == key));
        }
        taken
    }
}
