//! Running the program.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

/// A command line of the program, in a controlled environment.
pub(crate) fn meptr<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meptr"));
    command.args(arguments).stdin(Stdio::null());
    // Kept between runs of the tests; the program checks what it finds there.
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")));
    for name in ["NO_COLOR", "MEPTR_LOG", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    Run(command)
}

/// A command that is about to run.
pub(crate) struct Run(pub(crate) Command);

/// Result of a command.
#[derive(Debug)]
pub(crate) struct Done {
    /// Exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Runs in this folder.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.0.current_dir(folder);
        self
    }

    /// Runs with a variable set.
    pub(crate) fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs to the end; whatever happened, the program must not have panicked.
    pub(crate) fn done(mut self) -> Result<Done> {
        Done::of(self.0.output().context("starting meptr")?)
    }

    /// Runs to the end, which must come with this exit code.
    pub(crate) fn ends_with(self, code: i32) -> Result<Done> {
        let line = format!("{:?}", self.0);
        let done = self.done()?;
        assert_eq!(done.code, Some(code), "{line}\n{}\n{}", done.out, done.err);
        Ok(done)
    }
}

impl Done {
    pub(crate) fn of(output: Output) -> Result<Self> {
        let done = Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).context("standard output is UTF-8")?,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert!(!done.err.contains("panicked"), "{}", done.err);
        assert!(!done.err.contains('\x1b'), "escape codes: {done:?}");
        Ok(done)
    }

    /// Standard output as one JSON value.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("as JSON: {}", self.out))
    }

    /// Standard output as one JSON value a line.
    pub(crate) fn json_lines(&self) -> Result<Vec<Value>> {
        let lines = self.out.lines();
        lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// Standard output as rows of CSV, each by column.
    pub(crate) fn csv(&self) -> Result<Vec<Value>> {
        let mut reader = csv::Reader::from_reader(self.out.as_bytes());
        let names = reader.headers()?.clone();
        let row = |record: csv::Result<csv::StringRecord>| -> Result<Value> {
            let record = record?;
            let fields = names.iter().zip(&record);
            Ok(fields.map(|(name, field)| (name.to_owned(), Value::from(field))).collect())
        };
        reader.records().map(row).collect()
    }
}
