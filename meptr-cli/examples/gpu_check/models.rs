//! The models that are compared and measured, made of seeded numbers, and their input.

use anyhow::Result;
use candle::{Device, Tensor};
use meptr_core::Precision;
use meptr_core::weights::generate;
use meptr_extract::backbones::{
    Bert, BertConfig, ClipConfig, ClipVision, Wav2Vec2, Wav2Vec2Config,
};
use meptr_extract::detect::yolo::{Yolo, YoloConfig};
use meptr_extract::detect::{BodyConfig, BodyDetector, PersonClass};
use meptr_extract::speech::{WhisperConfig, WhisperModel};

const SEED: u64 = 1;

/// Samples of sound in a second.
pub(crate) const SAMPLE_RATE_HZ: usize = 16_000;

pub(crate) fn clip_config(is_quick: bool) -> ClipConfig {
    let mut config = ClipConfig::vit_base_patch32();
    if is_quick {
        config.vision_config.num_hidden_layers = 2;
    }
    config
}

pub(crate) fn wav2vec2_config(is_quick: bool) -> Wav2Vec2Config {
    let full = Wav2Vec2Config::large_robust_12();
    match is_quick {
        true => Wav2Vec2Config { num_hidden_layers: 1, ..full },
        false => full,
    }
}

pub(crate) fn whisper_config(is_quick: bool) -> WhisperConfig {
    let full = WhisperConfig::large_v3_turbo();
    match is_quick {
        true => WhisperConfig { encoder_layers: 1, decoder_layers: 1, vocab_size: 2000, ..full },
        false => full,
    }
}

pub(crate) fn clip(is_quick: bool, precision: Precision, device: &Device) -> Result<ClipVision> {
    let config = clip_config(is_quick);
    let load =
        |vb: candle_nn::VarBuilder| ClipVision::load(&config, vb.to_dtype(precision.dtype()));
    Ok(generate(SEED, device, load)?.0)
}

pub(crate) fn bert(precision: Precision, device: &Device) -> Result<Bert> {
    let config = BertConfig::bge_small();
    let load = |vb: candle_nn::VarBuilder| Bert::load(&config, vb.to_dtype(precision.dtype()));
    Ok(generate(SEED, device, load)?.0)
}

pub(crate) fn wav2vec2(is_quick: bool, precision: Precision, device: &Device) -> Result<Wav2Vec2> {
    let config = wav2vec2_config(is_quick);
    let load = |vb: candle_nn::VarBuilder| Wav2Vec2::load(&config, vb.to_dtype(precision.dtype()));
    Ok(generate(SEED, device, load)?.0)
}

pub(crate) fn whisper(
    is_quick: bool,
    precision: Precision,
    device: &Device,
) -> Result<WhisperModel> {
    let config = whisper_config(is_quick);
    let load =
        |vb: candle_nn::VarBuilder| WhisperModel::load(&config, vb.to_dtype(precision.dtype()));
    Ok(generate(SEED, device, load)?.0)
}

pub(crate) fn yolo(device: &Device) -> Result<Yolo> {
    Ok(generate(SEED, device, |vb| Yolo::load(&YoloConfig::nano(1), vb))?.0)
}

pub(crate) fn body_detector(device: &Device) -> Result<BodyDetector> {
    let config = BodyConfig {
        network: YoloConfig::nano(1),
        class_names: Vec::new(),
        person: PersonClass::default(),
    };
    Ok(generate(SEED, device, |vb| BodyDetector::load(&config, vb))?.0)
}

/// Numbers of a shape, in -1 to 1.
pub(crate) fn wave(shape: &[usize], device: &Device) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values = (0..count).map(|index| (index as f32 * 0.37).sin()).collect::<Vec<_>>();
    Ok(Tensor::from_vec(values, shape, device)?)
}

/// Tokens of a text of that length, `(1, count)`.
pub(crate) fn tokens(count: usize, device: &Device) -> Result<Tensor> {
    let ids: Vec<u32> = (0..count as u32).map(|token| 100 + token * 7 % 30_000).collect();
    Ok(Tensor::from_vec(ids, (1, count), device)?)
}
