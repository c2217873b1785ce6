//! Both programs' times side by side.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::say;

#[derive(Debug, Clone, Deserialize)]
struct Line {
    case: String,
    precision: String,
    seconds: f64,
    #[serde(default)]
    operations: f64,
    #[serde(default)]
    bytes: f64,
}

/// Prints a row for each of our times, with PyTorch's where it has one, and what share of the
/// device's measured rates the work at least comes to.
pub(crate) fn run(ours: &Path, theirs: &Path) -> Result<()> {
    let (ours, theirs) = (lines(ours)?, lines(theirs)?);
    say("case             type  meptr ms  torch ms  ratio  of matmul  of copy");
    for line in &ours {
        say(row(line, &ours, &theirs));
    }
    Ok(())
}

/// The lines of JSON of a file, other lines left out; none when there is no such file.
fn lines(path: &Path) -> Result<Vec<Line>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn find<'a>(lines: &'a [Line], case: &str, precision: &str) -> Option<&'a Line> {
    lines.iter().find(|line| line.case == case && line.precision == precision)
}

fn row(line: &Line, ours: &[Line], theirs: &[Line]) -> String {
    let Line { case, precision, seconds, .. } = line;
    let other = find(theirs, case, precision).map(|other| other.seconds);
    let share = |work: fn(&Line) -> f64, case: &str| {
        let best = find(ours, case, precision).map(|best| work(best) / best.seconds);
        let share = best.map(|rate| work(line) / seconds / rate).filter(|share| *share > 0.0);
        share.map_or_else(String::new, |share| format!("{:.0} %", share * 100.0))
    };
    let number = |number: Option<f64>, digits: usize| {
        number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
    };
    format!(
        "{case:16} {precision:4} {:>9.2} {:>9} {:>6} {:>10} {:>8}",
        seconds * 1e3,
        number(other.map(|other| other * 1e3), 2),
        number(other.map(|other| seconds / other), 2),
        share(|line| line.operations, "matmul"),
        share(|line| line.bytes, "copy"),
    )
}
