//! Checks that `scripts/gpu-check.sh` runs on a machine with a GPU, where nothing can be built.
//!
//! - `gpu_check compare DEVICE` holds each backbone at its published size, with seeded weights, on
//!   the device against the processor in f32; fails when one is further off than is stated here;
//! - `gpu_check measure DEVICE` prints a line of JSON for each rate and each time it measured;
//! - `gpu_check table OURS THEIRS` prints both programs' lines of that kind as one table.
//!
//! `--quick` takes small models and few repeats; `--once` repeats nothing, for a profiler, and
//! `--case NAME` measures that one alone. No FFmpeg is needed: nothing is decoded.

mod compare;
mod measure;
mod models;
mod table;

use anyhow::{Context, Result, bail};
use candle::Device;
use meptr_core::DeviceChoice;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| {
        let before = arguments.len();
        arguments.retain(|argument| argument != name);
        arguments.len() < before
    };
    let (is_quick, is_once) = (flag("--quick"), flag("--once"));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let measure = |device, case| measure::run(&open(device)?, is_quick, is_once, case);
    match arguments[..] {
        ["compare", device] => compare::run(&open(device)?, is_quick),
        ["measure", device] => measure(device, None),
        ["measure", device, "--case", case] => measure(device, Some(case)),
        ["table", ours, theirs] => table::run(ours.as_ref(), theirs.as_ref()),
        _ => bail!(
            "usage: gpu_check compare DEVICE [--quick], measure DEVICE [--case NAME] [--quick] \
             [--once], or table OURS THEIRS"
        ),
    }
}

fn open(name: &str) -> Result<Device> {
    let choice: DeviceChoice = name.parse().map_err(anyhow::Error::msg)?;
    choice.open().with_context(|| format!("opening {name}"))
}

/// Prints a line of the result.
#[expect(clippy::print_stdout, reason = "a program for measuring says what it measured")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
