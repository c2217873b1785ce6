//! Division of the sound of a video into windows, and of long windows into chunks.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::decode::SAMPLE_RATE_HZ;
use crate::windows::{WindowPlan, sample_index};

/// Longest chunk of sound that is encoded at once, in seconds.
///
/// The cost of attention grows with the square of the length, so longer sound is encoded in chunks.
/// The reference has no such limit and runs out of memory.
pub const MAX_CHUNK_SECONDS: usize = 300;

/// Peak below which sound is silence: one and a half steps of 16-bit sound.
const SILENCE_PEAK: f32 = 1.5 / 32768.0;

/// Sound of one window, or a part of it, that is ready to be encoded.
#[derive(Debug, PartialEq)]
pub(super) struct AudioChunk {
    pub(super) window: usize,
    /// Mono, 16 kHz, -1 to 1.
    pub(super) samples: Vec<f32>,
}

impl AudioChunk {
    /// A chunk of the samples, if there are any.
    fn non_empty(window: usize, samples: Vec<f32>) -> Option<Self> {
        (!samples.is_empty()).then_some(Self { window, samples })
    }

    pub(super) fn is_silent(&self) -> bool {
        self.samples.iter().fold(0.0f32, |peak, sample| peak.max(sample.abs())) < SILENCE_PEAK
    }
}

/// Divides a stream of sound into windows, and windows that are too long into chunks.
#[derive(Debug)]
pub(super) struct AudioChunker {
    /// Samples of each window, by start.
    windows: Vec<Range<usize>>,
    /// Number of the first window that is not complete.
    first_open: usize,
    /// Samples so far of the windows that are not complete.
    open: BTreeMap<usize, Vec<f32>>,
    max_samples: usize,
}

impl AudioChunker {
    pub(super) fn new(plan: &WindowPlan) -> Self {
        Self {
            windows: plan.samples(SAMPLE_RATE_HZ),
            first_open: 0,
            open: BTreeMap::new(),
            max_samples: MAX_CHUNK_SECONDS * SAMPLE_RATE_HZ as usize,
        }
    }

    /// Adds the next samples of the sound; returns the chunks that they complete.
    pub(super) fn push(&mut self, start_seconds: f64, samples: &[f32]) -> Vec<AudioChunk> {
        let start = sample_index(start_seconds, SAMPLE_RATE_HZ);
        let end = start + samples.len();
        let mut complete = Vec::new();
        for (window, span) in self.windows.iter().enumerate().skip(self.first_open) {
            if span.start >= end {
                break;
            }
            let from = span.start.max(start).min(end);
            let to = span.end.min(end);
            let kept = self.open.entry(window).or_default();
            if from < to {
                kept.extend_from_slice(&samples[from - start..to - start]);
            }
            while kept.len() >= self.max_samples {
                let rest = kept.split_off(self.max_samples);
                complete.push(AudioChunk { window, samples: std::mem::replace(kept, rest) });
            }
            if span.end <= end {
                let rest = self.open.remove(&window);
                complete.extend(rest.and_then(|rest| AudioChunk::non_empty(window, rest)));
            }
        }
        let ended = self.windows[self.first_open..].iter().take_while(|span| span.end <= end);
        self.first_open += ended.count();
        complete
    }

    /// Chunks that the end of the sound completes.
    pub(super) fn finish(&mut self) -> Vec<AudioChunk> {
        let open = std::mem::take(&mut self.open);
        open.into_iter().filter_map(|(window, rest)| AudioChunk::non_empty(window, rest)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::TimeWindow;

    fn plan(windows: &[(f64, f64)]) -> WindowPlan {
        let window = |&(start_seconds, end_seconds): &_| TimeWindow { start_seconds, end_seconds };
        WindowPlan::Windows(windows.iter().map(window).collect())
    }

    /// Lengths of the chunks by window, when a second of sound comes in parts of `step` samples.
    fn lengths(plan: &WindowPlan, step: usize) -> Vec<(usize, usize)> {
        let sound: Vec<f32> = (0..16_000).map(|sample| sample as f32).collect();
        let mut chunker = AudioChunker::new(plan);
        let mut chunks = Vec::new();
        for (number, samples) in sound.chunks(step).enumerate() {
            chunks.extend(chunker.push((number * step) as f64 / 16_000.0, samples));
        }
        chunks.extend(chunker.finish());
        chunks.iter().map(|chunk| (chunk.window, chunk.samples.len())).collect()
    }

    #[test]
    fn windows_get_their_own_samples_however_the_sound_comes() {
        for step in [1, 160, 999, 16_000] {
            let found = lengths(&plan(&[(0.0, 0.25), (0.25, 0.5), (0.5, 2.0)]), step);
            assert_eq!(found, [(0, 4000), (1, 4000), (2, 8000)], "parts of {step}");
            let overlapping = lengths(&plan(&[(0.0, 0.5), (0.25, 0.75)]), step);
            assert_eq!(overlapping, [(0, 8000), (1, 8000)], "parts of {step}");
        }
    }

    #[test]
    fn a_whole_video_is_one_window_in_chunks() {
        assert_eq!(lengths(&WindowPlan::Whole, 1000), [(0, 16_000)]);
        let mut chunker =
            AudioChunker { max_samples: 6000, ..AudioChunker::new(&WindowPlan::Whole) };
        let chunks = chunker.push(0.0, &[0.5; 13_000]);
        let lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.samples.len()).collect();
        assert_eq!(lengths, [6000, 6000]);
        assert_eq!(chunker.finish()[0].samples.len(), 1000);
    }

    #[test]
    fn sound_that_ends_early_or_starts_late_gives_what_there_is() {
        let mut chunker = AudioChunker::new(&plan(&[(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]));
        assert!(chunker.push(1.5, &[0.0; 100]).is_empty());
        assert_eq!(chunker.finish(), [AudioChunk { window: 1, samples: vec![0.0; 100] }]);
    }
}
