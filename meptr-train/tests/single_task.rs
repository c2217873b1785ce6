//! Stage-3 models of one task on features of the stage-1 models, from videos to a trained model, and
//! against the reference.
//!
//! Reference: golden/models/singletaskasymmodel_* (`SingleTaskAsymModel`, PyTorch 2.6, CPU, f32).

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle::{Device, Tensor};
use golden::Case;
use made_up::{MadeUp, WIDTH, Watcher, ensure_all_trained, ensure_resumes};
use meptr_core::models::{
    FeatureSlice, FusionInput, HeadConfig, ModalityInput, ScoreTransform, SingleTaskModel,
    UnimodalModel,
};
use meptr_core::nn::Mode;
use meptr_core::rng::SeedStreams;
use meptr_core::weights::{Trainable, generate};
use meptr_core::{Modality, PerModality, Task};
use meptr_train::data::{Corpus, Dev, FusionRows, Sampler, SequenceRows, StoredClips, Train};
use meptr_train::stage::{
    Control, EncodesModality, FusionData, ModelsConfig, SingleTaskChoice, SingleTaskVectors,
    StageOne, StageOneEncoder, StageOneEncoders, StageThree, Start, TrainableModel, TrainingConfig,
    TrainingRun, UnimodalData, train_fusion, train_unimodal,
};

use crate::{golden, made_up};

const SEEDS: u64 = 5;

/// A corpus that has emotion labels and nothing else.
struct World {
    _folder: tempfile::TempDir,
    train: Arc<StoredClips>,
    dev: Arc<StoredClips>,
}

impl World {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let tasks = &[Task::Emotion];
        let made_up = MadeUp { corpus: "moods", videos: 21, tasks, weights: "1" };
        let train = made_up.store::<Train>(folder.path())?;
        let dev = made_up.store::<Dev>(folder.path())?;
        Ok(Self { _folder: folder, train, dev })
    }

    /// Stage-1 models of the emotions, trained.
    fn encoders(&self) -> Result<PerModality<Option<StageOneEncoders>>> {
        let stage = StageOne {
            models: models(),
            training: training(6),
            training_overrides: PerModality::default(),
            ..StageOne::default()
        };
        PerModality::try_from_fn(|modality| {
            let (task, tasks) = (Task::Emotion, [Task::Emotion]);
            let config = stage.model(modality, task, WIDTH);
            let trainable = Trainable::new(SeedStreams::new(SEEDS));
            let model = UnimodalModel::load(&config, task, trainable.builder(&Device::Cpu))?;
            let rows = |clips: &Arc<StoredClips>| {
                SequenceRows::of(std::slice::from_ref(clips), modality, &tasks)
            };
            let data = UnimodalData {
                train: Corpus::new("moods", rows(&self.train)),
                dev: vec![Corpus::new("moods", rows(&self.dev))],
            };
            let training = stage.training(modality, task);
            let parts = TrainableModel::new(&model, &trainable);
            let watcher = &mut Watcher::default();
            train_unimodal(
                &training,
                parts,
                &data,
                TrainingRun { sampler: &sampler(), start: fresh() },
                watcher,
            )?;
            let encoder = StageOneEncoder { model, is_read: true };
            Ok(Some(StageOneEncoders { emotion: Some(encoder), personality: None }))
        })
    }

    fn fusion(&self, encoders: &PerModality<Option<StageOneEncoders>>) -> Result<FusionData> {
        Ok(FusionData {
            train: Corpus::new("moods", rows_of(&self.train, encoders)?),
            dev: vec![Corpus::new("moods", rows_of(&self.dev, encoders)?)],
        })
    }
}

fn rows_of(
    clips: &StoredClips,
    encoders: &PerModality<Option<StageOneEncoders>>,
) -> Result<FusionRows> {
    let transform = ScoreTransform::Scores;
    let rows = clips.fusion_rows(encoders, transform, &Device::Cpu, |_| Control::Continue)?;
    rows.context("nobody stopped it")
}

fn models() -> ModelsConfig {
    ModelsConfig { width_divisor: 16, ..ModelsConfig::default() }
}

fn training(max_epochs: usize) -> TrainingConfig {
    TrainingConfig {
        learning_rate: 5e-3,
        batch_size: 8,
        max_epochs,
        patience_epochs: max_epochs,
        ..TrainingConfig::default()
    }
}

fn sampler() -> Sampler {
    Sampler::Shuffled { batch_size: 8, seeds: SeedStreams::new(SEEDS) }
}

fn fresh() -> Start {
    Start::Fresh(SeedStreams::new(SEEDS).stream("dropout"))
}

fn third_stage(choice: SingleTaskChoice, max_epochs: usize) -> StageThree {
    let mut stage = StageThree { single_task: Some(choice), ..StageThree::default() };
    (stage.model.hidden_dim, stage.model.num_heads) = (16, 4);
    stage.training = TrainingConfig { max_epochs, ..training(max_epochs) };
    stage
}

#[test]
fn emotion_labels_alone_train_a_model_of_the_emotions() -> Result<()> {
    let world = World::new()?;
    let data = world.fusion(&world.encoders()?)?;
    let heads = PerModality::from_fn(|modality| models().head(modality, WIDTH));
    let (task, vectors) = (Task::Emotion, SingleTaskVectors::Stage1);
    let choice = SingleTaskChoice { task, slice: FeatureSlice::Emotion, vectors };
    let stage = third_stage(choice, 20);
    let config = stage.single_task_model(&heads).context("a choice")?;
    let problems = data.problems(&config.input_dims, &[task]);
    ensure!(problems.is_empty(), "{problems:?}");
    let train = |stage: &StageThree, start: Start, watcher: &mut Watcher| {
        let trainable = Trainable::new(SeedStreams::new(SEEDS));
        let model = SingleTaskModel::load(&config, trainable.builder(&Device::Cpu))?;
        let parts = TrainableModel::new(&model, &trainable);
        Ok(train_fusion(
            &stage.training(),
            parts,
            &data,
            TrainingRun { sampler: &sampler(), start },
            watcher,
        )?)
    };
    let mut watcher = Watcher::default();
    let outcome = train(&stage, fresh(), &mut watcher)?;
    ensure_all_trained(&outcome.state, |_| false)?;
    let (first, last) = (&watcher.reports[0], watcher.reports.last().context("epochs")?);
    ensure!(last.loss < 0.7 * first.loss, "{} to {}", first.loss, last.loss);
    ensure!(last.train.personality.is_none() && last.train.emotion.is_some());
    let stage = third_stage(choice, 2);
    ensure_resumes(&[1, 4], |start, watcher| train(&stage, start, watcher))
}

#[test]
fn vectors_are_means_of_the_encoders_features() -> Result<()> {
    let world = World::new()?;
    let heads = PerModality::from_fn(|modality| models().head(modality, WIDTH));
    let encoders = PerModality::try_from_fn(|modality| {
        let HeadConfig { emotion, personality, .. } = &heads[modality];
        let encoder = |config, task| -> Result<_> {
            let load = |vb: candle_nn::VarBuilder| UnimodalModel::load(config, task, vb);
            let model = generate(3, &Device::Cpu, load)?.0;
            Ok(Some(StageOneEncoder { model, is_read: true }))
        };
        Ok::<_, anyhow::Error>(Some(StageOneEncoders {
            emotion: encoder(emotion, Task::Emotion)?,
            personality: encoder(personality, Task::Personality)?,
        }))
    })?;
    let rows = rows_of(&world.train, &encoders)?;
    for (modality, encoders) in encoders.iter() {
        let encoders = encoders.as_ref().context("models")?;
        let [emotion, personality] = [&encoders.emotion, &encoders.personality];
        let [emotion, personality] =
            [emotion, personality].map(|one| one.as_ref().map(|one| &one.model));
        let input = rows.input[modality].as_ref().context("a modality")?;
        let width = heads[modality].emotion.width() + heads[modality].personality.width();
        ensure!(input.vector.dim(1)? == width, "{modality}");
        ensure!(encoders.predicts(Task::Emotion) && encoders.predicts(Task::Personality));
        for row in 0..rows.len() {
            let Some(sequence) = world.train.sequence(row, modality)? else { continue };
            let steps: usize = sequence.pieces.iter().sum();
            let (mut start, mut expected) = (0, vec![0.0; width + 12]);
            for piece in &sequence.pieces {
                let features = sequence.features.narrow(0, start, *piece)?.contiguous()?;
                start += piece;
                let said = |model: Option<&UnimodalModel>| {
                    let model = model.context("a model")?;
                    Ok::<_, anyhow::Error>(model.forward(
                        &features.unsqueeze(0)?,
                        None,
                        &mut Mode::Eval,
                    )?)
                };
                let (emotion, personality) = (said(emotion)?, said(personality)?);
                let parts = [
                    emotion.features.mean(1)?,
                    personality.features.mean(1)?,
                    emotion.prediction,
                    personality.prediction,
                ];
                let parts = Tensor::cat(&parts, 1)?.squeeze(0)?.to_vec1::<f32>()?;
                let share = *piece as f32 / steps as f32;
                expected.iter_mut().zip(parts).for_each(|(sum, one)| *sum += share * one);
            }
            let found =
                [Some(&input.vector), input.emotion_logits.as_ref(), input.trait_values.as_ref()];
            let found = found.into_iter().map(|one| Ok(one.context("predictions")?.get(row)?));
            let found = Tensor::cat(&found.collect::<Result<Vec<_>>>()?, 0)?.to_vec1::<f32>()?;
            for (found, expected) in found.iter().zip(&expected) {
                ensure!((found - expected).abs() < 1e-5, "{modality} {row}: {found}, {expected}");
            }
        }
    }
    Ok(())
}

#[test]
fn predictions_that_nobody_makes_are_absent() -> Result<()> {
    let world = World::new()?;
    let data = world.fusion(&world.encoders()?)?;
    for (modality, input) in data.train.rows.input.iter() {
        let input = input.as_ref().with_context(|| format!("no {modality}"))?;
        ensure!(input.emotion_logits.is_some() && input.trait_values.is_none(), "{modality}");
    }
    Ok(())
}

/// The models that settings give have the reference's weights, and what they read of a vector is
/// what the reference cuts out of its own.
#[test]
fn models_of_settings_equal_the_reference() -> Result<()> {
    let files = golden::json_files("models")?;
    let is_asym = |path: &&std::path::PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("singletaskasymmodel"))
    };
    let mut compared = 0;
    for file in files.iter().filter(is_asym) {
        let case = Case::open(file)?;
        let modes: Vec<(FeatureSlice, String)> =
            serde_json::from_value(case.json["modes"].clone())?;
        for (slice, target) in modes {
            compared += compare(&case, slice, &target)
                .with_context(|| format!("{}, {slice:?} to {target}", case.name))?;
        }
    }
    ensure!(compared > 0, "nothing compared");
    Ok(())
}

fn compare(case: &Case, slice: FeatureSlice, target: &str) -> Result<usize> {
    let (task, output) = match target {
        "emo" => (Task::Emotion, "emotion_logits"),
        _ => (Task::Personality, "personality_scores"),
    };
    let heads = PerModality::from_fn(HeadConfig::published);
    let choice = SingleTaskChoice { task, slice, vectors: SingleTaskVectors::Stage1 };
    let mut stage = StageThree { single_task: Some(choice), ..StageThree::default() };
    let hidden_dim = case.json["config"]["hidden_dim"].as_u64().context("a width")?;
    stage.model.hidden_dim = usize::try_from(hidden_dim)?;
    let config = stage.single_task_model(&heads).context("a choice")?;
    let slice_name = serde_json::to_value(slice)?;
    let mode = format!("{}_{target}", slice_name.as_str().context("a name")?);
    let stored = case.below(&format!("weights.{mode}"));
    let model = match stored.is_empty() {
        true => {
            let seed = case.json["seed"].as_u64().context("a seed")?;
            generate(seed, &golden::device(), |vb| SingleTaskModel::load(&config, vb))?.0
        }
        false => {
            let weights = Trainable::from_tensors(stored);
            SingleTaskModel::load(&config, weights.builder(&golden::device()))?
        }
    };
    let prefix = format!("output.{mode}.");
    let batches = case.tensors.keys().filter_map(|name| {
        let batch = name.strip_prefix(&prefix)?.strip_suffix(output)?.strip_suffix('.')?;
        (!batch.ends_with("_noaux")).then(|| batch.to_owned())
    });
    let batches: Vec<String> = batches.collect();
    for batch in &batches {
        let input = cut(case, batch, (choice, &heads))?;
        let found = model.forward(&input, &mut Mode::Eval)?;
        let expected = case.tensor(&format!("{prefix}{batch}.{output}"))?;
        golden::ensure_close(batch, &found, expected, 1e-5 * golden::slack())?;
    }
    Ok(batches.len())
}

/// The parts of the reference's vectors that a choice reads.
fn cut(
    case: &Case,
    batch: &str,
    (choice, heads): (SingleTaskChoice, &PerModality<HeadConfig>),
) -> Result<FusionInput> {
    PerModality::try_from_fn(|modality: Modality| {
        let of = |what: &str| case.tensors.get(&format!("input.{batch}.{what}.{modality}"));
        let Some(vector) = of("features") else { return Ok(None) };
        let (emotion, personality) =
            (heads[modality].emotion.width(), heads[modality].personality.width());
        ensure!(vector.dim(1)? == emotion + personality, "{modality}");
        let parts = [(Task::Emotion, 0, emotion), (Task::Personality, emotion, personality)];
        let parts = parts.into_iter().filter(|(task, ..)| choice.reads(*task));
        let parts = parts.map(|(_, start, width)| vector.narrow(1, start, width));
        Ok(Some(ModalityInput {
            vector: Tensor::cat(&parts.collect::<candle::Result<Vec<_>>>()?, 1)?,
            emotion_logits: of("emotion_logits").cloned(),
            trait_values: of("personality_scores").cloned(),
            is_present: None,
        }))
    })
}
