//! Result of a prediction: one [`VideoPrediction`] per video, which reports render.
//!
//! As JSON this is a public format. [`VideoPrediction::SCHEMA`] names its version: fields may be
//! added under one version, never renamed or removed. `README.md` describes every field.

use serde::{Deserialize, Serialize};

use crate::bundle::TrainingStatus;
use crate::{Emotion, PerModality, PersonalityTrait};

/// Result of one video.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VideoPrediction {
    /// [`VideoPrediction::SCHEMA`].
    pub schema: String,
    /// Path of the video as it was given; bytes that are not UTF-8 are replaced.
    pub video: String,
    /// Contents of the file.
    pub media: MediaSummary,
    /// Scores of the whole video, then of time windows, then of persons, as far as asked for.
    pub predictions: Vec<Scores>,
    /// Persons in the chosen frames.
    pub people: Vec<PersonReport>,
    /// Transcript and its source; absent when there is none.
    pub transcript: Option<TranscriptReport>,
    /// Remarks for readers of the scores.
    pub notes: Vec<String>,
    /// Wall time of each step, in the order of their first run. Steps overlap, so the times do not add
    /// up.
    pub steps: Vec<Step>,
    /// Weights that were used.
    pub weights: WeightsSummary,
}

impl VideoPrediction {
    /// Version of the JSON format.
    pub const SCHEMA: &'static str = "meptr-prediction/2";
}

/// Contents of a media file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MediaSummary {
    /// Seconds from time zero to the end of the last frame or sound.
    pub duration_seconds: f64,
    /// Width and height of a frame after rotation; absent without a video stream.
    pub frame_size: Option<(usize, usize)>,
    /// Frames that decode.
    pub frames: u64,
    /// Packets or frames that do not decode and were left out.
    pub corrupt: u64,
    /// Seconds of sound; absent without an audio stream.
    pub audio_seconds: Option<f64>,
}

/// Scope of a row of scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The whole video as one window.
    Video,
    /// A time window.
    Window,
    /// The mean of all windows, weighted by their duration.
    Summary,
    /// One person, in the whole video or in a time window.
    Person,
}

/// Emotions and traits of a video, a time window or a person.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scores {
    /// Scope.
    pub scope: Scope,
    /// Person, by [`PersonReport::id`], in rows of a person.
    pub person: Option<u32>,
    /// Start in seconds of presentation time.
    pub t_start: f64,
    /// End in seconds of presentation time.
    pub t_end: f64,
    /// Probability of each emotion; the sum is 1.
    pub emotions: Vec<EmotionScore>,
    /// Emotions that count as shown, by [`Emotion::decided`]; none means neutral or undecided.
    pub shown: Vec<Emotion>,
    /// Score of each trait.
    pub traits: Vec<TraitScore>,
    /// Part of each modality, or the reason why it is absent.
    pub modalities: PerModality<ModalityReport>,
    /// Frames that were used.
    pub frames: Vec<ChosenFrame>,
}

/// Probability of an emotion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EmotionScore {
    /// Emotion.
    pub emotion: Emotion,
    /// 0 to 1.
    pub probability: f32,
    /// Output of the fusion model before the softmax; of a summary, the mean.
    pub logit: f32,
}

/// Score of a personality trait.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TraitScore {
    /// Trait.
    #[serde(rename = "trait")]
    pub personality_trait: PersonalityTrait,
    /// 0 (low) to 1 (high).
    pub score: f32,
}

/// Part of one modality in a prediction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModalityReport {
    /// Whether the fusion model used this modality.
    pub available: bool,
    /// Reason if not; if so, a remark on its input, such as a fall-back.
    pub reason: Option<String>,
    /// Length of its sequence: crops, 20 ms steps of sound, or tokens.
    pub inputs: usize,
    /// Number of crops by source; empty for audio and text.
    #[serde(default)]
    pub sources: Vec<SourceCount>,
    /// Emotion logits of this modality's own model.
    pub emotion_logits: Option<[f32; Emotion::COUNT]>,
    /// Trait scores of this modality's own model (unbounded for audio, never negative for scene).
    pub trait_scores: Option<[f32; PersonalityTrait::COUNT]>,
}

/// Number of crops from one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCount {
    /// `detected`, `body` (a body instead of a face) or `frame` (the whole frame).
    pub source: String,
    /// Number of crops.
    pub crops: usize,
}

/// A frame that was used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ChosenFrame {
    /// Index among the frames that decode, from 0.
    pub index: u64,
    /// Presentation time in seconds.
    pub time: f64,
}

/// A person in the video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PersonReport {
    /// Id of the person, from 1, constant within the video.
    pub id: u32,
    /// Appearances in the chosen frames.
    pub sightings: Vec<PersonSighting>,
}

/// A person in one frame. Boxes are `[x1, y1, x2, y2]` in pixels of the upright frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PersonSighting {
    /// Index of the frame.
    pub frame: u64,
    /// Presentation time in seconds.
    pub time: f64,
    /// Face, if found.
    pub face: Option<[f32; 4]>,
    /// Body, if found.
    pub body: Option<[f32; 4]>,
}

/// Transcript of a video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranscriptReport {
    /// `argument`, `file`, `sidecar`, `subtitles` or `whisper`.
    pub source: String,
    /// Whole text.
    pub text: String,
    /// Language code, if known.
    pub language: Option<String>,
    /// Segments with times; empty when the source has none.
    pub segments: Vec<TranscriptSegment>,
}

/// A segment of a transcript.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranscriptSegment {
    /// Start in seconds.
    pub t_start: f64,
    /// End in seconds.
    pub t_end: f64,
    /// Text.
    pub text: String,
}

/// Wall time of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Name of the step.
    pub name: String,
    /// Wall time.
    pub seconds: f64,
}

/// Weights of a prediction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsSummary {
    /// Name of the bundle.
    pub name: String,
    /// Description of the weights.
    pub about: String,
    /// Kind of training, by which results are to be judged.
    #[serde(alias = "standing")]
    pub status: TrainingStatus,
    /// Each file with its SHA-256.
    pub files: Vec<WeightFileSummary>,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightFileSummary {
    /// Path inside the bundle.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

#[cfg(test)]
mod tests {
    use crate::bundle::{Manifest, TrainingStatus};

    #[test]
    fn files_with_the_former_name_of_the_status_are_read() {
        let json = include_str!("../../weights/demo/manifest.json");
        let former = json.replace("\"status\"", "\"standing\"");
        assert_ne!(json, former);
        for json in [json, &former] {
            let manifest: Manifest = serde_json::from_str(json).unwrap();
            assert_eq!(manifest.status, TrainingStatus::Demonstration);
        }
        let json = r#"{"name": "x", "about": "", "standing": "trained", "files": []}"#;
        let weights: super::WeightsSummary = serde_json::from_str(json).unwrap();
        assert_eq!(weights.status, TrainingStatus::Trained);
    }
}
