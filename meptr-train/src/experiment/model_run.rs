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
    Control, EpochReport, Observer, Outcome, Start, StepReport, TrainingConfig, TrainingState,
};
use crate::{Error, Result};

/// Shows how an experiment goes, and ends it.
pub trait Watch {
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
}

impl ModelRun<'_> {
    /// Goes on from where the model was left; gives its best dev score, none when interrupted.
    pub(super) fn run<W: Watch>(
        &self,
        frozen: BTreeMap<String, Tensor>,
        ((kind, modality), config): ((PartKind, Option<Modality>), &impl Serialize),
        watch: &mut W,
        train: impl FnOnce(Start, &Sampler, &mut Recorder<'_, '_, W>) -> Result<Outcome>,
    ) -> Result<Option<DevScore>> {
        let state = self.folder.state()?;
        let epochs = state.as_ref().map_or(0, |state| state.progress.epochs);
        if is_finished(state.as_ref(), self.config) {
            self.folder.ensure_logged(epochs)?;
            if !PartMetadata::path(&self.folder.best()).exists() {
                // The last thing that is written was not.
                self.folder.journal(epochs, frozen, self.settings.clone())?.draw()?;
                note(&self.folder.best(), kind, modality, config)?;
            }
            return Ok(state.and_then(|state| state.progress.best.best()).map(|(_, score)| score));
        }
        let start = match state {
            Some(state) => Start::After(Box::new(state)),
            None => Start::Fresh(self.seeds.stream("dropout")),
        };
        let order = Sampler::Shuffled { batch_size: self.config.batch_size, seeds: self.seeds };
        let mut journal = self.folder.journal(epochs, frozen, self.settings.clone())?;
        let title = self.folder.title();
        if journal.left_out() > 0 {
            let lines = journal.left_out();
            watch.warn(&format!("{title}: the log had {lines} lines that the checkpoint has not"));
        }
        watch.begin(&title, epochs, self.config.max_epochs);
        let mut recorder = Recorder { journal: &mut journal, watch, title: &title };
        let of_model = |source| Error::OfModel { model: title.clone(), source: Box::new(source) };
        let outcome = train(start, &order, &mut recorder).map_err(|error| match error {
            error @ Error::NoLoss { .. } => of_model(error),
            error => error,
        })?;
        journal.save(&outcome.state)?;
        journal.draw()?;
        if !outcome.is_finished {
            return Ok(None);
        }
        let Some((_, score)) = outcome.state.progress.best.best() else {
            return Err(Error::NothingLearned { model: title });
        };
        note(&self.folder.best(), kind, modality, config)?;
        Ok(Some(score))
    }
}

pub(super) fn is_finished(state: Option<&TrainingState>, config: &TrainingConfig) -> bool {
    state.is_some_and(|TrainingState { progress, .. }| {
        let is_over = progress.best.is_over() || progress.epochs >= config.max_epochs;
        is_over && progress.best.best().is_some()
    })
}

/// Says beside a weight file what it is, so that it can become part of a bundle.
fn note(
    path: &Path,
    kind: PartKind,
    modality: Option<Modality>,
    config: &impl Serialize,
) -> Result<()> {
    let sha256 = sha256_of(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let note = PartMetadata {
        schema: PartMetadata::SCHEMA.to_owned(),
        kind,
        modality,
        config: serde_json::to_value(config).expect("a configuration is plain data"),
        assumed: serde_json::json!([]),
        source: "meptr train".to_owned(),
        sha256,
    };
    Ok(note.write(path)?)
}

/// Passes on what happens to the run folder and to who watches.
pub(super) struct Recorder<'a, 'b, W> {
    journal: &'a mut Journal<'b>,
    watch: &'a mut W,
    title: &'a str,
}

impl<W: Watch> Observer for Recorder<'_, '_, W> {
    fn step(&mut self, step: &StepReport) -> Control {
        self.watch.step(step)
    }

    fn epoch(&mut self, report: &EpochReport, state: &TrainingState) -> Result<()> {
        self.journal.epoch(report, state)?;
        self.watch.epoch(self.title, report);
        Ok(())
    }
}
