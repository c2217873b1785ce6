//! Options that training and search share: the experiment, checked before any long work.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use meptr_core::store::{Store, weights_digests};
use meptr_core::{Bundle, Modality, Task};
use meptr_extract::DeviceChoice;
use meptr_train::experiment::{Devices, Experiment, ExperimentConfig, FeatureSplits, Overrides};
use meptr_train::settings::{Table, Value, parse_assignment};
use meptr_train::stage::Stage;

use super::weights::FirstUseArgs;

/// Arguments that describe the experiment.
#[derive(Debug, Args)]
pub struct ExperimentArgs {
    /// Settings; configs/train.toml explains every key. Later files override earlier ones
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// A setting by its dotted key, for example stage3.training.max_epochs=20
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_assignment)]
    set: Vec<(String, Value)>,
    /// Folder of the feature store
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Descriptions of the corpora, as for `meptr extract`
    #[arg(long, value_name = "CORPUS.toml", num_args = 1..)]
    corpora: Vec<PathBuf>,
    /// Bundle whose backbones extracted the features: a folder, or a name as for `meptr extract`,
    /// with the same default
    #[arg(long, value_name = "BUNDLE")]
    base: Option<PathBuf>,
    /// Earlier run that provides settings and the models of earlier stages
    #[arg(long, value_name = "RUN")]
    from: Option<PathBuf>,
    /// Seed of all stages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
    #[command(flatten)]
    pub first_use: FirstUseArgs,
}

/// Stages whose models can be trained alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StageArg {
    /// Each modality and task
    Stage1,
    /// Each modality, both tasks
    Stage2,
    /// All modalities
    Stage3,
}

impl From<StageArg> for Stage {
    fn from(stage: StageArg) -> Self {
        match stage {
            StageArg::Stage1 => Self::Stage1,
            StageArg::Stage2 => Self::Stage2,
            StageArg::Stage3 => Self::Stage3,
        }
    }
}

/// Parses the name of a modality.
pub fn modality(name: &str) -> Result<Modality, String> {
    Modality::named(name).ok_or_else(|| "give body, face, scene, audio or text".to_owned())
}

/// Parses the name of a task.
pub fn task(name: &str) -> Result<Task, String> {
    let found = Task::ALL.into_iter().find(|task| task.name() == name);
    found.ok_or_else(|| "give emotion or personality".to_owned())
}

/// Experiment with valid corpora, features and settings.
pub struct Prepared {
    pub config: ExperimentConfig,
    pub sources: FeatureSplits,
    pub base: Bundle,
    pub devices: Devices,
}

impl ExperimentArgs {
    /// Reads the settings of all files and of the command line; also returns all their problems.
    ///
    /// # Errors
    /// When a file cannot be read or is no TOML.
    pub fn config(&self) -> anyhow::Result<(ExperimentConfig, Vec<String>)> {
        let mut tables: Vec<Table> = Vec::new();
        if let Some(from) = &self.from {
            tables.push(ExperimentConfig::table(&ExperimentConfig::file(from))?);
        }
        for file in &self.config {
            tables.push(ExperimentConfig::table(file)?);
        }
        let overrides = Overrides {
            store: absolute(self.store.as_deref())?,
            corpora: self.corpora.iter().map(std::path::absolute).collect::<Result<_, _>>()?,
            base: absolute(self.base.as_deref().filter(|base| base.exists()))?
                .or_else(|| self.base.clone()),
            from: absolute(self.from.as_deref())?,
            seed: self.seed,
            settings: self.set.clone(),
        };
        tables.push(overrides.to_table());
        Ok(ExperimentConfig::of(&tables))
    }

    /// Files from which the settings are read.
    pub fn files(&self) -> Vec<PathBuf> {
        let of_run = self.from.as_deref().map(ExperimentConfig::file);
        self.config.iter().cloned().chain(of_run).collect()
    }

    /// Whether no argument describes the experiment.
    pub fn is_empty(&self) -> bool {
        let paths = [&self.store, &self.base, &self.from];
        self.config.is_empty()
            && self.set.is_empty()
            && self.corpora.is_empty()
            && self.seed.is_none()
            && paths.iter().all(|path| path.is_none())
    }
}

fn absolute(path: Option<&Path>) -> std::io::Result<Option<PathBuf>> {
    path.map(std::path::absolute).transpose()
}

impl Prepared {
    /// Opens the inputs of some stages, reads every value once, and reports all mistakes.
    ///
    /// # Errors
    /// [`meptr_train::Error::UnfitData`] lists everything that is wrong; else when the demo bundle
    /// or the device is not available.
    pub fn open(
        (config, mut problems): (ExperimentConfig, Vec<String>),
        run: &Path,
        stages: &[Stage],
        device: DeviceChoice,
        base: impl FnOnce(Option<&Path>) -> anyhow::Result<PathBuf>,
    ) -> anyhow::Result<Self> {
        let folder = base(config.base.as_deref())?;
        let said = |error| format!("{:#}", anyhow::Error::new(error)); // with its causes
        let base = Bundle::open(&folder).map_err(|error| problems.push(said(error))).ok();
        let sources = base.as_ref().filter(|_| !config.store.as_os_str().is_empty()).map(|base| {
            let weights = weights_digests(base.manifest());
            FeatureSplits::open(&Store::at(&config.store), &config.corpora, &weights, &mut problems)
        });
        let (Some(base), Some(sources), true) = (base, sources, problems.is_empty()) else {
            return Err(meptr_train::Error::UnfitData { problems }.into());
        };
        for warning in &sources.warnings {
            tracing::warn!("{warning}");
        }
        let devices = Devices::open(device)?;
        problems.extend(Experiment::new(&config, &sources, run, &devices).problems(stages));
        problems.extend(sources.damaged());
        match problems.is_empty() {
            true => Ok(Self { config, sources, base, devices }),
            false => Err(meptr_train::Error::UnfitData { problems }.into()),
        }
    }
}
