//! Buffer of frames that wait to be encoded, window by window.

use std::collections::BTreeMap;

use meptr_core::prediction::ChosenFrame;

use super::feature_sink::VisualWindow;
use super::visual_features::VisualFeatures;
use crate::detect::tracker::{BotSort, BotSortConfig};
use crate::windows::{WindowEnds, WindowPlan};
use crate::{Result, RgbImage};

/// Bytes of waiting frames, of all windows together, from which on frames are encoded before their
/// window is complete. A frame of several windows is in memory once.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// Frames of the windows that are not complete, and their features so far.
#[derive(Debug)]
pub(super) struct FrameBuffer {
    ends: WindowEnds,
    tracking: Option<BotSortConfig>,
    open: BTreeMap<usize, OpenWindow>,
    max_waiting_bytes: usize,
}

/// A window that is not complete.
#[derive(Debug, Default)]
struct OpenWindow {
    /// Tracks bodies from frame to frame; each window is a clip of its own.
    tracker: Option<BotSort>,
    waiting: Vec<(ChosenFrame, RgbImage)>,
    frames: Vec<ChosenFrame>,
    features: Option<VisualFeatures>,
}

/// Frames of one window that are encoded together.
#[derive(Debug)]
pub(super) struct FrameBatch {
    pub(super) window: usize,
    pub(super) tracker: Option<BotSort>,
    pub(super) frames: Vec<ChosenFrame>,
    pub(super) images: Vec<RgbImage>,
}

impl FrameBuffer {
    /// A buffer for the windows of a plan; `tracking` configures the tracking of bodies, if any.
    pub(super) fn new(plan: &WindowPlan, tracking: Option<BotSortConfig>) -> Self {
        let ends = plan.ends();
        Self { ends, tracking, open: BTreeMap::new(), max_waiting_bytes: MAX_WAITING_BYTES }
    }

    /// Adds a frame.
    pub(super) fn push(&mut self, window: usize, frame: ChosenFrame, image: RgbImage) {
        let tracker = || self.tracking.clone().map(BotSort::new);
        let new = || OpenWindow { tracker: tracker(), ..OpenWindow::default() };
        self.open.entry(window).or_insert_with(new).waiting.push((frame, image));
    }

    /// Frames to encode now: those of complete windows, or of all windows when the buffer is full.
    pub(super) fn ready_batches(&mut self, now: Option<f64>) -> Vec<FrameBatch> {
        let ends = &self.ends;
        let is_full = self.waiting_bytes() >= self.max_waiting_bytes;
        let ready = self.open.iter_mut().filter(|(number, window)| {
            !window.waiting.is_empty() && (is_full || ends.is_complete(**number, now))
        });
        ready
            .map(|(number, window)| {
                let (frames, images) = std::mem::take(&mut window.waiting).into_iter().unzip();
                FrameBatch { window: *number, tracker: window.tracker.take(), frames, images }
            })
            .collect()
    }

    /// Bytes of the waiting frames, each counted once.
    fn waiting_bytes(&self) -> usize {
        let waiting = self.open.values().flat_map(|window| &window.waiting);
        let mut sizes: Vec<(u64, usize)> =
            waiting.map(|(frame, image)| (frame.index, image.data().len())).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes.into_iter().map(|(_, bytes)| bytes).sum()
    }

    /// Stores the features of a batch.
    pub(super) fn add_features(
        &mut self,
        batch: FrameBatch,
        features: VisualFeatures,
    ) -> Result<()> {
        let window = self.open.entry(batch.window).or_default();
        window.frames.extend(batch.frames);
        window.tracker = batch.tracker;
        match &mut window.features {
            Some(before) => before.append(features)?,
            None => window.features = Some(features),
        }
        Ok(())
    }

    /// Removes and returns the complete windows.
    pub(super) fn take_complete(&mut self, now: Option<f64>) -> Vec<(usize, VisualWindow)> {
        let numbers = self.open.keys().copied();
        let complete: Vec<usize> =
            numbers.filter(|number| self.ends.is_complete(*number, now)).collect();
        let windows = complete.into_iter().filter_map(|number| {
            let OpenWindow { frames, features, .. } = self.open.remove(&number)?;
            Some((number, VisualWindow { frames, features }))
        });
        windows.collect()
    }

    /// Discards the frames of windows that come again.
    pub(super) fn discard(&mut self, windows: &[usize]) {
        windows.iter().for_each(|window| drop(self.open.remove(window)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::TimeWindow;

    #[test]
    fn frames_of_all_windows_are_limited_together_and_shared() {
        let window = |start| TimeWindow { start_seconds: start, end_seconds: start + 9.0 };
        let plan = WindowPlan::Windows((0..3).map(|number| window(f64::from(number))).collect());
        let mut buffer = FrameBuffer { max_waiting_bytes: 2 * 12, ..FrameBuffer::new(&plan, None) };
        let mut push = |index: u64| {
            let image = RgbImage::new(2, 2, vec![0; 12]);
            for number in 0..3 {
                let frame = ChosenFrame { index, time: 3.0 };
                buffer.push(number, frame, image.clone());
            }
            buffer
                .ready_batches(Some(3.0))
                .iter()
                .map(|batch| batch.images.len())
                .collect::<Vec<_>>()
        };
        assert!(push(0).is_empty());
        assert_eq!(push(1), [2, 2, 2]);
        assert!(push(2).is_empty());
    }
}
