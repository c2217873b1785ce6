//! Audio encoder: Wav2Vec2 over chunks of sound.

use candle::{Device, Tensor};
use meptr_core::bundle::Bundle;
use meptr_core::device::BatchSize;

use super::audio_chunks::AudioChunk;
use super::compute_target::ComputeTarget;
use super::fallback;
use crate::backbones::{FromCheckpoint, Wav2Vec2, Wav2Vec2Preprocessor};
use crate::decode::SAMPLE_RATE_HZ;
use crate::{Error, Result};

/// Chunks per batch on a GPU with enough free memory.
const MAX_GPU_BATCH: usize = 32;

/// Samples that wait for a full batch, at most: 8 minutes, 31 MB.
const MAX_WAITING_SAMPLES: usize = 480 * SAMPLE_RATE_HZ as usize;

/// A chunk of a window's sound and its features.
#[derive(Debug, Clone)]
pub struct AudioChunkFeatures {
    /// Length in samples.
    pub samples: usize,
    /// `(1, steps, width)`, f32, 50 steps per second; or the reason why there are none: the chunk is
    /// silent, or shorter than one step.
    pub features: std::result::Result<Tensor, &'static str>,
}

/// Wav2Vec2 and its preprocessing.
#[derive(Debug)]
pub(super) struct AudioEncoder {
    input: Wav2Vec2Preprocessor,
    model: Wav2Vec2,
    /// Chunks per batch.
    batch: BatchSize,
    device: Device,
}

impl AudioEncoder {
    pub(super) fn open(bundle: &Bundle, target: &ComputeTarget) -> Result<Self> {
        let device = &target.device;
        let folder = bundle.path(&bundle.manifest().parts.wav2vec2.folder);
        let model = Wav2Vec2::open(&folder, device, target.precision)?;
        let half_a_minute = model.bytes_per_clip(30 * SAMPLE_RATE_HZ as usize);
        let batch = BatchSize::fitting(device, half_a_minute, 1, MAX_GPU_BATCH);
        Ok(Self {
            input: Wav2Vec2Preprocessor::open(&folder)?,
            model,
            batch,
            device: device.clone(),
        })
    }

    /// Releases the pages of mapped weights until the next video.
    pub(super) fn release(&self) {
        self.model.release();
    }

    /// Whether the chunks fill a batch: any chunk on a CPU, several on a GPU.
    pub(super) fn is_full_batch(&self, chunks: &[AudioChunk]) -> bool {
        let samples: usize = chunks.iter().map(|chunk| chunk.samples.len()).sum();
        chunks.len() >= self.batch.rows() || samples >= MAX_WAITING_SAMPLES
    }

    /// Encodes chunks of 16 kHz mono sound.
    pub(super) fn encode(&self, chunks: &[AudioChunk]) -> Result<Vec<AudioChunkFeatures>> {
        let min_samples = self.model.config().receptive_field();
        let absent: Vec<Option<&'static str>> = chunks
            .iter()
            .map(|chunk| {
                fallback::unusable_sound(chunk.samples.len() < min_samples, || chunk.is_silent())
            })
            .collect();
        let usable: Vec<usize> = (0..chunks.len()).filter(|at| absent[*at].is_none()).collect();
        let features = self.batch.run(usable.len(), |batch| {
            let samples: Vec<&[f32]> =
                usable[batch].iter().map(|at| &chunks[*at].samples[..]).collect();
            self.encode_batch(&samples)
        })?;
        let mut features = features.into_iter().flatten();
        let encoded = chunks.iter().zip(absent).map(|(chunk, absent)| AudioChunkFeatures {
            samples: chunk.samples.len(),
            features: absent.map_or_else(|| Ok(features.next().expect("one of each")), Err),
        });
        Ok(encoded.collect())
    }

    /// Encodes sounds in one batch, `(1, steps, width)` each.
    fn encode_batch(&self, sounds: &[&[f32]]) -> Result<Vec<Tensor>> {
        let lengths: Vec<usize> = sounds.iter().map(|samples| samples.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        let values: Result<Vec<Tensor>> =
            sounds.iter().map(|samples| self.input.prepare(samples, &self.device)).collect();
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
