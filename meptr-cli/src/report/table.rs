//! Table for reading: bars for emotions and traits, a line for each modality.

use std::fmt::Write as _;
use std::io::Write;

use meptr_core::VideoPrediction;
use meptr_core::bundle::TrainingStatus;
use meptr_core::prediction::{ModalityReport, Scope, Scores};

use super::{Failure, Renderer};

const BAR_CELLS: usize = 30;

/// Renderer of one block per video.
pub struct Table {
    sink: Box<dyn Write>,
    colour: bool,
    is_first: bool,
}

impl Table {
    pub fn new(sink: Box<dyn Write>, colour: bool) -> Self {
        Self { sink, colour, is_first: true }
    }

    fn block(&mut self, text: &str) -> anyhow::Result<()> {
        let gap = if std::mem::take(&mut self.is_first) { "" } else { "\n" };
        write!(self.sink, "{gap}{text}")?;
        Ok(self.sink.flush()?)
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Renderer for Table {
    fn prediction(&mut self, prediction: &VideoPrediction) -> anyhow::Result<()> {
        let mut text = format!("{}\n", self.painted("1", &visible(&prediction.video)));
        for (position, scores) in prediction.predictions.iter().enumerate() {
            let is_whole = matches!(scores.scope, Scope::Video | Scope::Summary);
            if position > 0 || !is_whole {
                writeln!(text, "\n{}", self.painted("1", &title(scores)))?;
            }
            self.scores(&mut text, scores, is_whole)?;
        }
        for person in &prediction.people {
            let times: Vec<f64> = person.sightings.iter().map(|sighting| sighting.time).collect();
            let (first, last) = (times.first().unwrap_or(&0.0), times.last().unwrap_or(&0.0));
            let frames = times.len();
            writeln!(text, "  person {}: in {frames} frames, {first:.1}-{last:.1} s", person.id)?;
        }
        if let Some(transcript) = &prediction.transcript {
            writeln!(
                text,
                "\n  transcript ({}): {}",
                transcript.source,
                visible(&transcript.text)
            )?;
        }
        for note in &prediction.notes {
            writeln!(text, "  note: {note}")?;
        }
        let weights = &prediction.weights;
        let warning = match weights.status {
            TrainingStatus::Untrained => " - UNTRAINED: the numbers mean nothing",
            TrainingStatus::Demonstration => {
                " - DEMONSTRATION: the numbers mean nothing about people"
            }
            TrainingStatus::Trained => "",
        };
        let line = format!("  weights: {}{warning}", weights.name);
        writeln!(text, "{}", if warning.is_empty() { line } else { self.painted("33", &line) })?;
        self.block(&text)
    }

    fn failure(&mut self, failure: &Failure) -> anyhow::Result<()> {
        let text = format!("{}\n  failed: {}\n", visible(&failure.video), visible(&failure.error));
        self.block(&self.painted("31", &text))
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

impl Table {
    fn scores(&self, text: &mut String, scores: &Scores, detailed: bool) -> anyhow::Result<()> {
        let shown: Vec<&str> = scores.shown.iter().map(|emotion| emotion.name()).collect();
        let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
        writeln!(text, "\n  emotions (shown: {shown})")?;
        for one in &scores.emotions {
            let is_shown = scores.shown.contains(&one.emotion);
            let line = bar_line(one.emotion.name(), one.probability);
            writeln!(text, "{}", if is_shown { self.painted("1", &line) } else { line })?;
        }
        writeln!(text, "\n  personality traits (0 low, 1 high)")?;
        for one in &scores.traits {
            writeln!(text, "{}", bar_line(one.personality_trait.name(), one.score))?;
        }
        if detailed {
            writeln!(text, "\n  modalities")?;
            for (modality, report) in scores.modalities.iter() {
                writeln!(text, "    {modality:<6} {}", modality_line(report))?;
            }
        }
        Ok(())
    }
}

fn title(scores: &Scores) -> String {
    let span = format!("{:.1}-{:.1} s", scores.t_start, scores.t_end);
    match (scores.scope, scores.person) {
        (_, Some(id)) => format!("  person {id}, {span}"),
        (Scope::Summary, _) => format!("  all windows, {span}"),
        _ => format!("  {span}"),
    }
}

fn bar_line(name: &str, value: f32) -> String {
    let cells = (value.clamp(0.0, 1.0) * BAR_CELLS as f32).round() as usize;
    format!("    {name:<18} {value:5.3} {:<BAR_CELLS$}", "█".repeat(cells)).trim_end().to_owned()
}

fn modality_line(report: &ModalityReport) -> String {
    let sources: Vec<String> =
        report.sources.iter().map(|one| format!("{} {}", one.crops, one.source)).collect();
    let mut line = match (report.available, report.inputs) {
        (false, _) => "missing".to_owned(),
        (true, inputs) if sources.is_empty() => format!("used, {inputs} steps"),
        (true, _) => format!("used, crops: {}", sources.join(", ")),
    };
    if let Some(reason) = &report.reason {
        line.push_str(if report.available { "; " } else { ": " });
        line.push_str(reason);
    }
    line
}

/// Text with control characters replaced, so that a file name cannot control the terminal.
fn visible(text: &str) -> String {
    let shown = |one: char| if one.is_control() { '\u{FFFD}' } else { one };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_within_their_cells() {
        assert!(bar_line("Fear", 7.0).ends_with(&"█".repeat(BAR_CELLS)));
        assert_eq!(bar_line("Fear", -1.0).trim(), "Fear               -1.000");
        assert_eq!(bar_line("Fear", 0.5).matches('█').count(), 15);
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(visible("a\x1b[31m\nb"), "a\u{FFFD}[31m\u{FFFD}b");
    }
}
