//! What became of the videos of a corpus, as JSON or CSV.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Serialize, Serializer};

/// What became of a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its features are new.
    Extracted,
    /// Its features from an earlier run hold.
    UpToDate,
    /// It gave none; the note says why.
    Failed,
    /// The corpus names it, but there is no file.
    Missing,
    /// The run ended before its turn; the note says why it has one.
    Left,
}

/// One video.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Split of the corpus.
    pub split: &'static str,
    /// Name in the corpus.
    pub video: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What there is to say about it.
    pub note: Option<String>,
    /// Where its features are; the report names it if they are there.
    #[serde(serialize_with = "if_there")]
    pub file: PathBuf,
}

fn if_there<S: Serializer>(file: &Path, to: S) -> Result<S::Ok, S::Error> {
    file.exists().then(|| file.display().to_string()).serialize(to)
}

/// All videos of a run.
#[derive(Debug)]
pub struct ExtractionReport {
    path: Option<PathBuf>,
    is_csv: bool,
    entries: Vec<Entry>,
}

impl ExtractionReport {
    /// A report that is written to `path` at the end, in the format that its ending says.
    ///
    /// # Errors
    /// When it ends in neither `.json` nor `.csv`, or its folder does not exist.
    pub fn new(path: Option<PathBuf>) -> anyhow::Result<Self> {
        let ending = path.as_ref().map(|path| path.extension().unwrap_or_default().to_owned());
        let is_csv = ending.as_ref().is_some_and(|ending| ending == "csv");
        if let (Some(path), Some(ending)) = (&path, &ending) {
            if !is_csv && ending != "json" {
                bail!("`{}` must end in .json or .csv", path.display());
            }
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                bail!("the folder `{}` does not exist", folder.display());
            }
        }
        Ok(Self { path, is_csv, entries: Vec::new() })
    }

    /// Adds a video; returns its place.
    pub fn add(&mut self, entry: Entry) -> usize {
        self.entries.push(entry);
        self.entries.len() - 1
    }

    /// Says what became of the video at a place.
    pub fn set(&mut self, place: usize, outcome: Outcome, note: Option<String>) {
        self.entries[place].outcome = outcome;
        self.entries[place].note = note;
    }

    /// The counts, in words.
    pub fn summary(&self) -> String {
        let words = [
            (Outcome::Extracted, "extracted"),
            (Outcome::UpToDate, "up to date"),
            (Outcome::Failed, "failed"),
            (Outcome::Missing, "missing"),
            (Outcome::Left, "left"),
        ];
        let counts = words.map(|(outcome, word)| (self.with(outcome).count(), word));
        let shown =
            counts.iter().enumerate().filter(|(place, (count, _))| *place < 2 || *count > 0);
        let shown = shown.map(|(_, (count, word))| format!("{count} {word}"));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Writes the report. Says whether every video that is there has its features.
    ///
    /// # Errors
    /// When the report cannot be written.
    pub fn finish(&self) -> anyhow::Result<bool> {
        let left = self.with(Outcome::Left).count();
        if left > 0 {
            tracing::error!("{left} videos are left; the same command goes on with them");
        }
        if let Some(path) = &self.path {
            self.write(path).with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(left == 0 && self.with(Outcome::Failed).next().is_none())
    }

    fn write(&self, path: &PathBuf) -> anyhow::Result<()> {
        let file = File::create(path)?;
        if !self.is_csv {
            return Ok(serde_json::to_writer_pretty(file, &self.entries)?);
        }
        let mut writer = csv::Writer::from_writer(file);
        self.entries.iter().try_for_each(|entry| writer.serialize(entry))?;
        Ok(writer.flush()?)
    }

    fn with(&self, outcome: Outcome) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.outcome == outcome)
    }
}
