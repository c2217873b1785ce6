//! Frames that wait to be looked at, window by window.

use std::collections::BTreeMap;

use meptr_core::prediction::ChosenFrame;

use super::{Pictures, Seen};
use crate::decode::FramePlan;
use crate::detect::tracker::{BotSort, BotSortConfig};
use crate::{Result, RgbImage};

/// Bytes of pictures that wait, for all windows together, before they are looked at though their
/// window is not complete; pictures of several windows are in memory once.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// Collects the frames of windows and what was seen in them.
#[derive(Debug)]
pub(super) struct Watch {
    /// Seconds at which each window ends.
    ends: Vec<f64>,
    tracking: Option<BotSortConfig>,
    open: BTreeMap<usize, Window>,
    max_waiting_bytes: usize,
}

#[derive(Debug, Default)]
struct Window {
    /// Follows bodies from frame to frame; each window is a clip of its own.
    tracker: Option<BotSort>,
    waiting: Vec<(ChosenFrame, RgbImage)>,
    frames: Vec<ChosenFrame>,
    seen: Option<Seen>,
}

/// Frames of one window to look at together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) window: usize,
    pub(super) tracker: Option<BotSort>,
    pub(super) frames: Vec<ChosenFrame>,
    pub(super) images: Vec<RgbImage>,
}

impl Watch {
    /// `tracking` says how bodies are followed, if they are.
    pub(super) fn new(plan: &FramePlan, tracking: Option<BotSortConfig>) -> Self {
        let ends = match plan {
            FramePlan::Whole => vec![f64::INFINITY],
            FramePlan::Windows(windows) => windows.iter().map(|one| one.end_seconds).collect(),
        };
        Self { ends, tracking, open: BTreeMap::new(), max_waiting_bytes: MAX_WAITING_BYTES }
    }

    /// Takes a frame.
    pub(super) fn push(&mut self, window: usize, frame: ChosenFrame, image: RgbImage) {
        let new =
            || Window { tracker: self.tracking.clone().map(BotSort::new), ..Window::default() };
        self.open.entry(window).or_insert_with(new).waiting.push((frame, image));
    }

    /// The frames of windows that end at or before `now` (all, when nothing more comes), or of all
    /// windows when too many wait.
    pub(super) fn ready(&mut self, now: Option<f64>) -> Vec<Batch> {
        let ends = &self.ends;
        let are_too_many = self.waiting_bytes() >= self.max_waiting_bytes;
        let is_ready = |number: usize, window: &Window| {
            !window.waiting.is_empty()
                && (are_too_many || now.is_none_or(|now| ends[number] <= now))
        };
        let ready = self.open.iter_mut().filter(|(number, window)| is_ready(**number, window));
        ready
            .map(|(number, window)| {
                let (frames, images) = std::mem::take(&mut window.waiting).into_iter().unzip();
                Batch { window: *number, tracker: window.tracker.take(), frames, images }
            })
            .collect()
    }

    /// Bytes of the pictures that wait, each counted once.
    fn waiting_bytes(&self) -> usize {
        let waiting = self.open.values().flat_map(|window| &window.waiting);
        let mut pictures: Vec<(u64, usize)> =
            waiting.map(|(frame, image)| (frame.index, image.data().len())).collect();
        pictures.sort_unstable();
        pictures.dedup();
        pictures.into_iter().map(|(_, bytes)| bytes).sum()
    }

    /// Keeps what was seen in a batch.
    pub(super) fn put(&mut self, batch: Batch, seen: Seen) -> Result<()> {
        let window = self.open.entry(batch.window).or_default();
        window.frames.extend(batch.frames);
        window.tracker = batch.tracker;
        match &mut window.seen {
            Some(before) => before.append(seen)?,
            None => window.seen = Some(seen),
        }
        Ok(())
    }

    /// The windows that end at or before `now`, or all of them when nothing more comes.
    pub(super) fn complete(&mut self, now: Option<f64>) -> Vec<(usize, Pictures)> {
        let is_complete = |number: usize| now.is_none_or(|now| self.ends[number] <= now);
        let complete: Vec<usize> =
            self.open.keys().copied().filter(|number| is_complete(*number)).collect();
        let windows = complete.into_iter().filter_map(|number| {
            let Window { frames, seen, .. } = self.open.remove(&number)?;
            Some((number, Pictures { frames, seen }))
        });
        windows.collect()
    }

    /// Drops the frames of windows that come again.
    pub(super) fn forget(&mut self, windows: &[usize]) {
        windows.iter().for_each(|window| drop(self.open.remove(window)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::TimeWindow;

    #[test]
    fn pictures_of_all_windows_are_bounded_together_and_shared() {
        let window = |start| TimeWindow { start_seconds: start, end_seconds: start + 9.0 };
        let plan = FramePlan::Windows((0..3).map(|number| window(f64::from(number))).collect());
        let mut watch = Watch { max_waiting_bytes: 2 * 12, ..Watch::new(&plan, None) };
        let mut push = |index: u64| {
            let image = RgbImage::new(2, 2, vec![0; 12]);
            for number in 0..3 {
                let frame = ChosenFrame { index, time: 3.0 };
                watch.push(number, frame, image.clone());
            }
            watch.ready(Some(3.0)).iter().map(|batch| batch.images.len()).collect::<Vec<_>>()
        };
        assert!(push(0).is_empty());
        assert_eq!(push(1), [2, 2, 2]);
        assert!(push(2).is_empty());
    }
}
