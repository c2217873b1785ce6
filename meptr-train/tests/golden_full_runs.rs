//! Whole trainings of the fusion model, through the function that `meptr train` uses.
//!
//! Reference: golden/train/full_run_* (PyTorch 2.6, CPU, f32). Every run in the folder is walked.

use anyhow::{Context, Result, ensure};
use candle::Tensor;
use golden::Case;
use meptr_core::models::{Ablation, FusionConfig, FusionModel, ModalityInput};
use meptr_core::rng::SeedStreams;
use meptr_core::weights::{Trainable, generate};
use meptr_core::{Modality, PerModality};
use meptr_train::data::{Corpus, FusionRows, Labels, Sampler, Split, Test};
use meptr_train::metrics::EmotionMean;
use meptr_train::optim::ScheduleConfig;
use meptr_train::select::{CorpusScores, Evaluation, Selection};
use meptr_train::stage::{
    EpochReport, FusionData, FusionTraining, Start, TrainableModel, TrainingConfig, TrainingRun,
    TrainingState, evaluate, train_fusion,
};
use reference::{
    cases, ensure_grad_norm, number, objective_config, optimiser, rows_of, trained,
    weight_difference,
};
use serde_json::Value;

use crate::{golden, reference};

/// One step of a learning rate of 1e-3, which the recorded runs have. Over some 40 steps of Adam, single
/// weights whose gradient is near 0 move by rounding noise: by 1e-5 to 4e-4 with the order of sums, and
/// PyTorch's f32 differs as much from its f64.
const WEIGHT_TOLERANCE: f32 = 1e-3;
/// Of GradNorm's weights after some epochs, and of scores, where such a weight has its say.
const EPOCH_TOLERANCE: f64 = 1e-4;

#[test]
fn full_runs_equal_the_reference() -> Result<()> {
    for case in cases("full_run_")? {
        repeat(&case).with_context(|| case.name.clone())?;
    }
    Ok(())
}

fn repeat(case: &Case) -> Result<()> {
    let settings = &case.json["config"];
    ensure!(settings["early_stop_on"] == "dev", "selects by another split");
    let config = model_config(settings)?;
    let seed = case.json["seed"].as_u64().context("a seed")?;
    let (_, start) = generate(seed, &golden::device(), |vb| FusionModel::load(&config, vb))?;
    let trainable = Trainable::from_tensors(start);
    let model = FusionModel::load(&config, trainable.builder(&golden::device()))?;
    let (rows, order) = batches(case, "train")?;
    let steps = order.len();
    let data = FusionData { train: Corpus::new("both", rows), dev: corpora(case)? };
    let test: Vec<Corpus<Test, FusionRows>> = corpora(case)?;
    let expected = case.json["epochs"].as_array().context("epochs")?;

    let config = training(settings)?;
    let dropout = SeedStreams::new(0).stream("dropout"); // the recorded runs have none
    let start = Start::Fresh(dropout);
    let (mut reports, mut tests) = (Vec::new(), Vec::new());
    let mut keep = |report: &EpochReport, _: &TrainingState| {
        reports.push(report.clone());
        tests.push(evaluate(&model, &test, 7)?);
        Ok(())
    };
    let parts = TrainableModel::new(&model, &trainable);
    let sampler = Sampler::Fixed(order);
    let end =
        train_fusion(&config, parts, &data, TrainingRun { sampler: &sampler, start }, &mut keep)?;
    ensure!(end.is_finished, "it did not finish");
    ensure!(reports.len() == expected.len(), "{} epochs", reports.len());
    let mut scores = 0.0f64;
    for ((report, test), expected) in reports.iter().zip(&tests).zip(expected) {
        let what = format!("epoch {}", report.epoch);
        ensure_epoch(&what, report, expected)?;
        let rate = number(expected, "lr_when_dev_was_evaluated")?;
        let difference = (report.learning_rate - rate).abs() / config.training.learning_rate;
        ensure!(difference <= 1e-9, "{what}: learning rate off by {difference} of the base");
        scores = scores.max(score_difference(&report.dev, &expected["Dev"])?);
        scores = scores.max(score_difference(test, &expected["Test"])?);
    }
    ensure!(scores <= EPOCH_TOLERANCE, "scores off by {scores}");
    let (best_epoch, _) = end.state.progress.best.best().context("a best epoch")?;
    let best = &expected[best_epoch - 1]["Dev"];
    ensure!(*best == case.json["best_dev"], "epoch {best_epoch} is not the reference's best");

    let noise = 2.0 * (reports.len() * steps) as f32 * config.training.learning_rate as f32;
    let weights = weight_difference(case, &trained(&trainable), noise)?;
    eprintln!("{}: scores within {scores:e}, final weights within {weights:e}", case.name);
    ensure!(weights <= WEIGHT_TOLERANCE, "final weights off by {weights}");
    Ok(())
}

fn model_config(settings: &Value) -> Result<FusionConfig> {
    Ok(FusionConfig {
        hidden_dim: number(settings, "hidden_dim")? as usize,
        num_heads: number(settings, "num_transformer_heads")? as usize,
        dropout: number(settings, "dropout")? as f32,
        ablation: ablation(settings)?,
        ..FusionConfig::published()
    })
}

fn training(settings: &Value) -> Result<FusionTraining> {
    let ratio = number(settings, "warmup_ratio")?;
    let kind = settings["optimizer"].as_str().context("an optimiser")?;
    // The reference's training gives these two none.
    let weight_decay = match kind {
        "sgd" | "rmsprop" => 0.0,
        _ => number(settings, "weight_decay")?,
    };
    let schedule = settings["scheduler_type"].as_str().context("a schedule")?;
    Ok(FusionTraining {
        objective: objective_config(settings, "pers_loss_type", "weight_emotion")?,
        training: TrainingConfig {
            optimiser: optimiser(kind, weight_decay, number(settings, "momentum")?)?,
            learning_rate: number(settings, "lr")?,
            schedule: match schedule.strip_prefix("huggingface_") {
                Some(decay) => {
                    let decay = decay.trim_end_matches("_with_warmup");
                    ScheduleConfig::WarmUp { ratio, decay: serde_json::from_value(decay.into())? }
                }
                None => serde_json::from_value(serde_json::json!({ "kind": schedule }))?,
            },
            max_gradient_norm: None,
            batch_size: 5, // for scoring; the steps have the recorded batches
            max_epochs: number(settings, "num_epochs")? as usize,
            patience_epochs: number(settings, "max_patience")? as usize,
        },
        selection: Selection {
            metric: serde_json::from_value(settings["selection_metric"].clone())?,
            mean: EmotionMean::Reference,
        },
    })
}

fn ensure_epoch(what: &str, report: &EpochReport, expected: &Value) -> Result<()> {
    let grad_norm = report.grad_norm.as_ref().context("GradNorm weights")?;
    ensure_grad_norm(what, &grad_norm.supervised, (&expected["wallets"], "sup"), EPOCH_TOLERANCE)?;
    ensure_grad_norm(what, &grad_norm.pseudo, (&expected["wallets"], "ssl"), EPOCH_TOLERANCE)?;
    let line = expected["train_line"].as_str().context("a line")?;
    ensure_train_line(what, line, report.loss, &report.train)
}

/// The reference's numbered ablations.
fn ablation(config: &Value) -> Result<Ablation> {
    let mut ablation = Ablation::default();
    match config["id_ablation_type_by_component"].as_u64().unwrap_or(0) {
        0 => {}
        1 => ablation.disable_graph_attn = true,
        2 => ablation.disable_cross_attn = true,
        3 => ablation.disable_emo_logit_proj = true,
        4 => ablation.disable_pkl_logit_proj = true,
        5 => ablation.disable_guide_emo = true,
        6 => ablation.disable_guide_pkl = true,
        other => anyhow::bail!("the ablation {other} is unknown"),
    }
    let chosen = config["id_ablation_type_by_modality"].as_u64().unwrap_or(0) as usize;
    // None, then each, each pair, .., in this order.
    let order = [Modality::Audio, Modality::Text, Modality::Scene, Modality::Face, Modality::Body];
    let mut sets: Vec<Vec<usize>> =
        (0u32..32).map(|bits| (0..5).filter(|at| bits >> at & 1 == 1).collect()).collect();
    sets.sort_by_key(|set: &Vec<usize>| (set.len(), set.clone()));
    let set = sets.get(chosen).context("a set of modalities")?;
    ablation.disabled_modalities = set.iter().map(|at| order[*at]).collect();
    Ok(ablation)
}

/// Prefixes of a split's corpora, `SPLIT` or `SPLIT_CORPUS`, in order of name.
fn corpora<S: Split>(case: &Case) -> Result<Vec<Corpus<S, FusionRows>>> {
    let mut names: Vec<&str> = case
        .tensors
        .keys()
        .filter_map(|name| name.split('.').next()?.strip_prefix(S::NAME)?.strip_prefix('_'))
        .collect();
    names.dedup();
    let of = |name: &str| Ok(Corpus::new(name, batches(case, &format!("{}_{name}", S::NAME))?.0));
    names.into_iter().map(of).collect()
}

/// All batches of a split as one table, and the rows of each batch.
fn batches(case: &Case, prefix: &str) -> Result<(FusionRows, Vec<Vec<u32>>)> {
    let mut parts = Vec::new();
    while case.tensors.contains_key(&format!("{prefix}.{}.labels.emotion", parts.len())) {
        parts.push(rows_of(case, &format!("{prefix}.{}", parts.len()), "labels")?);
    }
    ensure!(!parts.is_empty(), "{}: no batch `{prefix}`", case.name);
    let cat = |of: &dyn Fn(&FusionRows) -> Option<Tensor>| -> Result<Option<Tensor>> {
        let tensors: Option<Vec<Tensor>> = parts.iter().map(of).collect();
        Ok(tensors.map(|tensors| Tensor::cat(&tensors, 0)).transpose()?)
    };
    let input = PerModality::try_from_fn(|modality| {
        let Some(vector) = cat(&|rows| Some(rows.input[modality].as_ref()?.vector.clone()))? else {
            return Ok::<_, anyhow::Error>(None);
        };
        Ok(Some(ModalityInput {
            vector,
            emotion_logits: cat(&|rows| rows.input[modality].as_ref()?.emotion_logits.clone())?,
            trait_values: cat(&|rows| rows.input[modality].as_ref()?.trait_values.clone())?,
            is_present: None,
        }))
    })?;
    let emotion = cat(&|rows| Some(rows.labels.emotion.clone()))?.context("labels")?;
    let personality = cat(&|rows| Some(rows.labels.personality.clone()))?.context("labels")?;
    let mut next = 0u32;
    let order = parts
        .iter()
        .map(|rows| {
            let start = next;
            next += rows.len() as u32;
            (start..next).collect()
        })
        .collect();
    Ok((FusionRows { input, labels: Labels::new(emotion, personality)? }, order))
}

/// The largest difference to `{"mF1_CORPUS", .., "mean_emo", "mean_pkl"}`.
fn score_difference<S: Split>(found: &Evaluation<S>, expected: &Value) -> Result<f64> {
    let mut pairs = vec![
        ("mean_emo".to_owned(), found.mean_emotion(EmotionMean::Reference).context("emotions")?),
        ("mean_pkl".to_owned(), found.mean_personality().context("traits")?),
    ];
    for (corpus, CorpusScores { emotion, personality }) in found.corpora() {
        if let Some(scores) = emotion {
            pairs.push((format!("mF1_{corpus}"), scores.reference.mf1));
            pairs.push((format!("mUAR_{corpus}"), scores.reference.muar));
        }
        if let Some(scores) = personality {
            pairs.push((format!("ACC_{corpus}"), scores.macc));
            pairs.push((format!("CCC_{corpus}"), scores.ccc));
        }
    }
    let count = expected.as_object().context("scores")?.len();
    ensure!(pairs.len() == count, "{} scores instead of {count}", pairs.len());
    let mut largest = 0.0f64;
    for (name, found) in pairs {
        largest = largest.max((found - number(expected, &name)?).abs());
    }
    Ok(largest)
}

/// `[TRAIN] Loss=.. | EMO: UAR=.. MF1=.. MEAN=.. | PKL: ACC=.. CCC=.. ..`, four digits.
fn ensure_train_line(what: &str, line: &str, loss: f64, scores: &CorpusScores) -> Result<()> {
    let mut found = vec![("Loss=", loss)];
    if let Some(emotion) = scores.emotion {
        found.extend([("UAR=", emotion.reference.muar), ("MF1=", emotion.reference.mf1)]);
    }
    if let Some(personality) = scores.personality {
        found.extend([("ACC=", personality.macc), ("CCC=", personality.mean_trait_ccc)]);
    }
    for (name, found) in found {
        let at = line.find(name).with_context(|| format!("no `{name}` in {line}"))? + name.len();
        let expected: f64 = line[at..].split([' ', '|']).next().unwrap_or_default().parse()?;
        ensure!((found - expected).abs() <= 1.1e-4, "{what} {name} {found}, not {expected}");
    }
    Ok(())
}
