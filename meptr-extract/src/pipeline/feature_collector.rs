//! The features of a whole video, collected for a feature store.

use std::path::Path;

use candle::Tensor;
use meptr_core::prediction::ChosenFrame;
use meptr_core::store::{SequenceRecord, Storage, digest_of};
use meptr_core::{Modality, PerModality};

use super::{
    ExtractRequest, Extractor, FeatureSink, MAX_PIECE_SECONDS, Pictures, Seen, SoundPiece, Steps,
    TranscriptChoice, why_nothing,
};
use crate::decode::FRAMES_PER_CLIP;
use crate::progress::Progress;
use crate::{Error, Result};

/// Counts up whenever the same video and weights come to give other features.
const EXTRACTION_VERSION: u32 = 1;

/// SHA-256 of what features depend on besides the video, its words and the weights.
pub fn settings_digest(storage: Storage) -> String {
    let settings = serde_json::json!({
        "extraction": EXTRACTION_VERSION,
        "frames": FRAMES_PER_CLIP,
        "piece_seconds": MAX_PIECE_SECONDS,
        "storage": storage,
    });
    digest_of(settings.to_string().as_bytes())
}

/// What the backbones make of a whole video.
#[derive(Debug, Clone)]
pub struct VideoFeatures {
    /// `(steps, width)` each, f32; one at least.
    pub sequences: PerModality<Option<Tensor>>,
    /// What is known about them.
    pub records: PerModality<SequenceRecord>,
    /// The pictures that were looked at.
    pub frames: Vec<ChosenFrame>,
    /// Seconds from the start to the end of the last picture or sound.
    pub duration_seconds: f64,
}

/// The files and words of a video.
#[derive(Debug, Clone)]
pub struct VideoParts<'a> {
    /// The video.
    pub video: &'a Path,
    /// File to take the sound from instead.
    pub audio: Option<&'a Path>,
    /// Where words come from.
    pub transcript: TranscriptChoice,
}

/// Reads a video in one pass and keeps its features.
///
/// # Errors
/// [`Error::NothingToPredict`] when there are none; otherwise as [`Extractor::extract`].
pub fn collect_features(
    extractor: &Extractor,
    parts: &VideoParts<'_>,
    progress: &dyn Progress,
) -> Result<VideoFeatures> {
    let request = |transcript| ExtractRequest { transcript, ..ExtractRequest::default() };
    let mut found = Collector::default();
    let transcript = parts.transcript.clone();
    let extraction = extractor.extract(parts.video, &request(transcript), &mut found, progress)?;
    if let Some(audio) = parts.audio {
        let mut sound = Collector::default();
        let no_words = TranscriptChoice::Text(String::new());
        extractor.extract(audio, &request(no_words), &mut sound, progress)?;
        (found.pieces, found.no_sound) = (sound.pieces, sound.no_sound);
    }
    let duration_seconds = extraction.windows.first().map_or(0.0, |window| window.end_seconds);
    let features = found.finish(duration_seconds)?;
    let is_empty = features.sequences.iter().all(|(_, sequence)| sequence.is_none());
    if is_empty {
        return Err(Error::NothingToPredict { path: parts.video.to_owned() });
    }
    Ok(features)
}

/// A sequence `(1, steps, width)`, or why there is none.
type Found = std::result::Result<Tensor, String>;

#[derive(Default)]
struct Collector {
    frames: Vec<ChosenFrame>,
    /// For each visual modality, its features and the place of each step's frame.
    visual: Vec<(Modality, Found, Vec<usize>)>,
    pieces: Vec<Tensor>,
    /// Why the first piece of sound without features has none.
    no_sound: Option<&'static str>,
    words: Option<Found>,
}

impl Collector {
    fn finish(self, duration_seconds: f64) -> Result<VideoFeatures> {
        let mut features = VideoFeatures {
            sequences: PerModality::default(),
            records: PerModality::from_fn(|one| SequenceRecord::absent(why_nothing(one))),
            frames: self.frames,
            duration_seconds,
        };
        for (modality, found, frames) in self.visual {
            match found {
                Ok(sequence) => features.put(modality, &[sequence], frames)?,
                Err(reason) => features.records[modality] = SequenceRecord::absent(reason),
            }
        }
        if let Some(reason) = self.no_sound {
            features.records.audio = SequenceRecord::absent(reason);
        }
        if !self.pieces.is_empty() {
            features.put(Modality::Audio, &self.pieces, Vec::new())?;
        }
        match self.words {
            Some(Ok(sequence)) => features.put(Modality::Text, &[sequence], Vec::new())?,
            Some(Err(reason)) => features.records.text = SequenceRecord::absent(reason),
            None => {}
        }
        Ok(features)
    }
}

impl VideoFeatures {
    /// Takes the pieces of a sequence, `(1, steps, width)` each.
    fn put(&mut self, modality: Modality, pieces: &[Tensor], frames: Vec<usize>) -> Result<()> {
        let join = || Tensor::cat(pieces, 1)?.squeeze(0);
        let steps = pieces.iter().map(|piece| piece.dim(1)).collect::<candle::Result<_>>();
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

fn visual(modality: Modality, seen: &Seen) -> Result<(Modality, Found, Vec<usize>)> {
    let places: Vec<usize> = seen.places(modality).collect();
    let frames = places.iter().map(|place| seen.crops[*place].frame).collect();
    let reason = || Seen::why_absent(modality).to_owned();
    Ok((modality, seen.features(&places)?.ok_or_else(reason), frames))
}

impl FeatureSink for Collector {
    fn pictures(&mut self, _: usize, pictures: Pictures, _: &mut Steps) -> Result<()> {
        let Some(seen) = &pictures.seen else { return Ok(()) };
        let modalities = [Modality::Body, Modality::Face, Modality::Scene];
        self.visual = modalities.into_iter().map(|one| visual(one, seen)).collect::<Result<_>>()?;
        self.frames = pictures.frames;
        Ok(())
    }

    fn sound(&mut self, _: usize, piece: SoundPiece, _: &mut Steps) -> Result<()> {
        match piece.features {
            Ok(features) => self.pieces.push(features),
            Err(reason) => _ = self.no_sound.get_or_insert(reason),
        }
        Ok(())
    }

    fn words(&mut self, _: usize, features: Found, _: &mut Steps) -> Result<()> {
        self.words = Some(features);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle::{DType, Device};

    use super::*;

    #[test]
    fn pieces_of_sound_are_joined_and_counted() {
        let mut collector = Collector::default();
        for steps in [3, 2] {
            let features = Tensor::zeros((1, steps, 4), DType::F32, &Device::Cpu).unwrap();
            let piece = SoundPiece { samples: 320 * steps, features: Ok(features) };
            collector.sound(0, piece, &mut Steps::default()).unwrap();
        }
        let silent = SoundPiece { samples: 320, features: Err("the sound is silent") };
        collector.sound(0, silent, &mut Steps::default()).unwrap();
        let features = collector.finish(0.1).unwrap();
        assert_eq!(features.sequences.audio.unwrap().dims(), [5, 4]);
        assert_eq!(features.records.audio.pieces, [3, 2]);
        let reason = features.records.face.reason.unwrap();
        assert_eq!(reason, "there are no pictures");
    }

    #[test]
    fn features_that_are_no_numbers_are_an_error() {
        let mut collector = Collector::default();
        let features = Tensor::full(f32::NAN, (1, 3, 4), &Device::Cpu).unwrap();
        let piece = SoundPiece { samples: 960, features: Ok(features) };
        collector.sound(0, piece, &mut Steps::default()).unwrap();
        let error = collector.finish(0.1).unwrap_err();
        assert!(matches!(&error, Error::NotFinite { what } if what.contains("audio")), "{error}");
    }

    #[test]
    fn settings_tell_number_types_apart() {
        assert_ne!(settings_digest(Storage::F16), settings_digest(Storage::F32));
    }
}
