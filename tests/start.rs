//! Time until the program answers.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::support::meptr;

/// Loading FFmpeg and the hundred libraries that it brings takes some 40 ms of this.
const LONGEST_START: Duration = Duration::from_millis(60);

/// The best of many runs counts: other work on the machine makes runs longer, never shorter.
#[test]
fn help_takes_at_most_60_ms() -> Result<()> {
    let mut best = Duration::MAX;
    for _ in 0..50 {
        let start = Instant::now();
        meptr(["--help"]).ends_with(0)?;
        best = best.min(start.elapsed());
        if best <= LONGEST_START {
            return Ok(());
        }
    }
    ensure!(best <= LONGEST_START, "the fastest of 50 runs took {best:?}");
    Ok(())
}
