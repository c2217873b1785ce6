//! Metrics, schedules and optimisers against the reference.
//!
//! Reference: golden/metrics.json (scikit-learn 1.6, PyTorch 2.6, Transformers 4.52).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle::{Device, Var};
use meptr_core::Emotion;
use meptr_train::loss::Gradients;
use meptr_train::metrics::{emotion_scores, personality_scores};
use meptr_train::optim::schedule::Decay;
use meptr_train::optim::{Optimiser, OptimiserConfig, Rates, ScheduleConfig, Scheduler};
use meptr_train::select::DevScore;
use serde_json::Value;

use crate::golden;

fn cases(group: &str) -> Result<Vec<Value>> {
    let file = std::fs::read_to_string(golden::root().join("metrics.json"))?;
    let json: Value = serde_json::from_str(&file)?;
    let cases = json[group].as_array().with_context(|| format!("no group `{group}`"))?.clone();
    ensure!(!cases.is_empty(), "no case in `{group}`");
    Ok(cases)
}

fn numbers(json: &Value) -> Result<Vec<f64>> {
    let numbers = json.as_array().context("a list of numbers")?;
    Ok(numbers.iter().map(|number| number.as_f64().unwrap_or(f64::NAN)).collect())
}

/// Rows of a `{"shape", "data"}` matrix of `N` columns.
fn rows<const N: usize>(json: &Value) -> Result<Vec<[f32; N]>> {
    let data = numbers(&json["data"])?;
    let rows = data.chunks_exact(N).map(|row| std::array::from_fn(|index| row[index] as f32));
    Ok(rows.collect())
}

fn ensure_close(what: &str, found: f64, expected: &Value, tolerance: f64) -> Result<()> {
    let expected = expected.as_f64().unwrap_or(f64::NAN);
    let is_close = (found - expected).abs() <= tolerance || (found.is_nan() && expected.is_nan());
    ensure!(is_close, "{what}: {found}, not {expected}");
    Ok(())
}

#[test]
fn emotion_scores_equal_the_reference() -> Result<()> {
    for case in cases("emotion")? {
        let what = case["name"].to_string();
        let truth = rows(&case["true_emotion"])?;
        let scores = emotion_scores(&rows(&case["logits"])?, &truth).context("some rows")?;
        ensure_close(&what, scores.reference.muar, &case["mUAR"], 1e-12)?;
        ensure_close(&what, scores.reference.mf1, &case["mF1"], 1e-12)?;
        for (index, class) in scores.classes.iter().enumerate() {
            ensure_close(&what, class.uar, &case["mUAR_per_class"][index], 1e-12)?;
            ensure_close(&what, class.f1, &case["mF1_per_class"][index], 1e-12)?;
            let positives = |name: &str| -> Result<usize> {
                let rows = case[name].as_array().context("rows")?;
                Ok(rows.iter().filter(|row| row[index].as_f64() == Some(1.0)).count())
            };
            let counts = class.confusion;
            ensure!(
                counts.true_positive + counts.false_negative == positives("true_multilabel")?
                    && counts.true_positive + counts.false_positive
                        == positives("pred_multilabel")?,
                "{what}: {counts:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn decisions_equal_the_reference() -> Result<()> {
    let mut compared = 0;
    for case in cases("transform_matrix")? {
        if case["result_dtype"] == "float64" {
            continue; // decisions are in f32, as in the reference's training; see Emotion::decided
        }
        let expected: Vec<Vec<f64>> = serde_json::from_value(case["result"].clone())?;
        for (row, expected) in rows(&case["matrix"])?.iter().zip(expected) {
            let decided = Emotion::decided(row);
            let on = Emotion::ALL[1..].iter().map(|class| f64::from(decided.contains(class)));
            ensure!(on.eq(expected), "{}: {row:?} gives {decided:?}", case["name"]);
            compared += 1;
        }
    }
    ensure!(compared > 0, "no decision compared");
    Ok(())
}

#[test]
fn personality_scores_equal_the_reference() -> Result<()> {
    for case in cases("personality")? {
        let what = case["name"].to_string();
        let truth: Vec<[f32; 5]> = rows(&case["true"])?;
        let scores = personality_scores(&rows(&case["pred"])?, &truth).context("some rows")?;
        // The reference computes in f32.
        ensure_close(&what, scores.ccc, &case["CCC_whole_matrix"], 1e-5)?;
        if case.get("ACC_error").is_none() {
            ensure_close(&what, scores.macc, &case["ACC"], 1e-6)?;
        }
        // The reference lists the traits that have any label.
        let listed: Vec<usize> =
            (0..5).filter(|index| truth.iter().any(|row| !row[*index].is_nan())).collect();
        let expected = case["CCC_per_trait"].as_array().context("traits")?;
        ensure!(listed.len() == expected.len(), "{what}: {} traits", listed.len());
        for (index, expected) in listed.iter().zip(expected) {
            ensure_close(&what, scores.trait_ccc[*index], expected, 1e-5)?;
        }
        let mean = &case["CCC_mean_of_traits_ignoring_nan"];
        ensure_close(&what, scores.mean_trait_ccc, mean, 1e-5)?;
    }
    Ok(())
}

fn schedule(case: &Value) -> Result<ScheduleConfig> {
    let ratio = case["warmup_ratio"].as_f64().context("warmup_ratio")?;
    let kind = case["type"].as_str().context("type")?;
    let warm_up = |decay| ScheduleConfig::WarmUp { ratio, decay };
    Ok(match kind {
        "none" => ScheduleConfig::None,
        "plateau" => ScheduleConfig::Plateau,
        "cosine" => ScheduleConfig::Cosine,
        "onecycle" => ScheduleConfig::OneCycle,
        "huggingface_linear" => warm_up(Decay::Linear),
        "huggingface_cosine" => warm_up(Decay::Cosine),
        "huggingface_cosine_with_restarts" => warm_up(Decay::CosineWithRestarts),
        "huggingface_polynomial" => warm_up(Decay::Polynomial),
        "huggingface_constant_with_warmup" => warm_up(Decay::Constant),
        other => anyhow::bail!("the schedule `{other}` is unknown"),
    })
}

#[test]
fn schedules_equal_the_reference() -> Result<()> {
    for case in cases("schedulers")? {
        let whole = |name: &str| case[name].as_u64().map(|n| n as usize).context("a whole number");
        let (epochs, batches) = (whole("epochs")?, whole("steps_per_epoch")?);
        let base = case["base_lr"].as_f64().context("base_lr")?;
        let scores: Vec<DevScore> = serde_json::from_value(case["epoch_metric"].clone())?;
        let mut scheduler = Scheduler::new(schedule(&case)?, base, epochs, batches);
        let mut expected = numbers(&case["lr_used_at_each_batch"])?.into_iter();
        for score in scores {
            for _ in 0..batches {
                let found = scheduler.rates().learning_rate;
                let expected = expected.next().context("a rate for each batch")?;
                let is_close = (found - expected).abs() <= 1e-12 * base.max(1.0);
                ensure!(is_close, "{}: {found}, not {expected}", case["type"]);
                scheduler.after_batch();
            }
            scheduler.after_epoch(score);
        }
    }
    Ok(())
}

fn optimiser(case: &Value) -> Result<OptimiserConfig> {
    let weight_decay = case["weight_decay"].as_f64().context("weight_decay")?;
    let momentum = case["momentum"].as_f64().context("momentum")?;
    Ok(match case["optimizer"].as_str().context("optimizer")? {
        "adam" => OptimiserConfig::Adam { weight_decay },
        "adamw" => OptimiserConfig::AdamW { weight_decay },
        "sgd" => OptimiserConfig::Sgd { weight_decay, momentum },
        "rmsprop" => OptimiserConfig::RmsProp { weight_decay, momentum },
        "lion" => OptimiserConfig::Lion { weight_decay },
        other => anyhow::bail!("the optimiser `{other}` is unknown"),
    })
}

#[test]
fn optimisers_equal_the_reference() -> Result<()> {
    for case in cases("optimizers")? {
        let vector = |json: &Value| -> Result<Vec<f32>> {
            Ok(numbers(json)?.into_iter().map(|value| value as f32).collect())
        };
        let start = Var::new(vector(&case["start"])?, &Device::Cpu)?;
        let parameters = BTreeMap::from([("weight".to_owned(), start.clone())]);
        let mut optimiser = Optimiser::new(optimiser(&case)?, parameters);
        let learning_rate = case["lr"].as_f64().context("lr")?;
        let gradients = case["gradients"].as_array().context("gradients")?;
        let values = case["values_after_each_step"].as_array().context("values")?;
        for (gradient, expected) in gradients.iter().zip(values) {
            let gradient = candle::Tensor::new(vector(gradient)?, &Device::Cpu)?;
            let gradients = Gradients::from([("weight".to_owned(), gradient)]);
            optimiser.step(&gradients, Rates { learning_rate, momentum: None })?;
            for (found, expected) in start.to_vec1::<f32>()?.into_iter().zip(vector(expected)?) {
                let is_close = (found - expected).abs() <= (2e-6 * expected.abs()).max(1e-6);
                ensure!(is_close, "{}: {found}, not {expected}", case["optimizer"]);
            }
        }
    }
    Ok(())
}
