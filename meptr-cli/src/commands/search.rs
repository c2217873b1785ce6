//! `meptr search`: hyperparameter search, scored on dev.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use meptr_core::{Modality, Task};
use meptr_extract::DeviceChoice;
use meptr_train::experiment::{Experiment, ExperimentConfig};
use meptr_train::run::files::make_folder;
use meptr_train::search::{Grid, Search, Strategy, Trained};
use meptr_train::select::DevScore;
use meptr_train::settings::Table;
use meptr_train::stage::FusionData;
use meptr_train::stage::Stage;

use super::experiment::{ExperimentArgs, Prepared, StageArg, modality, task};
use super::weights::asked;
use crate::output::ensure_output_is_not_an_input;
use crate::progress::TrainingBars;
use crate::{Finish, interrupt, output};

/// Search hyperparameters: one training run per trial, scored by its best dev score
///
/// Each trial is one line in OUT/results.jsonl, and finished trials are not repeated. OUT/best.toml
/// holds the best settings so far.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// greedy: one parameter after another; exhaustive: every combination
    #[arg(value_enum)]
    strategy: StrategyArg,
    /// Models to train in each trial
    #[arg(long, value_enum, default_value = "stage3")]
    stage: StageArg,
    /// Modality of the model to train, for stages 1 and 2
    #[arg(long, value_parser = modality)]
    modality: Option<Modality>,
    /// Task of the model to train, for stage 1
    #[arg(long, value_parser = task)]
    task: Option<Task>,
    /// Keys with lists of values to try, for example stage3.training.learning_rate = [1e-4, 1e-3]
    #[arg(long, value_name = "FILE.toml")]
    grid: PathBuf,
    /// Folder of the search
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Device: auto (a GPU for stages 1 and 2, the processor for stage 3), cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Format of the trials
    #[arg(long, value_enum, default_value = "table")]
    format: TrialsFormat,
}

/// Combinations of values that are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StrategyArg {
    /// One parameter after another, keeping the best value
    Greedy,
    /// Every combination
    Exhaustive,
}

/// Formats of trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TrialsFormat {
    /// Table for reading
    Table,
    /// One trial per line, as JSON
    Jsonl,
}

/// Model that a trial trains.
#[derive(Debug, Clone, Copy)]
enum Target {
    Unimodal(Modality, Task),
    CrossTask(Modality),
    Fusion,
}

/// Runs every trial that is not in the results yet.
///
/// # Errors
/// When settings, grid, corpora or features are invalid, or a trial fails.
pub fn run(args: &SearchArgs, quiet: bool) -> anyhow::Result<Finish> {
    let target = args.target()?;
    let grid = Grid::read(&args.grid)?;
    let (config, mut problems) = args.experiment.config()?;
    let base = config.to_table();
    for variant in grid.variants(&base) {
        problems.extend(ExperimentConfig::of(&[variant]).1);
    }
    problems.sort();
    problems.dedup();
    let stage = [Stage::from(args.stage)];
    problems.extend(grid.strangers(stage[0].name()));
    for file in Search::files(&args.out) {
        let files = args.experiment.files().into_iter().chain(config.corpora.clone());
        ensure_output_is_not_an_input(&file, files.chain([args.grid.clone()]))?;
    }
    let bundle = |base: Option<&Path>| args.experiment.first_use.bundle(base, quiet, &asked);
    let prepared = Prepared::open((config, problems), &args.out, &stage, args.device, bundle)?;
    let mut search = Search::open(&args.out, &base)?;
    let stop = interrupt::flag()?;
    let mut bars = TrainingBars::new(quiet, stop);
    let Prepared { config, sources, devices, .. } = &prepared;
    let data = match target {
        Target::Fusion => {
            Experiment::new(config, sources, &args.out, devices).fusion_data(&mut bars)?
        }
        _ => None,
    };
    let strategy = match args.strategy {
        StrategyArg::Greedy => Strategy::Greedy,
        StrategyArg::Exhaustive => Strategy::Exhaustive,
    };
    let is_whole = search.run(strategy, &grid, |number, table| {
        let folder = args.out.join("trials").join(format!("{number:04}"));
        trial(&prepared, table, &folder, (target, data.as_ref()), &mut bars)
    })?;
    drop(bars);
    match args.format {
        TrialsFormat::Table => {
            output::line(format_args!("{}", search.table(&grid)))?;
            if search.best().is_some() {
                output::line(format_args!("best: {}", search.best_file().display()))?;
            }
        }
        TrialsFormat::Jsonl => {
            for trial in search.trials() {
                output::line(format_args!("{}", serde_json::to_string(trial)?))?;
            }
        }
    }
    if !is_whole {
        tracing::error!("interrupted; run the same command again to continue");
    }
    Ok(if is_whole { Finish::Complete } else { Finish::SomeFailed })
}

impl SearchArgs {
    fn target(&self) -> anyhow::Result<Target> {
        let modality = || self.modality.context("name the --modality of the model to train");
        let task = || self.task.context("name the --task of the model to train");
        match (self.stage, self.modality, self.task) {
            (StageArg::Stage1, ..) => Ok(Target::Unimodal(modality()?, task()?)),
            (StageArg::Stage2, _, None) => Ok(Target::CrossTask(modality()?)),
            (StageArg::Stage3, None, None) => Ok(Target::Fusion),
            _ => {
                bail!("stage 2 takes no --task, and stage 3 takes neither --task nor --modality")
            }
        }
    }
}

/// Trains a fusion model on vectors of this trial alone.
fn train_on_own_vectors(
    experiment: &Experiment<'_>,
    bars: &mut TrainingBars,
) -> meptr_train::Result<Option<DevScore>> {
    let problems = experiment.problems(&[Stage::Stage3]);
    if !problems.is_empty() {
        return Err(meptr_train::Error::UnfitData { problems });
    }
    match experiment.fusion_data(bars)? {
        Some(data) => experiment.train_fusion(&data, bars),
        None => Ok(None),
    }
}

/// Trains the model of a trial; resumes an interrupted trial with equal settings.
fn trial(
    prepared: &Prepared,
    table: &Table,
    folder: &Path,
    (target, data): (Target, Option<&FusionData>),
    bars: &mut TrainingBars,
) -> meptr_train::Result<Trained> {
    let (config, problems) = ExperimentConfig::of(std::slice::from_ref(table));
    if !problems.is_empty() {
        return Err(meptr_train::Error::UnfitData { problems });
    }
    let file = ExperimentConfig::file(folder);
    if std::fs::read_to_string(&file).is_ok_and(|text| text != config.to_table().to_string()) {
        std::fs::remove_dir_all(folder)
            .map_err(|source| meptr_train::Error::Write { path: folder.to_owned(), source })?;
    }
    make_folder(folder)?;
    config.write(folder)?;
    let experiment = Experiment::new(&config, &prepared.sources, folder, &prepared.devices);
    let score = match (target, data) {
        (Target::Unimodal(modality, task), _) => experiment.train_unimodal(modality, task, bars),
        (Target::CrossTask(modality), _) => experiment.train_cross_task(modality, bars),
        (Target::Fusion, Some(data)) => {
            if config.stage3.single_task == prepared.config.stage3.single_task {
                experiment.train_fusion(data, bars)
            } else {
                train_on_own_vectors(&experiment, bars) // of other models or other parts
            }
        }
        (Target::Fusion, None) => Ok(None), // interrupted while it was read
    };
    match score {
        Ok(Some(score)) => Ok(Trained::To(Some(score))),
        Ok(None) => Ok(Trained::Interrupted),
        Err(error) if error.is_nothing_learned() => Ok(Trained::To(None)),
        Err(error) => Err(error),
    }
}
