//! `meptr evaluate`: a bundle's scores on a split of a corpus.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use meptr_core::Bundle;
use meptr_core::store::{Store, weights_digests};
use meptr_extract::{DeviceChoice, Progress};
use meptr_train::data::{Clip, Corpus, DescribedCorpus, Split, StoredClips, table::read_labels};
use meptr_train::evaluate::{BundleModels, EvaluationReport, PUBLISHED, Stage, score, write_csv};

use super::experiment::StageArg;
use super::train::SummaryFormat;
use crate::progress::Bars;
use crate::{Finish, demo, output};

/// Score the models of a bundle on stored features with labels
///
/// Scores are balanced accuracy (mUAR) and F1 (mF1) of the emotions, accuracy (mACC) and concordance
/// (CCC) of the traits, with those of every emotion and trait.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Weight bundle [default: the untrained demo weights inside the program]
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    /// Folder of the feature store, filled with the bundle's backbones
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Description of the corpus
    #[arg(long, value_name = "CORPUS.toml")]
    corpus: PathBuf,
    /// Split of the corpus
    #[arg(long, value_enum, default_value = "test")]
    split: SplitArg,
    /// Whose predictions to score, one or several [default: all]
    #[arg(long, value_enum, value_name = "STAGE")]
    stage: Vec<StageArg>,
    /// Score against the labels in this table instead of the corpus's own
    #[arg(long, value_name = "FILE.csv")]
    truth: Option<PathBuf>,
    /// Write what each model says about each clip
    #[arg(long, value_name = "FILE.csv")]
    csv: Option<PathBuf>,
    /// How scores are written
    #[arg(long, value_enum, default_value = "table")]
    format: SummaryFormat,
    /// Where to compute: auto, cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

/// A split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // the names say it
enum SplitArg {
    Train,
    Dev,
    Test,
}

/// Scores every model that is asked for.
///
/// # Errors
/// When bundle, corpus, features or labels cannot be used, or a file cannot be written.
pub fn run(args: &EvaluateArgs, quiet: bool) -> anyhow::Result<Finish> {
    let folder = match &args.weights {
        Some(folder) => folder.clone(),
        None => {
            tracing::warn!("{}", demo::HINT);
            demo::folder()?
        }
    };
    let bundle = Bundle::open(&folder)
        .with_context(|| format!("cannot use the weights in `{}`", folder.display()))?;
    let corpus = DescribedCorpus::read(&args.corpus)?;
    let truth = args.truth.as_deref().map(read_labels).transpose()?;
    let clips = match args.split {
        SplitArg::Train => args.open(&bundle, corpus.train())?,
        SplitArg::Dev => args.open(&bundle, corpus.dev())?,
        SplitArg::Test => args.open(&bundle, corpus.test())?,
    };
    if let Some(truth) = &truth {
        check_truth(truth, clips.clips(), args.truth.as_deref())?;
    }
    let labels = truth.as_deref().unwrap_or(clips.clips());
    let has_labels = labels.iter().any(|clip| clip.emotion.is_some() || clip.personality.is_some());
    let corpus_file = args.corpus.display();
    anyhow::ensure!(has_labels, "`{corpus_file}` has no labels in that split; give --truth");
    let device = args.device.open()?;
    let models = BundleModels::open(&bundle, &device)?;
    let all: Vec<StageArg> = StageArg::value_variants().to_vec();
    let chosen = if args.stage.is_empty() { &all } else { &args.stage };
    let stages: BTreeSet<Stage> = chosen.iter().map(|stage| Stage::from(*stage)).collect();
    let bars = Bars::new(1, quiet);
    bars.start(&args.corpus);
    let total = clips.clips().len().max(1) as f64;
    let scores = models.scores(&clips, &stages, |row| {
        bars.step("evaluating", Some((row + 1) as f64 / total));
    })?;
    drop(bars);
    if let Some(path) = &args.csv {
        write_csv(path, &scores, clips.clips())?;
    }
    let report = EvaluationReport {
        schema: EvaluationReport::SCHEMA,
        weights: bundle.manifest().name.clone(),
        standing: bundle.manifest().standing,
        corpus: corpus.name.clone(),
        split: match args.split {
            SplitArg::Train => "train",
            SplitArg::Dev => "dev",
            SplitArg::Test => "test",
        },
        truth: args.truth.as_ref().map(|path| path.display().to_string()),
        clips: clips.clips().len(),
        left_out: clips.left_out().len(),
        models: scores.iter().map(|one| score(one, clips.clips(), truth.as_deref())).collect(),
        published: PUBLISHED,
    };
    match args.format {
        SummaryFormat::Json => output::line(format_args!("{}", serde_json::to_string(&report)?))?,
        SummaryFormat::Table => output::line(format_args!("{report}"))?,
    }
    Ok(Finish::Complete)
}

impl EvaluateArgs {
    fn open<S: Split>(
        &self,
        bundle: &Bundle,
        split: Option<Corpus<S, Vec<Clip>>>,
    ) -> anyhow::Result<StoredClips> {
        let no_split = || format!("`{}` has no {} split", self.corpus.display(), S::NAME);
        let split = split.with_context(no_split)?;
        let weights = weights_digests(bundle.manifest());
        Ok(StoredClips::open(&Store::at(&self.store), &split, Some(&weights))?)
    }
}

/// Refuses labels of other clips.
fn check_truth(truth: &[Clip], clips: &[Clip], path: Option<&Path>) -> anyhow::Result<()> {
    let known: BTreeSet<&str> = truth.iter().map(|clip| clip.name.as_str()).collect();
    let missing = clips.iter().filter(|clip| !known.contains(&*clip.name)).count();
    let file = path.unwrap_or(Path::new("")).display();
    anyhow::ensure!(missing < clips.len(), "`{file}` names none of the clips of the split");
    if missing > 0 {
        tracing::warn!("`{file}` lacks {missing} of {} clips", clips.len());
    }
    Ok(())
}
