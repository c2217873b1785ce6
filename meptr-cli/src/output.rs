//! Where the two streams go: results to standard output, everything else to standard error.

use std::io::{IsTerminal, Write};

use tracing_subscriber::EnvFilter;

/// Whether colours may be used on standard output: a terminal, and `NO_COLOR` is not set.
pub fn stdout_takes_colour() -> bool {
    std::io::stdout().is_terminal() && colour_is_wanted()
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
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && colour_is_wanted())
        .without_time()
        .with_target(false)
        .init();
}

/// Writes a line of a result to standard output.
///
/// # Errors
/// When standard output takes no more.
pub fn line(text: std::fmt::Arguments<'_>) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")
}
