//! One pass over a video: events of the decoder in, features of complete windows out.

use std::collections::HashMap;

use meptr_core::Modality;
use meptr_core::prediction::ChosenFrame;

use super::audio_chunks::{AudioChunk, AudioChunker};
use super::encoders::Encoders;
use super::feature_sink::FeatureSink;
use super::frame_buffer::{FrameBatch, FrameBuffer};
use super::streaming_transcriber::StreamingTranscriber;
use super::timings::StepTimings;
use super::visual_features::VisualFeatures;
use crate::decode::{Cue, DecodeReport, Dump, Event};
use crate::{Result, allocator};

/// State of one pass over a video.
pub(super) struct VideoPass<'a> {
    pub(super) encoders: &'a Encoders,
    pub(super) sink: &'a mut dyn FeatureSink,
    pub(super) frames: FrameBuffer,
    pub(super) chunker: AudioChunker,
    /// Chunks of sound that wait for a full batch.
    pub(super) waiting_chunks: Vec<AudioChunk>,
    pub(super) dump: Option<Dump>,
    pub(super) transcriber: Option<StreamingTranscriber<'a>>,
    pub(super) cues: Vec<Cue>,
    pub(super) report: DecodeReport,
    pub(super) timings: StepTimings,
}

impl VideoPass<'_> {
    /// Processes an event.
    pub(super) fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Frame { window, index, time_seconds, image, .. } => {
                if let Some(dump) = &self.dump {
                    dump.image(&format!("frames/{index:08}"), &image)?;
                }
                let frame = ChosenFrame { index: index as u64, time: time_seconds };
                self.frames.push(window, frame, image);
                self.encode_frames(Some(time_seconds))
            }
            Event::Audio { samples, start_seconds } => self.take_audio(&samples, start_seconds),
            Event::Subtitle(cue) => {
                self.cues.push(cue);
                Ok(())
            }
            Event::Restart { windows } => {
                self.frames.discard(&windows);
                Ok(())
            }
            Event::End(report) => {
                self.report = report;
                self.encode_frames(None)?;
                let chunks = self.chunker.finish();
                self.encode_audio(chunks, true)
            }
        }
    }

    fn take_audio(&mut self, samples: &[f32], start_seconds: f64) -> Result<()> {
        if let Some(dump) = &mut self.dump {
            dump.audio(samples)?;
        }
        if let Some(transcriber) = &mut self.transcriber {
            transcriber.push(start_seconds, samples, &mut self.timings)?;
        }
        let chunks = self.chunker.push(start_seconds, samples);
        self.encode_audio(chunks, false)
    }

    /// Encodes frames that are due and hands on the complete windows; `now` is the time that the
    /// decoder has reached, `None` at its end.
    fn encode_frames(&mut self, now: Option<f64>) -> Result<()> {
        let encoder = &self.encoders.visual;
        for mut batch in self.frames.ready_batches(now) {
            let images: Vec<_> = batch.images.iter().collect();
            let features = encoder.encode(&images, batch.tracker.as_mut(), &mut self.timings)?;
            if let Some(dump) = &self.dump {
                dump_crops(dump, &batch, &features)?;
            }
            self.frames.add_features(batch, features)?;
        }
        if now.is_none() {
            encoder.release(); // so that not all weights are in memory at once
            allocator::trim();
        }
        for (window, visual) in self.frames.take_complete(now) {
            self.sink.visual(window, visual, &mut self.timings)?;
        }
        Ok(())
    }

    /// Encodes chunks of sound as soon as they fill a batch, or at the end.
    fn encode_audio(&mut self, chunks: Vec<AudioChunk>, is_end: bool) -> Result<()> {
        self.waiting_chunks.extend(chunks);
        let encoder = &self.encoders.audio;
        if !encoder.is_full_batch(&self.waiting_chunks) && !is_end {
            return Ok(());
        }
        let chunks = std::mem::take(&mut self.waiting_chunks);
        let features = self.timings.time("wav2vec2", || encoder.encode(&chunks))?;
        if is_end {
            encoder.release();
            allocator::trim();
        }
        for (chunk, features) in chunks.iter().zip(features) {
            self.sink.audio(chunk.window, features, &mut self.timings)?;
        }
        Ok(())
    }
}

/// Writes the crops of faces and bodies, numbered per frame.
fn dump_crops(dump: &Dump, batch: &FrameBatch, features: &VisualFeatures) -> Result<()> {
    let mut counts = HashMap::new();
    for crop in features.crops.iter().filter(|crop| crop.modality != Modality::Scene) {
        let count = counts.entry((crop.frame, crop.modality)).or_insert(0);
        let index = batch.frames[crop.frame].index;
        let name = format!("{}/{index:08}-{count}", crop.modality);
        dump.image(&name, &crop.bounds.crop(&batch.images[crop.frame]))?;
        *count += 1;
    }
    Ok(())
}
