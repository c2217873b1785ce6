//! The trainings of an experiment, one model after another; each goes on where it was left.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle::Tensor;
use meptr_core::bundle::{PartKind, PartMetadata};
use meptr_core::models::{
    FusionConfig, FusionModel, HeadConfig, ModalityInput, SingleTaskModel, UnimodalConfig,
    UnimodalModel,
};
use meptr_core::rng::SeedStreams;
use meptr_core::weights::Trainable;
use meptr_core::{Modality, PerModality, Task};

use super::config::ExperimentConfig;
use super::devices::Devices;
use super::model_run::{ExperimentObserver, ModelRun, PartDescription, is_finished};
use super::splits::FeatureSplits;
use super::summary::ModelSummary;
use crate::data::{Corpus, FusionRows};
use crate::metrics::EmotionMean;
use crate::run::{ModelFolder, checkpoint};
use crate::select::DevScore;
use crate::settings::to_json;
use crate::stage::{
    CrossTaskData, FusionData, PairedRows, SingleTaskChoice, Stage, TrainableModel, UnimodalData,
    load_around, train_cross_task, train_fusion, train_unimodal, whole_head,
};
use crate::{Error, Result};

/// Corpora, settings and a place for what comes of them.
#[derive(Debug)]
pub struct Experiment<'a> {
    pub(super) config: &'a ExperimentConfig,
    pub(super) sources: &'a FeatureSplits,
    pub(super) heads: PerModality<HeadConfig>,
    pub(super) run: PathBuf,
    /// Digest of the labels that models are trained on.
    pub(super) labels: String,
    pub(super) devices: Devices,
}

/// The weights of a finished model.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedFile {
    /// The file.
    pub path: PathBuf,
    /// Summary of its training.
    pub summary: ModelSummary,
}

impl<'a> Experiment<'a> {
    /// An experiment that writes to a folder.
    pub fn new(
        config: &'a ExperimentConfig,
        sources: &'a FeatureSplits,
        run: impl Into<PathBuf>,
        devices: &Devices,
    ) -> Self {
        let (heads, labels) = (config.heads(sources), sources.labels_digest());
        Self { config, sources, heads, run: run.into(), labels, devices: devices.clone() }
    }

    /// Everything that keeps some stages from being trained, without reading the numbers.
    pub fn problems(&self, stages: &[Stage]) -> Vec<String> {
        let mut problems = Vec::new();
        if stages.contains(&Stage::Stage1) {
            for (modality, task) in self.unimodal_models() {
                let data = self.unimodal_data(modality, task);
                problems.extend(data.problems(self.unimodal_config(modality, task), task));
            }
        }
        if stages.contains(&Stage::Stage2) {
            for modality in &self.config.stage2.modalities {
                let data = self.cross_task_data(*modality);
                problems.extend(data.problems(&self.heads[*modality]));
                if let Err(error) = data.ensure_selects(self.config.stage2.selection) {
                    problems.push(error.to_string());
                }
            }
        }
        if stages.contains(&Stage::Stage3) {
            problems.extend(self.tasks().iter().flat_map(|task| self.sources.unlabelled(*task)));
            if self.fused_modalities().is_empty() {
                problems.push("stage3: no video has a modality that is not disabled".to_owned());
            }
        }
        if stages.iter().any(|stage| self.selects_by_present_emotions(*stage)) {
            problems.extend(self.sources.nothing_present());
        }
        problems.extend(stages.iter().flat_map(|stage| self.missing_before(*stage, stages)));
        problems.extend(stages.iter().flat_map(|stage| self.changed_since(*stage)));
        problems.extend(stages.iter().flat_map(|stage| self.outdated_before(*stage)));
        problems.sort();
        problems.dedup(); // both tasks and stages read the same features
        problems
    }

    /// Is the dev score of a stage's models over the emotions that are present in dev?
    fn selects_by_present_emotions(&self, stage: Stage) -> bool {
        let ExperimentConfig { stage1, stage2, stage3, .. } = self.config;
        let (tasks, mean) = match stage {
            Stage::Stage1 => (stage1.tasks.as_slice(), stage1.selection_mean),
            Stage::Stage2 => (stage2.selection.tasks(), stage2.selection_mean),
            Stage::Stage3 => (self.tasks(), stage3.selection_mean),
        };
        mean == EmotionMean::Present
            && tasks.contains(&Task::Emotion)
            && self.sources.unlabelled(Task::Emotion).is_empty() // which is reported by itself
    }

    /// Models that a stage builds upon and that neither exist nor are trained with it.
    fn missing_before(&self, stage: Stage, stages: &[Stage]) -> Vec<String> {
        let (before, needed): (Stage, Vec<String>) = match stage {
            Stage::Stage1 => return Vec::new(),
            Stage::Stage2 => {
                let modalities = self.config.stage2.modalities.iter();
                let both = |modality: &Modality| Task::ALL.map(|task| unimodal(*modality, task));
                (Stage::Stage1, modalities.flat_map(both).collect())
            }
            Stage::Stage3 => {
                let modalities = self.fused_modalities().into_iter();
                match self.stage_one_tasks() {
                    Some(tasks) => {
                        let of = |one| tasks.iter().map(move |task| unimodal(one, *task));
                        (Stage::Stage1, modalities.flat_map(of).collect())
                    }
                    None => {
                        let names = modalities.map(|modality| modality.name().to_owned());
                        (Stage::Stage2, names.collect())
                    }
                }
            }
        };
        let or_without = match stage {
            Stage::Stage3 => ", or leave them out by stage3.model.ablation.disabled_modalities",
            _ => "",
        };
        let coming = if stages.contains(&before) { self.names(before) } else { Vec::new() };
        let is_missing =
            |name: &String| !coming.contains(name) && !self.best(before, name).exists();
        let missing: Vec<String> = needed.into_iter().filter(is_missing).collect();
        match missing.is_empty() {
            true => Vec::new(),
            false => vec![format!(
                "{} needs models of {}, which are not there: {}; train {} first, or name its run \
                 with --from{or_without}",
                stage.name(),
                before.name(),
                missing.join(", "),
                before.name()
            )],
        }
    }

    /// Modalities that stage 3 reads: those that some video has and that are not disabled.
    fn fused_modalities(&self) -> Vec<Modality> {
        let disabled = self.fusion_config().ablation.disabled_modalities;
        Modality::ALL.into_iter().filter(|modality| !disabled.contains(modality)).collect()
    }

    /// Shape of the stage-3 model. A modality that no video has is disabled: nothing would train
    /// its part.
    pub(super) fn fusion_config(&self) -> FusionConfig {
        let mut config = self.config.stage3.model(&self.heads);
        let disabled = &mut config.ablation.disabled_modalities;
        for modality in Modality::ALL {
            if self.sources.width(modality).is_none() && !disabled.contains(&modality) {
                disabled.push(modality);
            }
        }
        config
    }

    /// Trains the models of a stage. Says whether all are finished; else they were interrupted.
    ///
    /// # Errors
    /// When features cannot be read, the folder takes no more, the device fails, or no epoch of a
    /// model has a dev score that is a number.
    pub fn train(&self, stage: Stage, progress: &mut impl ExperimentObserver) -> Result<bool> {
        match stage {
            Stage::Stage1 => {
                for (modality, task) in self.unimodal_models() {
                    if self.train_unimodal(modality, task, progress)?.is_none() {
                        return Ok(false);
                    }
                }
            }
            Stage::Stage2 => {
                for modality in &self.config.stage2.modalities {
                    if self.train_cross_task(*modality, progress)?.is_none() {
                        return Ok(false);
                    }
                }
            }
            Stage::Stage3 => {
                let folder = self.folder(Stage::Stage3, FUSION);
                if PartMetadata::path(&folder.best()).exists()
                    && let Some(state) = folder.state()?
                    && is_finished(Some(&state), &self.config.stage3.training)
                {
                    folder.ensure_logged(state.progress.epochs)?;
                    return Ok(true);
                }
                let Some(data) = self.fusion_data(progress)? else { return Ok(false) };
                return Ok(self.train_fusion(&data, progress)?.is_some());
            }
        }
        Ok(true)
    }

    /// Trains one model of stage 1; gives its best dev score, none when interrupted.
    ///
    /// # Errors
    /// As [`Experiment::train`].
    pub fn train_unimodal(
        &self,
        modality: Modality,
        task: Task,
        progress: &mut impl ExperimentObserver,
    ) -> Result<Option<DevScore>> {
        let folder = self.folder(Stage::Stage1, &unimodal(modality, task));
        let config = self.config.stage1.training(modality, task);
        let shape = self.unimodal_config(modality, task);
        let part = PartDescription::new(PartKind::Unimodal, Some(modality), shape);
        let seeds = self.seeds(Stage::Stage1, &folder);
        let settings = self.unimodal_settings(modality, task);
        let frozen = BTreeMap::new();
        let (folder, training) = (&folder, &config.training);
        let model_run = ModelRun { folder, config: training, seeds, settings, frozen, part };
        model_run.run(progress, |run, observer| {
            let trainable = Trainable::new(seeds);
            let model = UnimodalModel::load(shape, task, trainable.builder(&self.devices.heads))
                .map_err(Error::doing(format!("making the {} model", folder.title())))?;
            let data = self.unimodal_data(modality, task);
            let model = TrainableModel::new(&model, &trainable);
            train_unimodal(&config, model, &data, run, observer)
        })
    }

    /// Trains one model of stage 2; gives its best dev score, none when interrupted.
    ///
    /// # Errors
    /// As [`Experiment::train`].
    pub fn train_cross_task(
        &self,
        modality: Modality,
        progress: &mut impl ExperimentObserver,
    ) -> Result<Option<DevScore>> {
        let folder = self.folder(Stage::Stage2, modality.name());
        let config = self.config.stage2.training(modality);
        let shape = &self.heads[modality];
        let stage_one = |task: Task| -> Result<BTreeMap<String, Tensor>> {
            let path = self.best(Stage::Stage1, &unimodal(modality, task));
            checkpoint::load::<usize>(&path).map(|(tensors, _)| tensors)
        };
        let (emotion, personality) = (stage_one(Task::Emotion)?, stage_one(Task::Personality)?);
        let stage_one = [&emotion, &personality];
        let frozen = whole_head(shape, stage_one, &BTreeMap::new());
        let part = PartDescription::new(PartKind::Head, Some(modality), shape);
        let seeds = self.seeds(Stage::Stage2, &folder);
        let settings = self.cross_task_settings(modality);
        let (folder, training) = (&folder, &config.training);
        let model_run = ModelRun { folder, config: training, seeds, settings, frozen, part };
        model_run.run(progress, |run, observer| {
            let trainable = Trainable::new(seeds);
            let model = load_around(shape, stage_one, &trainable, &self.devices.heads)
                .map_err(Error::doing(format!("making the {} model", folder.title())))?;
            let data = self.cross_task_data(modality);
            let model = TrainableModel::new(&model, &trainable);
            train_cross_task(&config, model, &data, run, observer)
        })
    }

    /// Trains the model of stage 3 on [`Experiment::fusion_data`]; gives its best dev score, none
    /// when interrupted.
    ///
    /// # Errors
    /// As [`Experiment::train`].
    pub fn train_fusion(
        &self,
        data: &FusionData,
        progress: &mut impl ExperimentObserver,
    ) -> Result<Option<DevScore>> {
        let folder = self.folder(Stage::Stage3, FUSION);
        let config = self.config.stage3.training();
        let shape = self.fusion_config();
        let single = self.config.stage3.single_task_model(&self.heads);
        let data = as_read(data, &shape).map_err(Error::doing("transforming trait scores"))?;
        let input_dims = single.as_ref().map_or(shape.input_dims, |single| single.input_dims);
        let problems = data.problems(&input_dims, self.tasks());
        if !problems.is_empty() {
            return Err(Error::UnfitData { problems });
        }
        let seeds = self.seeds(Stage::Stage3, &folder);
        let settings = self.fusion_settings();
        // The metadata describe a model of one task; no bundle has a place for it.
        let part = match &single {
            None => PartDescription::new(PartKind::Fusion, None, &to_json(&shape)),
            Some(single) => PartDescription::new(PartKind::SingleTask, None, &to_json(single)),
        };
        let frozen = BTreeMap::new();
        let (folder, training) = (&folder, &config.training);
        let model_run = ModelRun { folder, config: training, seeds, settings, frozen, part };
        let doing = || Error::doing("making the fusion model");
        model_run.run(progress, |run, observer| {
            let trainable = Trainable::new(seeds);
            let vb = trainable.builder(&self.devices.fusion);
            match &single {
                None => {
                    let model = FusionModel::load(&shape, vb).map_err(doing())?;
                    let model = TrainableModel::new(&model, &trainable);
                    train_fusion(&config, model, &data, run, observer)
                }
                Some(single) => {
                    let model = SingleTaskModel::load(single, vb).map_err(doing())?;
                    let model = TrainableModel::new(&model, &trainable);
                    train_fusion(&config, model, &data, run, observer)
                }
            }
        })
    }

    /// The best weights of stages 2 and 3, for a bundle: heads and fusion. A modality that stage 3
    /// does without may have no head.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn trained(&self) -> Result<(PerModality<Option<TrainedFile>>, TrainedFile)> {
        let file = |stage: Stage, name: &str| {
            let folder = self.place(stage, name);
            Ok::<_, Error>(TrainedFile { path: folder.best(), summary: ModelSummary::of(&folder)? })
        };
        let heads = PerModality::try_from_fn(|modality| {
            let name = modality.name();
            let is_there =
                self.sources.width(modality).is_some() && self.best(Stage::Stage2, name).exists();
            is_there.then(|| file(Stage::Stage2, name)).transpose()
        })?;
        Ok((heads, file(Stage::Stage3, FUSION)?))
    }

    /// Folders of the models of a stage, in the order of training.
    pub fn folders(&self, stage: Stage) -> Vec<ModelFolder> {
        self.names(stage).iter().map(|name| self.folder(stage, name)).collect()
    }

    /// Names of the models of a stage that are to be trained.
    fn names(&self, stage: Stage) -> Vec<String> {
        match stage {
            Stage::Stage1 => self.unimodal_models().map(|(m, task)| unimodal(m, task)).collect(),
            Stage::Stage2 => {
                let modalities = self.config.stage2.modalities.iter();
                modalities.map(|modality| modality.name().to_owned()).collect()
            }
            Stage::Stage3 => vec![FUSION.to_owned()],
        }
    }

    pub(super) fn unimodal_models(&self) -> impl Iterator<Item = (Modality, Task)> {
        let stage1 = &self.config.stage1;
        let modalities = stage1.modalities.iter();
        modalities.flat_map(|modality| stage1.tasks.iter().map(|task| (*modality, *task)))
    }

    /// Tasks whose stage-1 models stage 3 reads; none when it reads stage 2.
    fn stage_one_tasks(&self) -> Option<Vec<Task>> {
        self.config.stage3.single_task.and_then(SingleTaskChoice::stage_one_tasks)
    }

    /// Tasks whose labels stage 3 cannot do without.
    fn tasks(&self) -> &'static [Task] {
        self.config.stage3.training().selection.metric.tasks()
    }

    pub(super) fn unimodal_config(&self, modality: Modality, task: Task) -> &UnimodalConfig {
        match task {
            Task::Emotion => &self.heads[modality].emotion,
            Task::Personality => &self.heads[modality].personality,
        }
    }

    fn unimodal_data(&self, modality: Modality, task: Task) -> UnimodalData {
        let (train, dev) = self.sources.sequences(modality, &[task]);
        UnimodalData { train, dev }
    }

    fn cross_task_data(&self, modality: Modality) -> CrossTaskData {
        let rows = PairedRows::of(self.config.stage2.pairing, &self.sources.train, modality);
        CrossTaskData {
            train: Corpus::new(self.sources.names.join(" + "), rows),
            dev: self.sources.dev_sequences(modality, &Task::ALL),
        }
    }

    pub(super) fn folder(&self, stage: Stage, name: &str) -> ModelFolder {
        ModelFolder::new(&self.run, stage.name(), name)
    }

    /// The folder of a model, in this run or in the one that it builds upon.
    fn place(&self, stage: Stage, name: &str) -> ModelFolder {
        let here = self.folder(stage, name);
        match &self.config.from {
            Some(from) if !here.best().exists() => ModelFolder::new(from, stage.name(), name),
            _ => here,
        }
    }

    /// Folders of the run that this one builds upon whose models it uses.
    pub(super) fn borrowed(&self, stage: Stage) -> Vec<ModelFolder> {
        let Some(from) = &self.config.from else { return Vec::new() };
        let names = self.names(stage).into_iter();
        let is_used = |name: &String| !self.folder(stage, name).best().exists();
        names.filter(is_used).map(|name| ModelFolder::new(from, stage.name(), name)).collect()
    }

    pub(super) fn best(&self, stage: Stage, name: &str) -> PathBuf {
        self.place(stage, name).best()
    }

    /// Streams of one model's own, whatever else is trained.
    fn seeds(&self, stage: Stage, folder: &ModelFolder) -> SeedStreams {
        let seed = match stage {
            Stage::Stage1 => self.config.stage1.seed,
            Stage::Stage2 => self.config.stage2.seed,
            Stage::Stage3 => self.config.stage3.seed,
        };
        SeedStreams::new(SeedStreams::new(seed).stream(&folder.title()).next_u64())
    }
}

/// Name of the one model of stage 3.
pub(super) const FUSION: &str = "fusion";

pub(super) fn unimodal(modality: Modality, task: Task) -> String {
    format!("{modality}-{}", task.name())
}

/// Rows as the model reads them: trait scores transformed, and nothing of disabled modalities.
fn as_read(data: &FusionData, config: &FusionConfig) -> candle::Result<FusionData> {
    let rows = |rows: &FusionRows| -> candle::Result<FusionRows> {
        let input = PerModality::try_from_fn(|modality| {
            let is_disabled = config.ablation.disabled_modalities.contains(&modality);
            let Some(input) = rows.input[modality].as_ref().filter(|_| !is_disabled) else {
                return Ok(None);
            };
            let values = input.trait_values.as_ref();
            let values = values.map(|raw| config.score_transform.apply(raw)).transpose()?;
            Ok::<_, candle::Error>(Some(ModalityInput { trait_values: values, ..input.clone() }))
        })?;
        Ok(FusionRows { input, labels: rows.labels.clone() })
    };
    data.try_map(rows)
}
