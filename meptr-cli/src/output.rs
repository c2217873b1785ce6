//! Where the two streams go: results to standard output, everything else to standard error.

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

/// Sends log lines to standard error; `MEPTR_LOG` changes which (for example `debug`).
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

/// Whether what is written to `output`, or else to standard output, ends up in this file, by whatever
/// name; the file need not be there yet.
pub fn leads_to(output: Option<&Path>, file: &Path) -> bool {
    let Some(output) = output else {
        return stdout_file().is_some_and(|out| is_one_file(Some(out), file.metadata().ok()));
    };
    place(output).is_some_and(|output| place(file) == Some(output))
        || is_one_file(output.metadata().ok(), file.metadata().ok())
}

/// Refuses to write over a file that the run reads, by whatever names the two go.
///
/// # Errors
/// When `output` is one of `inputs`; a file that is not there is none.
pub fn must_not_be(
    output: &Path,
    inputs: impl IntoIterator<Item = impl AsRef<Path>>,
) -> anyhow::Result<()> {
    for input in inputs {
        let (input, name) = (input.as_ref(), output.display());
        anyhow::ensure!(
            !input.exists() || !leads_to(Some(output), input),
            "`{name}` would be written over, but it is `{}`, which this run reads",
            input.display()
        );
    }
    Ok(())
}

/// Where a file is, or would be, without links.
fn place(path: &Path) -> Option<PathBuf> {
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

/// The file that standard output goes to, if it is one.
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

/// Standard output, for results; marks the error by which its reader says that it has enough.
pub struct Results(io::Stdout);

impl Results {
    /// Standard output of this process.
    pub fn new() -> Self {
        Self(io::stdout())
    }
}

impl Write for Results {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(marked)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(marked)
    }
}

/// Whoever read standard output went away.
#[derive(Debug)]
struct ReaderLeft;

impl std::fmt::Display for ReaderLeft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nothing reads standard output any more")
    }
}

impl std::error::Error for ReaderLeft {}

fn marked(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => io::Error::new(ErrorKind::BrokenPipe, ReaderLeft),
        _ => error,
    }
}

/// Whether a run ended because the reader of standard output went away, as `head` does when it has
/// enough: no failure.
pub fn reader_left(error: &anyhow::Error) -> bool {
    let io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io_errors.filter_map(io::Error::get_ref).any(|inner| inner.is::<ReaderLeft>())
}

/// Writes a line of a result to standard output.
///
/// # Errors
/// When standard output takes no more.
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
        assert!(must_not_be(&at("new"), [at("new")]).is_ok());
        for name in ["a", "b"] {
            std::fs::write(at(name), "").unwrap();
        }
        assert!(must_not_be(&at("a"), [at("b"), at("gone")]).is_ok());
        assert!(must_not_be(&at("./a"), [at("b"), at("a")]).is_err());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("a", at("link")).unwrap();
            std::fs::hard_link(at("a"), at("second")).unwrap();
            for name in ["link", "second"] {
                assert!(must_not_be(&at(name), [at("a")]).is_err(), "{name}");
            }
        }
    }
}
