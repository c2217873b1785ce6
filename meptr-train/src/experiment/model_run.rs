//! One model's training in its folder: from where it was left to its end.

use std::collections::BTreeMap;
use std::path::Path;

use candle::Tensor;
use meptr_core::Modality;
use meptr_core::bundle::{PartKind, PartMetadata, sha256_of};
use meptr_core::rng::SeedStreams;
use serde::Serialize;
use serde_json::Value;

use crate::data::Sampler;
use crate::run::{Journal, ModelFolder};
use crate::select::DevScore;
use crate::stage::{
    Control, EpochReport, Observer, Outcome, Start, StepReport, TrainingConfig, TrainingRun,
    TrainingState,
};
use crate::{Error, Result};

/// Receives the progress of an experiment, shows it, and can end the experiment.
pub trait ExperimentObserver {
    /// A model begins, or goes on after some of at most `most` epochs.
    fn begin(&mut self, title: &str, epochs: usize, most: usize);
    /// After each step; says whether to go on.
    fn step(&mut self, step: &StepReport) -> Control;
    /// After each epoch.
    fn epoch(&mut self, title: &str, report: &EpochReport);
    /// So many of all videos have gone through the models of stage 2; says whether to go on.
    fn rows(&mut self, done: usize, all: usize) -> Control;
    /// Something that a user should know, but can live with.
    fn warn(&mut self, text: &str);
}

/// One model's way from its state to its end.
pub(super) struct ModelRun<'a> {
    pub(super) folder: &'a ModelFolder,
    pub(super) config: &'a TrainingConfig,
    pub(super) seeds: SeedStreams,
    /// Settings that the model is trained with, kept for a resumed run.
    pub(super) settings: Value,
    /// Weights of the model that are not trained, to be stored with it.
    pub(super) frozen: BTreeMap<String, Tensor>,
    pub(super) part: PartDescription,
}

/// A weight file's place in a bundle, and the shape of its model.
pub(super) struct PartDescription {
    pub(super) kind: PartKind,
    pub(super) modality: Option<Modality>,
    /// Configuration of the model.
    pub(super) config: Value,
}

impl PartDescription {
    pub(super) fn new(kind: PartKind, modality: Option<Modality>, config: &impl Serialize) -> Self {
        let config = serde_json::to_value(config).expect("a configuration is plain data");
        Self { kind, modality, config }
    }
}

impl ModelRun<'_> {
    /// Goes on from where the model was left; gives its best dev score, none when interrupted.
    pub(super) fn run<W: ExperimentObserver>(
        self,
        progress: &mut W,
        train: impl FnOnce(TrainingRun<'_>, &mut Recorder<'_, '_, W>) -> Result<Outcome>,
    ) -> Result<Option<DevScore>> {
        let state = self.folder.state()?;
        let epochs = state.as_ref().map_or(0, |state| state.progress.epochs);
        if is_finished(state.as_ref(), self.config) {
            self.folder.ensure_logged(epochs)?;
            if !PartMetadata::path(&self.folder.best()).exists() {
                // The last thing that is written was not.
                self.folder.journal(epochs, self.frozen, self.settings)?.draw()?;
                write_metadata(&self.folder.best(), self.part)?;
            }
            return Ok(state.and_then(|state| state.progress.best.best()).map(|(_, score)| score));
        }
        let start = match state {
            Some(state) => Start::After(Box::new(state)),
            None => Start::Fresh(self.seeds.stream("dropout")),
        };
        let sampler = Sampler::Shuffled { batch_size: self.config.batch_size, seeds: self.seeds };
        let mut journal = self.folder.journal(epochs, self.frozen, self.settings)?;
        let title = self.folder.title();
        if journal.left_out() > 0 {
            let lines = journal.left_out();
            progress
                .warn(&format!("{title}: the log had {lines} lines that the checkpoint has not"));
        }
        progress.begin(&title, epochs, self.config.max_epochs);
        let mut recorder = Recorder { journal: &mut journal, progress, title: &title };
        let of_model = |source| Error::OfModel { model: title.clone(), source: Box::new(source) };
        let outcome =
            train(TrainingRun { sampler: &sampler, start }, &mut recorder).map_err(|error| {
                match error {
                    error @ Error::NoLoss { .. } => of_model(error),
                    error => error,
                }
            })?;
        journal.save(&outcome.state)?;
        journal.draw()?;
        if !outcome.is_finished {
            return Ok(None);
        }
        let Some((_, score)) = outcome.state.progress.best.best() else {
            return Err(Error::NothingLearned { model: title });
        };
        write_metadata(&self.folder.best(), self.part)?;
        Ok(Some(score))
    }
}

pub(super) fn is_finished(state: Option<&TrainingState>, config: &TrainingConfig) -> bool {
    state.is_some_and(|TrainingState { progress, .. }| {
        let is_over = progress.best.is_over() || progress.epochs >= config.max_epochs;
        is_over && progress.best.best().is_some()
    })
}

/// Writes the metadata beside a weight file, so that it can become part of a bundle.
fn write_metadata(path: &Path, part: PartDescription) -> Result<()> {
    let sha256 = sha256_of(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let metadata = PartMetadata {
        schema: PartMetadata::SCHEMA.to_owned(),
        kind: part.kind,
        modality: part.modality,
        config: part.config,
        assumed: serde_json::json!([]),
        source: "meptr train".to_owned(),
        sha256,
    };
    Ok(metadata.write(path)?)
}

/// Writes the reports of a training to the run folder, and passes them to the observer of the
/// experiment.
pub(super) struct Recorder<'a, 'b, W> {
    journal: &'a mut Journal<'b>,
    progress: &'a mut W,
    title: &'a str,
}

impl<W: ExperimentObserver> Observer for Recorder<'_, '_, W> {
    fn step(&mut self, step: &StepReport) -> Control {
        self.progress.step(step)
    }

    fn epoch(&mut self, report: &EpochReport, state: &TrainingState) -> Result<()> {
        self.journal.epoch(report, state)?;
        self.progress.epoch(self.title, report);
        Ok(())
    }
}
