//! Progress on standard error: bars for videos and for training.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use meptr_extract::Progress;
use meptr_train::experiment::ExperimentObserver;
use meptr_train::stage::{Control, EpochReport, StepReport};

/// Length of a step's bar: hundredths of a per cent.
const STEP_LENGTH: u64 = 10_000;

/// Progress bars of a run; hidden when standard error is no terminal.
pub struct Bars {
    current: ProgressBar,
    total: Option<ProgressBar>,
}

impl Bars {
    /// Bars for `videos` videos.
    pub fn new(videos: usize, quiet: bool) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self { current: ProgressBar::hidden(), total: None };
        }
        let all = MultiProgress::new();
        let current = all.add(
            ProgressBar::new(STEP_LENGTH)
                .with_style(style("{spinner} {prefix} {wide_bar} {msg} {elapsed}")),
        );
        current.enable_steady_tick(Duration::from_millis(200));
        let total = (videos > 1).then(|| {
            let template = "  {pos} of {len} videos {wide_bar} {elapsed}, about {eta} left";
            all.add(ProgressBar::new(videos as u64).with_style(style(template)))
        });
        Self { current, total }
    }

    /// Starts the bar of a video.
    pub fn start(&self, video: &Path) {
        let name = video.file_name().unwrap_or(video.as_os_str()).to_string_lossy();
        self.current.set_prefix(name.chars().filter(|one| !one.is_control()).collect::<String>());
        self.current.set_position(0);
    }

    /// Counts a video that is done or has failed.
    pub fn end(&self) {
        self.total.iter().for_each(|bar| bar.inc(1));
    }

    /// Runs `write` with the bars hidden.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.current.suspend(write)
    }
}

impl Progress for Bars {
    fn step(&self, name: &str, done: Option<f64>) {
        self.current.set_message(name.to_owned());
        let position = done.unwrap_or(0.0).clamp(0.0, 1.0) * STEP_LENGTH as f64;
        self.current.set_position(position as u64);
    }

    fn note(&self, video: &Path, note: &str) {
        self.aside(|| tracing::warn!("`{}`: {note}", video.display()));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.current.finish_and_clear();
        self.total.iter().for_each(ProgressBar::finish_and_clear);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well-formed")
}

/// Progress of training: a bar on a terminal, else a line per epoch; an interrupt ends it.
pub struct TrainingBars {
    bar: Option<ProgressBar>,
    prints_lines: bool,
    stop: Arc<AtomicBool>,
    most: usize,
    score: String,
}

impl TrainingBars {
    /// Progress of a run that ends when `stop` is set.
    pub fn new(quiet: bool, stop: Arc<AtomicBool>) -> Self {
        let is_shown = !quiet && std::io::stderr().is_terminal();
        let template = "{prefix} {wide_bar} {pos}/{len} {msg} {elapsed}";
        let bar = is_shown.then(|| ProgressBar::new(1).with_style(style(template)));
        Self { bar, prints_lines: !quiet && !is_shown, stop, most: 0, score: String::new() }
    }

    fn control(&self) -> Control {
        match self.stop.load(Ordering::Relaxed) {
            true => Control::Stop,
            false => Control::Continue,
        }
    }

    fn say(&self, text: std::fmt::Arguments<'_>) {
        // A failure to write progress does not end the run.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

impl ExperimentObserver for TrainingBars {
    fn begin(&mut self, title: &str, epochs: usize, most: usize) {
        self.most = most;
        self.score.clear();
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_prefix(title.to_owned());
        }
        if self.prints_lines && epochs > 0 {
            self.say(format_args!("{title}: goes on after epoch {epochs}"));
        }
    }

    fn step(&mut self, step: &StepReport) -> Control {
        if let Some(bar) = &self.bar {
            bar.set_length(step.batches as u64);
            bar.set_position(step.batch as u64);
            let StepReport { epoch, loss, .. } = step;
            bar.set_message(format!("epoch {epoch}/{} loss {loss:.4}{}", self.most, self.score));
        }
        self.control()
    }

    fn epoch(&mut self, title: &str, report: &EpochReport) {
        let EpochReport { epoch, loss, seconds, .. } = report;
        let score = report.dev_score.value();
        self.score = format!(" dev {score:.4}");
        if self.prints_lines {
            let best = if report.is_best { ", best" } else { "" };
            self.say(format_args!(
                "{title}: epoch {epoch}: loss {loss:.4}, dev score {score:.4}{best}, {seconds:.1} s"
            ));
        }
    }

    fn rows(&mut self, done: usize, all: usize) -> Control {
        const READING: &str = "stage 2 models read the features";
        if let Some(bar) = &self.bar {
            bar.set_prefix(READING);
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        }
        if self.prints_lines && done == 1 {
            self.say(format_args!("{READING} of {all} videos"));
        }
        self.control()
    }

    fn warn(&mut self, text: &str) {
        let warn = || tracing::warn!("{text}");
        self.bar.as_ref().map_or_else(warn, |bar| bar.suspend(warn));
    }
}

impl Drop for TrainingBars {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
