//! Times one frozen network on made-up input: `time_backbones BUNDLE CASE REPEATS`.
//!
//! Prints a line of JSON per repeat, `{"case": "clip-30", "seconds": 1.25}`, after one run that
//! does not count. CLIP, BERT and Wav2Vec2 are those of the bundle; YOLOv8n and Whisper small are
//! made of seeded random numbers, the face detector is the one that is part of the program.
//! CLIP, BERT and Wav2Vec2 take `@bf16` after the case. `matmul` also tells `gflops`, the rate of a large product of square f32 matrices.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle::{DType, Device, Tensor};
use meptr_core::bundle::Bundle;
use meptr_core::weights::generate;
use meptr_extract::backbones::{Bert, ClipVision, FromCheckpoint, Wav2Vec2};
use meptr_extract::detect::yolo::{Yolo, YoloConfig};
use meptr_extract::detect::{FaceDetector, FaceModel};
use meptr_extract::speech::{WhisperConfig, WhisperModel};
use meptr_extract::{Precision, RgbImage};

const SAMPLE_RATE_HZ: usize = 16_000;
/// Side of the matrices of `matmul`.
const MATRIX: usize = 2048;
/// Tokens that one run of `whisper-decoder` writes.
const DECODED_TOKENS: usize = 32;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, case, repeats] = &arguments[..] else {
        bail!("usage: time_backbones BUNDLE CASE REPEATS");
    };
    meptr_extract::allocator::keep(); // as the program does
    let run = runner(Path::new(bundle), case)?;
    run()?; // the first run pays for memory and threads
    for _ in 0..repeats.parse().context("REPEATS is a number")? {
        let start = Instant::now();
        run()?;
        let seconds = start.elapsed().as_secs_f64();
        let mut line = serde_json::json!({"case": case, "seconds": seconds});
        if case == "matmul" {
            line["gflops"] = (2.0 * (MATRIX as f64).powi(3) / seconds / 1e9).into();
        }
        print_line(&line);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result of a program for measuring")]
fn print_line(line: &serde_json::Value) {
    println!("{line}");
}

type Runner = Box<dyn Fn() -> Result<()>>;

/// Function that a case runs, with its model and input loaded.
fn runner(bundle: &Path, case: &str) -> Result<Runner> {
    let (case, precision) = match case.split_once('@') {
        Some((case, precision)) => (case, precision.parse().map_err(anyhow::Error::msg)?),
        None => (case, Precision::F32),
    };
    let (name, count) = match case.rsplit_once('-') {
        Some((name, count)) if count.parse::<usize>().is_ok() => (name, count.parse()?),
        _ => (case, 1),
    };
    let device = Device::Cpu;
    Ok(match name {
        "clip" => {
            let model = ClipVision::open(&folder(bundle, "clip")?, &device, precision)?;
            let side = model.config().vision_config.image_size;
            let pixels = wave(&[count, 3, side, side])?;
            Box::new(move || {
                model.forward(&pixels)?;
                Ok(())
            })
        }
        "bert" => {
            let model = Bert::open(&folder(bundle, "bert")?, &device, precision)?;
            let ids: Vec<u32> = (0..count as u32).map(|token| 100 + token).collect();
            let ids = Tensor::from_vec(ids, (1, count), &device)?;
            Box::new(move || {
                model.forward(&ids, &[count])?;
                Ok(())
            })
        }
        "wav2vec2" => {
            let model = Wav2Vec2::open(&folder(bundle, "wav2vec2")?, &device, precision)?;
            let samples = count * SAMPLE_RATE_HZ;
            let sound = wave(&[1, samples])?;
            Box::new(move || {
                model.forward(&sound, &[samples])?;
                Ok(())
            })
        }
        "whisper-encoder" | "whisper-decoder" => whisper(name == "whisper-decoder")?,
        "yolo" => {
            let (model, _) = generate(1, &device, |vb| Yolo::load(&YoloConfig::nano(80), vb))?;
            let pictures = wave(&[count, 3, 384, 640])?;
            Box::new(move || {
                model.forward(&pictures)?;
                Ok(())
            })
        }
        "face" => {
            use meptr_extract::detect::Detector;
            let detector = FaceDetector::bundled(FaceModel::FullRange, &device)?;
            let (width, height) = (1280, 720);
            let bytes = (0..width * height * 3).map(|byte| (byte * 7919 % 256) as u8).collect();
            let picture = RgbImage::new(width, height, bytes);
            Box::new(move || {
                detector.detect(&vec![&picture; count])?;
                Ok(())
            })
        }
        "matmul" => {
            let (a, b) = (wave(&[MATRIX, MATRIX])?, wave(&[MATRIX, MATRIX])?);
            Box::new(move || {
                a.matmul(&b)?;
                Ok(())
            })
        }
        _ => bail!("there is no case `{case}`"),
    })
}

/// Whisper small on one window of half a minute: its encoder, or its decoder for a few tokens.
fn whisper(decodes: bool) -> Result<Runner> {
    let config = WhisperConfig {
        d_model: 768,
        num_mel_bins: 80,
        vocab_size: 51_865,
        encoder_layers: 12,
        encoder_attention_heads: 12,
        encoder_ffn_dim: 3072,
        decoder_layers: 12,
        decoder_attention_heads: 12,
        decoder_ffn_dim: 3072,
        ..WhisperConfig::large_v3_turbo()
    };
    let (model, _) = generate(1, &Device::Cpu, |vb| WhisperModel::load(&config, vb))?;
    let features = wave(&[1, config.num_mel_bins, config.window_frames()])?;
    if !decodes {
        return Ok(Box::new(move || {
            model.encode(&features)?;
            Ok(())
        }));
    }
    let encoded = model.encode(&features)?;
    Ok(Box::new(move || {
        let mut decoding = model.start_decoding(&encoded)?;
        (0..DECODED_TOKENS as u32).try_for_each(|token| {
            decoding.feed(&[vec![token]])?;
            Ok(())
        })
    }))
}

fn folder(bundle: &Path, part: &str) -> Result<std::path::PathBuf> {
    // The manifest is asked rather than the folder's habit; hashing takes part in no timing.
    let bundle = Bundle::open(bundle)?;
    let parts = &bundle.manifest().parts;
    let part = match part {
        "clip" => &parts.clip,
        "bert" => &parts.bert,
        _ => &parts.wav2vec2,
    };
    Ok(bundle.path(&part.folder))
}

fn wave(shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|index| (index as f32 * 0.37).sin()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(DType::F32)?)
}
