//! Which frames of which stretch of time are kept.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::frame_sampling::frame_indices;
use super::timestamps::Clock;

/// A stretch of time, by presentation time since time zero of the file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimeWindow {
    /// First instant that belongs to it, in seconds.
    pub start_seconds: f64,
    /// First instant after it, in seconds.
    pub end_seconds: f64,
}

/// What to take frames of.
#[derive(Debug, Clone, PartialEq)]
pub enum FramePlan {
    /// The whole video as one window, number 0, whatever its timestamps say.
    Whole,
    /// Windows, each as if the clip had been cut there; they may overlap.
    Windows(Vec<TimeWindow>),
}

impl FramePlan {
    /// How many windows there are.
    pub fn window_count(&self) -> usize {
        match self {
            Self::Whole => 1,
            Self::Windows(windows) => windows.len(),
        }
    }

    /// Positions in `ticks` of the frames of one window, in their order.
    fn members(&self, window: usize, ticks: &[i64], clock: Clock) -> Vec<usize> {
        match self {
            Self::Whole => (0..ticks.len()).collect(),
            Self::Windows(windows) => {
                let TimeWindow { start_seconds, end_seconds } = windows[window];
                if ticks.is_sorted() {
                    let before = |end| ticks.partition_point(|&tick| clock.seconds(tick) < end);
                    return (before(start_seconds)..before(end_seconds)).collect();
                }
                let window = start_seconds..end_seconds;
                let holds = |&i: &usize| window.contains(&clock.seconds(ticks[i]));
                (0..ticks.len()).filter(holds).collect()
            }
        }
    }

    /// The windows whose frames are not the expected ones; both lists in presentation order.
    pub(super) fn differing(&self, expected: &[i64], found: &[i64], clock: Clock) -> Vec<usize> {
        let ticks_of = |window, ticks: &[i64]| -> Vec<i64> {
            self.members(window, ticks, clock).into_iter().map(|i| ticks[i]).collect()
        };
        let differs = |&window: &usize| ticks_of(window, expected) != ticks_of(window, found);
        (0..self.window_count()).filter(differs).collect()
    }
}

/// One frame to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Ordinal or tick of the frame, as the [`Schedule`] counts.
    key: i64,
    /// Which window it belongs to.
    pub(super) window: usize,
    /// Its place among the frames kept of that window.
    pub(super) index_in_window: usize,
}

/// The frames to keep, in the order in which they will come.
#[derive(Debug)]
pub(super) struct Schedule {
    wanted: VecDeque<Wanted>,
    /// Whether frames are recognised by timestamp, which survives lost frames, or by ordinal.
    by_tick: bool,
}

impl Schedule {
    /// Keeps `per_window` frames of a whole video of `count` frames.
    pub(super) fn whole(count: usize, per_window: usize) -> Self {
        let keys = frame_indices(count, per_window);
        let wanted = keys.into_iter().enumerate();
        let wanted = wanted.map(|(index_in_window, key)| Wanted {
            key: key as i64,
            window: 0,
            index_in_window,
        });
        Self { wanted: wanted.collect(), by_tick: false }
    }

    /// Keeps `per_window` frames of each of `windows` of the plan.
    pub(super) fn windows(
        plan: &FramePlan,
        windows: impl IntoIterator<Item = usize>,
        ticks: &[i64],
        clock: Clock,
        per_window: usize,
        by_tick: bool,
    ) -> Self {
        let mut wanted = Vec::new();
        for window in windows {
            let members = plan.members(window, ticks, clock);
            let kept = frame_indices(members.len(), per_window).into_iter().enumerate();
            wanted.extend(kept.map(|(index_in_window, i)| {
                let key = if by_tick { ticks[members[i]] } else { members[i] as i64 };
                Wanted { key, window, index_in_window }
            }));
        }
        wanted.sort_by_key(|wanted| (wanted.key, wanted.window));
        Self { wanted: wanted.into(), by_tick }
    }

    /// What the frame with this ordinal and tick is wanted for; frames come in ascending order.
    pub(super) fn take(&mut self, ordinal: usize, tick: i64) -> Vec<Wanted> {
        let key = if self.by_tick { tick } else { ordinal as i64 };
        let mut taken = Vec::new();
        while self.wanted.front().is_some_and(|wanted| wanted.key <= key) {
            taken.extend(self.wanted.pop_front().filter(|wanted| wanted.key == key));
        }
        taken
    }
}
