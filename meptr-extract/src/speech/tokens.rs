//! Special tokens of a Whisper checkpoint, and the prompt made of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tokenizers::Tokenizer;

use super::config::WhisperTask;
use crate::Result;
use crate::backbones::checkpoint_folder::{read_json, unusable};

const WHAT: &str = "Whisper generation configuration";

/// Special tokens and suppressed tokens of a multilingual or an English-only model.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecialTokens {
    /// Ends the text; text tokens have smaller ids.
    pub end: u32,
    /// Starts the transcript.
    pub start_of_transcript: u32,
    /// Turns timestamps off, in the prompt.
    pub no_timestamps: u32,
    /// Timestamp 0.00 s; the following ids are 0.02 s apart.
    pub first_timestamp: u32,
    /// Token whose probability after `start_of_transcript` is that of silence.
    pub no_speech: u32,
    /// Starts the text of the window before; not named in some checkpoints.
    pub previous: Option<u32>,
    /// Languages by code; empty in an English-only model.
    pub languages: BTreeMap<String, u32>,
    /// `<|transcribe|>`, if the model knows tasks.
    pub transcribe: Option<u32>,
    /// `<|translate|>`, if the model knows tasks.
    pub translate: Option<u32>,
    /// Tokens that are never output.
    pub suppressed: Vec<u32>,
    /// Tokens that are never output first.
    pub suppressed_at_begin: Vec<u32>,
    /// Largest index of the first timestamp, in steps of 0.02 s; none: no limit.
    pub max_initial_timestamp_index: Option<u32>,
}

/// Fields of `generation_config.json` that are used.
#[derive(Debug, Deserialize)]
struct GenerationFile {
    eos_token_id: Option<u32>,
    decoder_start_token_id: Option<u32>,
    no_timestamps_token_id: Option<u32>,
    prev_sot_token_id: Option<u32>,
    is_multilingual: Option<bool>,
    #[serde(default)]
    lang_to_id: BTreeMap<String, u32>,
    #[serde(default)]
    task_to_id: BTreeMap<String, u32>,
    suppress_tokens: Option<Vec<u32>>,
    begin_suppress_tokens: Option<Vec<u32>>,
    max_initial_timestamp_index: Option<u32>,
}

/// Fields of `config.json` that replace missing ones.
#[derive(Debug, Deserialize)]
struct ModelFile {
    eos_token_id: Option<u32>,
    decoder_start_token_id: Option<u32>,
    vocab_size: u32,
}

impl SpecialTokens {
    /// Reads `generation_config.json`, and missing fields from `config.json` and the tokenizer.
    ///
    /// # Errors
    /// When a file cannot be read or lacks a token that decoding needs.
    pub fn read(folder: &Path, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        let path = folder.join("generation_config.json");
        let file: GenerationFile = read_json(&path, WHAT)?;
        let model: ModelFile = read_json(&folder.join("config.json"), "Whisper configuration")?;
        let named = |token: &str| tokenizer.and_then(|tokenizer| tokenizer.token_to_id(token));
        let need = |id: Option<u32>, name: &str| {
            id.ok_or_else(|| unusable(&path, WHAT, format!("it has no `{name}`")))
        };
        let no_timestamps = need(
            file.no_timestamps_token_id.or_else(|| named("<|notimestamps|>")),
            "no_timestamps_token_id",
        )?;
        let multilingual = file.is_multilingual.unwrap_or(!file.lang_to_id.is_empty());
        let code = |token: String| token.trim_matches(['<', '|', '>']).to_owned();
        let languages = file.lang_to_id.into_iter().map(|(token, id)| (code(token), id));
        let task = |name: &str| file.task_to_id.get(name).copied().filter(|_| multilingual);
        let tokens = Self {
            end: need(file.eos_token_id.or(model.eos_token_id), "eos_token_id")?,
            start_of_transcript: need(
                file.decoder_start_token_id.or(model.decoder_start_token_id),
                "decoder_start_token_id",
            )?,
            no_timestamps,
            first_timestamp: no_timestamps.saturating_add(1),
            no_speech: named("<|nospeech|>")
                .or_else(|| named("<|nocaptions|>"))
                .unwrap_or(no_timestamps.saturating_sub(1)), // as in all published models
            previous: file.prev_sot_token_id.or_else(|| named("<|startofprev|>")),
            languages: languages.filter(|_| multilingual).collect(),
            transcribe: task("transcribe"),
            translate: task("translate"),
            suppressed: file.suppress_tokens.unwrap_or_default(),
            suppressed_at_begin: file.begin_suppress_tokens.unwrap_or_default(),
            max_initial_timestamp_index: file.max_initial_timestamp_index,
        };
        match tokens.highest() {
            id if id < model.vocab_size => Ok(tokens),
            id => Err(unusable(&path, WHAT, format!("token {id} is not in the vocabulary"))),
        }
    }

    /// Whether the model supports other languages than English.
    pub fn is_multilingual(&self) -> bool {
        !self.languages.is_empty()
    }

    /// Whether the token is a timestamp.
    pub fn is_timestamp(&self, token: u32) -> bool {
        token >= self.first_timestamp
    }

    /// Text tokens among `tokens`.
    pub fn text_of(&self, tokens: &[u32]) -> Vec<u32> {
        tokens.iter().copied().filter(|token| *token < self.end).collect()
    }

    /// Prompt after the text of the window before: start, language, task, and whether timestamps are
    /// wanted. An English-only model gets neither language nor task.
    pub fn prompt(
        &self,
        language: Option<u32>,
        task: Option<WhisperTask>,
        timestamps: bool,
    ) -> Vec<u32> {
        let task = match task {
            Some(WhisperTask::Transcribe) => self.transcribe,
            Some(WhisperTask::Translate) => self.translate,
            None => None,
        };
        let no_timestamps = (!timestamps).then_some(self.no_timestamps);
        std::iter::once(self.start_of_transcript)
            .chain(language.into_iter().chain(task).filter(|_| self.is_multilingual()))
            .chain(no_timestamps)
            .collect()
    }

    fn highest(&self) -> u32 {
        let named = [self.end, self.start_of_transcript, self.no_timestamps, self.no_speech];
        let optional = [self.previous, self.transcribe, self.translate];
        let named = named.into_iter().chain(optional.into_iter().flatten());
        named.chain(self.languages.values().copied()).max().unwrap_or(0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Text 0..=9, end 10, start 11, en 12, ru 13, transcribe 14, translate 15, no speech 16,
    /// no timestamps 17, timestamps from 18.
    pub(in super::super) fn tokens() -> SpecialTokens {
        SpecialTokens {
            end: 10,
            start_of_transcript: 11,
            no_timestamps: 17,
            first_timestamp: 18,
            no_speech: 16,
            previous: Some(11),
            languages: [("en".to_owned(), 12), ("ru".to_owned(), 13)].into(),
            transcribe: Some(14),
            translate: Some(15),
            suppressed: vec![11, 12, 13, 14, 15, 16],
            suppressed_at_begin: vec![0, 10],
            max_initial_timestamp_index: Some(5),
        }
    }

    fn read(generation: &str) -> Result<SpecialTokens> {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"vocab_size": 50, "eos_token_id": 10, "decoder_start_token_id": 11}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        std::fs::write(folder.path().join("generation_config.json"), generation).unwrap();
        SpecialTokens::read(folder.path(), None)
    }

    #[test]
    fn an_english_only_model_has_no_language_and_no_task() {
        let tokens = read(r#"{"no_timestamps_token_id": 20, "is_multilingual": false}"#).unwrap();
        assert_eq!((tokens.end, tokens.no_speech, tokens.first_timestamp), (10, 19, 21));
        assert!(!tokens.is_multilingual());
        assert_eq!(tokens.prompt(None, Some(WhisperTask::Transcribe), false), [11, 20]);
        assert_eq!(tokens.prompt(Some(3), Some(WhisperTask::Transcribe), true), [11]);
    }

    #[test]
    fn missing_and_impossible_tokens_are_errors() {
        assert!(read("{}").is_err());
        assert!(read(r#"{"no_timestamps_token_id": 50}"#).is_err());
        assert!(read(r#"{"no_timestamps_token_id": 4294967295}"#).is_err());
        assert!(read(r#"{"no_timestamps_token_id": -1}"#).is_err());
    }

    #[test]
    fn the_prompt_of_a_multilingual_model_names_language_and_task() {
        let tokens = tokens();
        assert_eq!(tokens.prompt(Some(12), Some(WhisperTask::Translate), false), [11, 12, 15, 17]);
        assert_eq!(tokens.prompt(Some(13), Some(WhisperTask::Transcribe), true), [11, 13, 14]);
        assert_eq!(tokens.prompt(Some(13), None, true), [11, 13]);
    }
}
