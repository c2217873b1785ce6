//! Losses and their gradients against the reference.
//!
//! Reference: golden/losses.json (PyTorch 2.6, CPU, f32); null stands for NaN.

use anyhow::{Context, Result, ensure};
use candle::{DType, Tensor, Var};
use meptr_train::data::Labels;
use meptr_train::loss::{
    Component, EmotionLoss, EmotionTargets, MultiTaskLoss, Objective, ObjectiveConfig,
    PersonalityLoss, PublishedObjective, SupervisedObjective,
};
use serde_json::Value;

use crate::golden;

/// Sums of f32 in another order, on losses up to 130.
const TOLERANCE: f64 = 1e-5;

fn losses(group: &str) -> Result<Vec<Value>> {
    let file = std::fs::read_to_string(golden::root().join("losses.json"))?;
    let json: Value = serde_json::from_str(&file)?;
    let cases = json[group].as_array().with_context(|| format!("no group `{group}`"))?.clone();
    ensure!(!cases.is_empty(), "no case in `{group}`");
    Ok(cases)
}

fn name(case: &Value) -> &str {
    case["name"].as_str().unwrap_or("unnamed")
}

/// `{"shape", "data"}`, with null for NaN and booleans for 0 and 1.
fn tensor(json: &Value, dtype: DType) -> Result<Tensor> {
    let shape: Vec<usize> = serde_json::from_value(json["shape"].clone())?;
    let data = json["data"].as_array().context("a tensor has data")?;
    let values: Vec<f64> = data
        .iter()
        .map(|value| match value {
            Value::Bool(value) => f64::from(u8::from(*value)),
            _ => value.as_f64().unwrap_or(f64::NAN),
        })
        .collect();
    Ok(Tensor::from_vec(values, shape, &golden::device())?.to_dtype(dtype)?)
}

fn ensure_close(what: &str, found: &Tensor, expected: &Value, tolerance: f64) -> Result<()> {
    let expected = tensor(expected, DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let found = found.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    ensure!(found.len() == expected.len(), "{what}: {} values", found.len());
    for (found, expected) in found.into_iter().zip(expected) {
        let is_close = (found - expected).abs() <= tolerance * expected.abs().max(1.0);
        ensure!(
            is_close || (found.is_nan() && expected.is_nan()),
            "{what}: {found}, not {expected}"
        );
    }
    Ok(())
}

fn is_nan_all_over(tensor: &Value) -> bool {
    let data = tensor["data"].as_array();
    data.is_some_and(|data| !data.is_empty() && data.iter().all(Value::is_null))
}

/// Compares the gradient of `loss` with the expected one; null = the loss does not depend on it.
fn ensure_gradient(what: &str, loss: &Tensor, input: &Var, expected: &Value) -> Result<()> {
    let gradients = loss.backward()?;
    match (gradients.get(input), expected.is_null()) {
        (None, true) => Ok(()),
        (Some(found), true) => {
            let largest = found.abs()?.max_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
            ensure!(largest == 0.0, "{what}: a gradient of {largest} where there is none");
            Ok(())
        }
        (Some(found), false) if is_nan_all_over(expected) => {
            // Ours may be finite: of `ccc` with a side that has no spread, so that training goes on.
            let sum = found.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
            ensure!(!sum.is_infinite(), "{what}: the gradient sums up to {sum}");
            Ok(())
        }
        (found, false) => {
            let zeros = input.zeros_like()?;
            ensure_close(what, found.unwrap_or(&zeros), expected, TOLERANCE)
        }
    }
}

fn class_weights(case: &Value) -> Result<Option<Tensor>> {
    let weights: Option<Vec<f32>> = serde_json::from_value(case["class_weights"].clone())?;
    Ok(weights.map(|weights| Tensor::new(weights, &golden::device())).transpose()?)
}

fn personality_loss(case: &Value) -> Result<PersonalityLoss> {
    Ok(serde_json::from_value(case["type"].clone())?)
}

fn emotion_loss(case: &Value) -> Result<EmotionLoss> {
    Ok(serde_json::from_value(case["emotion_loss_type"].clone())?)
}

struct Inputs {
    emotion_logits: Option<Var>,
    personality_scores: Option<Var>,
}

impl Inputs {
    fn of(case: &Value) -> Result<Self> {
        let var = |name: &str| -> Result<Option<Var>> {
            let Some(json) = case["inputs"].get(name) else { return Ok(None) };
            Ok(Some(Var::from_tensor(&tensor(json, DType::F32)?)?))
        };
        Ok(Self {
            emotion_logits: var("emotion_logits")?,
            personality_scores: var("personality_scores")?,
        })
    }

    fn both(&self) -> Result<(&Var, &Var)> {
        let logits = self.emotion_logits.as_ref().context("emotion logits")?;
        Ok((logits, self.personality_scores.as_ref().context("personality scores")?))
    }
}

fn labels(case: &Value) -> Result<Labels> {
    let label = |name: &str| tensor(&case["labels"][name], DType::F32);
    let rows = |name: &str| -> Result<Vec<bool>> {
        Ok(serde_json::from_value(case["labels"][name]["data"].clone())?)
    };
    Ok(Labels {
        emotion: label("emotion")?,
        personality: label("personality")?,
        has_emotion: rows("valid_emo")?,
        has_personality: rows("valid_per")?,
    })
}

#[test]
fn personality_losses_equal_the_reference() -> Result<()> {
    let groups = [("basic", DType::F32, TOLERANCE), ("basic_f64", DType::F64, 1e-7)];
    for (group, dtype, tolerance) in groups {
        for case in losses(group)? {
            let what = format!("{group}: {} {}", case["case"], case["type"]);
            let truth = tensor(&case["true"], dtype)?;
            let prediction = Var::from_tensor(&tensor(&case["pred"], dtype)?)?;
            let loss = personality_loss(&case)?.between(&truth, &prediction)?;
            ensure_close(&what, &loss, &case["value"], tolerance)?;
            ensure_gradient(&what, &loss, &prediction, &case["grad_pred"])?;
        }
    }
    Ok(())
}

#[test]
fn multitask_losses_equal_the_reference() -> Result<()> {
    for case in losses("MultiTaskLoss")? {
        let inputs = Inputs::of(&case)?;
        let loss = MultiTaskLoss {
            emotion_weight: case["emotion_weight"].as_f64().unwrap_or(1.0),
            personality_weight: case["personality_weight"].as_f64().unwrap_or(1.0),
            class_weights: class_weights(&case)?,
            personality_loss: personality_loss(&case)?,
        };
        let targets = case["labels"].get("emotion").map(|json| -> Result<EmotionTargets> {
            let by_class = json["shape"].as_array().is_some_and(|shape| shape.len() == 1);
            Ok(if by_class {
                EmotionTargets::Classes(tensor(json, DType::U32)?)
            } else {
                EmotionTargets::Shares(tensor(json, DType::F32)?)
            })
        });
        let targets = targets.transpose()?;
        let truth = case["labels"].get("personality").map(|json| tensor(json, DType::F32));
        let truth = truth.transpose()?;
        let emotion = inputs.emotion_logits.as_ref().map(|logits| logits.as_tensor());
        let personality = inputs.personality_scores.as_ref().map(|scores| scores.as_tensor());
        let loss = loss.of(emotion.zip(targets.as_ref()), personality.zip(truth.as_ref()))?;
        let loss = loss.context("a loss")?;
        ensure_close(name(&case), &loss, &case["value"], TOLERANCE)?;
        for (input, key) in [
            (&inputs.emotion_logits, "emotion_logits"),
            (&inputs.personality_scores, "personality_scores"),
        ] {
            if let Some(input) = input {
                ensure_gradient(name(&case), &loss, input, &case["grads"][key])?;
            }
        }
    }
    Ok(())
}

#[test]
fn losses_on_partly_labelled_batches_equal_the_reference() -> Result<()> {
    for case in losses("MultiTaskLossWithNaN")? {
        let inputs = Inputs::of(&case)?;
        let (logits, scores) = inputs.both()?;
        let weight = |name: &str| case[name].as_f64().context("a weight");
        let weights = [weight("emotion_weight")?, weight("personality_weight")?];
        let config = ObjectiveConfig::Supervised(SupervisedObjective {
            emotion_loss: emotion_loss(&case)?,
            personality_loss: personality_loss(&case)?,
            class_weights: class_weights(&case)?.is_some(),
            ..SupervisedObjective::default()
        });
        let objective = Objective::new(&config, &golden::device())?;
        let parts = objective.components(logits, scores, &labels(&case)?)?;
        // Parts that are NaN count here: `balance` leaves them out on purpose.
        let mut loss = Tensor::zeros((), DType::F32, &golden::device())?;
        for (component, part) in &parts {
            loss = (loss + (part * weights[component.task() as usize])?)?;
        }
        ensure_close(name(&case), &loss, &case["value"], TOLERANCE)?;
        ensure_gradient(name(&case), &loss, logits, &case["grads"]["emotion_logits"])?;
        ensure_gradient(name(&case), &loss, scores, &case["grads"]["personality_scores"])?;
    }
    Ok(())
}

#[test]
fn rows_with_labels_are_those_with_a_number() -> Result<()> {
    for case in losses("MultiTaskLossWithNaN")?.iter().chain(&losses("v2_components")?) {
        let given = labels(case)?;
        let found = Labels::new(given.emotion.clone(), given.personality.clone())?;
        ensure!(found.has_emotion == given.has_emotion, "{}", name(case));
        ensure!(found.has_personality == given.has_personality, "{}", name(case));
    }
    Ok(())
}

#[test]
fn components_of_the_objective_equal_the_reference() -> Result<()> {
    for case in losses("v2_components")? {
        let inputs = Inputs::of(&case)?;
        let (logits, scores) = inputs.both()?;
        let threshold = |name: &str| case[name].as_f64().context("thr");
        let config = ObjectiveConfig::Published(PublishedObjective {
            emotion_loss: emotion_loss(&case)?,
            personality_loss: personality_loss(&case)?,
            class_weights: class_weights(&case)?.is_some(),
            min_emotion_probability: threshold("thr_emo")?,
            min_trait_confidence: threshold("thr_pt")?,
            ..PublishedObjective::default()
        });
        let objective = Objective::new(&config, &golden::device())?;
        let parts = objective.components(logits, scores, &labels(&case)?)?;
        let expected = case["components"].as_object().context("components")?;
        let names: Vec<&str> = parts.keys().map(|component| component.name()).collect();
        ensure!(
            names.len() == expected.len() && names.iter().all(|name| expected.contains_key(*name)),
            "{}: has {names:?}",
            name(&case)
        );
        for component in Component::ALL {
            let Some(part) = parts.get(&component) else { continue };
            let what = format!("{} {}", name(&case), component.name());
            ensure_close(&what, part, &expected[component.name()], TOLERANCE)?;
            let gradients = &case["grads"][component.name()];
            ensure_gradient(&what, part, logits, &gradients[0])?;
            ensure_gradient(&what, part, scores, &gradients[1])?;
        }
    }
    Ok(())
}
