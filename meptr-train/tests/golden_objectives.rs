//! Objectives with weights that stay, step by step with Adam on the fusion model, and the class
//! weights of stages 1 and 2.
//!
//! Reference: golden/train_supervised, golden/train_fixed, golden/class_weights.json (PyTorch, CPU,
//! f32). Every trace in the folders is walked.

use anyhow::{Context, Result, ensure};
use golden::Case;
use meptr_core::models::{FusionConfig, FusionModel};
use meptr_core::nn::{GradientTape, Mode};
use meptr_core::weights::Trainable;
use meptr_train::loss::emotion::{STAGE_3_CLASS_WEIGHTS, class_weights};
use meptr_train::loss::{FixedObjective, Objective, ObjectiveConfig, SupervisedObjective};
use meptr_train::optim::{Optimiser, Rates};
use reference::{
    TOLERANCE, cases_in, ensure_near, number, optimiser, rows_of, trained, weight_difference,
};
use serde_json::Value;

use crate::{golden, reference};

/// Of the totals, relative.
const TOTAL_TOLERANCE: f64 = 1e-5;
/// Of final weights, in units of the difference that the reference has between f32 and f64; at least
/// [`LEAST_WEIGHT_TOLERANCE`].
const WEIGHT_TOLERANCE: f32 = 4.0;
const LEAST_WEIGHT_TOLERANCE: f32 = 2e-6;

#[test]
fn traces_without_pseudo_labels_equal_the_reference() -> Result<()> {
    for case in cases_in("train_supervised", "")? {
        let config = ObjectiveConfig::Supervised(labelled(&case.json["loss"])?);
        replay(&case, &config).with_context(|| case.name.clone())?;
    }
    Ok(())
}

#[test]
fn traces_with_fixed_weights_equal_the_reference() -> Result<()> {
    for case in cases_in("train_fixed", "")? {
        let loss = &case.json["loss"];
        let single = |name: &str| number(loss, name).map(|value| value as f32);
        let labelled = labelled(loss)?;
        let config = ObjectiveConfig::Fixed(FixedObjective {
            emotion_loss: labelled.emotion_loss,
            personality_loss: labelled.personality_loss,
            class_weights: labelled.class_weights,
            emotion_weight: labelled.emotion_weight,
            personality_weight: labelled.personality_weight,
            pseudo_emotion_weight: single("ssl_weight_emotion")?,
            pseudo_personality_weight: single("ssl_weight_personality")?,
            min_emotion_probability: number(loss, "ssl_confidence_threshold_emo")?,
            min_trait_confidence: number(loss, "ssl_confidence_threshold_pt")?,
        });
        replay(&case, &config).with_context(|| case.name.clone())?;
    }
    Ok(())
}

fn labelled(loss: &Value) -> Result<SupervisedObjective> {
    if let Some(weights) = loss["emotion_class_weights"].as_array() {
        let given = weights.iter().map(|weight| weight.as_f64().map(|weight| weight as f32));
        let given: Vec<f32> = given.collect::<Option<_>>().context("class weights")?;
        ensure!(given == STAGE_3_CLASS_WEIGHTS, "other class weights: {given:?}");
    }
    Ok(SupervisedObjective {
        emotion_loss: serde_json::from_value(loss["emotion_loss_type"].clone())?,
        personality_loss: serde_json::from_value(loss["personality_loss_type"].clone())?,
        class_weights: loss["emotion_class_weights"].is_array(),
        emotion_weight: number(loss, "weight_emotion")? as f32,
        personality_weight: number(loss, "weight_personality")? as f32,
    })
}

/// Goes through the recorded steps and compares totals, parts and final weights.
fn replay(case: &Case, objective: &ObjectiveConfig) -> Result<()> {
    let mut config = case.json["config"].clone();
    config.as_object_mut().context("a configuration")?.remove("seed");
    let config: FusionConfig = serde_json::from_value(config)?;
    ensure!(config.dropout == 0.0, "traces have no dropout");
    let trainable = Trainable::from_tensors(case.below("initial"));
    let model = FusionModel::load(&config, trainable.builder(&golden::device()))?;
    ensure!(trainable.unused().is_empty(), "unused: {:?}", trainable.unused());

    let mut objective = Objective::new(objective, &golden::device())?;
    let settings = &case.json["optimizer"];
    let kind = settings["kind"].as_str().context("an optimiser")?.to_lowercase();
    let rule = optimiser(&kind, number(settings, "weight_decay")?, 0.0)?;
    let learning_rate = number(settings, "lr")?;
    let mut optimiser = Optimiser::new(rule, trainable.by_name());

    let steps = case.json["steps"].as_array().context("steps")?;
    ensure!(!steps.is_empty(), "no steps");
    for (index, step) in steps.iter().enumerate() {
        let what = format!("step {index}");
        let batch = rows_of(case, &format!("batch{index}"), "label")?;
        let output = model.forward(&batch.input, &mut Mode::Eval)?;
        let (logits, scores) = (&output.emotion_logits, &output.personality_scores);
        let parts = objective.components(logits, scores, &batch.labels)?;
        let found = objective.balance(&parts, optimiser.parameters(), &GradientTape::default())?;
        let total = number(step, "total")?;
        let difference = (f64::from(found.total) - total).abs();
        ensure!(
            difference <= TOTAL_TOLERANCE * total.abs(),
            "{what}: total {}, not {total}",
            found.total
        );
        if let Some(expected) = step["components"].as_object() {
            let names: Vec<&str> = found.losses.keys().map(|one| one.name()).collect();
            ensure!(names.len() == expected.len(), "{what}: parts {names:?}");
            for (component, loss) in &found.losses {
                let expected = number(&step["components"], component.name())?;
                let what = format!("{what} {}", component.name());
                ensure_near(&what, (*loss).into(), expected, TOLERANCE)?;
            }
        }
        optimiser.step(&found.gradients, Rates { learning_rate, momentum: None })?;
    }
    // Both sides may step away from each other where a gradient is rounding noise.
    let noise = 2.0 * steps.len() as f32 * learning_rate as f32;
    let difference = weight_difference(case, &trained(&trainable), noise)?;
    let own = number(&case.json, "final_weights_f32_vs_f64_max_abs_diff")? as f32;
    let tolerance = (WEIGHT_TOLERANCE * own).max(LEAST_WEIGHT_TOLERANCE);
    eprintln!("{}: final weights within {difference:e} of {tolerance:e}", case.name);
    ensure!(difference <= tolerance, "weights off by {difference}, more than {tolerance}");
    Ok(())
}

#[test]
fn class_weights_equal_the_reference() -> Result<()> {
    let path = golden::root().join("class_weights.json");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let labels: Vec<[f32; 7]> = serde_json::from_value(json["labels"].clone())?;
    let expected: Vec<f64> = serde_json::from_value(json["class_weights"].clone())?;
    ensure!(labels.len() > 7 && expected.len() == 7, "too few labels");
    for (index, (found, expected)) in class_weights(labels).into_iter().zip(expected).enumerate() {
        let difference = (f64::from(found) - expected).abs();
        ensure!(difference <= 1e-5 * expected, "class {index}: {found}, not {expected}");
    }
    Ok(())
}
