//! Whisper against transformers 4.52.4: spectrograms, encoder, logits, and tokens.
//!
//! `scripts/golden_whisper.py` made the cases in the repository.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle::Tensor;
use meptr_core::Precision;
use meptr_extract::speech::{
    LogMel, TokenTranscript, TranscribeConfig, Whisper, WhisperTask, mel_filters,
};
use serde_json::Value;

use crate::golden;

use golden::{Case, ensure_close, json_files, root};

/// Folders of `backbones` that hold a Whisper model and its expected outputs.
fn folders() -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(root().join("backbones"))? {
        let folder = entry?.path();
        let config = folder.join("config.json");
        if config.exists() && folder.join("golden.json").exists() {
            let config: Value = serde_json::from_str(&std::fs::read_to_string(&config)?)?;
            if config["model_type"] == "whisper" {
                folders.push(folder);
            }
        }
    }
    folders.sort();
    ensure!(!folders.is_empty(), "no Whisper model in {}", root().display());
    Ok(folders)
}

fn for_each_folder(check: impl Fn(&Whisper, &Case) -> Result<()>) -> Result<()> {
    for folder in folders()? {
        let whisper = Whisper::open(&folder, &golden::device(), Precision::F32)?;
        let case = Case::open(&folder.join("golden.json"))?;
        check(&whisper, &case).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

fn waveform(case: &Case) -> Result<Vec<f32>> {
    Ok(case.tensor("waveform")?.flatten_all()?.to_vec1()?)
}

fn ids(value: &Value) -> Result<Vec<u32>> {
    Ok(serde_json::from_value(value.clone())?)
}

fn tokens(transcript: &TokenTranscript) -> Vec<u32> {
    transcript.segments.iter().flat_map(|segment| segment.tokens.clone()).collect()
}

/// The tolerance is that of the reference's transform, which is f32.
#[test]
fn log_mel_spectrograms_equal_the_reference() -> Result<()> {
    let mut count = 0;
    for path in json_files("backbones/preprocessing")? {
        let stem = path.file_stem().context("a file has a name")?.to_string_lossy();
        if stem.starts_with("whisper_logmel") {
            let case = Case::open(&path)?;
            log_mel_equals(&case).with_context(|| path.display().to_string())?;
            count += 1;
        }
    }
    ensure!(count > 0, "no spectrogram in {}", root().display());
    Ok(())
}

fn log_mel_equals(case: &Case) -> Result<()> {
    let shape = ids(&case.json["full_shape"])?;
    let (bands, frames) = (shape[1] as usize, shape[2] as usize);
    let filters = Tensor::new(mel_filters(bands), &golden::device())?.t()?;
    ensure_close("mel_filters", &filters, case.tensor("mel_filters")?, 1e-7)?;

    let samples = waveform(case)?;
    let log_mel = LogMel::new(bands)?;
    let clip = log_mel.clip(&samples, 480_000)?;
    ensure!(clip.frames() == frames, "{} frames, not {frames}", clip.frames());
    let head = case.tensor("log_mel_head")?;
    let found = clip.window(0, head.dim(1)?)?;
    let difference = ensure_close("log_mel_head", &found, head, 1e-4)?;
    let found = clip.window(frames - 1, 1)?.squeeze(1)?;
    ensure_close("tail_column", &found, case.tensor("tail_column")?, 1e-4)?;
    eprintln!("{}: off by {difference:e}", case.name);
    Ok(())
}

#[test]
fn encoder_and_teacher_forced_logits_equal_the_reference() -> Result<()> {
    for_each_folder(|whisper, case| {
        let encoded = whisper.model().encode(&whisper.features(&waveform(case)?)?)?;
        let positions = encoded.dim(1)?;
        for (name, expected) in &case.tensors {
            let found = match name.strip_prefix("encoder_") {
                Some("mean") => encoded.mean(1)?,
                Some(part) if part.starts_with("first_") => {
                    encoded.narrow(1, 0, expected.dim(1)?)?
                }
                Some(part) if part.starts_with("last_") => {
                    encoded.narrow(1, positions - expected.dim(1)?, expected.dim(1)?)?
                }
                _ => continue,
            };
            eprintln!("{name}: off by {:e}", ensure_close(name, &found, expected, 1e-4)?);
        }
        let prompt = case.tensor("teacher.decoder_input_ids")?.to_dtype(candle::DType::U32)?;
        let mut decoding = whisper.model().start_decoding(&encoded)?;
        let mut logits = Vec::new();
        for token in prompt.flatten_all()?.to_vec1::<u32>()? {
            logits.append(&mut decoding.feed(&[vec![token]])?);
        }
        let logits = Tensor::new(logits, &golden::device())?.unsqueeze(0)?;
        let expected = case.tensor("teacher.logits")?;
        let difference = ensure_close("teacher.logits", &logits, expected, 1e-4)?;
        eprintln!("teacher.logits: off by {difference:e}");
        Ok(())
    })
}

#[test]
fn greedy_tokens_equal_the_reference() -> Result<()> {
    for_each_folder(|whisper, case| {
        let encoded = whisper.model().encode(&whisper.features(&waveform(case)?)?)?;
        let runs = case.json["manual_greedy"].as_object().context("`manual_greedy` has runs")?;
        for (name, run) in runs {
            let rule = run["suppressed"].as_str().context("`suppressed` says what is")?;
            let limit: u32 = rule
                .split_whitespace()
                .find_map(|word| word.parse().ok())
                .context("`suppressed` names the first suppressed token")?;
            let expected = ids(&run["tokens"])?;
            let mut decoding = whisper.model().start_decoding(&encoded)?;
            let mut logits = decoding.feed(&[ids(&run["prefix"])?])?.remove(0);
            let mut said: Vec<u32> = Vec::new();
            while said.len() < expected.len() {
                let again = |token: &u32| rule.contains("already emitted") && said.contains(token);
                let best = (0..limit)
                    .filter(|token| !again(token))
                    .max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize]))
                    .context("some token is allowed")?;
                said.push(best);
                logits = decoding.feed(&[vec![best]])?.remove(0);
            }
            ensure!(said == expected, "{name}: {said:?} is not {expected:?}");
        }
        Ok(())
    })
}

/// Settings of a call of transformers' `generate`. Its checks are off unless they are named,
/// and it knows none against repetition.
fn config_of(kwargs: &Value, case: &Case) -> TranscribeConfig {
    let number = |name: &str| kwargs[name].as_f64();
    TranscribeConfig {
        language: kwargs["language"].as_str().map(str::to_owned),
        task: match (kwargs["task"].as_str(), kwargs["language"].as_str()) {
            (Some("translate"), _) => Some(WhisperTask::Translate),
            (None, None) => None,
            _ => Some(WhisperTask::Transcribe),
        },
        timestamps: kwargs["return_timestamps"].as_bool().unwrap_or(false),
        temperatures: vec![0.0],
        max_compression_ratio: number("compression_ratio_threshold"),
        min_average_log_probability: number("logprob_threshold"),
        max_no_speech_probability: number("no_speech_threshold"),
        max_repeats: None,
        max_tokens: case.json["max_new_tokens"].as_u64().map(|count| count as usize),
        condition_on_previous_text: kwargs["condition_on_prev_tokens"].as_bool().unwrap_or(false),
        ..TranscribeConfig::default()
    }
}

/// Transformers takes the silence that fills up a window for a part of the clip.
fn filled_up(case: &Case, whisper: &Whisper) -> Result<Vec<f32>> {
    let mut samples = waveform(case)?;
    samples.resize(samples.len().max(whisper.config().window_samples()), 0.0);
    Ok(samples)
}

/// Drops the second timestamp of each pair: when transformers shows a window's tokens to the next,
/// it takes that one off in its output too, but not off the last window's.
fn without_open_starts(tokens: &mut Vec<u32>, whisper: &Whisper) {
    let is_time = |token: u32| whisper.tokens().is_timestamp(token);
    tokens.dedup_by(|second, first| is_time(*second) && is_time(*first));
}

#[test]
fn generated_tokens_equal_the_reference() -> Result<()> {
    for_each_folder(|whisper, case| {
        let samples = filled_up(case, whisper)?;
        for (name, run) in case.json["generate"].as_object().context("`generate` has runs")? {
            let config = config_of(&run["kwargs"], case);
            let mut found = tokens(&whisper.transcribe_tokens(&[&samples], &config)?[0]);
            let mut expected = ids(&run["tokens"])?;
            if config.condition_on_previous_text {
                for tokens in [&mut found, &mut expected] {
                    without_open_starts(tokens, whisper);
                }
            }
            ensure!(found == expected, "{name}: {found:?} is not {expected:?}");
            eprintln!("{name}: {} tokens equal", found.len());
        }
        Ok(())
    })
}

#[test]
fn a_batch_gives_what_each_clip_gives_alone() -> Result<()> {
    for_each_folder(|whisper, case| {
        let long = filled_up(case, whisper)?;
        let clips: [&[f32]; 4] = [&long[..long.len() / 7], &long, &[], &long[..long.len() / 2]];
        let config = TranscribeConfig { max_tokens: Some(20), ..TranscribeConfig::default() };
        let together = whisper.transcribe_tokens(&clips, &config)?;
        for (clip, together) in clips.iter().zip(&together) {
            let alone = whisper.transcribe_tokens(&[clip], &config)?.remove(0);
            ensure!(alone.language == together.language);
            ensure!(tokens(&alone) == tokens(together));
        }
        ensure!(together[2].segments.is_empty() && together[2].language.is_none());
        Ok(())
    })
}

/// A copy of a reference folder, with one file replaced or added.
fn copy_with(source: &Path, file: &str, content: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        std::fs::write(folder.path().join(entry.file_name()), std::fs::read(entry.path())?)?;
    }
    std::fs::write(folder.path().join(file), content)?;
    Ok(folder)
}

#[test]
fn folders_that_contradict_themselves_are_refused() -> Result<()> {
    let good = folders()?.remove(0);
    for (file, content) in [
        ("tokenizer.json", "{}"),
        ("config.json", r#"{"model_type": "whisper"}"#),
        ("preprocessor_config.json", r#"{"hop_length": 128}"#),
        ("generation_config.json", r#"{"no_timestamps_token_id": 99999999}"#),
        ("generation_config.json", ""),
        ("model.safetensors", ""),
    ] {
        let folder = copy_with(&good, file, content)?;
        ensure!(
            Whisper::open(folder.path(), &golden::device(), Precision::F32).is_err(),
            "{file} was taken"
        );
    }
    ensure!(Whisper::open(&good.join("missing"), &golden::device(), Precision::F32).is_err());
    Ok(())
}

/// A tokenizer that writes token 17 as `w17`.
fn word_tokenizer(words: u32) -> String {
    let vocabulary: serde_json::Map<String, Value> =
        (0..words).map(|id| (format!("w{id}"), id.into())).collect();
    let model = serde_json::json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"});
    serde_json::json!({"version": "1.0", "added_tokens": [], "model": model}).to_string()
}

#[test]
fn text_and_times_come_with_the_language() -> Result<()> {
    for source in folders()? {
        let plain = Whisper::open(&source, &golden::device(), Precision::F32)?;
        let samples = waveform(&Case::open(&source.join("golden.json"))?)?;
        let config = TranscribeConfig { max_tokens: Some(20), ..TranscribeConfig::default() };
        ensure!(plain.transcribe(&samples, &config).is_err(), "there is no tokenizer");

        let folder = copy_with(&source, "tokenizer.json", &word_tokenizer(plain.tokens().end))?;
        let whisper = Whisper::open(folder.path(), &golden::device(), Precision::F32)?;
        let transcript = whisper.transcribe(&samples, &config)?;
        let code = transcript.language.as_deref().context("a language is told")?;
        let languages = &whisper.tokens().languages;
        ensure!(languages.contains_key(code) || (languages.is_empty() && code == "en"));
        ensure!(!transcript.segments.is_empty() && !transcript.text().is_empty());
        let end = samples.len() as f64 / 16_000.0 + 0.01;
        for segment in &transcript.segments {
            ensure!(segment.text.split_whitespace().all(|word| word.starts_with('w')));
            ensure!(segment.start_seconds <= segment.end_seconds && segment.end_seconds <= end);
            ensure!((0.0..=1.0).contains(&segment.no_speech_probability));
            ensure!(segment.average_log_probability <= 0.0);
        }
        ensure!(transcript == whisper.transcribe(&samples, &config)?, "a seed gives one text");
        ensure!(whisper.transcribe(&[], &config)?.segments.is_empty());

        let unknown = TranscribeConfig { language: Some("tlh".to_owned()), ..config.clone() };
        ensure!(whisper.transcribe(&samples, &unknown).is_err());
        let unusable = TranscribeConfig { temperatures: Vec::new(), ..config };
        ensure!(whisper.transcribe(&samples, &unusable).is_err());
    }
    Ok(())
}
