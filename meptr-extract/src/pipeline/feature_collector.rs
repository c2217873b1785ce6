//! Collection of the features of a whole video, for a feature store.

use std::path::Path;

use candle::Tensor;
use meptr_core::prediction::ChosenFrame;
use meptr_core::store::{SequenceRecord, Storage, digest_of};
use meptr_core::{Modality, PerModality};

use super::audio_chunks::MAX_CHUNK_SECONDS;
use super::audio_encoder::AudioChunkFeatures;
use super::extractor::{ExtractRequest, Extractor};
use super::fallback;
use super::feature_sink::{FeatureSink, VisualWindow};
use super::timings::StepTimings;
use super::transcript_source::TranscriptChoice;
use super::visual_features::VisualFeatures;
use crate::decode::FRAMES_PER_CLIP;
use crate::progress::Progress;
use crate::{Error, Result};

/// Version of the extraction; increased whenever the same video and weights give other features.
const EXTRACTION_VERSION: u32 = 1;

/// SHA-256 of the settings that features depend on, besides the video, its words and the weights.
pub fn settings_digest(storage: Storage) -> String {
    let settings = serde_json::json!({
        "extraction": EXTRACTION_VERSION,
        "frames": FRAMES_PER_CLIP,
        "piece_seconds": MAX_CHUNK_SECONDS,
        "storage": storage,
    });
    digest_of(settings.to_string().as_bytes())
}

/// Features of a whole video.
#[derive(Debug, Clone)]
pub struct VideoFeatures {
    /// Sequence of each modality, `(steps, width)`, f32; at least one is there.
    pub sequences: PerModality<Option<Tensor>>,
    /// Description of each sequence, or why it is absent.
    pub records: PerModality<SequenceRecord>,
    /// Frames that were encoded.
    pub frames: Vec<ChosenFrame>,
    /// Seconds from the start to the end of the last frame or sound.
    pub duration_seconds: f64,
}

/// Files and transcript of a video.
#[derive(Debug, Clone)]
pub struct VideoSources<'a> {
    /// Video file.
    pub video: &'a Path,
    /// File to take the sound from, instead of the video.
    pub audio: Option<&'a Path>,
    /// Source of the transcript.
    pub transcript: TranscriptChoice,
}

/// Reads a video in one pass and collects its features.
///
/// # Errors
/// [`Error::NothingToPredict`] when there are none; otherwise as [`Extractor::extract`].
pub fn collect_features(
    extractor: &Extractor,
    sources: &VideoSources<'_>,
    progress: &dyn Progress,
) -> Result<VideoFeatures> {
    let request = |transcript| ExtractRequest { transcript, ..ExtractRequest::default() };
    let mut collector = Collector::default();
    let transcript = sources.transcript.clone();
    let extraction =
        extractor.extract(sources.video, &request(transcript), &mut collector, progress)?;
    if let Some(audio) = sources.audio {
        let mut audio_only = Collector::default();
        let no_words = TranscriptChoice::Text(String::new());
        extractor.extract(audio, &request(no_words), &mut audio_only, progress)?;
        (collector.chunks, collector.unusable_sound) =
            (audio_only.chunks, audio_only.unusable_sound);
    }
    let duration_seconds = extraction.windows.first().map_or(0.0, |window| window.end_seconds);
    let features = collector.finish(duration_seconds)?;
    let is_empty = features.sequences.iter().all(|(_, sequence)| sequence.is_none());
    if is_empty {
        return Err(Error::NothingToPredict { path: sources.video.to_owned() });
    }
    Ok(features)
}

/// A sequence `(1, steps, width)`, or the reason why there is none.
type Found = std::result::Result<Tensor, String>;

/// Sequence of a visual modality.
struct VisualSequence {
    modality: Modality,
    features: Found,
    /// Index of the frame of each step.
    frames: Vec<usize>,
}

#[derive(Default)]
struct Collector {
    frames: Vec<ChosenFrame>,
    visual: Vec<VisualSequence>,
    /// Features of the chunks of sound, `(1, steps, width)` each.
    chunks: Vec<Tensor>,
    /// Reason of the first chunk of sound without features.
    unusable_sound: Option<&'static str>,
    text: Option<Found>,
}

impl Collector {
    fn finish(self, duration_seconds: f64) -> Result<VideoFeatures> {
        let mut features = VideoFeatures {
            sequences: PerModality::default(),
            records: PerModality::from_fn(|one| {
                SequenceRecord::absent(fallback::missing_input(one))
            }),
            frames: self.frames,
            duration_seconds,
        };
        for VisualSequence { modality, features: found, frames } in self.visual {
            match found {
                Ok(sequence) => features.set(modality, &[sequence], frames)?,
                Err(reason) => features.records[modality] = SequenceRecord::absent(reason),
            }
        }
        if let Some(reason) = self.unusable_sound {
            features.records.audio = SequenceRecord::absent(reason);
        }
        if !self.chunks.is_empty() {
            features.set(Modality::Audio, &self.chunks, Vec::new())?;
        }
        match self.text {
            Some(Ok(sequence)) => features.set(Modality::Text, &[sequence], Vec::new())?,
            Some(Err(reason)) => features.records.text = SequenceRecord::absent(reason),
            None => {}
        }
        Ok(features)
    }
}

impl VideoFeatures {
    /// Sets the sequence of a modality from its chunks, `(1, steps, width)` each.
    fn set(&mut self, modality: Modality, chunks: &[Tensor], frames: Vec<usize>) -> Result<()> {
        let join = || Tensor::cat(chunks, 1)?.squeeze(0);
        let steps = chunks.iter().map(|chunk| chunk.dim(1)).collect::<candle::Result<_>>();
        let doing = || Error::doing(format!("joining the {modality} features"));
        let sequence = join().map_err(doing())?;
        let sum = sequence.sum_all().and_then(|sum| sum.to_scalar::<f32>()).map_err(doing())?;
        if !sum.is_finite() {
            return Err(Error::NotFinite { what: format!("backbone of the {modality} modality") });
        }
        self.sequences[modality] = Some(sequence);
        self.records[modality] =
            SequenceRecord { pieces: steps.map_err(doing())?, frames, ..SequenceRecord::default() };
        Ok(())
    }
}

impl VisualSequence {
    /// Features of all crops of a modality.
    fn of(modality: Modality, visual: &VisualFeatures) -> Result<Self> {
        let crops: Vec<usize> = visual.crop_indices(modality).collect();
        let frames = crops.iter().map(|index| visual.crops[*index].frame).collect();
        let reason = || fallback::missing_crops(modality).to_owned();
        Ok(Self { modality, features: visual.select(&crops)?.ok_or_else(reason), frames })
    }
}

impl FeatureSink for Collector {
    fn visual(&mut self, _: usize, visual: VisualWindow, _: &mut StepTimings) -> Result<()> {
        let Some(features) = &visual.features else { return Ok(()) };
        let modalities = [Modality::Body, Modality::Face, Modality::Scene];
        let sequences = modalities.into_iter().map(|one| VisualSequence::of(one, features));
        self.visual = sequences.collect::<Result<_>>()?;
        self.frames = visual.frames;
        Ok(())
    }

    fn audio(&mut self, _: usize, chunk: AudioChunkFeatures, _: &mut StepTimings) -> Result<()> {
        match chunk.features {
            Ok(features) => self.chunks.push(features),
            Err(reason) => _ = self.unusable_sound.get_or_insert(reason),
        }
        Ok(())
    }

    fn text(&mut self, _: usize, features: Found, _: &mut StepTimings) -> Result<()> {
        self.text = Some(features);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle::{DType, Device};

    use super::*;

    #[test]
    fn chunks_of_sound_are_joined_and_counted() {
        let mut collector = Collector::default();
        for steps in [3, 2] {
            let features = Tensor::zeros((1, steps, 4), DType::F32, &Device::Cpu).unwrap();
            let chunk = AudioChunkFeatures { samples: 320 * steps, features: Ok(features) };
            collector.audio(0, chunk, &mut StepTimings::default()).unwrap();
        }
        let silent = AudioChunkFeatures { samples: 320, features: Err("the sound is silent") };
        collector.audio(0, silent, &mut StepTimings::default()).unwrap();
        let features = collector.finish(0.1).unwrap();
        assert_eq!(features.sequences.audio.unwrap().dims(), [5, 4]);
        assert_eq!(features.records.audio.pieces, [3, 2]);
        let reason = features.records.face.reason.unwrap();
        assert_eq!(reason, "there are no pictures");
    }

    #[test]
    fn features_that_are_not_finite_are_an_error() {
        let mut collector = Collector::default();
        let features = Tensor::full(f32::NAN, (1, 3, 4), &Device::Cpu).unwrap();
        let chunk = AudioChunkFeatures { samples: 960, features: Ok(features) };
        collector.audio(0, chunk, &mut StepTimings::default()).unwrap();
        let error = collector.finish(0.1).unwrap_err();
        assert!(matches!(&error, Error::NotFinite { what } if what.contains("audio")), "{error}");
    }

    #[test]
    fn settings_differ_by_storage_type() {
        assert_ne!(settings_digest(Storage::F16), settings_digest(Storage::F32));
    }
}
