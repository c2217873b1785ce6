//! What a prediction returns: one [`VideoPrediction`] per video, which reports render.
//!
//! As JSON this is a public format. [`VideoPrediction::SCHEMA`] names its version: fields may be
//! added under one version, never renamed or removed. `README.md` describes every field.

use serde::{Deserialize, Serialize};

use crate::bundle::TrainingStatus;
use crate::{Emotion, PerModality, PersonalityTrait};

/// Everything found in one video.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VideoPrediction {
    /// [`VideoPrediction::SCHEMA`].
    pub schema: String,
    /// Path of the video as it was given; bytes that are not UTF-8 are replaced.
    pub video: String,
    /// What was found in the file.
    pub media: MediaSummary,
    /// The whole video first, then time windows, then persons, as far as they were asked for.
    pub predictions: Vec<Scores>,
    /// People seen in the chosen frames.
    pub people: Vec<Person>,
    /// What is said, and how it was found out; absent when nothing was found.
    pub transcript: Option<Transcript>,
    /// Things a reader of the numbers should know.
    pub notes: Vec<String>,
    /// Wall time of each step, in the order they ended. Steps overlap, so they do not add up.
    pub steps: Vec<Step>,
    /// The weights that were used.
    pub weights: WeightsSummary,
}

impl VideoPrediction {
    /// Version of the JSON format.
    pub const SCHEMA: &'static str = "meptr-prediction/1";
}

/// What a media file holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MediaSummary {
    /// Seconds from the first to the end of the last picture or sound.
    pub duration_seconds: f64,
    /// Width and height of a picture as shown, after rotation; absent without a video stream.
    pub frame_size: Option<(usize, usize)>,
    /// Pictures that decode.
    pub frames: u64,
    /// Packets or pictures that do not decode and were left out.
    pub corrupt: u64,
    /// Seconds of sound; absent without an audio stream.
    pub audio_seconds: Option<f64>,
}

/// What a row of scores is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The whole video in one pass.
    Video,
    /// A stretch of it.
    Window,
    /// The mean of all windows, weighted by their length.
    Summary,
    /// One person, over the whole video or a stretch of it.
    Person,
}

/// Emotions and traits of a stretch of video.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scores {
    /// What the row is about.
    pub scope: Scope,
    /// The person, by [`Person::id`], when it is about one.
    pub person: Option<u32>,
    /// Beginning, in seconds of presentation time.
    pub t_start: f64,
    /// End, in seconds of presentation time.
    pub t_end: f64,
    /// Probability of each emotion; they add up to 1.
    pub emotions: Vec<EmotionScore>,
    /// The emotions the probabilities stand for; none means neutral or undecided.
    pub decided: Vec<Emotion>,
    /// Score of each trait.
    pub traits: Vec<TraitScore>,
    /// What each modality contributed, or why it is missing.
    pub modalities: PerModality<ModalityReport>,
    /// The pictures that were looked at.
    pub frames: Vec<ChosenFrame>,
}

/// Probability of an emotion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EmotionScore {
    /// Which one.
    pub emotion: Emotion,
    /// 0 to 1.
    pub probability: f32,
    /// Output of the fusion model before the softmax; of a summary, the mean.
    pub logit: f32,
}

/// Score of a personality trait.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TraitScore {
    /// Which one.
    #[serde(rename = "trait")]
    pub personality_trait: PersonalityTrait,
    /// 0 (low) to 1 (high).
    pub score: f32,
}

/// Part of one modality in a prediction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModalityReport {
    /// Whether the fusion model was given this modality.
    pub available: bool,
    /// Why not; or, when it is, what a reader should know about how it was found.
    pub reason: Option<String>,
    /// Length of the sequence its model read: crops, 20 ms steps of sound, or tokens.
    pub inputs: usize,
    /// How many of the crops were found how; empty for audio and text.
    #[serde(default)]
    pub sources: Vec<SourceCount>,
    /// Emotion logits of this modality's own model.
    pub emotion_logits: Option<[f32; Emotion::COUNT]>,
    /// Trait scores of this modality's own model (unbounded for audio, never negative for scene).
    pub trait_scores: Option<[f32; PersonalityTrait::COUNT]>,
}

/// Number of crops that were found in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCount {
    /// `detected`, `body` (a body stands in for a face) or `frame` (the whole frame does).
    pub source: String,
    /// Number of crops.
    pub crops: usize,
}

/// A picture that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ChosenFrame {
    /// Its number among the pictures that decode, from 0.
    pub index: u64,
    /// Its presentation time in seconds.
    pub time: f64,
}

/// Somebody seen in the video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Person {
    /// Number of the person, from 1, stable within the video.
    pub id: u32,
    /// When and where, in the chosen frames.
    pub sightings: Vec<Sighting>,
}

/// A person in one picture. Boxes are `[x1, y1, x2, y2]` in pixels of the picture as shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    /// Number of the picture.
    pub frame: u64,
    /// Its presentation time in seconds.
    pub time: f64,
    /// The face, when one was found.
    pub face: Option<[f32; 4]>,
    /// The body, when one was found.
    pub body: Option<[f32; 4]>,
}

/// What is said in a video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// `argument`, `file`, `sidecar`, `subtitles` or `whisper`.
    pub source: String,
    /// All of it.
    pub text: String,
    /// Language code, where it is known.
    pub language: Option<String>,
    /// Pieces with their times; empty when the source has none.
    pub segments: Vec<Segment>,
}

/// A piece of a transcript.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Beginning in seconds.
    pub t_start: f64,
    /// End in seconds.
    pub t_end: f64,
    /// What is said.
    pub text: String,
}

/// Wall time of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}

/// The weights behind a prediction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsSummary {
    /// Name of the bundle.
    pub name: String,
    /// What the weights are.
    pub about: String,
    /// What results made with them are worth.
    pub standing: TrainingStatus,
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
