//! Speech to text with times: Whisper, and a test for silence that needs no model.
//!
//! [`Whisper`] opens a Hugging Face folder and turns 16 kHz mono audio into a [`Transcript`]. Below
//! it lie [`LogMel`] (what the model hears), [`WhisperModel`] (the network), the rules which tokens
//! may come next, attempts at rising temperatures, and windows over long audio. [`no_voice`] is the
//! test for silence.

mod config;
mod decoding;
mod encoder;
mod logit_filters;
mod mel;
mod model;
mod repetition;
mod sampling;
mod segment;
mod tokens;
mod transcribe;
mod voice_activity;
mod whisper;

pub use config::{
    FRAMES_PER_POSITION, HOP_SAMPLES, SAMPLE_RATE_HZ, Task, TranscribeConfig, WhisperConfig,
};
pub use mel::{ClipMel, LogMel, mel_filters};
pub use model::{Decoding, WhisperModel};
pub use tokens::SpecialTokens;
pub use transcribe::{TokenSegment, TokenTranscript};
pub use voice_activity::{MIN_PEAK, MIN_RMS, NoVoice, no_voice};
pub use whisper::{Segment, Transcript, Whisper};
