//! Standard output for results, standard error for everything else.

use std::fs::Metadata;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;

/// Whether colours may be used on standard output: a terminal, and `NO_COLOR` is not set.
pub fn stdout_takes_colour() -> bool {
    io::stdout().is_terminal() && colour_is_wanted()
}

fn colour_is_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes log lines to standard error; `MEPTR_LOG` sets their level (for example `debug`).
pub fn start_log(quiet: bool) {
    let default = if quiet { "error" } else { "warn" };
    let filter = EnvFilter::try_from_env("MEPTR_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && colour_is_wanted())
        .without_time()
        .with_target(false)
        .init();
}

/// Whether writing to `output`, or else to standard output, writes to this file, by any name; the file
/// need not exist.
pub fn writes_to(output: Option<&Path>, file: &Path) -> bool {
    let Some(output) = output else {
        return stdout_file().is_some_and(|out| is_one_file(Some(out), file.metadata().ok()));
    };
    resolved(output).is_some_and(|output| resolved(file) == Some(output))
        || is_one_file(output.metadata().ok(), file.metadata().ok())
}

/// Refuses an output that is one of the inputs of the run, by any name.
///
/// # Errors
/// When `output` is one of `inputs`; files that do not exist are ignored.
pub fn ensure_output_is_not_an_input(
    output: &Path,
    inputs: impl IntoIterator<Item = impl AsRef<Path>>,
) -> anyhow::Result<()> {
    for input in inputs {
        let (input, name) = (input.as_ref(), output.display());
        anyhow::ensure!(
            !input.exists() || !writes_to(Some(output), input),
            "`{name}` would be written over, but it is `{}`, which this run reads",
            input.display()
        );
    }
    Ok(())
}

/// Path of a file without links; the file need not exist.
fn resolved(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().or_else(|| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        Some(folder.unwrap_or(".".as_ref()).canonicalize().ok()?.join(path.file_name()?))
    })
}

#[cfg(unix)]
fn is_one_file(one: Option<Metadata>, other: Option<Metadata>) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |file: Metadata| (file.dev(), file.ino());
    one.map(identity).is_some_and(|one| Some(one) == other.map(identity))
}

#[cfg(not(unix))]
fn is_one_file(_: Option<Metadata>, _: Option<Metadata>) -> bool {
    false
}

/// File that standard output is redirected to, if any.
#[cfg(unix)]
fn stdout_file() -> Option<Metadata> {
    use std::os::fd::AsFd;
    let out = io::stdout().as_fd().try_clone_to_owned().ok()?;
    std::fs::File::from(out).metadata().ok().filter(Metadata::is_file)
}

#[cfg(not(unix))]
fn stdout_file() -> Option<Metadata> {
    None
}

/// Standard output, for results; marks the error of a closed pipe.
pub struct Results(io::Stdout);

impl Results {
    /// Standard output of this process.
    pub fn new() -> Self {
        Self(io::stdout())
    }
}

impl Write for Results {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(mark_broken_pipe)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(mark_broken_pipe)
    }
}

/// The reader of standard output closed the pipe.
#[derive(Debug)]
struct BrokenPipe;

impl std::fmt::Display for BrokenPipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the reader of standard output closed the pipe")
    }
}

impl std::error::Error for BrokenPipe {}

fn mark_broken_pipe(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => io::Error::new(ErrorKind::BrokenPipe, BrokenPipe),
        _ => error,
    }
}

/// Whether a run ended because the reader of standard output closed the pipe, as `head` does. That
/// is no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io_errors.filter_map(io::Error::get_ref).any(|inner| inner.is::<BrokenPipe>())
}

/// Writes a line of a result to standard output.
///
/// # Errors
/// When standard output cannot be written.
pub fn line(text: std::fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(Results::new(), "{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_of_several_names_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(ensure_output_is_not_an_input(&at("new"), [at("new")]).is_ok());
        for name in ["a", "b"] {
            std::fs::write(at(name), "").unwrap();
        }
        assert!(ensure_output_is_not_an_input(&at("a"), [at("b"), at("gone")]).is_ok());
        assert!(ensure_output_is_not_an_input(&at("./a"), [at("b"), at("a")]).is_err());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("a", at("link")).unwrap();
            std::fs::hard_link(at("a"), at("second")).unwrap();
            for name in ["link", "second"] {
                assert!(ensure_output_is_not_an_input(&at(name), [at("a")]).is_err(), "{name}");
            }
        }
    }
}
