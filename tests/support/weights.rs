//! The program, run in an environment of its own.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

use std::path::Path;
use std::process::{Command, Output, Stdio};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_meptr");

/// Result of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    #[track_caller]
    pub(crate) fn assert_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// `program`, at home in `folder`, with the Hub at `endpoint` and no terminal.
pub(crate) fn command(program: &str, folder: &Path, endpoint: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("HF_") || text.starts_with("HUGGING") || text == "MEPTR_LOG" {
            command.env_remove(&name);
        }
    }
    command
        .env("HF_HOME", folder)
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("HF_ENDPOINT", endpoint)
        .stdin(Stdio::null());
    command
}

/// An address at which nobody listens.
pub(crate) const REFUSED: &str = "http://127.0.0.1:9";
