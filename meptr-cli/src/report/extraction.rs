//! Outcome of the extraction of a corpus, as JSON or CSV.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Serialize, Serializer};

/// Outcome of a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its features were extracted.
    Extracted,
    /// Its features from an earlier run are valid.
    UpToDate,
    /// It has no features; the note says why.
    Failed,
    /// The corpus lists it, but there is no file.
    Missing,
    /// The run ended before it; the note says why it is not up to date.
    Left,
}

/// Entry of one video.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Split of the corpus.
    pub split: &'static str,
    /// Name in the corpus.
    pub video: String,
    /// Outcome.
    pub outcome: Outcome,
    /// Remark.
    pub note: Option<String>,
    /// File of its features; in the report only if it exists.
    #[serde(serialize_with = "if_it_exists")]
    pub file: PathBuf,
}

fn if_it_exists<S: Serializer>(file: &Path, to: S) -> Result<S::Ok, S::Error> {
    file.exists().then(|| file.display().to_string()).serialize(to)
}

/// Report on all videos of a run.
#[derive(Debug)]
pub struct ExtractionReport {
    path: Option<PathBuf>,
    is_csv: bool,
    entries: Vec<Entry>,
}

impl ExtractionReport {
    /// Report that is written to `path` at the end, in the format of its extension.
    ///
    /// # Errors
    /// When the extension is neither `.json` nor `.csv`, or the folder does not exist.
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

    /// Adds a video; returns its index.
    pub fn add(&mut self, entry: Entry) -> usize {
        self.entries.push(entry);
        self.entries.len() - 1
    }

    /// Sets the outcome of the video at an index.
    pub fn set(&mut self, index: usize, outcome: Outcome, note: Option<String>) {
        self.entries[index].outcome = outcome;
        self.entries[index].note = note;
    }

    /// Counts, in words.
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
            counts.iter().enumerate().filter(|(index, (count, _))| *index < 2 || *count > 0);
        let shown = shown.map(|(_, (count, word))| format!("{count} {word}"));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Writes the report. Returns whether every video whose file exists has features.
    ///
    /// # Errors
    /// When the report cannot be written.
    pub fn finish(&self) -> anyhow::Result<bool> {
        let left = self.with(Outcome::Left).count();
        if left > 0 {
            tracing::error!("{left} videos are left; run the same command again to extract them");
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
