//! Frames that wait to be looked at, window by window.

use std::collections::BTreeMap;

use meptr_core::prediction::ChosenFrame;

use super::{Pictures, Seen};
use crate::decode::FramePlan;
use crate::detect::tracker::{BotSort, BotSortConfig};
use crate::{Result, RgbImage};

/// Bytes of pictures that wait before they are looked at though their window is not complete.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// Collects the frames of windows and what was seen in them.
#[derive(Debug)]
pub(super) struct Watch {
    /// Seconds at which each window ends.
    ends: Vec<f64>,
    tracking: Option<BotSortConfig>,
    open: BTreeMap<usize, Window>,
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
        Self { ends, tracking, open: BTreeMap::new() }
    }

    /// Takes a frame.
    pub(super) fn push(&mut self, window: usize, frame: ChosenFrame, image: RgbImage) {
        let new =
            || Window { tracker: self.tracking.clone().map(BotSort::new), ..Window::default() };
        self.open.entry(window).or_insert_with(new).waiting.push((frame, image));
    }

    /// The frames of windows that end at or before `now` (all, when nothing more comes), and those
    /// of windows where too many wait.
    pub(super) fn ready(&mut self, now: Option<f64>) -> Vec<Batch> {
        let ends = &self.ends;
        let is_ready = |number: usize, window: &Window| {
            let bytes: usize = window.waiting.iter().map(|(_, image)| image.data().len()).sum();
            !window.waiting.is_empty()
                && (now.is_none_or(|now| ends[number] <= now) || bytes >= MAX_WAITING_BYTES)
        };
        let ready = self.open.iter_mut().filter(|(number, window)| is_ready(**number, window));
        ready
            .map(|(number, window)| {
                let (frames, images) = std::mem::take(&mut window.waiting).into_iter().unzip();
                Batch { window: *number, tracker: window.tracker.take(), frames, images }
            })
            .collect()
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
