//! Frames and sound against the reference's own decoding.

use crate::golden;
use crate::support;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle::{Device, Tensor};
use meptr_extract::RgbImage;
use meptr_extract::decode::{DecodeOptions, Event, Limits, Reader, probe};
use meptr_extract::windows::WindowPlan;
use sha2::{Digest, Sha256};

/// Content of a file: frames with their numbers, and the sound.
type Decoded = (Vec<(usize, RgbImage)>, Vec<f32>);

/// Decodes a file, keeping at most `wanted` frames.
fn decode(path: &Path, wanted: usize) -> Result<Decoded> {
    let (mut frames, mut sound) = (Vec::new(), Vec::new());
    let options = DecodeOptions { frames_per_window: wanted, ..DecodeOptions::default() };
    for event in Reader::open(path, WindowPlan::Whole, &options)? {
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

/// Largest difference of resampled sound from the reference data, which FFmpeg 5.1 made: none with
/// that release, while libswresample of later ones filters by other arithmetic (FFmpeg 7.1: up to
/// 6.1e-5, two steps of 16 bits).
fn resampling_tolerance() -> f32 {
    // 59 is the libavcodec of FFmpeg 5.
    if ffmpeg_next::ffi::LIBAVCODEC_VERSION_MAJOR == 59 { 0.0 } else { 6.5e-5 }
}

/// Cases of `e2e` that have their video beside them: frame numbers and the bytes of every whole
/// frame exact, the sound within one step of 16 bits.
#[test]
#[ignore = "needs MEPTR_GOLDEN: clips that are not ours to pass on"]
fn frames_and_sound_equal_the_reference() -> Result<()> {
    let mut compared = 0;
    for json in golden::json_files("e2e")? {
        let case = golden::Case::open(&json)?;
        if case.json["video"].is_null() {
            continue;
        }
        let Some(media) = support::clip(&case)? else { continue };
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

        compared += 1;

        let Some(waveform) = case.tensors.get("audio.waveform_16k_mono") else {
            ensure!(sound.is_empty(), "{}: sound where the reference heard none", case.name);
            continue;
        };
        let waveform = waveform.flatten_all()?;
        let found = Tensor::new(sound.as_slice(), &Device::Cpu)?;
        golden::ensure_close("waveform", &found, &waveform, resampling_tolerance())?;
    }
    ensure!(compared > 0, "no case with its clip in {}", golden::root().join("e2e").display());
    Ok(())
}

/// Clips that stand in the repository, made by `scripts/golden_decode.py` with the `ffmpeg` program:
/// every frame bit for bit, the sound sample for sample or, from FFmpeg 6 on, within
/// [`resampling_tolerance`].
#[test]
fn small_clips_decode_as_the_ffmpeg_program_decodes_them() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/decode_synthetic");
    let mut cases =
        std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<Vec<PathBuf>>>()?;
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    ensure!(!cases.is_empty(), "no case");
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
        if sound.len() != waveform.len() || off > resampling_tolerance() {
            let (found, expected) = (sound.len(), waveform.len());
            differences.push(format!("{clip}: sound off by {off}, {found} of {expected} samples"));
        }
    }
    ensure!(differences.is_empty(), "{differences:#?}");
    Ok(())
}

/// Sound files that the reference loaded with librosa. At 16 kHz nothing is resampled and all is
/// equal; at other rates librosa resamples by soxr and we, like the reference's own pipeline, by
/// swresample: the same sound through another low-pass filter (measured: 7e-4 at most).
#[test]
#[ignore = "needs MEPTR_GOLDEN: sounds that are not ours to pass on"]
fn sound_files_equal_librosa() -> Result<()> {
    let folder = golden::root().join("backbones/preprocessing");
    let json = folder.join("audio.json");
    let mut compared = 0;
    for (name, expected) in golden::Case::open(&json)?.below("librosa16k") {
        let path = folder.join(format!("{name}.wav"));
        if !path.is_file() {
            eprintln!("{name}: skipped, no {}", path.display());
            continue;
        }
        compared += 1;
        let rate = probe(&path, &Limits::default())?.audio.context("sound")?.rate_hz;
        let (_, sound) = decode(&path, 30)?;
        let expected = expected.flatten_all()?.to_vec1::<f32>()?;
        let compared = sound.iter().zip(&expected);
        let most = compared.clone().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let error: f32 = compared.map(|(a, b)| (a - b) * (a - b)).sum();
        let energy: f32 = expected.iter().map(|sample| sample * sample).sum();
        let (length, expected_length) = (sound.len(), expected.len());
        if rate == 16_000 {
            ensure!(length == expected_length && most <= 1e-6, "{name}: off by {most}");
        } else {
            ensure!(length.abs_diff(expected_length) <= 32, "{name}: {length} samples");
            ensure!(
                most < 2e-3 && error / energy < 1e-4,
                "{name}: {} of the energy differs",
                error / energy
            );
        }
    }
    ensure!(compared > 0, "no sound in {}", folder.display());
    Ok(())
}
