//! The stored features of a split.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle::{Device, Result as CandleResult, Tensor};
use meptr_core::store::{FeatureFile, Store};
use meptr_core::{Emotion, Modality, PerModality, PersonalityTrait};

use super::table::some_of;
use super::{Clip, Corpus, Labels, Split};
use crate::{Error, Result};

/// Rows of a split whose features are in a store.
#[derive(Debug, Clone)]
pub struct StoredClips {
    store: Store,
    corpus: String,
    split: &'static str,
    clips: Vec<Clip>,
    /// Rows that are not in the store: their videos are missing or broken.
    left_out: Vec<String>,
    widths: PerModality<Option<usize>>,
    /// Sequences that each row has.
    present: Vec<PerModality<bool>>,
    /// Weights and settings that made the features.
    made_by: (BTreeMap<String, String>, String),
}

/// Remedy for a damaged file: `meptr extract` leaves one alone that looks whole.
pub(super) const EXTRACT_AGAIN: &str = "delete the file and run `meptr extract` again";

/// The sequence of one modality of one video.
#[derive(Debug, Clone)]
pub struct StoredSequence {
    /// `(steps, width)`, f32.
    pub features: Tensor,
    /// Steps of each piece that a model reads by itself; one but for very long sound.
    pub pieces: Vec<usize>,
}

impl StoredClips {
    /// Opens the features of a split and checks that one set of weights made them all.
    ///
    /// `weights` are the digests of the bundle they must come from, see
    /// [`weights_digests`](meptr_core::store::weights_digests); without it, any that agree will do.
    ///
    /// # Errors
    /// [`Error::Unfit`] names every file that is damaged or made with other weights or settings,
    /// and a split of which nothing is there.
    pub fn open<S: Split>(
        store: &Store,
        corpus: &Corpus<S, Vec<Clip>>,
        weights: Option<&BTreeMap<String, String>>,
    ) -> Result<Self> {
        let mut found = Self {
            store: store.clone(),
            corpus: corpus.name.clone(),
            split: S::NAME,
            clips: Vec::new(),
            left_out: Vec::new(),
            widths: PerModality::default(),
            present: Vec::new(),
            made_by: (BTreeMap::new(), String::new()),
        };
        let mut problems = Vec::new();
        let mut others = Vec::new();
        let mut expected = weights.cloned().map(|weights| (weights, None));
        for clip in &corpus.rows {
            if !store.path(&corpus.name, S::NAME, &clip.name).exists() {
                found.left_out.push(clip.name.clone());
                continue;
            }
            match found.file(&clip.name) {
                Ok(file) => {
                    let made_by = &file.record().provenance;
                    let (weights, settings) =
                        expected.get_or_insert_with(|| (made_by.weights.clone(), None));
                    let settings = settings.get_or_insert_with(|| made_by.settings_sha256.clone());
                    if *weights != made_by.weights || *settings != made_by.settings_sha256 {
                        others.push(format!("`{}`", clip.name));
                    }
                    found.made_by = (weights.clone(), settings.clone());
                    problems.extend(found.see_widths(&clip.name, &file));
                    found.clips.push(clip.clone());
                }
                Err(error) => problems.push(format!("{error}; {EXTRACT_AGAIN}")),
            }
        }
        let place = format!("{} {}", corpus.name, S::NAME);
        if !others.is_empty() {
            problems.push(format!(
                "{place}: {} videos were extracted with other weights or settings: {}; run `meptr \
                 extract` again",
                others.len(),
                some_of(&others)
            ));
        }
        if found.clips.is_empty() && problems.is_empty() {
            problems.push(format!("{place}: no video is there; run `meptr extract` first"));
        }
        match problems.is_empty() {
            true => Ok(found),
            false => Err(Error::Unfit { path: store.root().to_owned(), problems }),
        }
    }

    /// The rows, in the order of the corpus.
    pub fn clips(&self) -> &[Clip] {
        &self.clips
    }

    /// The files that the features are in.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let path = |clip: &Clip| self.store.path(&self.corpus, self.split, &clip.name);
        self.clips.iter().map(path)
    }

    /// Rows of the corpus that are not in the store.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Width of each modality's sequences; `None` when no video has the modality.
    pub fn widths(&self) -> &PerModality<Option<usize>> {
        &self.widths
    }

    /// Corpus and split, for reports.
    pub fn place(&self) -> String {
        format!("{} {}", self.corpus, self.split)
    }

    /// Does a row have a modality?
    ///
    /// # Panics
    /// When there is no such row.
    pub fn has(&self, row: usize, modality: Modality) -> bool {
        self.present[row][modality]
    }

    /// Do the features of both come from the same weights and settings?
    pub fn is_like(&self, other: &Self) -> bool {
        self.made_by == other.made_by
    }

    /// The sequence of a modality of a row, on the processor; `None` when the video lacks it.
    ///
    /// # Errors
    /// When the file was damaged or taken away since, or holds a number that is not finite.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn sequence(&self, row: usize, modality: Modality) -> Result<Option<StoredSequence>> {
        let file = self.file(&self.clips[row].name)?;
        let pieces = file.record().modalities[modality].pieces.clone();
        Ok(file.sequence(modality)?.map(|features| StoredSequence { features, pieces }))
    }

    /// The labels of some rows.
    ///
    /// # Errors
    /// When the device has no memory for them.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn labels(&self, rows: &[usize], device: &Device) -> CandleResult<Labels> {
        let emotion: Vec<[f32; Emotion::COUNT]> = rows
            .iter()
            .map(|row| self.clips[*row].emotion.unwrap_or([f32::NAN; Emotion::COUNT]))
            .collect();
        let unknown = [f32::NAN; PersonalityTrait::COUNT];
        let personality: Vec<[f32; PersonalityTrait::COUNT]> =
            rows.iter().map(|row| self.clips[*row].personality.unwrap_or(unknown)).collect();
        let count = rows.len();
        Labels::new(
            Tensor::from_vec(emotion.concat(), (count, Emotion::COUNT), device)?,
            Tensor::from_vec(personality.concat(), (count, PersonalityTrait::COUNT), device)?,
        )
    }

    fn file(&self, name: &str) -> meptr_core::Result<FeatureFile> {
        self.store.open(&self.corpus, self.split, name)
    }

    /// Remembers what a video has; says what does not fit the others.
    fn see_widths(&mut self, name: &str, file: &FeatureFile) -> Option<String> {
        let widths = PerModality::from_fn(|modality| file.width(modality));
        self.present.push(PerModality::from_fn(|modality| widths[modality].is_some()));
        Modality::ALL.into_iter().find_map(|modality| {
            let width = widths[modality]?;
            let usual = *self.widths[modality].get_or_insert(width);
            (width != usual).then(|| {
                format!("`{name}`: the {modality} sequence is {width} wide, others {usual}")
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use meptr_core::store::{
        Provenance, SequenceRecord, SourceFile, Storage, VideoRecord, write_features,
    };

    use super::*;
    use crate::data::Train;

    fn store(folder: &std::path::Path, weights: [&str; 2]) -> Store {
        let store = Store::at(folder);
        for (name, weights) in ["a", "b"].into_iter().zip(weights) {
            let record = VideoRecord {
                schema: VideoRecord::SCHEMA.to_owned(),
                video: name.to_owned(),
                provenance: Provenance {
                    video: SourceFile { bytes: 1, modified_ns: None, sha256: String::new() },
                    audio: None,
                    text_sha256: None,
                    weights: BTreeMap::from([("clip".to_owned(), weights.to_owned())]),
                    settings_sha256: String::new(),
                },
                duration_seconds: 1.0,
                frames: Vec::new(),
                modalities: PerModality {
                    audio: SequenceRecord { pieces: vec![2, 1], ..SequenceRecord::default() },
                    ..PerModality::from_fn(|_| SequenceRecord::absent("none"))
                },
            };
            let audio = Tensor::new(&[[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]], &Device::Cpu).unwrap();
            let sequences = PerModality { audio: Some(audio), ..PerModality::default() };
            let path = store.path("x", "train", name);
            write_features(&path, &record, &sequences, Storage::F32).unwrap();
        }
        store
    }

    fn corpus() -> Corpus<Train, Vec<Clip>> {
        let clip = |name: &str, personality| Clip {
            name: name.to_owned(),
            text: None,
            emotion: None,
            personality,
        };
        Corpus::new("x", vec![clip("gone", None), clip("a", Some([0.5; 5])), clip("b", None)])
    }

    #[test]
    fn rows_are_those_that_were_extracted() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), ["1", "1"]);
        let clips = StoredClips::open(&store, &corpus(), None).unwrap();
        assert_eq!(clips.left_out(), ["gone"]);
        assert_eq!(clips.widths().audio, Some(2));
        let sequence = clips.sequence(1, Modality::Audio).unwrap().unwrap();
        assert_eq!((sequence.features.dims(), sequence.pieces), (&[3, 2][..], vec![2, 1]));
        assert!(clips.sequence(1, Modality::Face).unwrap().is_none());
        let labels = clips.labels(&[1, 0], &Device::Cpu).unwrap();
        assert_eq!(labels.has_personality, [false, true]);
        assert_eq!(labels.has_emotion, [false, false]);
    }

    #[test]
    fn stores_made_with_other_weights_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mixed = store(folder.path(), ["1", "2"]);
        let error = StoredClips::open(&mixed, &corpus(), None).unwrap_err().to_string();
        assert!(error.contains("1 videos were extracted with other weights or settings: `b`"));
        let same = store(folder.path(), ["1", "1"]);
        let weights = |digest: &str| BTreeMap::from([("clip".to_owned(), digest.to_owned())]);
        assert!(StoredClips::open(&same, &corpus(), Some(&weights("1"))).is_ok());
        let error = StoredClips::open(&same, &corpus(), Some(&weights("3"))).unwrap_err();
        assert!(error.to_string().contains("`a`, `b`"), "{error}");
        std::fs::write(same.path("x", "train", "b"), "damaged").unwrap();
        let error = StoredClips::open(&same, &corpus(), None).unwrap_err().to_string();
        assert!(error.contains("b.safetensors") && error.contains("extract` again"), "{error}");
        let empty = Store::at(folder.path().join("empty"));
        let error = StoredClips::open(&empty, &corpus(), None).unwrap_err().to_string();
        assert!(error.contains("run `meptr extract` first"), "{error}");
    }
}
