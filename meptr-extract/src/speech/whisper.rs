//! Whisper from its folder: audio to transcription.

use std::path::{Path, PathBuf};

use candle::{Device, Tensor};
use meptr_core::Precision;
use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use super::config::{HOP_SAMPLES, TranscribeConfig, WhisperConfig};
use super::decoding::DecodingTask;
use super::mel::{ClipMel, LogMel};
use super::model::{DecoderState, WhisperModel};
use super::tokens::SpecialTokens;
use super::transcribe::{TokenTranscript, WindowEncoder, transcribe_clips};
use crate::backbones::checkpoint_folder::{load_weights, read_json, unusable};
use crate::backbones::preprocess::read_tokenizer;
use crate::{Error, Result};

/// Transcription of a clip.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Transcription {
    /// Code of the spoken language, such as `en`, given or detected; none for an empty clip.
    pub language: Option<String>,
    /// Segments by time; none is empty.
    pub segments: Vec<SpeechSegment>,
}

impl Transcription {
    /// The text of all segments.
    pub fn text(&self) -> String {
        let text: String = self.segments.iter().map(|segment| segment.text.as_str()).collect();
        text.trim().to_owned()
    }
}

/// A phrase, or a whole window when the model marks none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeechSegment {
    /// From the start of the clip.
    pub start_seconds: f64,
    /// From the start of the clip, not before `start_seconds`.
    pub end_seconds: f64,
    /// Text as the model wrote it; it starts with a space in languages that separate words by spaces.
    pub text: String,
    /// Mean natural log-probability per token of its window, at most 0.
    pub average_log_probability: f64,
    /// Probability that its window is silent, 0 to 1.
    pub no_speech_probability: f64,
}

/// Whisper of any size, with its tokens and, if the folder has one, its tokenizer.
#[derive(Debug)]
pub struct Whisper {
    folder: PathBuf,
    config: WhisperConfig,
    tokens: SpecialTokens,
    tokenizer: Option<Tokenizer>,
    log_mel: LogMel,
    model: WhisperModel,
    device: Device,
}

impl Whisper {
    /// Opens a Hugging Face folder: `config.json`, `generation_config.json`, `model.safetensors`,
    /// and where present `preprocessor_config.json` and `tokenizer.json`.
    ///
    /// Weights may be stored in any precision; the network computes in `precision`, and logits are
    /// f32 always. `proj_out.weight` is not read, as it is the token embedding.
    ///
    /// # Errors
    /// When a file cannot be read, contradicts the others, or does not hold exactly the model.
    pub fn open(folder: &Path, device: &Device, precision: Precision) -> Result<Self> {
        let config = WhisperConfig::read(&folder.join("config.json"))?;
        check_preprocessor(&folder.join("preprocessor_config.json"), &config)?;
        let path = folder.join("tokenizer.json");
        let tokenizer = path.exists().then(|| read_tokenizer(&path)).transpose()?;
        let tokens = SpecialTokens::read(folder, tokenizer.as_ref())?;
        let model = load_weights(
            &folder.join("model.safetensors"),
            (device, precision),
            |name| name == "proj_out.weight",
            |vb| WhisperModel::load(&config, vb),
        )?;
        let log_mel = LogMel::new(config.num_mel_bins)
            .map_err(Error::doing("preparing the spectrogram of Whisper"))?;
        let (folder, device) = (folder.to_owned(), device.clone());
        Ok(Self { folder, config, tokens, tokenizer, log_mel, model, device })
    }

    /// Shape of the model.
    pub fn config(&self) -> &WhisperConfig {
        &self.config
    }

    /// Special tokens of the model.
    pub fn tokens(&self) -> &SpecialTokens {
        &self.tokens
    }

    /// Network.
    pub fn model(&self) -> &WhisperModel {
        &self.model
    }

    /// Features of the first window of a clip, `(1, num_mel_bins, 2 max_source_positions)`, f32.
    ///
    /// # Errors
    /// When the computation fails.
    pub fn features(&self, samples: &[f32]) -> Result<Tensor> {
        let clip = self.log_mel.clip(samples, self.config.window_samples());
        clip.and_then(|clip| clip.window(0, self.config.window_frames()))
            .and_then(|window| window.unsqueeze(0)?.to_device(&self.device))
            .map_err(Error::doing("computing the spectrogram for Whisper"))
    }

    /// Transcribes a clip: 16 kHz, mono, about -1 to 1, of any length.
    ///
    /// # Errors
    /// See [`transcribe_batch`](Self::transcribe_batch).
    pub fn transcribe(&self, samples: &[f32], config: &TranscribeConfig) -> Result<Transcription> {
        Ok(self.transcribe_batch(&[samples], config)?.pop().unwrap_or_default())
    }

    /// Transcribes clips (16 kHz, mono) with their windows computed together,
    /// `config.batch_size` at once; the windows of one clip depend on each other and are not.
    ///
    /// # Errors
    /// When the folder has no tokenizer, the configuration cannot be used or names a language that
    /// the model does not know, or the computation fails.
    pub fn transcribe_batch(
        &self,
        clips: &[&[f32]],
        config: &TranscribeConfig,
    ) -> Result<Vec<Transcription>> {
        let path = self.folder.join("tokenizer.json");
        let tokenizer = self.tokenizer.as_ref().ok_or_else(|| {
            unusable(&path, "tokenizer", "there is no such file; take it from the model's folder")
        })?;
        let transcripts = self.transcribe_tokens(clips, config)?;
        transcripts.into_iter().map(|tokens| self.to_text(tokens, tokenizer, &path)).collect()
    }

    /// Like [`transcribe_batch`](Self::transcribe_batch), with tokens instead of text. It needs no
    /// tokenizer; without one, the compression ratio is that of the tokens' bytes.
    ///
    /// # Errors
    /// See [`transcribe_batch`](Self::transcribe_batch).
    pub fn transcribe_tokens(
        &self,
        clips: &[&[f32]],
        config: &TranscribeConfig,
    ) -> Result<Vec<TokenTranscript>> {
        let problems = config.problems();
        if !problems.is_empty() {
            let path = self.folder.join("generation_config.json");
            return Err(unusable(&path, "transcription setting", problems.join("; ")));
        }
        let language = self.language_token(config)?;
        let bytes_of = |tokens: &[u32]| self.bytes_of(tokens);
        let task = DecodingTask {
            tokens: &self.tokens,
            config,
            capacity: self.config.max_target_positions,
            bytes_of: &bytes_of,
        };
        let transcribe = || {
            let clips = ClipFeatures::new(self, clips)?;
            let frames = clips.frames();
            transcribe_clips(&clips, &frames, self.config.window_frames(), language, task)
        };
        transcribe().map_err(Error::doing("transcribing speech"))
    }

    fn language_token(&self, config: &TranscribeConfig) -> Result<Option<u32>> {
        let Some(code) = &config.language else { return Ok(None) };
        if !self.tokens.is_multilingual() && code == "en" {
            return Ok(None);
        }
        self.tokens.languages.get(code).map(|token| Some(*token)).ok_or_else(|| {
            let known: Vec<&str> = self.tokens.languages.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "en".to_owned() } else { known.join(", ") };
            let path = self.folder.join("generation_config.json");
            let why = format!("it does not know the language `{code}`, but {known}");
            unusable(&path, "Whisper generation configuration", why)
        })
    }

    fn to_text(
        &self,
        transcript: TokenTranscript,
        tokenizer: &Tokenizer,
        path: &Path,
    ) -> Result<Transcription> {
        let mut segments = Vec::new();
        for segment in transcript.segments {
            let text = tokenizer
                .decode(&self.tokens.text_of(&segment.tokens), true)
                .map_err(|error| unusable(path, "tokenizer", error.to_string()))?;
            if !text.trim().is_empty() {
                segments.push(SpeechSegment {
                    start_seconds: segment.start_seconds,
                    end_seconds: segment.end_seconds,
                    text,
                    average_log_probability: segment.average_log_probability,
                    no_speech_probability: segment.no_speech_probability,
                });
            }
        }
        let code = |(code, token): (&String, &u32)| {
            (Some(*token) == transcript.language).then(|| code.clone())
        };
        let detected = self.tokens.languages.iter().find_map(code);
        let english = || (!self.tokens.is_multilingual()).then(|| "en".to_owned());
        Ok(Transcription { language: detected.or_else(english), segments })
    }

    /// Text of tokens as bytes; without a tokenizer, the token ids as bytes, as in transformers.
    fn bytes_of(&self, tokens: &[u32]) -> Vec<u8> {
        let text = self.tokenizer.as_ref().map(|tokenizer| {
            tokenizer.decode(&self.tokens.text_of(tokens), true).unwrap_or_default()
        });
        let width = 1 + self.config.vocab_size.max(1).ilog2() as usize / 8;
        let numbers =
            || tokens.iter().flat_map(|token| token.to_le_bytes().into_iter().take(width));
        text.map_or_else(|| numbers().collect(), String::into_bytes)
    }
}

/// Spectrograms of some clips.
struct ClipFeatures<'a> {
    whisper: &'a Whisper,
    mels: Vec<ClipMel<'a>>,
    samples: Vec<usize>,
}

impl<'a> ClipFeatures<'a> {
    fn new(whisper: &'a Whisper, clips: &[&'a [f32]]) -> candle::Result<Self> {
        let window_samples = whisper.config.window_samples();
        let mels = clips.iter().map(|clip| whisper.log_mel.clip(clip, window_samples));
        let samples = clips.iter().map(|clip| clip.len()).collect();
        Ok(Self { whisper, mels: mels.collect::<candle::Result<_>>()?, samples })
    }

    /// Frames that hold audio, without padding.
    fn frames(&self) -> Vec<usize> {
        self.samples.iter().map(|samples| samples.div_ceil(HOP_SAMPLES)).collect()
    }
}

impl WindowEncoder for ClipFeatures<'_> {
    type Source<'b>
        = DecoderState<'b>
    where
        Self: 'b;

    fn encode(&self, windows: &[(usize, usize)]) -> candle::Result<DecoderState<'_>> {
        let frames = self.whisper.config.window_frames();
        let features: Vec<Tensor> = windows
            .iter()
            .map(|(clip, first)| self.mels[*clip].window(*first, frames))
            .collect::<candle::Result<_>>()?;
        let features = Tensor::stack(&features, 0)?.to_device(&self.whisper.device)?;
        self.whisper.model.start_decoding(&self.whisper.model.encode(&features)?)
    }
}

/// Fields of `preprocessor_config.json` with the only values that are supported.
#[derive(Debug, Deserialize)]
struct PreprocessorFile {
    feature_size: Option<usize>,
    hop_length: Option<usize>,
    n_fft: Option<usize>,
    sampling_rate: Option<usize>,
    dither: Option<f64>,
}

fn check_preprocessor(path: &Path, config: &WhisperConfig) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    const WHAT: &str = "Whisper preprocessor configuration";
    let file: PreprocessorFile = read_json(path, WHAT)?;
    for (name, found, needed) in [
        ("feature_size", file.feature_size, config.num_mel_bins),
        ("hop_length", file.hop_length, HOP_SAMPLES),
        ("n_fft", file.n_fft, 400),
        ("sampling_rate", file.sampling_rate, super::config::SAMPLE_RATE_HZ),
    ] {
        if found.is_some_and(|found| found != needed) {
            return Err(unusable(path, WHAT, format!("`{name}` must be {needed}")));
        }
    }
    match file.dither {
        Some(dither) if dither != 0.0 => Err(unusable(path, WHAT, "`dither` must be 0")),
        _ => Ok(()),
    }
}
