//! Rows of stages 1 and 2: the sequences of one modality, read from a store batch by batch.

use std::sync::Arc;

use candle::{Device, Tensor};
use meptr_core::models::Lengths;
use meptr_core::{Emotion, Modality, Task};
use rayon::prelude::*;

use super::feature_dataset::EXTRACT_AGAIN;
use super::table::some_of;
use super::{Labels, StoredClips};
use crate::loss::emotion;
use crate::{Error, Result};

/// Videos that have a modality and labels; their sequences stay in the store until they are asked
/// for.
#[derive(Debug, Clone)]
pub struct SequenceRows {
    modality: Modality,
    sources: Vec<Arc<StoredClips>>,
    /// Source and row in it.
    rows: Vec<(usize, usize)>,
}

/// Sequences of one length, the shorter ones with zeros at their end.
#[derive(Debug, Clone)]
pub struct SequenceBatch {
    /// `(rows, steps, width)`, f32.
    pub features: Tensor,
    /// True length of each sequence; padding takes part in nothing.
    pub lengths: Lengths,
    /// Target labels.
    pub labels: Labels,
}

impl SequenceRows {
    /// The videos, of one split of any number of corpora, that have the modality and the labels
    /// of any of the tasks.
    pub fn of(sources: &[Arc<StoredClips>], modality: Modality, tasks: &[Task]) -> Self {
        let mut rows = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            let is_wanted = |row: &usize| {
                let clip = &source.clips()[*row];
                source.has(*row, modality) && tasks.iter().any(|task| clip.has_labels(*task))
            };
            let wanted = (0..source.clips().len()).filter(is_wanted);
            rows.extend(wanted.map(|row| (number, row)));
        }
        Self { modality, sources: sources.to_vec(), rows }
    }

    /// Modality of the sequences.
    pub fn modality(&self) -> Modality {
        self.modality
    }

    /// Number of videos.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Has any video labels of the task?
    pub fn has_labels(&self, task: Task) -> bool {
        self.rows.iter().any(|(source, row)| self.sources[*source].clips()[*row].has_labels(task))
    }

    /// Stored clips that the sequences come from.
    pub fn sources(&self) -> &[Arc<StoredClips>] {
        &self.sources
    }

    /// The named rows, in this order; a row may be named more than once.
    ///
    /// Sound that was extracted in several pieces is one sequence here.
    ///
    /// # Errors
    /// As [`StoredClips::sequence`]; also when a row does not exist or the device fails.
    pub fn batch(&self, rows: &[u32], device: &Device) -> Result<SequenceBatch> {
        let sequences = rows.par_iter().map(|row| self.sequence(*row as usize));
        let sequences = sequences.collect::<Result<Vec<Tensor>>>()?;
        let join = || {
            let lengths =
                sequences.iter().map(|one| one.dim(0)).collect::<candle::Result<Vec<_>>>()?;
            let steps = lengths.iter().copied().max().unwrap_or(0);
            let padded = sequences.iter().zip(&lengths);
            let padded = padded.map(|(one, length)| one.pad_with_zeros(0, 0, steps - length));
            let features = Tensor::stack(&padded.collect::<candle::Result<Vec<_>>>()?, 0)?;
            Ok(SequenceBatch {
                features: features.to_device(device)?,
                lengths: Lengths::Everywhere(lengths),
                labels: self.labels(rows, device)?,
            })
        };
        join().map_err(Error::doing(format!("joining {} sequences to a batch", self.modality)))
    }

    /// Class weights of the emotions in the rows with emotion labels; see
    /// [`emotion::class_weights`].
    pub fn class_weights(&self) -> [f32; Emotion::COUNT] {
        let clips = self.rows.iter().map(|(source, row)| &self.sources[*source].clips()[*row]);
        emotion::class_weights(clips.filter_map(|clip| clip.emotion))
    }

    /// Everything that keeps a model of this input width from reading the rows, without reading
    /// the numbers.
    pub(crate) fn problems(&self, split: &str, width: usize, tasks: &[Task]) -> Vec<String> {
        let mut problems = Vec::new();
        let modality = self.modality;
        if self.is_empty() {
            let tasks: Vec<&str> = tasks.iter().map(|task| task.name()).collect();
            problems.push(format!(
                "{split}: no video has {modality} features and {} labels",
                tasks.join(" or ")
            ));
        }
        for source in &self.sources {
            let found = source.widths()[modality].unwrap_or(width);
            if found != width {
                let place = source.place();
                problems.push(format!(
                    "{place}: {modality} features are {found} wide, the model reads {width}"
                ));
            }
        }
        problems
    }

    /// Reads every sequence once and names those that cannot be read or hold a number that is not
    /// finite.
    pub fn damaged(&self) -> Vec<String> {
        let rows = (0..self.rows.len()).into_par_iter();
        let errors = rows.filter_map(|row| self.sequence(row).err());
        errors.map(|error| format!("{error}; {EXTRACT_AGAIN}")).collect()
    }

    fn sequence(&self, row: usize) -> Result<Tensor> {
        let place = self.rows.get(row).copied();
        let sequence = place.map(|(source, row)| self.sources[source].sequence(row, self.modality));
        let sequence = sequence.transpose()?.flatten();
        sequence.map(|sequence| sequence.features).ok_or_else(|| Error::NoSuchRow { row })
    }

    fn labels(&self, rows: &[u32], device: &Device) -> candle::Result<Labels> {
        let mut emotion = Vec::with_capacity(rows.len() * Task::Emotion.outputs());
        let mut personality = Vec::with_capacity(rows.len() * Task::Personality.outputs());
        for row in rows {
            let (source, row) = self.rows[*row as usize];
            let clip = &self.sources[source].clips()[row];
            emotion.extend(clip.emotion.unwrap_or([f32::NAN; Emotion::COUNT]));
            personality.extend(clip.personality.unwrap_or([f32::NAN; 5]));
        }
        let count = rows.len();
        Labels::new(
            Tensor::from_vec(emotion, (count, Task::Emotion.outputs()), device)?,
            Tensor::from_vec(personality, (count, Task::Personality.outputs()), device)?,
        )
    }
}

/// Sources whose features were made with other weights or settings than the first.
pub(crate) fn unlike(sources: &[&Arc<StoredClips>]) -> Vec<String> {
    let Some((first, others)) = sources.split_first() else { return Vec::new() };
    let unlike = others.iter().filter(|other| !first.is_like(other));
    let mut unlike: Vec<String> = unlike.map(|other| format!("`{}`", other.place())).collect();
    unlike.dedup();
    match unlike.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "features made with other weights or settings than those of `{}`: {}; run `meptr \
             extract` again",
            first.place(),
            some_of(&unlike)
        )],
    }
}
