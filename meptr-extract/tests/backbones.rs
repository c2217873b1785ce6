//! The backbones against the reference, on folders in the form of the Hugging Face Hub.
//!
//! Walks `backbones/*/config.json` and tells the kinds apart by `model_type`. Reference: PyTorch,
//! f32, CPU. Tolerance 1e-4 absolute on features of magnitude 1 to 5: f32 sums in another order.

use crate::golden;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle::{DType, IndexOp, Tensor};
use meptr_core::Precision;
use meptr_extract::backbones::{Bert, BertTokenizer, ClipVision, FromCheckpoint, Wav2Vec2};

const TOLERANCE: f32 = 1e-4;

/// Folders of models of one kind, each with its `golden.safetensors`.
fn folders(model_type: &str) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(golden::root().join("backbones"))? {
        let folder = entry?.path();
        if !folder.join("config.json").exists() || !folder.join("golden.safetensors").exists() {
            continue;
        }
        if json(&folder.join("config.json"))?["model_type"] == model_type {
            folders.push(folder);
        }
    }
    ensure!(!folders.is_empty(), "no reference folder of a `{model_type}` model");
    Ok(folders)
}

fn json(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

fn expected(folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    golden::tensors_of(&folder.join("golden.safetensors"))
}

fn lengths_of(mask: &Tensor) -> Result<Vec<usize>> {
    let sums = mask.to_dtype(DType::F32)?.sum(1)?.to_vec1::<f32>()?;
    Ok(sums.into_iter().map(|sum| sum as usize).collect())
}

/// The pictures of a CLIP folder, one a row: its own, or those of the preprocessing cases.
fn pictures(folder: &Path, expected: &BTreeMap<String, Tensor>) -> Result<Tensor> {
    if let Some(own) = expected.get("pixel_values") {
        return Ok(own.clone());
    }
    let shared = golden::root().join("backbones/preprocessing/clip_pixel_values.safetensors");
    let shared = golden::tensors_of(&shared)?;
    let order = json(&folder.join("golden.json"))?["order"].clone();
    let order: Vec<String> = serde_json::from_value(order)?;
    let pictures: Result<Vec<&Tensor>> = order
        .iter()
        .map(|name| shared.get(&format!("pixel_values.{name}")).context(name.clone()))
        .collect();
    Ok(Tensor::cat(&pictures?, 0)?)
}

#[test]
fn clip_equals_the_reference() -> Result<()> {
    for folder in folders("clip")? {
        let model = ClipVision::open(&folder, &golden::device(), Precision::F32)?;
        let expected = expected(&folder)?;
        let pictures = pictures(&folder, &expected)?;
        let features = &expected["image_features"];
        let off = golden::ensure_close("all", &model.forward(&pictures)?, features, TOLERANCE)?;
        eprintln!("{}: {off}", folder.display());
        let one = model.forward(&pictures.narrow(0, 0, 1)?)?;
        golden::ensure_close("one", &one, &features.narrow(0, 0, 1)?, TOLERANCE)?;
    }
    Ok(())
}

#[test]
fn bert_equals_the_reference() -> Result<()> {
    for folder in folders("bert")? {
        let model = Bert::open(&folder, &golden::device(), Precision::F32)?;
        let expected = expected(&folder)?;
        let tokens = json(&folder.join("golden_tokens.json"))?;
        let tokens: Vec<Vec<u32>> = serde_json::from_value(tokens["input_ids"].clone())?;
        for (index, ids) in tokens.iter().enumerate() {
            let name = format!("single{index}.last_hidden_state");
            let Some(state) = expected.get(&name) else { continue };
            let ids = Tensor::new(ids.as_slice(), &golden::device())?.unsqueeze(0)?;
            let found = model.forward(&ids, &[ids.dim(1)?])?;
            let off = golden::ensure_close(&name, &found, state, TOLERANCE)?;
            eprintln!("{} {name}: {off}", folder.display());
        }
        for (name, ids) in expected.iter().filter(|(name, _)| name.ends_with(".input_ids")) {
            let case = name.trim_end_matches(".input_ids");
            let lengths = lengths_of(&expected[&format!("{case}.attention_mask")])?;
            let found = model.forward(ids, &lengths)?;
            let state = &expected[&format!("{case}.last_hidden_state")];
            for (row, length) in lengths.into_iter().enumerate() {
                let (found, state) = (found.i((row, ..length))?, state.i((row, ..length))?);
                let off = golden::ensure_close(case, &found, &state, TOLERANCE)?;
                eprintln!("{} {case} row {row}: {off}", folder.display());
            }
        }
    }
    Ok(())
}

#[test]
fn tokens_equal_the_reference() -> Result<()> {
    for folder in folders("bert")? {
        let reference = json(&folder.join("golden_tokens.json"))?;
        let sentences: Vec<String> = serde_json::from_value(reference["sentences"].clone())?;
        let tokens: Vec<Vec<u32>> = serde_json::from_value(reference["input_ids"].clone())?;
        let input = BertTokenizer::open(&folder, 512)?;
        for (sentence, tokens) in sentences.iter().zip(tokens) {
            // The reference gives the bare marks for a text without words, we give nothing.
            let tokens = (tokens.len() > 2).then_some(tokens);
            ensure!(input.tokens(sentence)? == tokens, "{sentence:?}");
        }
    }
    Ok(())
}

/// Cases `NAME.input_values` of a Wav2Vec2 folder with what the reference made of them.
fn sounds(expected: &BTreeMap<String, Tensor>) -> Vec<(String, Tensor, Tensor)> {
    let state = |case: &str| expected[&format!("{case}.last_hidden_state")].clone();
    expected
        .iter()
        .filter_map(|(name, values)| Some((name.strip_suffix(".input_values")?, values)))
        .map(|(case, values)| (case.to_owned(), values.clone(), state(case)))
        .collect()
}

#[test]
fn wav2vec2_equals_the_reference() -> Result<()> {
    for folder in folders("wav2vec2")? {
        let model = Wav2Vec2::open(&folder, &golden::device(), Precision::F32)?;
        for (case, values, state) in sounds(&expected(&folder)?) {
            let found = model.forward(&values, &[values.dim(1)?])?;
            let off = golden::ensure_close(&case, &found, &state, TOLERANCE)?;
            eprintln!("{} {case}: {off}", folder.display());
        }
    }
    Ok(())
}

/// Files `model_*.safetensors` hold the weights of `model.safetensors` under other names.
#[test]
fn other_spellings_of_wav2vec2_weights_give_the_same() -> Result<()> {
    let mut spellings = 0;
    for folder in folders("wav2vec2")? {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.starts_with("model_") || !name.ends_with(".safetensors") {
                continue;
            }
            spellings += 1;
            let copy = tempfile::tempdir()?;
            std::fs::copy(folder.join("config.json"), copy.path().join("config.json"))?;
            std::fs::copy(&path, copy.path().join("model.safetensors"))?;
            let model = Wav2Vec2::open(copy.path(), &golden::device(), Precision::F32)?;
            for (case, values, state) in sounds(&expected(&folder)?) {
                let found = model.forward(&values, &[values.dim(1)?])?;
                let off = golden::ensure_close(&case, &found, &state, TOLERANCE)?;
                eprintln!("{} {name} {case}: {off}", folder.display());
            }
        }
    }
    ensure!(spellings > 0, "no file of another spelling");
    Ok(())
}

#[test]
fn wav2vec2_gives_a_batch_of_unequal_clips_what_it_gives_each() -> Result<()> {
    for folder in folders("wav2vec2")? {
        let model = Wav2Vec2::open(&folder, &golden::device(), Precision::F32)?;
        let cases = sounds(&expected(&folder)?);
        let lengths: Vec<usize> =
            cases.iter().map(|(_, values, _)| Ok(values.dim(1)?)).collect::<Result<_>>()?;
        let longest = lengths.iter().copied().max().context("a case")?;
        let rows: Vec<Tensor> = cases
            .iter()
            .map(|(_, values, _)| match longest - values.dim(1)? {
                0 => Ok(values.clone()),
                more => {
                    let padding = Tensor::full(9f32, (1, more), &golden::device())?;
                    Ok(Tensor::cat(&[values, &padding], 1)?)
                }
            })
            .collect::<Result<_>>()?;
        let found = model.forward(&Tensor::cat(&rows, 0)?, &lengths)?;
        for (row, (case, _, state)) in cases.iter().enumerate() {
            let found = found.i((row..=row, ..state.dim(1)?))?;
            let off = golden::ensure_close(case, &found, state, TOLERANCE)?;
            eprintln!("{} batch {case}: {off}", folder.display());
        }
        let too_short = model.config().receptive_field() - 1;
        let clip = Tensor::zeros((1, too_short), DType::F32, &golden::device())?;
        ensure!(model.forward(&clip, &[too_short]).is_err(), "a clip too short was taken");
    }
    Ok(())
}
