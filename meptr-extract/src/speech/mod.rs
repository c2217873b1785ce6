//! Speech recognition with times: Whisper, and voice activity detection without a model.
//!
//! [`Whisper`] opens a Hugging Face folder and converts 16 kHz mono audio to a [`Transcription`]. Its
//! parts are [`LogMel`] (spectrograms), [`WhisperModel`] (the network), `logit_filters` (tokens that may
//! come next), `decoding` (rising temperatures) and `transcribe` (windows over long audio).
//! [`check_voice`] detects silence.

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
    FRAMES_PER_POSITION, HOP_SAMPLES, SAMPLE_RATE_HZ, TranscribeConfig, WhisperConfig, WhisperTask,
};
pub use mel::{ClipMel, LogMel, mel_filters};
pub use model::{DecoderState, WhisperModel};
pub use tokens::SpecialTokens;
pub use transcribe::{TokenSegment, TokenTranscript};
pub use voice_activity::{MIN_PEAK, MIN_RMS, NoVoice, check_voice};
pub use whisper::{SpeechSegment, Transcription, Whisper};
