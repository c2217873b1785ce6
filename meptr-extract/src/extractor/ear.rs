//! Sound: cut into the windows it belongs to, then read by Wav2Vec2.

use std::collections::BTreeMap;

use candle::{Device, Tensor};
use meptr_core::bundle::Bundle;
use meptr_core::device::BatchSize;

use super::Place;
use crate::backbones::{FromCheckpoint, Wav2Vec2, Wav2Vec2Preprocessor};
use crate::decode::{FramePlan, SAMPLE_RATE_HZ};
use crate::{Error, Result};

/// Longest piece of sound that is read at once, in seconds.
///
/// Attention grows with the square of the length. Longer sound is read in pieces; the reference
/// has no such bound and runs out of memory.
pub const MAX_PIECE_SECONDS: usize = 300;

/// Peak below which sound is silence: one and a half steps of 16-bit sound.
const SILENCE_PEAK: f32 = 1.5 / 32768.0;

/// A piece of a window's sound and what Wav2Vec2 makes of it.
#[derive(Debug, Clone)]
pub struct SoundPiece {
    /// Length in samples.
    pub samples: usize,
    /// `(1, steps, width)`, 50 steps a second, or why there are none: it is silent, or shorter than
    /// one step.
    pub features: std::result::Result<Tensor, &'static str>,
}

/// Pieces that Wav2Vec2 reads at a time on a GPU with memory to spare.
const MAX_GPU_BATCH: usize = 32;

/// Sound that waits to be read with more of it, at most: 8 minutes, 31 MB.
const MAX_WAITING_SAMPLES: usize = 480 * SAMPLE_RATE_HZ as usize;

/// Wav2Vec2 with its preparation.
#[derive(Debug)]
pub(super) struct Ear {
    input: Wav2Vec2Preprocessor,
    model: Wav2Vec2,
    /// Pieces that the model reads at a time.
    batch: BatchSize,
    device: Device,
}

impl Ear {
    pub(super) fn open(bundle: &Bundle, Place { device, precision }: &Place) -> Result<Self> {
        let folder = bundle.path(&bundle.manifest().parts.wav2vec2.folder);
        let model = Wav2Vec2::open(&folder, device, *precision)?;
        let half_a_minute = model.bytes_per_clip(30 * SAMPLE_RATE_HZ as usize);
        let batch = BatchSize::fitting(device, half_a_minute, 1, MAX_GPU_BATCH);
        Ok(Self {
            input: Wav2Vec2Preprocessor::open(&folder)?,
            model,
            batch,
            device: device.clone(),
        })
    }

    /// Lets go of the weights until the next video, where they are mapped.
    pub(super) fn release(&self) {
        self.model.release();
    }

    /// Whether so much sound is worth reading now: any on the processor, a batch on a GPU.
    pub(super) fn has_enough(&self, cuts: &[Cut]) -> bool {
        let samples: usize = cuts.iter().map(|cut| cut.samples.len()).sum();
        cuts.len() >= self.batch.rows() || samples >= MAX_WAITING_SAMPLES
    }

    /// Reads pieces of 16 kHz mono sound.
    pub(super) fn hear(&self, cuts: &[Cut]) -> Result<Vec<SoundPiece>> {
        let receptive_field = self.model.config().receptive_field();
        let absent = |cut: &Cut| match cut.samples.len() {
            samples if samples < receptive_field => Some("the sound is too short"),
            _ => cut.is_silent().then_some("the sound is silent"),
        };
        let absent: Vec<Option<&str>> = cuts.iter().map(absent).collect();
        let heard: Vec<usize> = (0..cuts.len()).filter(|at| absent[*at].is_none()).collect();
        let features = self.batch.run(heard.len(), |batch| {
            let samples: Vec<&[f32]> =
                heard[batch].iter().map(|at| &cuts[*at].samples[..]).collect();
            self.read(&samples)
        })?;
        let mut features = features.into_iter().flatten();
        let mut piece = |(cut, absent): (&Cut, Option<&'static str>)| SoundPiece {
            samples: cut.samples.len(),
            features: absent.map_or_else(|| Ok(features.next().expect("one of each")), Err),
        };
        Ok(cuts.iter().zip(absent).map(&mut piece).collect())
    }

    /// The features of pieces that are read together, `(1, steps, width)` each.
    fn read(&self, pieces: &[&[f32]]) -> Result<Vec<Tensor>> {
        let lengths: Vec<usize> = pieces.iter().map(|samples| samples.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        let values: Result<Vec<Tensor>> =
            pieces.iter().map(|samples| self.input.prepare(samples, &self.device)).collect();
        let values = values?;
        let run = || -> candle::Result<Vec<Tensor>> {
            let padded = values.iter().zip(&lengths);
            let padded: candle::Result<Vec<Tensor>> = padded
                .map(|(values, length)| values.pad_with_zeros(1, 0, longest - length))
                .collect();
            let features = self.model.forward(&Tensor::cat(&padded?, 0)?, &lengths)?;
            let row = |(row, length): (usize, &usize)| {
                let steps = self.model.config().steps(*length);
                features.narrow(0, row, 1)?.narrow(1, 0, steps)?.contiguous()
            };
            lengths.iter().enumerate().map(row).collect()
        };
        run().map_err(Error::doing("running Wav2Vec2"))
    }
}

/// Sound of one window that is ready to be read.
#[derive(Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) window: usize,
    pub(super) samples: Vec<f32>,
}

/// Cuts a stream of sound into windows, and those that are too long into pieces.
#[derive(Debug)]
pub(super) struct Cutter {
    /// First sample of each window and first one after it, by beginning.
    windows: Vec<(usize, usize)>,
    /// Windows before this one are complete.
    first_open: usize,
    open: BTreeMap<usize, Vec<f32>>,
    max_samples: usize,
}

impl Cutter {
    pub(super) fn new(plan: &FramePlan) -> Self {
        let windows = match plan {
            FramePlan::Whole => vec![(0, usize::MAX)],
            FramePlan::Windows(windows) => windows
                .iter()
                .map(|window| (sample_at(window.start_seconds), sample_at(window.end_seconds)))
                .collect(),
        };
        let max_samples = MAX_PIECE_SECONDS * SAMPLE_RATE_HZ as usize;
        Self { windows, first_open: 0, open: BTreeMap::new(), max_samples }
    }

    /// Takes the next stretch of sound; returns the pieces it completes.
    pub(super) fn push(&mut self, start_seconds: f64, samples: &[f32]) -> Vec<Cut> {
        let start = sample_at(start_seconds);
        let end = start + samples.len();
        let mut done = Vec::new();
        for (window, &(first, last)) in self.windows.iter().enumerate().skip(self.first_open) {
            if first >= end {
                break;
            }
            let from = first.max(start).min(end);
            let to = last.min(end);
            let kept = self.open.entry(window).or_default();
            if from < to {
                kept.extend_from_slice(&samples[from - start..to - start]);
            }
            while kept.len() >= self.max_samples {
                let rest = kept.split_off(self.max_samples);
                done.push(Cut { window, samples: std::mem::replace(kept, rest) });
            }
            if last <= end {
                done.extend(self.open.remove(&window).and_then(|rest| Cut::of(window, rest)));
            }
        }
        self.first_open +=
            self.windows[self.first_open..].iter().take_while(|(_, last)| *last <= end).count();
        done
    }

    /// The pieces that the end of the sound completes.
    pub(super) fn finish(&mut self) -> Vec<Cut> {
        let open = std::mem::take(&mut self.open);
        open.into_iter().filter_map(|(window, rest)| Cut::of(window, rest)).collect()
    }
}

impl Cut {
    fn is_silent(&self) -> bool {
        self.samples.iter().fold(0.0f32, |peak, sample| peak.max(sample.abs())) < SILENCE_PEAK
    }

    fn of(window: usize, samples: Vec<f32>) -> Option<Self> {
        (!samples.is_empty()).then_some(Self { window, samples })
    }
}

fn sample_at(seconds: f64) -> usize {
    (seconds * f64::from(SAMPLE_RATE_HZ)).round().max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::TimeWindow;

    fn plan(windows: &[(f64, f64)]) -> FramePlan {
        let window = |&(start_seconds, end_seconds): &_| TimeWindow { start_seconds, end_seconds };
        FramePlan::Windows(windows.iter().map(window).collect())
    }

    /// Lengths of the pieces by window, when a second of sound comes in stretches of `step`.
    fn lengths(plan: &FramePlan, step: usize) -> Vec<(usize, usize)> {
        let sound: Vec<f32> = (0..16_000).map(|sample| sample as f32).collect();
        let mut cutter = Cutter::new(plan);
        let mut cuts = Vec::new();
        for (number, stretch) in sound.chunks(step).enumerate() {
            cuts.extend(cutter.push((number * step) as f64 / 16_000.0, stretch));
        }
        cuts.extend(cutter.finish());
        cuts.iter().map(|cut| (cut.window, cut.samples.len())).collect()
    }

    #[test]
    fn windows_get_their_own_samples_whatever_the_stretches() {
        for step in [1, 160, 999, 16_000] {
            let found = lengths(&plan(&[(0.0, 0.25), (0.25, 0.5), (0.5, 2.0)]), step);
            assert_eq!(found, [(0, 4000), (1, 4000), (2, 8000)], "stretches of {step}");
            let overlapping = lengths(&plan(&[(0.0, 0.5), (0.25, 0.75)]), step);
            assert_eq!(overlapping, [(0, 8000), (1, 8000)], "stretches of {step}");
        }
    }

    #[test]
    fn a_whole_video_is_one_window_in_pieces() {
        assert_eq!(lengths(&FramePlan::Whole, 1000), [(0, 16_000)]);
        let mut cutter = Cutter { max_samples: 6000, ..Cutter::new(&FramePlan::Whole) };
        let cuts = cutter.push(0.0, &[0.5; 13_000]);
        assert_eq!(cuts.iter().map(|cut| cut.samples.len()).collect::<Vec<_>>(), [6000, 6000]);
        assert_eq!(cutter.finish()[0].samples.len(), 1000);
    }

    #[test]
    fn sound_that_ends_early_or_starts_late_gives_what_there_is() {
        let mut cutter = Cutter::new(&plan(&[(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]));
        assert!(cutter.push(1.5, &[0.0; 100]).is_empty());
        assert_eq!(cutter.finish(), [Cut { window: 1, samples: vec![0.0; 100] }]);
    }
}
