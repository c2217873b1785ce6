//! `meptr evaluate`: a bundle's scores on a split of a corpus.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use meptr_core::bundle::Manifest;
use meptr_core::store::{Store, weights_digests};
use meptr_core::{Bundle, Task};
use meptr_extract::{DeviceChoice, Progress};
use meptr_train::data::emotion_labels::EmotionsAs;
use meptr_train::data::table::read_labels;
use meptr_train::data::{Clip, Corpus, DescribedCorpus, Dev, Split, StoredClips, Test, Train};
use meptr_train::evaluate::{
    EvaluatedModels, EvaluationReport, ModelScores, PUBLISHED, score, write_csv,
};
use meptr_train::stage::Stage;

use super::experiment::StageArg;
use super::train::SummaryFormat;
use super::weights::{FirstUseArgs, asked};
use crate::output::ensure_output_is_not_an_input;
use crate::progress::Bars;
use crate::{Finish, output};

/// Score the models of a bundle on stored features with labels
///
/// Emotions are scored by balanced accuracy (mUAR) and F1 (mF1), averaged over the emotions that
/// some clips show and others do not, and by the accuracy of the strongest emotion. Traits are
/// scored by accuracy (mACC) and concordance (CCC). The last model also gets the scores of every
/// emotion and trait, chance levels and 95 % intervals.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Weight bundle: a folder, or a name as for `meptr predict`, with the same default
    #[arg(long, value_name = "BUNDLE")]
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
    /// Stages whose predictions to score, one or several [default: all]
    #[arg(long, value_enum, value_name = "STAGE")]
    stage: Vec<StageArg>,
    /// Score against the labels in this table instead of the corpus's own
    #[arg(long, value_name = "FILE.csv")]
    truth: Option<PathBuf>,
    /// File to write the predictions of each model for each clip to, as CSV
    #[arg(long, value_name = "FILE.csv")]
    csv: Option<PathBuf>,
    /// Format of the scores
    #[arg(long, value_enum, default_value = "table")]
    format: SummaryFormat,
    /// Device: auto, cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    first_use: FirstUseArgs,
}

/// Split to score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // the names are self-explanatory
enum SplitArg {
    Train,
    Dev,
    Test,
}

/// Scores every requested model.
///
/// # Errors
/// When bundle, corpus, features or labels cannot be used, or a file cannot be written. Predictions
/// that are not finite are reported after the scores.
pub fn run(args: &EvaluateArgs, quiet: bool) -> anyhow::Result<Finish> {
    let folder = args.first_use.bundle(args.weights.as_deref(), quiet, &asked)?;
    let bundle = Bundle::open(&folder)
        .with_context(|| format!("cannot use the weights in `{}`", folder.display()))?;
    let corpus = DescribedCorpus::read(&args.corpus)?;
    let (split, clips) = match args.split {
        SplitArg::Train => (Train::NAME, args.open(&bundle, corpus.train())?),
        SplitArg::Dev => (Dev::NAME, args.open(&bundle, corpus.dev())?),
        SplitArg::Test => (Test::NAME, args.open(&bundle, corpus.test())?),
    };
    let truth = args.truth(clips.clips(), corpus.emotions_as)?;
    args.must_not_write_over(&bundle, &corpus, &clips)?;
    let device = args.device.open()?;
    let models = EvaluatedModels::open(&bundle, &device)?;
    let scores = args.scores(&models, &clips, quiet)?;
    if let Some(path) = &args.csv {
        write_csv(path, &scores, clips.clips())?;
    }
    let report = EvaluationReport {
        schema: EvaluationReport::SCHEMA,
        weights: bundle.manifest().name.clone(),
        status: bundle.manifest().status,
        corpus: corpus.name.clone(),
        split,
        truth: args.truth.as_ref().map(|path| path.display().to_string()),
        clips: clips.clips().len(),
        left_out: clips.left_out().len(),
        models: scores.iter().map(|one| score(one, clips.clips(), truth.as_deref())).collect(),
        resamples: EvaluationReport::RESAMPLES,
        notes: EvaluationReport::NOTES,
        published: PUBLISHED,
    };
    match args.format {
        SummaryFormat::Json => output::line(format_args!("{}", serde_json::to_string(&report)?))?,
        SummaryFormat::Table => output::line(format_args!("{report}"))?,
    }
    let mut finish = Finish::Complete;
    for model in scores.iter().filter(|model| model.not_finite() > 0) {
        let (stage, name, clips) = (model.stage.name(), model.model, model.not_finite());
        tracing::error!("{stage} {name}: the predictions for {clips} clips are not finite");
        finish = Finish::SomeFailed;
    }
    Ok(finish)
}

impl EvaluateArgs {
    /// Refuses a --csv that would overwrite an input of this run.
    fn must_not_write_over(
        &self,
        bundle: &Bundle,
        corpus: &DescribedCorpus,
        clips: &StoredClips,
    ) -> anyhow::Result<()> {
        let Some(csv) = &self.csv else { return Ok(()) };
        let manifest = bundle.path(Manifest::FILE);
        let files = bundle.manifest().files.keys().map(|file| bundle.path(file));
        let tables = corpus.splits().iter().map(|split| split.table.clone());
        let named = [Some(self.corpus.clone()), self.truth.clone(), Some(manifest)];
        let named = named.into_iter().flatten();
        ensure_output_is_not_an_input(csv, named.chain(files).chain(tables).chain(clips.files()))
    }

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

    /// Labels of --truth, which replace those of the corpus; they must be of its clips.
    fn truth(&self, clips: &[Clip], emotions_as: EmotionsAs) -> anyhow::Result<Option<Vec<Clip>>> {
        let Some(path) = &self.truth else {
            let has_labels = |clip: &Clip| Task::ALL.iter().any(|task| clip.has_labels(*task));
            let corpus = self.corpus.display();
            let is_labelled = clips.iter().any(has_labels);
            anyhow::ensure!(is_labelled, "`{corpus}` has no labels in that split; give --truth");
            return Ok(None);
        };
        let truth = read_labels(path, emotions_as)?;
        let known: BTreeSet<&str> = truth.iter().map(|clip| clip.name.as_str()).collect();
        let missing = clips.iter().filter(|clip| !known.contains(&*clip.name)).count();
        let file = path.display();
        anyhow::ensure!(missing < clips.len(), "`{file}` names none of the clips of the split");
        if missing > 0 {
            tracing::warn!("`{file}` lacks {missing} of {} clips", clips.len());
        }
        Ok(Some(truth))
    }

    /// Predictions of the models of the chosen stages.
    fn scores(
        &self,
        models: &EvaluatedModels,
        clips: &StoredClips,
        quiet: bool,
    ) -> anyhow::Result<Vec<ModelScores>> {
        let chosen = match self.stage.is_empty() {
            true => StageArg::value_variants(),
            false => &self.stage,
        };
        let stages: BTreeSet<Stage> = chosen.iter().map(|stage| Stage::from(*stage)).collect();
        let bars = Bars::new(1, quiet);
        bars.start(&self.corpus);
        let total = clips.clips().len().max(1) as f64;
        Ok(models.scores(clips, &stages, |row| {
            bars.step("evaluating", Some((row + 1) as f64 / total));
        })?)
    }
}
