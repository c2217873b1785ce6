//! JSON: one document, or one line per video.

use std::io::Write;

use meptr_core::VideoPrediction;
use serde::Serialize;

use super::{Failure, Renderer};

/// Document `{"schema": .., "videos": [..], "failures": [..]}`, written result by result.
pub struct Document {
    sink: Box<dyn Write>,
    videos: usize,
    failures: Vec<Failure>,
}

impl Document {
    /// Version of the document's own fields; a video has its own.
    const SCHEMA: &'static str = "meptr-report/1";

    pub fn new(sink: Box<dyn Write>) -> Self {
        Self { sink, videos: 0, failures: Vec::new() }
    }

    /// Text before the next video.
    fn lead(&self) -> String {
        if self.videos == 0 {
            format!("{{\"schema\": \"{}\",\n\"videos\": [\n", Self::SCHEMA)
        } else {
            ",\n".to_owned()
        }
    }
}

impl Renderer for Document {
    fn prediction(&mut self, prediction: &VideoPrediction) -> anyhow::Result<()> {
        let lead = self.lead();
        self.videos += 1;
        write!(self.sink, "{lead}{}", serde_json::to_string_pretty(prediction)?)?;
        Ok(self.sink.flush()?)
    }

    fn failure(&mut self, failure: &Failure) -> anyhow::Result<()> {
        self.failures.push(failure.clone());
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let lead = if self.videos == 0 { self.lead() } else { "\n".to_owned() };
        let failures = serde_json::to_string_pretty(&self.failures)?;
        writeln!(self.sink, "{lead}],\n\"failures\": {failures}}}")?;
        Ok(self.sink.flush()?)
    }
}

/// One JSON value per line: a result, or `{"video": .., "error": ..}`.
pub struct Lines {
    sink: Box<dyn Write>,
}

impl Lines {
    pub fn new(sink: Box<dyn Write>) -> Self {
        Self { sink }
    }

    fn line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        // One write per line, so that a run stopped at any time leaves no partial line.
        self.sink.write_all((serde_json::to_string(value)? + "\n").as_bytes())?;
        Ok(self.sink.flush()?)
    }
}

impl Renderer for Lines {
    fn prediction(&mut self, prediction: &VideoPrediction) -> anyhow::Result<()> {
        self.line(prediction)
    }

    fn failure(&mut self, failure: &Failure) -> anyhow::Result<()> {
        self.line(failure)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}
