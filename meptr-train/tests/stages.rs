//! The three stages on made-up corpora: each learns, goes on after any step as if it had never
//! stopped, and moves what it should and nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle::{Device, Tensor};
use candle_nn::VarBuilder;
use made_up::{MadeUp, WIDTH, Watcher, bits, ensure_all_trained, ensure_resumes};
use meptr_core::models::{
    CrossTaskModel, FeatureSlice, FusionModel, HeadConfig, ScoreTransform, SingleTaskModel,
    UnimodalModel,
};
use meptr_core::nn::Mode;
use meptr_core::rng::SeedStreams;
use meptr_core::weights::{Trainable, generate};
use meptr_core::{Modality, PerModality, Task};
use meptr_train::data::{Corpus, Dev, FusionRows, Sampler, SequenceRows, StoredClips, Train};
use meptr_train::loss::{ObjectiveConfig, PublishedObjective};
use meptr_train::select::SelectionMetric;
use meptr_train::stage::{
    Control, CrossTaskData, CrossTaskTraining, FusionData, FusionTraining, ModelsConfig, Outcome,
    PairedRows, Pairing, SingleTaskChoice, SingleTaskVectors, StageOne, StageThree, StageTwo,
    Start, TrainableModel, TrainingConfig, TrainingRun, UnimodalData, UnimodalTraining,
    load_around, train_cross_task, train_fusion, train_unimodal, whole_head,
};

use crate::made_up;

type Tensors = BTreeMap<String, Tensor>;

const SEEDS: u64 = 5;

/// Two corpora, the first with emotion labels, the second with trait labels.
struct World {
    _folder: tempfile::TempDir,
    train: Vec<Arc<StoredClips>>,
    dev: Vec<Arc<StoredClips>>,
}

fn world() -> Result<World> {
    let folder = tempfile::tempdir()?;
    let corpora = [("first", 21, Task::Emotion), ("second", 14, Task::Personality)];
    let (mut train, mut dev) = (Vec::new(), Vec::new());
    for (corpus, videos, task) in corpora {
        let made_up = MadeUp { corpus, videos, tasks: &[task], weights: "1" };
        train.push(made_up.store::<Train>(folder.path())?);
        dev.push(made_up.store::<Dev>(folder.path())?);
    }
    Ok(World { _folder: folder, train, dev })
}

impl World {
    fn dev(&self, modality: Modality, tasks: &[Task]) -> Vec<Corpus<Dev, SequenceRows>> {
        let rows = |one: &Arc<StoredClips>| SequenceRows::of(&[Arc::clone(one)], modality, tasks);
        self.dev.iter().map(|one| Corpus::new(one.place(), rows(one))).collect()
    }

    fn unimodal(&self, modality: Modality, task: Task) -> UnimodalData {
        let rows = SequenceRows::of(&self.train, modality, &[task]);
        UnimodalData { train: Corpus::new("both", rows), dev: self.dev(modality, &[task]) }
    }

    fn cross_task(&self, modality: Modality, pairing: Pairing) -> CrossTaskData {
        let rows = PairedRows::of(pairing, &self.train, modality);
        CrossTaskData { train: Corpus::new("both", rows), dev: self.dev(modality, &Task::ALL) }
    }

    fn fusion(&self, heads: &Heads) -> Result<FusionData> {
        let rows = |clips: &Arc<StoredClips>| rows_of(clips, heads, ScoreTransform::Scores);
        let train = self.train.iter().map(rows).collect::<Result<Vec<_>, _>>()?;
        let dev = self.dev.iter().map(|clips| Ok(Corpus::new(clips.place(), rows(clips)?)));
        Ok(FusionData {
            train: Corpus::new("both", FusionRows::joined(&train)?),
            dev: dev.collect::<Result<_>>()?,
        })
    }
}

type Heads = PerModality<Option<CrossTaskModel>>;

fn rows_of(clips: &StoredClips, heads: &Heads, transform: ScoreTransform) -> Result<FusionRows> {
    let mut done = 0;
    let rows = clips.fusion_rows(heads, transform, &Device::Cpu, |_| {
        done += 1;
        Control::Continue
    })?;
    let rows = rows.context("nobody stopped it")?;
    ensure!(done == clips.clips().len() && rows.len() == done);
    Ok(rows)
}

fn models() -> ModelsConfig {
    ModelsConfig { width_divisor: 16, ..ModelsConfig::default() }
}

fn training(max_epochs: usize) -> TrainingConfig {
    let (batch_size, patience_epochs) = (8, max_epochs);
    TrainingConfig {
        learning_rate: 5e-3,
        batch_size,
        max_epochs,
        patience_epochs,
        ..TrainingConfig::default()
    }
}

fn sampler() -> Sampler {
    Sampler::Shuffled { batch_size: 8, seeds: SeedStreams::new(SEEDS) }
}

fn fresh() -> Start {
    Start::Fresh(SeedStreams::new(SEEDS).stream("dropout"))
}

fn stage_one(
    world: &World,
    (modality, task): (Modality, Task),
    training: &UnimodalTraining,
    start: Start,
    watcher: &mut Watcher,
) -> Result<Outcome> {
    let config = StageOne { models: models(), ..StageOne::default() }.model(modality, task, WIDTH);
    let trainable = Trainable::new(SeedStreams::new(SEEDS));
    let model = UnimodalModel::load(&config, task, trainable.builder(&Device::Cpu))?;
    let data = world.unimodal(modality, task);
    let problems = data.problems(&config, task);
    ensure!(problems.is_empty(), "{problems:?}");
    let parts = TrainableModel::new(&model, &trainable);
    Ok(train_unimodal(training, parts, &data, TrainingRun { sampler: &sampler(), start }, watcher)?)
}

#[test]
fn stage_1_learns_and_every_parameter_takes_part() -> Result<()> {
    let world = world()?;
    for modality in Modality::ALL {
        for task in Task::ALL {
            let stage = StageOne {
                training: training(25),
                training_overrides: PerModality::default(),
                ..StageOne::default()
            };
            let mut watcher = Watcher::default();
            let training = stage.training(modality, task);
            let outcome = stage_one(&world, (modality, task), &training, fresh(), &mut watcher)?;
            ensure_all_trained(&outcome.state, |_| false)?;
            let (first, last) = (&watcher.reports[0], watcher.reports.last().context("epochs")?);
            let what = format!("{modality} {}", task.name());
            let (from, to) = (first.loss, last.loss);
            eprintln!("{what}: loss {from:.4} to {to:.4}, dev {:.3}", last.dev_score.value());
            ensure!(to < 0.6 * from, "{what}: {from} to {to}");
            ensure!(last.train.emotion.is_some() == (task == Task::Emotion));
            ensure!(last.grad_norm.is_none());
        }
    }
    Ok(())
}

#[test]
fn stage_1_goes_on_after_any_step() -> Result<()> {
    let world = world()?;
    let chosen = [(Modality::Scene, Task::Emotion), (Modality::Audio, Task::Personality)];
    for (modality, task) in chosen {
        let training = UnimodalTraining {
            training: training(2),
            ..StageOne::default().training(modality, task)
        };
        ensure_resumes(&[1, 2, 3], |start, watcher| {
            stage_one(&world, (modality, task), &training, start, watcher)
        })?;
    }
    Ok(())
}

/// Stage-1 tensors of a modality: emotion, personality.
fn encoders(config: &HeadConfig) -> Result<[Tensors; 2]> {
    let tensors = |task: Task| {
        let config = match task {
            Task::Emotion => &config.emotion,
            Task::Personality => &config.personality,
        };
        generate(3, &Device::Cpu, |vb| UnimodalModel::load(config, task, vb)).map(|made| made.1)
    };
    Ok([tensors(Task::Emotion)?, tensors(Task::Personality)?])
}

fn stage_two(
    world: &World,
    modality: Modality,
    (stage, [emotion, personality]): (&StageTwo, &[Tensors; 2]),
    start: Start,
    watcher: &mut Watcher,
) -> Result<Outcome> {
    let config = models().head(modality, WIDTH);
    let config = stage.model(modality, [&config.emotion, &config.personality]);
    let trainable = Trainable::new(SeedStreams::new(SEEDS));
    let model = load_around(&config, [emotion, personality], &trainable, &Device::Cpu)?;
    let data = world.cross_task(modality, stage.pairing);
    let problems = data.problems(&config);
    ensure!(problems.is_empty(), "{problems:?}");
    let training: CrossTaskTraining = stage.training(modality);
    let parts = TrainableModel::new(&model, &trainable);
    Ok(train_cross_task(
        &training,
        parts,
        &data,
        TrainingRun { sampler: &sampler(), start },
        watcher,
    )?)
}

fn second_stage(pairing: Pairing, max_epochs: usize) -> StageTwo {
    let (training, training_overrides) = (training(max_epochs), PerModality::default());
    StageTwo { pairing, training, training_overrides, models: models(), ..StageTwo::default() }
}

#[test]
fn stage_2_learns_around_encoders_that_stay_as_they_are() -> Result<()> {
    let world = world()?;
    for pairing in [Pairing::CrossCorpus, Pairing::SameClip] {
        for modality in Modality::ALL {
            let config = models().head(modality, WIDTH);
            let frozen = encoders(&config)?;
            let before = [bits(&frozen[0])?, bits(&frozen[1])?];
            let stage = second_stage(pairing, 6);
            let mut watcher = Watcher::default();
            let outcome = stage_two(&world, modality, (&stage, &frozen), fresh(), &mut watcher)?;
            ensure!([bits(&frozen[0])?, bits(&frozen[1])?] == before, "a frozen part moved");
            ensure_all_trained(&outcome.state, |_| false)?;
            let (first, last) = (&watcher.reports[0], watcher.reports.last().context("epochs")?);
            let (from, to) = (first.loss, last.loss);
            eprintln!(
                "{modality} {pairing:?}: loss {from:.4} to {to:.4}, dev {:.3}",
                last.dev_score.value()
            );
            ensure!(to < from, "{modality} {pairing:?}: {from} to {to}");
            ensure!(last.train.emotion.is_some() && last.train.personality.is_some());
            ensure_is_whole(&config, &frozen, &outcome.state.parameters)?;
        }
    }
    Ok(())
}

/// A bundle's file holds stage 1 and stage 2, and nothing else.
fn ensure_is_whole(config: &HeadConfig, frozen: &[Tensors; 2], trained: &Tensors) -> Result<()> {
    let [emotion, personality] = frozen;
    let whole = Trainable::from_tensors(whole_head(config, [emotion, personality], trained));
    let model = CrossTaskModel::load(config, whole.builder(&Device::Cpu))?;
    ensure!(whole.unused().is_empty(), "{:?} is too much", whole.unused());
    let apart = Trainable::from_tensors(trained.clone());
    let around = load_around(config, [emotion, personality], &apart, &Device::Cpu)?;
    ensure!(apart.unused().is_empty(), "{:?} is too much", apart.unused());
    let x = Tensor::ones((1, 3, WIDTH), candle::DType::F32, &Device::Cpu)?;
    let logits = |model: &CrossTaskModel| -> Result<Vec<f32>> {
        let output = model.forward(&x, None, &mut Mode::Eval)?;
        Ok(output.emotion_logits.flatten_all()?.to_vec1()?)
    };
    ensure!(logits(&model)? == logits(&around)?, "the whole says something else");
    Ok(())
}

#[test]
fn a_dev_split_that_cannot_select_is_told_before_the_first_step() -> Result<()> {
    let mut world = world()?;
    world.dev.truncate(1); // no traits
    let frozen = encoders(&models().head(Modality::Face, WIDTH))?;
    let mut watcher = Watcher::default();
    let stage = second_stage(Pairing::SameClip, 1);
    let parts = (&stage, &frozen);
    let error = stage_two(&world, Modality::Face, parts, fresh(), &mut watcher).unwrap_err();
    ensure!(error.to_string().contains("selection by `combined` needs"), "{error}");
    ensure!(watcher.steps.is_empty());
    let stage = StageTwo { selection: SelectionMetric::MeanEmotion, ..stage };
    stage_two(&world, Modality::Face, (&stage, &frozen), fresh(), &mut watcher)?;
    Ok(())
}

#[test]
fn stage_2_goes_on_after_any_step() -> Result<()> {
    let world = world()?;
    for (pairing, modality) in
        [(Pairing::CrossCorpus, Modality::Text), (Pairing::SameClip, Modality::Audio)]
    {
        let frozen = encoders(&models().head(modality, WIDTH))?;
        let stage = second_stage(pairing, 2);
        ensure_resumes(&[1, 2, 3], |start, watcher| {
            stage_two(&world, modality, (&stage, &frozen), start, watcher)
        })?;
    }
    Ok(())
}

fn heads() -> Result<(PerModality<HeadConfig>, Heads)> {
    let configs = PerModality::from_fn(|modality| models().head(modality, WIDTH));
    let heads = PerModality::try_from_fn(|modality| {
        let load = |vb: VarBuilder| CrossTaskModel::load(&configs[modality], vb);
        Ok::<_, anyhow::Error>(Some(generate(3, &Device::Cpu, load)?.0))
    })?;
    Ok((configs, heads))
}

fn third_stage(max_epochs: usize) -> StageThree {
    let mut stage = StageThree { training: training(max_epochs), ..StageThree::default() };
    (stage.model.hidden_dim, stage.model.num_heads) = (16, 4);
    stage.objective = ObjectiveConfig::Published(PublishedObjective {
        lambda: 0.2,
        ..PublishedObjective::default()
    });
    stage
}

#[test]
fn stage_3_learns_and_goes_on_after_any_step() -> Result<()> {
    let (world, (configs, heads)) = (world()?, heads()?);
    let data = world.fusion(&heads)?;
    let train = |stage: &StageThree, start: Start, watcher: &mut Watcher| -> Result<Outcome> {
        let config = stage.model(&configs);
        let problems = data.problems(&config.input_dims, &Task::ALL);
        ensure!(problems.is_empty(), "{problems:?}");
        let trainable = Trainable::new(SeedStreams::new(SEEDS));
        let model = FusionModel::load(&config, trainable.builder(&Device::Cpu))?;
        let training: FusionTraining = stage.training();
        let parts = TrainableModel::new(&model, &trainable);
        Ok(train_fusion(
            &training,
            parts,
            &data,
            TrainingRun { sampler: &sampler(), start },
            watcher,
        )?)
    };
    let mut watcher = Watcher::default();
    let outcome = train(&third_stage(20), fresh(), &mut watcher)?;
    ensure_all_trained(&outcome.state, |name| name == "guide_bank_pkl.embeddings")?;
    let (first, last) = (&watcher.reports[0], watcher.reports.last().context("epochs")?);
    ensure!(last.loss < 0.7 * first.loss, "{} to {}", first.loss, last.loss);
    ensure!(last.grad_norm.is_some());
    let stage = third_stage(2);
    ensure_resumes(&[1, 4, 5, 7], |start, watcher| train(&stage, start, watcher))
}

#[test]
fn stage_3_trains_models_of_one_task() -> Result<()> {
    let (world, (configs, heads)) = (world()?, heads()?);
    let data = world.fusion(&heads)?;
    let choices = [
        (Task::Emotion, FeatureSlice::Both),
        (Task::Emotion, FeatureSlice::Emotion),
        (Task::Personality, FeatureSlice::Both),
        (Task::Personality, FeatureSlice::Personality),
    ];
    for (task, slice) in choices {
        let vectors = SingleTaskVectors::Stage2;
        let single_task = Some(SingleTaskChoice { task, slice, vectors });
        let stage = StageThree { single_task, ..third_stage(20) };
        let config = stage.single_task_model(&configs).context("a choice")?;
        let trainable = Trainable::new(SeedStreams::new(SEEDS));
        let model = SingleTaskModel::load(&config, trainable.builder(&Device::Cpu))?;
        let parts = TrainableModel::new(&model, &trainable);
        let mut watcher = Watcher::default();
        let training = stage.training();
        let outcome = train_fusion(
            &training,
            parts,
            &data,
            TrainingRun { sampler: &sampler(), start: fresh() },
            &mut watcher,
        )?;
        ensure_all_trained(&outcome.state, |_| false)?;
        let (first, last) = (&watcher.reports[0], watcher.reports.last().context("epochs")?);
        ensure!(last.loss < first.loss, "{task:?} {slice:?}: {} to {}", first.loss, last.loss);
        ensure!(last.train.personality.is_some() == (task == Task::Personality));
    }
    Ok(())
}

#[test]
fn rows_of_stage_3_are_what_the_models_say_alone() -> Result<()> {
    let (world, (configs, heads)) = (world()?, heads()?);
    let clips = &world.train[0];
    for transform in [ScoreTransform::Scores, ScoreTransform::Logits] {
        let rows = rows_of(clips, &heads, transform)?;
        for (modality, model) in heads.iter() {
            let model = model.as_ref().context("a model")?;
            let input = rows.input[modality].as_ref().context("a modality")?;
            ensure!(input.vector.dim(1)? == configs[modality].vector_width());
            for row in 0..rows.len() {
                let Some(sequence) = clips.sequence(row, modality)? else {
                    let is_present = input.is_present.as_ref().context("marks")?;
                    ensure!(is_present.get(row)?.to_scalar::<f32>()? == 0.0);
                    continue;
                };
                let (mut start, mut sum) = (0, None);
                for steps in &sequence.pieces {
                    let piece = sequence.features.narrow(0, start, *steps)?.unsqueeze(0)?;
                    start += steps;
                    let output = model.forward(&piece.contiguous()?, None, &mut Mode::Eval)?;
                    let share = *steps as f64 / sequence.pieces.iter().sum::<usize>() as f64;
                    let said =
                        [output.fused_vector()?, output.emotion_logits, output.personality_scores];
                    let said = Tensor::cat(&said, 1)?.affine(share, 0.0)?;
                    sum = Some(match sum {
                        None => said,
                        Some(sum) => (sum + said)?,
                    });
                }
                let expected = sum.context("pieces")?.squeeze(0)?;
                let width = input.vector.dim(1)?;
                let vector = expected.narrow(0, 0, width)?.to_vec1::<f32>()?;
                ensure!(input.vector.get(row)?.to_vec1::<f32>()? == vector, "{modality} {row}");
                let scores = expected.narrow(0, width + 7, 5)?.unsqueeze(0)?;
                let scores = transform.apply(&scores)?.squeeze(0)?.to_vec1::<f32>()?;
                let found = input.trait_values.as_ref().context("scores")?.get(row)?;
                ensure!(found.to_vec1::<f32>()? == scores, "{modality} {row}");
            }
        }
    }
    Ok(())
}

#[test]
fn rows_of_stage_3_stop_where_they_are_told_to_and_do_without_a_model() -> Result<()> {
    let (world, (_, mut heads)) = (world()?, heads()?);
    let clips = &world.train[0];
    let stopped =
        clips.fusion_rows(&heads, ScoreTransform::Scores, &Device::Cpu, |_| Control::Stop)?;
    ensure!(stopped.is_none());
    heads.face = None;
    let rows = rows_of(clips, &heads, ScoreTransform::Scores)?;
    ensure!(rows.input.face.is_none() && rows.input.body.is_some());
    Ok(())
}

#[test]
fn joined_rows_are_marked_where_a_corpus_lacks_a_modality() -> Result<()> {
    let (world, (_, heads)) = (world()?, heads()?);
    let rows = |clips: &Arc<StoredClips>| rows_of(clips, &heads, ScoreTransform::Scores);
    let (first, mut second) = (rows(&world.train[0])?, rows(&world.train[1])?);
    second.input.face = None;
    let joined = FusionRows::joined(&[first.clone(), second.clone()])?;
    ensure!(joined.len() == first.len() + second.len());
    let marks = |modality: Modality| -> Result<Option<Vec<f32>>> {
        let input = joined.input[modality].as_ref().context("a modality")?;
        Ok(input.is_present.as_ref().map(Tensor::to_vec1).transpose()?)
    };
    let expected = [vec![1.0; first.len()], vec![0.0; second.len()]].concat();
    ensure!(marks(Modality::Face)? == Some(expected));
    ensure!(marks(Modality::Body)?.is_none());
    ensure!(joined.labels.has_emotion[..first.len()].iter().all(|has| *has));
    ensure!(joined.labels.has_personality[first.len()..].iter().all(|has| *has));
    let dims = PerModality::from_fn(|modality| models().head(modality, WIDTH).vector_width());
    let data = FusionData { train: Corpus::new("both", joined), dev: Vec::new() };
    let wrong = PerModality { text: 3, ..dims };
    let problems = data.problems(&wrong, &Task::ALL).join("\n");
    ensure!(problems.contains("text vectors are 32 wide, the model reads 3"), "{problems}");
    ensure!(problems.contains("dev: no video has emotion labels"), "{problems}");
    Ok(())
}

#[test]
fn class_weights_are_absences_per_presence() -> Result<()> {
    let world = world()?;
    let rows = SequenceRows::of(&world.train, Modality::Body, &[Task::Emotion]);
    let mut counts = [0f32; 7];
    for clip in world.train[0].clips() {
        for (count, label) in counts.iter_mut().zip(clip.emotion.context("labels")?) {
            *count += label;
        }
    }
    let videos = world.train[0].clips().len() as f32;
    let expected = counts.map(|count| if count > 0.0 { (videos - count) / count } else { 1.0 });
    ensure!(rows.class_weights() == expected, "{:?}, not {expected:?}", rows.class_weights());
    Ok(())
}

#[test]
fn padding_changes_nothing() -> Result<()> {
    let world = world()?;
    for modality in Modality::ALL {
        for task in Task::ALL {
            let rows = SequenceRows::of(&world.train, modality, &Task::ALL);
            let config = StageOne { models: models(), ..StageOne::default() };
            let config = config.model(modality, task, WIDTH);
            let load = |vb: VarBuilder| UnimodalModel::load(&config, task, vb);
            let (model, _) = generate(3, &Device::Cpu, load)?;
            let run = |chosen: &[u32]| -> Result<Vec<Vec<f32>>> {
                let batch = rows.batch(chosen, &Device::Cpu)?;
                let output =
                    model.forward(&batch.features, Some(&batch.lengths), &mut Mode::Eval)?;
                Ok(output.prediction.to_vec2()?)
            };
            let all: Vec<u32> = (0..rows.len() as u32).collect();
            let together = run(&all)?;
            for row in all {
                for (alone, padded) in run(&[row])?[0].iter().zip(&together[row as usize]) {
                    ensure!(
                        (alone - padded).abs() < 1e-5,
                        "{modality} {task:?}: {alone}, {padded}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn data_that_cannot_be_trained_on_is_told_before() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let modality = Modality::Face;
    let made_up = |corpus, tasks, weights| MadeUp { corpus, videos: 3, tasks, weights };
    let emotion = made_up("emotion", &[Task::Emotion], "1").store::<Train>(folder.path())?;
    let bare = made_up("bare", &[], "2").store::<Dev>(folder.path())?;
    let rows =
        |clips: &Arc<StoredClips>, task| SequenceRows::of(&[Arc::clone(clips)], modality, &[task]);
    let data = UnimodalData {
        train: Corpus::new("emotion", rows(&emotion, Task::Personality)),
        dev: vec![Corpus::new("bare", rows(&bare, Task::Personality))],
    };
    let config = models().head(modality, 9).personality;
    let problems = data.problems(&config, Task::Personality).join("\n");
    for part in [
        "train: no video has face features and personality labels",
        "bare dev: no video has face features and personality labels",
        "emotion train: face features are 8 wide, the model reads 9",
        "made with other weights or settings than those of `emotion train`: `bare dev`",
    ] {
        ensure!(problems.contains(part), "{part} is not in {problems}");
    }
    let none = UnimodalData { dev: Vec::new(), ..data };
    ensure!(
        none.problems(&config, Task::Personality).iter().any(|one| one.contains("no dev split"))
    );

    let rows = rows(&emotion, Task::Emotion);
    ensure!(rows.damaged().is_empty());
    put_nan(&Path::new(folder.path()).join("emotion/train/v1.safetensors"))?;
    let damaged = rows.damaged();
    ensure!(damaged.len() == 1 && damaged[0].contains("v1.safetensors"), "{damaged:?}");
    Ok(())
}

/// Overwrites the last number of a file, which belongs to some sequence, and those before it.
fn put_nan(path: &Path) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    for number in bytes[header..].chunks_exact_mut(4) {
        number.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    Ok(std::fs::write(path, bytes)?)
}
