//! Progress bars on standard error: one for the video under way, one for all of them.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use meptr_extract::Progress;

/// Cells of a step's bar: hundredths of a per cent.
const STEP_LENGTH: u64 = 10_000;

/// The bars of a run; nothing is drawn when standard error is no terminal.
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

    /// A video begins.
    pub fn start(&self, video: &Path) {
        let name = video.file_name().unwrap_or(video.as_os_str()).to_string_lossy();
        self.current.set_prefix(name.chars().filter(|one| !one.is_control()).collect::<String>());
        self.current.set_position(0);
    }

    /// A video is done, or has failed.
    pub fn end(&self) {
        self.total.iter().for_each(|bar| bar.inc(1));
    }

    /// Runs `write` with the bars out of the way of what it writes.
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
