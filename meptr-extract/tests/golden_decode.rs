//! Frames and sound against the reference's own decoding.

#[expect(unreachable_pub, reason = "shared by the tests of every crate")]
#[allow(dead_code, reason = "each test uses a part of it")]
#[path = "../../tests/support/golden.rs"]
mod golden;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle::{Device, Tensor};
use meptr_extract::RgbImage;
use meptr_extract::decode::{DecodeOptions, Event, FramePlan, Reader};
use sha2::{Digest, Sha256};

/// What a file holds: at most `wanted` frames with their numbers, and the sound.
fn decode(path: &Path, wanted: usize) -> Result<(Vec<(usize, RgbImage)>, Vec<f32>)> {
    let (mut frames, mut sound) = (Vec::new(), Vec::new());
    let options = DecodeOptions { frames_per_window: wanted, ..DecodeOptions::default() };
    for event in Reader::open(path, FramePlan::Whole, &options)? {
        match event? {
            Event::Frame { index, image, .. } => frames.push((index, image)),
            Event::Audio { samples, .. } => sound.extend(samples),
            Event::Restart { .. } => frames.clear(),
            _ => {}
        }
    }
    Ok((frames, sound))
}

fn sha256(image: &RgbImage) -> String {
    Sha256::digest(image.data()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one file of a folder whose name begins with `stem` and which is no JSON or tensor file.
fn media_of(folder: &Path, stem: &str) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(stem) && !name.ends_with(".json") && !name.ends_with(".safetensors") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Cases of `e2e` that have their video beside them: frame numbers and the bytes of every whole
/// frame exact, the sound within one step of 16 bits.
#[test]
fn frames_and_sound_equal_the_reference() -> Result<()> {
    for json in golden::json_files("e2e")? {
        let case = golden::Case::open(&json)?;
        let Some(video) = case.json["video"].as_str() else { continue };
        let stem = video.split('.').next().unwrap_or(video);
        let Some(media) = media_of(json.parent().context("a folder")?, stem)? else { continue };
        let (frames, sound) = decode(&media, 30)?;

        let numbers: Vec<usize> = frames.iter().map(|(number, _)| *number).collect();
        let expected: Vec<usize> = serde_json::from_value(case.json["sampled_frames"].clone())?;
        ensure!(numbers == expected, "{}: frames {numbers:?}, not {expected:?}", case.name);
        let crops = case.json["crops_in_processing_order"].as_array().context("crops")?;
        let mut crops = crops.iter().filter_map(|crop| crop["sha256_16"].as_str());
        for (number, image) in &frames {
            let hash = sha256(image);
            ensure!(crops.any(|crop| crop == &hash[..16]), "{}: frame {number}", case.name);
        }

        let waveform = case.tensor("audio.waveform_16k_mono")?.flatten_all()?;
        let found = Tensor::new(sound.as_slice(), &Device::Cpu)?;
        let off = golden::ensure_close("waveform", &found, &waveform, 0.0)?;
        println!("{}: {} frames exact, sound off by {off}", case.name, frames.len());
    }
    Ok(())
}

/// Clips that stand in the repository, made by `scripts/golden_decode.py` with the `ffmpeg` program:
/// every frame bit for bit, the sound sample for sample.
#[test]
fn small_clips_decode_as_the_ffmpeg_program_decodes_them() -> Result<()> {
    let cases = match golden::json_files("decode_synthetic")? {
        cases if cases.is_empty() => return elsewhere("decode_synthetic"),
        cases => cases,
    };
    let mut differences = Vec::new();
    for json in cases {
        let case = golden::Case::open(&json)?;
        let clip = case.json["clip"].as_str().context("a case names its clip")?;
        let (frames, sound) = decode(&json.with_file_name(clip), usize::MAX)?;

        let expected: Vec<String> = match case.json.get("frames") {
            Some(hashes) => serde_json::from_value(hashes.clone())?,
            None => Vec::new(),
        };
        let found: Vec<String> =
            frames.iter().map(|(_, image)| sha256(image)[..16].into()).collect();
        if found != expected {
            let same = found.iter().zip(&expected).filter(|(found, expected)| found == expected);
            differences.push(format!(
                "{clip}: {} of {} frames equal, {} expected",
                same.count(),
                found.len(),
                expected.len()
            ));
        }
        let waveform = match case.tensors.get("waveform") {
            Some(waveform) => waveform.to_vec1::<f32>()?,
            None => Vec::new(),
        };
        let off = sound.iter().zip(&waveform).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{clip}: {} frames, {} samples, off by {off}", found.len(), sound.len());
        if sound.len() != waveform.len() || off > 0.0 {
            let (found, expected) = (sound.len(), waveform.len());
            differences.push(format!("{clip}: sound off by {off}, {found} of {expected} samples"));
        }
    }
    ensure!(differences.is_empty(), "{differences:#?}");
    Ok(())
}

/// Nothing to compare is fine only in a folder that was named from outside.
fn elsewhere(folder: &str) -> Result<()> {
    ensure!(std::env::var_os("MEPTR_GOLDEN").is_some(), "no case in {folder}");
    Ok(())
}
