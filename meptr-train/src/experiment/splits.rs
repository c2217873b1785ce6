//! The stored features of all corpora of an experiment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle::Device;
use meptr_core::models::ScoreTransform;
use meptr_core::store::Store;
use meptr_core::{Modality, PerModality, Task};
use sha2::{Digest, Sha256};

use crate::data::{Corpus, DescribedCorpus, Dev, FusionRows, SequenceRows, StoredClips, Train};
use crate::metrics::{Occurrence, occurrences};
use crate::stage::{Control, EncodesModality, FusionData};
use crate::{Error, Result};

/// Train and dev splits with their features; the test split stays closed.
#[derive(Debug, Clone)]
pub struct FeatureSplits {
    /// Train splits, in the order of the corpora.
    pub train: Vec<Arc<StoredClips>>,
    /// Dev splits with the names of their corpora.
    pub dev: Vec<(String, Arc<StoredClips>)>,
    /// Names of all corpora.
    pub names: Vec<String>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl FeatureSplits {
    /// Opens the splits and checks everything but the numbers. Every mistake goes to `problems`.
    ///
    /// `weights` are the digests of the bundle that the features must come from.
    pub fn open(
        store: &Store,
        corpora: &[PathBuf],
        weights: &BTreeMap<String, String>,
        problems: &mut Vec<String>,
    ) -> Self {
        let mut found =
            Self { train: Vec::new(), dev: Vec::new(), names: Vec::new(), warnings: Vec::new() };
        for path in corpora {
            let corpus = match DescribedCorpus::read(path) {
                Ok(corpus) => corpus,
                Err(error) => {
                    append_messages(problems, &error);
                    continue;
                }
            };
            found.warnings.extend(corpus.warnings.clone());
            if found.names.contains(&corpus.name) {
                problems.push(format!("two corpora are called `{}`", corpus.name));
            }
            found.names.push(corpus.name.clone());
            if let Some(train) = corpus.train()
                && let Some(clips) =
                    found.check_opened(StoredClips::open(store, &train, Some(weights)), problems)
            {
                found.train.push(clips);
            }
            if let Some(dev) = corpus.dev()
                && let Some(clips) =
                    found.check_opened(StoredClips::open(store, &dev, Some(weights)), problems)
            {
                found.dev.push((dev.name, clips));
            }
        }
        let splits = [("train", found.train.is_empty()), ("dev", found.dev.is_empty())];
        let missing = splits.iter().filter(|(_, is_empty)| *is_empty && problems.is_empty());
        let missing: Vec<String> =
            missing.map(|(split, _)| format!("no corpus has a {split} split")).collect();
        problems.extend(missing);
        found
    }

    /// Opened clips, with a warning for those left out; none for an error, which is noted.
    fn check_opened(
        &mut self,
        clips: Result<StoredClips>,
        problems: &mut Vec<String>,
    ) -> Option<Arc<StoredClips>> {
        match clips {
            Ok(clips) => {
                let left_out = clips.left_out().len();
                if left_out > 0 {
                    let place = clips.place();
                    self.warnings.push(format!("{place}: {left_out} videos have no features"));
                }
                Some(Arc::new(clips))
            }
            Err(error) => {
                append_messages(problems, &error);
                None
            }
        }
    }

    /// Digest of everything that training learns from labels: names and labels of the clips of the
    /// train and dev splits, in order. Equal digests mean equal labels.
    pub fn labels_digest(&self) -> String {
        let mut hasher = Sha256::new();
        for clips in self.train.iter().chain(self.dev.iter().map(|(_, clips)| clips)) {
            hasher.update(clips.place());
            for clip in clips.clips() {
                hasher.update((clip.name.len() as u64).to_le_bytes());
                hasher.update(&clip.name);
                for label in clip.emotion.into_iter().flatten() {
                    hasher.update(label.to_le_bytes());
                }
                hasher.update([u8::from(clip.emotion.is_some())]);
                for label in clip.personality.into_iter().flatten() {
                    hasher.update(label.to_le_bytes());
                }
                hasher.update([u8::from(clip.personality.is_some())]);
            }
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Train rows of a modality with labels of any of the tasks, and dev rows of each corpus.
    pub fn sequences(
        &self,
        modality: Modality,
        tasks: &[Task],
    ) -> (Corpus<Train, SequenceRows>, Vec<Corpus<Dev, SequenceRows>>) {
        let train = SequenceRows::of(&self.train, modality, tasks);
        (Corpus::new(self.names.join(" + "), train), self.dev_sequences(modality, tasks))
    }

    /// Dev rows of each corpus.
    pub fn dev_sequences(
        &self,
        modality: Modality,
        tasks: &[Task],
    ) -> Vec<Corpus<Dev, SequenceRows>> {
        let rows = |(name, clips): &(String, Arc<StoredClips>)| {
            let rows = SequenceRows::of(std::slice::from_ref(clips), modality, tasks);
            Corpus::new(name.clone(), rows)
        };
        self.dev.iter().map(rows).collect()
    }

    /// Splits in which no clip has labels of a task.
    pub(super) fn unlabelled(&self, task: Task) -> Vec<String> {
        let has_labels =
            |clips: &Arc<StoredClips>| clips.clips().iter().any(|clip| clip.has_labels(task));
        let splits = [
            ("train", self.train.iter().any(has_labels)),
            ("dev", self.dev.iter().any(|(_, clips)| has_labels(clips))),
        ];
        let without = splits.into_iter().filter(|(_, is_labelled)| !is_labelled);
        without.map(|(split, _)| format!("{split}: no video has {} labels", task.name())).collect()
    }

    /// A problem when no dev corpus has an emotion that [`crate::metrics::EmotionMean::Present`] can score.
    pub(super) fn nothing_present(&self) -> Option<String> {
        let is_scored = |(_, clips): &(String, Arc<StoredClips>)| {
            let labels = clips.clips().iter().filter_map(|clip| clip.emotion.as_ref());
            occurrences(labels).contains(&Occurrence::SomeRows)
        };
        (!self.dev.iter().any(is_scored)).then(|| {
            "dev: no corpus has an emotion that some videos show and others do not; \
             `selection_mean` = \"reference\" does without"
                .to_owned()
        })
    }

    /// Names every sequence that cannot be read or holds a number that is not finite.
    pub fn damaged(&self) -> Vec<String> {
        let all: Vec<Arc<StoredClips>> =
            self.train.iter().chain(self.dev.iter().map(|(_, clips)| clips)).cloned().collect();
        let damaged = |modality| SequenceRows::of(&all, modality, &Task::ALL).damaged();
        Modality::ALL.into_iter().flat_map(damaged).collect()
    }

    /// Inputs of stage 3, with the traits' scores as the models give them; `on_row` is called for
    /// every video, none when it says to stop.
    ///
    /// # Errors
    /// As [`StoredClips::fusion_rows`].
    pub fn fusion(
        &self,
        heads: &PerModality<Option<impl EncodesModality>>,
        device: &Device,
        mut on_row: impl FnMut() -> Control,
    ) -> Result<Option<FusionData>> {
        let mut rows = |clips: &StoredClips| {
            clips.fusion_rows(heads, ScoreTransform::Scores, device, |_| on_row())
        };
        let mut train = Vec::new();
        for clips in &self.train {
            let Some(rows) = rows(clips)? else { return Ok(None) };
            train.push(rows);
        }
        let train = FusionRows::joined(&train).map_err(Error::doing("joining the corpora"))?;
        let mut dev = Vec::new();
        for (name, clips) in &self.dev {
            let Some(rows) = rows(clips)? else { return Ok(None) };
            dev.push(Corpus::new(name.clone(), rows));
        }
        Ok(Some(FusionData { train: Corpus::new(self.names.join(" + "), train), dev }))
    }

    /// Width of a modality's features; none when no video has the modality.
    pub fn width(&self, modality: Modality) -> Option<usize> {
        let mut all = self.train.iter().chain(self.dev.iter().map(|(_, clips)| clips));
        all.find_map(|clips| clips.widths()[modality])
    }

    /// Videos of the train and dev splits.
    pub fn len(&self) -> usize {
        let all = self.train.iter().chain(self.dev.iter().map(|(_, clips)| clips));
        all.map(|clips| clips.clips().len()).sum()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Appends the problems of an error that lists some, else its message with its causes.
pub(super) fn append_messages(problems: &mut Vec<String>, error: &Error) {
    match error {
        Error::Unfit { path, problems: found } => {
            problems.extend(found.iter().map(|one| format!("`{}`: {one}", path.display())));
        }
        Error::UnfitData { problems: found } => problems.extend(found.iter().cloned()),
        error => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                text += &format!(": {error}");
                cause = error.source();
            }
            problems.push(text.trim_end().to_owned());
        }
    }
}
