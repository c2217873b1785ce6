//! Helpers of the tests on recorded trainings: reading cases, comparing values.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle::Tensor;
use golden::Case;
use meptr_core::models::{FusionInput, ModalityInput};
use meptr_core::weights::Trainable;
use meptr_core::{Modality, PerModality};
use meptr_train::data::{FusionRows, Labels};
use meptr_train::loss::{
    GradNormConfig, GradNormPair, GradNormWeights, ObjectiveConfig, PublishedObjective,
};
use meptr_train::optim::OptimiserConfig;
use serde_json::Value;

use crate::golden;

/// Losses, norms and GradNorm's weights: f32 sums in another order.
pub const TOLERANCE: f64 = 2e-5;

pub fn cases(prefix: &str) -> Result<Vec<Case>> {
    cases_in("train", prefix)
}

/// Cases of a folder of the reference data whose names begin with `prefix`.
pub fn cases_in(folder: &str, prefix: &str) -> Result<Vec<Case>> {
    let files = golden::json_files(folder)?;
    let named = |path: &&std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let cases = files.iter().filter(named).map(|path| Case::open(path));
    let cases = cases.collect::<Result<Vec<_>>>()?;
    ensure!(!cases.is_empty(), "no case `{folder}/{prefix}*`");
    Ok(cases)
}

pub fn number(json: &Value, name: &str) -> Result<f64> {
    json[name].as_f64().with_context(|| format!("no number `{name}`"))
}

pub fn objective_config(json: &Value, personality: &str, emotion: &str) -> Result<ObjectiveConfig> {
    let single = |name: &str| number(json, name).map(|value| value as f32);
    let grad_norm = |alpha: &str, rate: &str| -> Result<GradNormConfig> {
        let (alpha, learning_rate) = (single(alpha)?, single(rate)?);
        Ok(GradNormConfig { alpha, learning_rate, floor: single("w_floor")? })
    };
    Ok(ObjectiveConfig::Published(PublishedObjective {
        emotion_loss: serde_json::from_value(json["emotion_loss_type"].clone())?,
        personality_loss: serde_json::from_value(json[personality].clone())?,
        class_weights: json["emo_weights"].is_array() || json["flag_emo_weight"] == true,
        emotion_weight: single(emotion)?,
        personality_weight: single(&emotion.replace("emotion", personality_suffix(personality)))?,
        grad_norm: GradNormPair {
            supervised: grad_norm("alpha_sup", "w_lr_sup")?,
            pseudo: grad_norm("alpha_ssl", "w_lr_ssl")?,
        },
        lambda: single("lambda_ssl")?,
        min_emotion_probability: number(json, "ssl_confidence_threshold_emo")?,
        min_trait_confidence: number(json, "ssl_confidence_threshold_pt")?,
    }))
}

/// Traces say `weight_personality`, full runs `weight_pers`.
pub fn personality_suffix(loss_key: &str) -> &str {
    loss_key.strip_suffix("_loss_type").unwrap_or(loss_key)
}

pub fn rows_of(case: &Case, prefix: &str, label: &str) -> Result<FusionRows> {
    let part = |group: &str, modality: Modality| {
        case.tensors.get(&format!("{prefix}.{group}.{modality}")).cloned()
    };
    let input: FusionInput = PerModality::from_fn(|modality| {
        Some(ModalityInput {
            vector: part("features", modality)?,
            emotion_logits: part("emotion_logits", modality),
            trait_values: part("personality_scores", modality),
            is_present: None,
        })
    });
    let label = |task: &str| case.tensor(&format!("{prefix}.{label}.{task}")).cloned();
    Ok(FusionRows { input, labels: Labels::new(label("emotion")?, label("personality")?)? })
}

pub fn ensure_near(what: &str, found: f64, expected: f64, tolerance: f64) -> Result<()> {
    let is_near = (found - expected).abs() <= tolerance * expected.abs().max(1.0);
    ensure!(is_near, "{what}: {found}, not {expected}");
    Ok(())
}

/// The largest difference of final weights, the key third of the attention's bias aside.
///
/// The true gradient of that third, rows H..2H of `cross_attn.in_proj_bias`, is 0, so Adam makes
/// steps of up to the learning rate out of rounding noise there; it may differ by `noise`.
pub fn weight_difference(case: &Case, found: &BTreeMap<String, Tensor>, noise: f32) -> Result<f32> {
    let expected = case.below("final");
    ensure!(found.keys().eq(expected.keys()), "{}: other parameters", case.name);
    let mut largest = 0.0f32;
    for (name, expected) in &expected {
        let found = &found[name];
        if name == "cross_attn.in_proj_bias" {
            let third = expected.dim(0)? / 3;
            let part = |tensor: &Tensor, index: usize| tensor.narrow(0, index * third, third);
            golden::ensure_close(name, &part(found, 1)?, &part(expected, 1)?, noise)?;
            for index in [0, 2] {
                let (found, expected) = (part(found, index)?, part(expected, index)?);
                largest = largest.max(golden::max_difference(&found, &expected)?);
            }
        } else {
            largest = largest.max(golden::max_difference(found, expected)?);
        }
    }
    Ok(largest)
}

pub fn trained(trainable: &Trainable) -> BTreeMap<String, Tensor> {
    let parameters = trainable.by_name().into_iter();
    parameters.map(|(name, parameter)| (name, parameter.as_detached_tensor())).collect()
}

/// Compares GradNorm's weights of a pair of losses with `{"emo_KIND", "per_KIND"}`.
pub fn ensure_grad_norm(
    what: &str,
    weights: &GradNormWeights,
    (expected, kind): (&Value, &str),
    tolerance: f64,
) -> Result<()> {
    for (task, found) in ["emo", "per"].into_iter().zip(weights.weights()) {
        let name = format!("{task}_{kind}");
        let expected = number(&expected[kind], &name)?;
        ensure_near(&format!("{what} weight of {name}"), found.into(), expected, tolerance)?;
    }
    Ok(())
}

/// The optimiser of that name; RMSprop has no momentum in the reference.
pub fn optimiser(name: &str, weight_decay: f64, momentum: f64) -> Result<OptimiserConfig> {
    Ok(match name {
        "adam" => OptimiserConfig::Adam { weight_decay },
        "adamw" => OptimiserConfig::AdamW { weight_decay },
        "sgd" => OptimiserConfig::Sgd { weight_decay, momentum },
        "rmsprop" => OptimiserConfig::RmsProp { weight_decay, momentum: 0.0 },
        "lion" => OptimiserConfig::Lion { weight_decay },
        other => anyhow::bail!("the optimiser `{other}` is unknown"),
    })
}
