//! `meptr train`: from stored features to a bundle.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use meptr_core::bundle::{Manifest, Origin, TrainingStatus, sha256_of};
use meptr_core::{Bundle, PerModality};
use meptr_extract::DeviceChoice;
use meptr_extract::bundle_builder::{Source, Sources, assemble};
use meptr_train::experiment::{BundleText, Experiment, ExperimentConfig, RunSummary, TrainedFile};
use meptr_train::run::files::lock_folder;
use meptr_train::stage::Stage;

use super::experiment::{ExperimentArgs, Prepared};
use super::weights::asked;
use crate::progress::TrainingBars;
use crate::{Finish, interrupt, output};

/// Train models on stored features, stage by stage, and write a bundle for `meptr predict`
///
/// The run folder holds the settings in force, logs, TensorBoard events, curves, checkpoints, and
/// after stage 3 the bundle. An interrupt (Ctrl-C) ends the run after the current step, with exit
/// code 1; --resume then continues with results equal to those of an uninterrupted run.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Stages to train
    #[arg(value_enum)]
    stages: StagesArg,
    /// Folder of the run, which holds the bundle at the end
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Resume the run in --out, with its own settings
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Device: auto (a GPU for stages 1 and 2, the processor for stage 3), cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Format of the scores at the end
    #[arg(long, value_enum, default_value = "table")]
    format: SummaryFormat,
}

/// Stages to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StagesArg {
    /// A model of each modality and task
    Stage1,
    /// A cross-task model of each modality, on the encoders of stage 1
    Stage2,
    /// The fusion model of all modalities, on the outputs of the stage-2 models
    Stage3,
    /// All stages, one after another
    All,
}

/// Formats of scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SummaryFormat {
    /// Table for reading
    Table,
    /// One JSON document
    Json,
}

impl StagesArg {
    fn stages(self) -> Vec<Stage> {
        match self {
            Self::Stage1 => vec![Stage::Stage1],
            Self::Stage2 => vec![Stage::Stage2],
            Self::Stage3 => vec![Stage::Stage3],
            Self::All => Stage::ALL.to_vec(),
        }
    }
}

/// Trains the requested models that are not finished yet.
///
/// # Errors
/// When settings, corpora or features are invalid (all mistakes are reported before any training),
/// or the run folder cannot be used.
pub fn run(args: &TrainArgs, quiet: bool) -> anyhow::Result<Finish> {
    let (run, stages) = (&args.out, args.stages.stages());
    let Prepared { config, sources, base, devices } =
        Prepared::open(args.config()?, run, &stages, args.device, |base| {
            args.experiment.first_use.bundle(base, quiet, &asked)
        })?;
    let _lock = lock_folder(run)?;
    if !args.resume {
        args.must_be_new()?; // checked again, under the lock
        config.write(run)?;
    }
    let stop = interrupt::flag()?;
    let experiment = Experiment::new(&config, &sources, run, &devices);
    let mut bars = TrainingBars::new(quiet, stop);
    let mut is_finished = true;
    for stage in &stages {
        is_finished = is_finished && experiment.train(*stage, &mut bars)?;
    }
    drop(bars);
    if !is_finished {
        let name = args.stages.to_possible_value().context("the name of a stage")?;
        let (run, name) = (run.display(), name.get_name().to_owned());
        tracing::error!("interrupted; `meptr train {name} --out {run} --resume` goes on");
    }
    let is_fused = is_finished && stages.contains(&Stage::Stage3);
    let target = run.join(BUNDLE);
    if is_fused && config.stage3.single_task.is_none() {
        let (heads, fusion) = experiment.trained()?;
        put(&bundle(&config, &sources.names, base, (&heads, &fusion)), &target)?;
    }
    let folders: Vec<_> = Stage::ALL.into_iter().flat_map(|s| experiment.folders(s)).collect();
    let summary = RunSummary::of(&folders)?;
    match args.format {
        SummaryFormat::Json => output::line(format_args!("{}", serde_json::to_string(&summary)?))?,
        SummaryFormat::Table => {
            output::line(format_args!("{summary}"))?;
            match &config.stage3.single_task {
                _ if !is_fused => {}
                None => output::line(format_args!("bundle: {}", target.display()))?,
                Some(single) => output::line(format_args!(
                    "no bundle: it has no place for a model of {} alone",
                    single.task.name()
                ))?,
            }
        }
    }
    Ok(if is_finished { Finish::Complete } else { Finish::SomeFailed })
}

impl TrainArgs {
    /// The settings, from the run itself when it is resumed.
    fn config(&self) -> anyhow::Result<(ExperimentConfig, Vec<String>)> {
        let file = ExperimentConfig::file(&self.out);
        match (self.resume, file.exists()) {
            (true, _) if !self.experiment.is_empty() => {
                bail!("--resume uses the settings in `{}`; give no others", file.display())
            }
            (true, false) => bail!("there is no run in `{}` to resume", self.out.display()),
            (true, true) => Ok(ExperimentConfig::of(&[ExperimentConfig::table(&file)?])),
            (false, _) => {
                self.must_be_new()?;
                self.experiment.config()
            }
        }
    }

    fn must_be_new(&self) -> anyhow::Result<()> {
        let out = self.out.display();
        if ExperimentConfig::file(&self.out).exists() {
            bail!(
                "`{out}` holds a run: give --resume to continue it, or another --out to start a new one"
            );
        }
        if self.out.join(BUNDLE).exists() {
            bail!("`{out}` holds a `{BUNDLE}` that is not of this run; give another --out");
        }
        Ok(())
    }
}

/// Folder of the bundle in a run.
const BUNDLE: &str = "bundle";

/// Parts of the bundle. The base's head takes the place of one that was not trained.
fn bundle(
    config: &ExperimentConfig,
    corpora: &[String],
    base: Bundle,
    (heads, fusion): (&PerModality<Option<TrainedFile>>, &TrainedFile),
) -> Sources {
    let BundleText { name, licence, .. } = &config.bundle;
    let source = |name: String, trained: &TrainedFile| {
        let (corpora, scores) = (corpora.join(", "), trained.summary.in_words());
        let source = format!("meptr train on {corpora}: {scores}");
        let origin = Origin { name, source, licence: licence.clone() };
        Source { path: trained.path.clone(), origin }
    };
    Sources {
        name: name.clone(),
        about: about(config, corpora, &base, (heads, fusion)),
        status: training_status(config, &base),
        base: Some(base),
        clip: None,
        wav2vec2: None,
        bert: None,
        heads: PerModality::from_fn(|modality| {
            let head = heads[modality].as_ref();
            head.map(|head| source(format!("MEPTR {modality} head"), head))
        }),
        fusion: Some(source("MEPTR fusion".to_owned(), fusion)),
        face_detector: None,
        body_detector: None,
        transcriber: None,
        storage: None,
    }
}

/// Assembles the bundle, and replaces the one of an earlier end of the run. The old one stays until
/// the new one is complete, and is kept if nothing changed.
fn put(sources: &Sources, target: &Path) -> anyhow::Result<()> {
    if is_made_of(sources, target) {
        return Ok(());
    }
    let [new, old] = [".new", ".old"].map(|end| target.with_file_name(format!(".{BUNDLE}{end}")));
    let remove = |path: &Path| match path.exists() {
        true => std::fs::remove_dir_all(path),
        false => Ok(()),
    };
    let failed = || format!("cannot replace `{}`", target.display());
    [&new, &old].into_iter().try_for_each(|left| remove(left)).with_context(failed)?; // by a kill
    assemble(sources, &new)?;
    let swap = || -> std::io::Result<()> {
        if target.exists() {
            std::fs::rename(target, &old)?;
        }
        std::fs::rename(&new, target)?;
        remove(&old)
    };
    swap().with_context(failed)
}

/// Whether a bundle equals the one that these sources would give.
fn is_made_of(sources: &Sources, target: &Path) -> bool {
    let Ok(bundle) = Bundle::open(target) else { return false };
    let Manifest { name, about, status, parts, files, .. } = bundle.manifest();
    let is_from = |file: &str, origin: &Origin, source: &Option<Source>| {
        let Some(source) = source else { return true };
        let hash = files.get(file).map(|entry| &entry.sha256);
        *origin == source.origin && sha256_of(&source.path).ok().as_ref() == hash
    };
    let heads = parts.heads.iter();
    let mut heads = heads.map(|(one, head)| (&head.file, &head.origin, &sources.heads[one]));
    // Parts of the base are compared by their hashes.
    let hashes: BTreeSet<&str> = files.values().map(|entry| entry.sha256.as_str()).collect();
    let is_of_base = sources.base.as_ref().is_none_or(|base| {
        let Manifest { parts, files, .. } = base.manifest();
        let replaced = parts.heads.iter().filter(|(one, _)| sources.heads[*one].is_some());
        let replaced: BTreeSet<&String> =
            replaced.map(|(_, head)| &head.file).chain([&parts.fusion.file]).collect();
        let mut kept = files.iter().filter(|(file, _)| !replaced.contains(file));
        kept.all(|(_, entry)| hashes.contains(entry.sha256.as_str()))
    });
    (name, about, *status) == (&sources.name, &sources.about, sources.status)
        && heads.all(|(file, origin, source)| is_from(file, origin, source))
        && is_from(&parts.fusion.file, &parts.fusion.origin, &sources.fusion)
        && is_of_base
}

/// Description of the bundle and its training.
fn about(
    config: &ExperimentConfig,
    corpora: &[String],
    base: &Bundle,
    (heads, fusion): (&PerModality<Option<TrainedFile>>, &TrainedFile),
) -> String {
    let seeds = [config.stage1.seed, config.stage2.seed, config.stage3.seed];
    let seeds = seeds.map(|seed| seed.to_string()).join(", ");
    let made = format!(
        "Trained by `meptr train` on {}, seeds of the stages {seeds}; fusion: {}. Backbones of {}.",
        corpora.join(", "),
        fusion.summary.in_words(),
        base.manifest().name
    );
    let untrained = heads.iter().filter(|(_, head)| head.is_none());
    let untrained: Vec<&str> = untrained.map(|(modality, _)| modality.name()).collect();
    let made = match untrained.is_empty() {
        true => made,
        false => format!("{made} The fusion does without {}.", untrained.join(", ")),
    };
    format!("{} {made}", config.bundle.about.trim()).trim_start().to_owned()
}

/// The configured status, else that of the base bundle.
fn training_status(config: &ExperimentConfig, base: &Bundle) -> TrainingStatus {
    config.bundle.status.unwrap_or(match base.manifest().status {
        TrainingStatus::Untrained | TrainingStatus::Demonstration => TrainingStatus::Demonstration,
        TrainingStatus::Trained => TrainingStatus::Trained,
    })
}
