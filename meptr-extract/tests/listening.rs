//! Words from speech, through the whole of a prediction: a bundle with a transcriber listens where
//! no words come with a video, and nowhere else.
//!
//! The transcriber is the small random Whisper of the reference data, so what it hears is
//! nonsense; how it is used is what is tested.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use meptr_core::bundle::sha256_of;
use meptr_core::prediction::VideoPrediction;
use meptr_extract::bundle_builder::{Preset, init_bundle};
use meptr_extract::pipeline::{ExtractRequest, TranscriptChoice};
use meptr_extract::progress::Unwatched;
use meptr_extract::windows::SlidingWindow;
use meptr_extract::{Predictor, PredictorOptions, Request};
use serde_json::{Value, json};

fn project(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A demo bundle with the reference's small Whisper, whose tokens read `w0`, `w1` and so on.
fn bundle_with_whisper(folder: &Path) -> Result<()> {
    init_bundle(folder, Preset::Demo, 3)?;
    let source = project("tests/golden/backbones/whisper");
    let whisper = folder.join("whisper");
    std::fs::create_dir(&whisper)?;
    let path = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    for name in
        ["config.json", "generation_config.json", "preprocessor_config.json", "model.safetensors"]
    {
        std::fs::copy(source.join(name), whisper.join(name))?;
    }
    let vocabulary: serde_json::Map<String, Value> =
        (0..261).map(|id| (format!("w{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    });
    std::fs::write(whisper.join("tokenizer.json"), tokenizer.to_string())?;
    for entry in std::fs::read_dir(&whisper)? {
        let entry = entry?;
        let name = format!("whisper/{}", entry.file_name().to_string_lossy());
        let file = json!({"bytes": entry.metadata()?.len(), "sha256": sha256_of(&entry.path())?});
        manifest["files"][name] = file;
    }
    let origin = json!({"name": "small Whisper", "source": "test", "licence": "none"});
    manifest["parts"]["transcriber"] = json!({"folder": "whisper", "origin": origin});
    Ok(std::fs::write(&path, manifest.to_string())?)
}

/// Two seconds of a tone, as a recording.
fn recording(folder: &Path) -> Result<std::path::PathBuf> {
    let path = folder.join("voice.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&path, spec)?;
    for sample in 0..32_000 {
        let wave = (f64::from(sample) * 0.07).sin() * (f64::from(sample) * 0.0007).sin();
        writer.write_sample((wave * 9000.0) as i16)?;
    }
    writer.finalize()?;
    Ok(path)
}

fn predict(
    predictor: &Predictor,
    video: &Path,
    extract: ExtractRequest,
) -> Result<VideoPrediction> {
    Ok(predictor.predict_with(video, &Request { extract, ..Request::default() }, &Unwatched)?)
}

#[test]
fn speech_is_recognised_only_where_no_words_come_with_the_video() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle");
    bundle_with_whisper(&bundle)?;
    let listening = PredictorOptions { transcribes: true, ..PredictorOptions::default() };
    let predictor = Predictor::open_with(&bundle, &listening)?;
    let voice = recording(folder.path())?;

    let heard = predict(&predictor, &voice, ExtractRequest::default())?;
    let transcript = heard.transcript.context("nothing was heard")?;
    assert_eq!(transcript.source, "whisper");
    ensure!(transcript.language.is_some(), "the language was not detected");
    for segment in &transcript.segments {
        ensure!(0.0 <= segment.t_start && segment.t_start <= segment.t_end, "{segment:?}");
        ensure!(segment.t_end <= 2.05, "{segment:?} ends after the sound");
        ensure!(segment.text.starts_with('w'), "{segment:?}");
    }
    assert!(heard.predictions[0].modalities.text.available);
    assert!(heard.steps.iter().any(|step| step.name == "whisper"));

    let given = ExtractRequest {
        transcript: TranscriptChoice::Text("Good day".to_owned()),
        ..ExtractRequest::default()
    };
    let given = predict(&predictor, &voice, given)?;
    assert_eq!(given.transcript.context("words were given")?.source, "argument");
    assert!(given.steps.iter().all(|step| step.name != "whisper"));

    let subtitled = project("samples/portrait.mp4");
    let subtitled = predict(&predictor, &subtitled, ExtractRequest::default())?;
    assert_eq!(subtitled.transcript.context("the sample has subtitles")?.source, "subtitles");

    let deaf = Predictor::open(&bundle)?; // does not listen unless asked to
    let unheard = predict(&deaf, &voice, ExtractRequest::default())?;
    assert_eq!(unheard.transcript, None);
    let text = &unheard.predictions[0].modalities.text;
    assert!(!text.available && text.reason.is_some());
    Ok(())
}

#[test]
fn every_window_gets_what_is_said_in_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle");
    init_bundle(&bundle, Preset::Demo, 3)?;
    let predictor = Predictor::open(&bundle)?;
    let window = Some(SlidingWindow { window_seconds: 2.0, hop_seconds: 2.0 });
    let request = ExtractRequest { window, ..ExtractRequest::default() };
    let found = predict(&predictor, &project("samples/portrait.mp4"), request)?;
    // Three cues over 8 s, and a fourth stretch in which the last one ends.
    let tokens: Vec<usize> =
        found.predictions[1..].iter().map(|row| row.modalities.text.inputs).collect();
    assert_eq!(tokens.len(), 4);
    assert!(tokens.iter().all(|tokens| *tokens > 2), "{tokens:?}");
    assert!(tokens[0] != tokens[2], "windows differ: {tokens:?}");
    Ok(())
}
