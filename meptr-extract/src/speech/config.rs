//! Configuration of a Whisper checkpoint, and options of a transcription.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::backbones::checkpoint_folder::{Problems, read_json, unusable};

/// Sample rate of the input, in Hz.
pub const SAMPLE_RATE_HZ: usize = 16_000;
/// Samples from one spectrogram frame to the next: 10 ms.
pub const HOP_SAMPLES: usize = 160;
/// Spectrogram frames per encoder position, and so per timestamp token: 20 ms.
pub const FRAMES_PER_POSITION: usize = 2;

/// Shape of a Whisper model, as its `config.json` states it; other keys of that file are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhisperConfig {
    /// Width of encoder and decoder.
    pub d_model: usize,
    /// Mel bands of the input: 80, or 128 from large-v3 on.
    pub num_mel_bins: usize,
    /// Number of tokens, with special ones and timestamps.
    pub vocab_size: usize,
    /// Encoder positions of one window, 20 ms each; 1500 for the published 30 s.
    pub max_source_positions: usize,
    /// Tokens the decoder can hold, prompt included; 448 in the published models.
    pub max_target_positions: usize,
    /// Encoder layers.
    pub encoder_layers: usize,
    /// Attention heads of an encoder layer.
    pub encoder_attention_heads: usize,
    /// Inner width of an encoder layer.
    pub encoder_ffn_dim: usize,
    /// Decoder layers.
    pub decoder_layers: usize,
    /// Attention heads of a decoder layer.
    pub decoder_attention_heads: usize,
    /// Inner width of a decoder layer.
    pub decoder_ffn_dim: usize,
    /// Must be `gelu`, the exact form with the error function.
    #[serde(default = "gelu")]
    pub activation_function: String,
    /// Whether token embeddings are multiplied by the root of `d_model`; no published model does.
    #[serde(default)]
    pub scale_embedding: bool,
}

fn gelu() -> String {
    "gelu".to_owned()
}

impl WhisperConfig {
    /// `openai/whisper-large-v3-turbo`.
    pub fn large_v3_turbo() -> Self {
        Self {
            d_model: 1280,
            num_mel_bins: 128,
            vocab_size: 51_866,
            max_source_positions: 1500,
            max_target_positions: 448,
            encoder_layers: 32,
            encoder_attention_heads: 20,
            encoder_ffn_dim: 5120,
            decoder_layers: 4,
            decoder_attention_heads: 20,
            decoder_ffn_dim: 5120,
            activation_function: gelu(),
            scale_embedding: false,
        }
    }

    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// When the file cannot be read, is no such JSON, or describes a model that cannot be built.
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = read_json(path, "Whisper configuration")?;
        let problems = config.problems();
        if problems.is_empty() {
            return Ok(config);
        }
        Err(unusable(path, "Whisper configuration", problems.join("; ")))
    }

    /// Spectrogram frames of one window.
    pub fn window_frames(&self) -> usize {
        FRAMES_PER_POSITION * self.max_source_positions
    }

    /// Samples of one window.
    pub fn window_samples(&self) -> usize {
        HOP_SAMPLES * self.window_frames()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        problems.require_sizes(&[
            ("d_model", self.d_model),
            ("num_mel_bins", self.num_mel_bins),
            ("vocab_size", self.vocab_size),
            ("max_source_positions", self.max_source_positions),
            ("max_target_positions", self.max_target_positions),
            ("encoder_layers", self.encoder_layers),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("decoder_layers", self.decoder_layers),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
        ]);
        let divides = |heads: usize| heads > 0 && self.d_model.is_multiple_of(heads);
        let mut require = |holds: bool, problem: &str| problems.require(holds, problem);
        require(divides(self.encoder_attention_heads), "encoder heads must divide `d_model`");
        require(divides(self.decoder_attention_heads), "decoder heads must divide `d_model`");
        require(self.max_source_positions > 1, "`max_source_positions` must be above 1");
        require(self.max_target_positions > 7, "`max_target_positions` must be above 7");
        require(self.activation_function == "gelu", "`activation_function` must be `gelu`");
        problems.into_vec()
    }
}

/// Task of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhisperTask {
    /// Transcribe speech in its own language.
    Transcribe,
    /// Translate speech to English.
    Translate,
}

/// Options of a transcription; the defaults are those of OpenAI's `whisper` package.
///
/// One default differs: the text of the window before is not part of the prompt, as in transformers,
/// because it carries a repetition from one window to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TranscribeConfig {
    /// Code of the spoken language, such as `en`; none: the model decides on the first window.
    pub language: Option<String>,
    /// Transcribe or translate; none leaves the token out of the prompt, as transformers does when
    /// neither task nor language is given. English-only models know no task.
    pub task: Option<WhisperTask>,
    /// Whether the model marks the time of each phrase; if not, a window is one segment.
    pub timestamps: bool,
    /// Temperatures, tried in this order until a result passes the checks below; 0 is greedy.
    pub temperatures: Vec<f64>,
    /// Compression ratio by zlib above which a result has failed; none: no such check.
    pub max_compression_ratio: Option<f64>,
    /// Mean natural log-probability per token below which a result has failed; none: no check.
    pub min_average_log_probability: Option<f64>,
    /// Probability of silence above which a window is silent, if its result also fails on the
    /// log-probability (when that check is on); none: no window is silent.
    pub max_no_speech_probability: Option<f64>,
    /// Repetitions of a phrase at the end above which a result has failed. If the last result has, the
    /// phrase is kept this many times, and so are equal segments in a row. None: no check.
    pub max_repeats: Option<usize>,
    /// Tokens per window at most; none: half of what the decoder holds.
    pub max_tokens: Option<usize>,
    /// Whether the text so far is part of the prompt; if so, clips are not batched.
    pub condition_on_previous_text: bool,
    /// Windows computed together, at least 1; only windows of different clips can be.
    pub batch_size: usize,
    /// Seed of the sampling at temperatures above 0.
    pub seed: u64,
}

impl Default for TranscribeConfig {
    fn default() -> Self {
        Self {
            language: None,
            task: Some(WhisperTask::Transcribe),
            timestamps: true,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            max_compression_ratio: Some(2.4),
            min_average_log_probability: Some(-1.0),
            max_no_speech_probability: Some(0.6),
            max_repeats: Some(4),
            max_tokens: None,
            condition_on_previous_text: false,
            batch_size: 8,
            seed: 0,
        }
    }
}

impl TranscribeConfig {
    /// Invalid values; empty when there are none.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.temperatures.is_empty() {
            problems.push("`temperatures` must hold at least one value".to_owned());
        }
        if self.temperatures.iter().any(|value| !value.is_finite() || *value < 0.0) {
            problems.push("`temperatures` must be finite and not below 0".to_owned());
        }
        for (name, zero) in [
            ("max_repeats", self.max_repeats == Some(0)),
            ("max_tokens", self.max_tokens == Some(0)),
            ("batch_size", self.batch_size == 0),
        ] {
            if zero {
                problems.push(format!("`{name}` must be at least 1"));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_cannot_be_built_is_refused_with_every_reason() {
        let config = WhisperConfig {
            encoder_attention_heads: 7,
            activation_function: "relu".to_owned(),
            ..WhisperConfig::large_v3_turbo()
        };
        assert_eq!(config.problems().len(), 2);
        let endless =
            WhisperConfig { encoder_layers: usize::MAX, ..WhisperConfig::large_v3_turbo() };
        assert!(endless.problems()[0].contains("`encoder_layers` is 18446744073709551615, not"));
        assert!(WhisperConfig::large_v3_turbo().problems().is_empty());
    }

    #[test]
    fn the_default_transcription_is_usable_and_misspelt_keys_are_not() {
        assert!(TranscribeConfig::default().problems().is_empty());
        assert!(serde_json::from_str::<TranscribeConfig>(r#"{"langauge": "en"}"#).is_err());
        let config: TranscribeConfig =
            serde_json::from_str(r#"{"task": "translate", "temperatures": []}"#).unwrap();
        assert_eq!(config.task, Some(WhisperTask::Translate));
        assert_eq!(config.problems().len(), 1);
    }
}
