//! BERT and CLIP against Candle's own versions of them: an independent implementation of the same
//! papers, on the same weights.
//!
//! Tolerance 2e-5 absolute on values of magnitude 1 to 5: sums in another order, and a vectorised
//! exponential and error function on our side.

use crate::golden;

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use candle::{DType, Device, IndexOp, Shape, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models::{bert, clip};
use meptr_core::weights::{generate, generated_tensor};
use meptr_extract::backbones::{Bert, BertConfig, ClipConfig, ClipVision, ClipVisionConfig};

const TOLERANCE: f32 = 2e-5;

fn builder(tensors: BTreeMap<String, Tensor>) -> VarBuilder<'static> {
    let tensors: HashMap<String, Tensor> = tensors.into_iter().collect();
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

fn bert_configs() -> Vec<BertConfig> {
    let small = BertConfig {
        vocab_size: 97,
        hidden_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        intermediate_size: 80,
        max_position_embeddings: 40,
        ..BertConfig::default()
    };
    let one_head = BertConfig {
        hidden_size: 33,
        num_attention_heads: 1,
        type_vocab_size: 1,
        layer_norm_eps: 1e-5,
        ..small.clone()
    };
    let bge_width = BertConfig { num_hidden_layers: 3, vocab_size: 500, ..BertConfig::bge_small() };
    vec![small, one_head, bge_width]
}

fn candle_bert(config: &BertConfig, vb: VarBuilder) -> Result<bert::BertModel> {
    let config = bert::Config {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        intermediate_size: config.intermediate_size,
        hidden_act: bert::HiddenAct::Gelu,
        max_position_embeddings: config.max_position_embeddings,
        type_vocab_size: config.type_vocab_size,
        layer_norm_eps: config.layer_norm_eps,
        ..bert::Config::default()
    };
    Ok(bert::BertModel::load(vb, &config)?)
}

#[test]
fn bert_equals_candles_bert() -> Result<()> {
    for (seed, config) in (1..).zip(bert_configs()) {
        let (ours, tensors) = generate(seed, &Device::Cpu, |vb| Bert::load(&config, vb))?;
        let theirs = candle_bert(&config, builder(tensors))?;
        let vocabulary = config.vocab_size as u32;
        let tokens = 40.min(config.max_position_embeddings);
        let ids = (0..2 * tokens as u32).map(|at| (at * 31 + at * at) % vocabulary);
        let ids = Tensor::from_vec(ids.collect::<Vec<u32>>(), (2, tokens), &Device::Cpu)?;
        for lengths in [[tokens, tokens], [tokens, 7], [1, 16]] {
            let is_real = |row: usize| (0..tokens).map(move |at| u32::from(at < lengths[row]));
            let mask: Vec<u32> = (0..2).flat_map(is_real).collect();
            let mask = Tensor::from_vec(mask, (2, tokens), &Device::Cpu)?;
            let found = ours.forward(&ids, &lengths)?;
            let expected = theirs.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
            for (row, length) in lengths.into_iter().enumerate() {
                let what = format!("{config:?}, {lengths:?}, row {row}");
                let (found, expected) = (found.i((row, ..length))?, expected.i((row, ..length))?);
                let off = golden::ensure_close(&what, &found, &expected, TOLERANCE)?;
                eprintln!("width {}, {lengths:?}, row {row}: {off}", config.hidden_size);
            }
        }
    }
    Ok(())
}

fn clip_configs() -> Vec<ClipConfig> {
    let vision = ClipVisionConfig {
        hidden_size: 40,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 5,
        image_size: 24,
        patch_size: 8,
        ..ClipVisionConfig::default()
    };
    // The last column and row of pixels belong to no patch.
    let uneven = ClipVisionConfig { image_size: 31, patch_size: 5, ..vision.clone() };
    let published = ClipVisionConfig { num_hidden_layers: 2, ..ClipVisionConfig::default() };
    let config = |projection_dim, vision_config| ClipConfig {
        projection_dim,
        vision_config,
        ..ClipConfig::default()
    };
    vec![config(24, vision), config(64, uneven), config(512, published)]
}

/// Candle's picture tower and projection.
fn candle_clip(config: &ClipConfig, vb: VarBuilder, pictures: &Tensor) -> Result<Tensor> {
    let vision = &config.vision_config;
    let sizes = clip::vision_model::ClipVisionConfig {
        embed_dim: vision.hidden_size,
        activation: clip::text_model::Activation::QuickGelu,
        intermediate_size: vision.intermediate_size,
        num_hidden_layers: vision.num_hidden_layers,
        num_attention_heads: vision.num_attention_heads,
        projection_dim: config.projection_dim,
        num_channels: 3,
        image_size: vision.image_size,
        patch_size: vision.patch_size,
    };
    let tower = clip::vision_model::ClipVisionTransformer::new(vb.pp("vision_model"), &sizes)?;
    let projection = candle_nn::linear_no_bias(
        vision.hidden_size,
        config.projection_dim,
        vb.pp("visual_projection"),
    )?;
    Ok(projection.forward(&tower.forward(pictures)?)?)
}

#[test]
fn clip_equals_candles_clip() -> Result<()> {
    for (seed, config) in (11..).zip(clip_configs()) {
        let (ours, tensors) = generate(seed, &Device::Cpu, |vb| ClipVision::load(&config, vb))?;
        let side = config.vision_config.image_size;
        // Generated vectors lie within 0.0625 of 0, normalised pixels within about 2.
        let values = generated_tensor("pixels", &Shape::from(9 * side * side), seed, &Device::Cpu)?;
        let pictures = (values * 32.0)?.reshape((3, 3, side, side))?;
        let found = ours.forward(&pictures)?;
        let expected = candle_clip(&config, builder(tensors), &pictures)?;
        let what = format!("{config:?}");
        let off = golden::ensure_close(&what, &found, &expected, TOLERANCE)?;
        eprintln!("side {side}: {off}");
    }
    Ok(())
}
