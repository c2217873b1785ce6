//! Renderers of predictions; nothing is computed here.
//!
//! Each result is written and flushed at once, so that a stopped run keeps its finished results.

mod csv;
pub mod extraction;
mod json;
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use meptr_core::VideoPrediction;
use serde::{Deserialize, Serialize};

/// Format of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Table for reading
    Table,
    /// One document with all results
    Json,
    /// One result per line, as JSON
    Jsonl,
    /// CSV, one row of scores per line
    Csv,
}

impl Format {
    /// Format of a file, by its extension.
    fn of_file(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// A video that gave no result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// Path as it was given; bytes that are not UTF-8 are replaced.
    pub video: String,
    /// Error, with its causes.
    pub error: String,
}

/// Renderer of results, one by one.
trait Renderer {
    fn prediction(&mut self, prediction: &VideoPrediction) -> anyhow::Result<()>;
    fn failure(&mut self, failure: &Failure) -> anyhow::Result<()>;
    fn finish(&mut self) -> anyhow::Result<()>;
}

/// Results of a run, written to standard output or a file.
pub struct Report {
    renderer: Box<dyn Renderer>,
    destination: String,
    failures: usize,
    /// Path of the file that is written, and its final path.
    unfinished: Option<(PathBuf, PathBuf)>,
}

impl Report {
    /// Opens the destination: `output`, or standard output. Without a `format`, the extension of
    /// `output` decides, else it is a table.
    ///
    /// An incomplete JSON document is invalid, so it is written to `FILE.part` and renamed.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn open(format: Option<Format>, output: Option<&PathBuf>) -> anyhow::Result<Self> {
        let destination = match output {
            None => "standard output".to_owned(),
            Some(path) => format!("`{}`", path.display()),
        };
        let implied = output.and_then(|path| Format::of_file(path));
        let format = format.or(implied).unwrap_or(Format::Table);
        let unfinished = output.filter(|_| format == Format::Json).and_then(|path| part_of(path));
        let create = |path: &Path| -> anyhow::Result<Box<dyn Write>> {
            let file = std::fs::File::create(path)
                .with_context(|| format!("cannot write results to {destination}"))?;
            Ok(Box::new(file))
        };
        let sink = match (&unfinished, output) {
            (Some((part, _)), _) => create(part)?,
            (None, Some(path)) => create(path)?,
            (None, None) => Box::new(crate::output::Results::new()),
        };
        let colour = output.is_none() && crate::output::stdout_takes_colour();
        let renderer: Box<dyn Renderer> = match format {
            Format::Table => Box::new(table::Table::new(sink, colour)),
            Format::Json => Box::new(json::Document::new(sink)),
            Format::Jsonl => Box::new(json::Lines::new(sink)),
            Format::Csv => Box::new(csv::Rows::new(sink)),
        };
        Ok(Self { renderer, destination, failures: 0, unfinished })
    }

    /// Writes one result.
    ///
    /// # Errors
    /// When the destination cannot be written.
    pub fn add(&mut self, prediction: &VideoPrediction) -> anyhow::Result<()> {
        self.renderer.prediction(prediction).with_context(|| self.cannot_write())
    }

    /// Writes the failure of a video, also to standard error.
    ///
    /// # Errors
    /// When the destination cannot be written.
    pub fn add_failure(&mut self, video: &Path, error: &anyhow::Error) -> anyhow::Result<()> {
        self.failures += 1;
        let failure = Failure { video: video.display().to_string(), error: format!("{error:#}") };
        match failure.error.contains(&failure.video) {
            true => tracing::error!("{}", failure.error),
            false => tracing::error!("`{}`: {}", failure.video, failure.error),
        }
        self.renderer.failure(&failure).with_context(|| self.cannot_write())
    }

    /// Closes the report; returns the number of failed videos.
    ///
    /// # Errors
    /// When the destination cannot be written.
    pub fn finish(mut self) -> anyhow::Result<usize> {
        self.renderer.finish().with_context(|| self.cannot_write())?;
        if let Some((part, path)) = &self.unfinished {
            std::fs::rename(part, path).with_context(|| self.cannot_write())?;
        }
        Ok(self.failures)
    }

    fn cannot_write(&self) -> String {
        format!("cannot write results to {}", self.destination)
    }
}

/// Path to which a file is written first, and its final path without links; `None` for anything but a
/// plain file.
fn part_of(path: &Path) -> Option<(PathBuf, PathBuf)> {
    if path.exists() && !path.is_file() {
        return None;
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut part = path.clone().into_os_string();
    part.push(".part");
    Some((part.into(), path))
}
