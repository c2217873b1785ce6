//! Progress of downloads on standard error.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressStyle};
use meptr_core::hub::{Event, Progress};

const FILE: &str = "{prefix:.bold} {wide_bar} {decimal_bytes} of {decimal_total_bytes}, \
                    {decimal_bytes_per_sec}, {eta} left";
const TOTAL: &str = "in all {wide_bar} {decimal_bytes} of {decimal_total_bytes}, \
                     {decimal_bytes_per_sec}, {eta} left";
const STEP: &str = "{spinner} {msg}";

/// Bars on a terminal, lines elsewhere, nothing when quiet.
pub struct DownloadBars {
    all: MultiProgress,
    bars: RefCell<Option<Bars>>,
    is_terminal: bool,
    is_quiet: bool,
}

/// Bars of the current file and of all files.
struct Bars {
    name: String,
    file: ProgressBar,
    total: Option<ProgressBar>,
}

impl DownloadBars {
    pub fn new(is_quiet: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && !is_quiet;
        Self { all: MultiProgress::new(), bars: RefCell::default(), is_terminal, is_quiet }
    }

    /// Removes the bars.
    pub fn clear(&self) {
        if let Some(bars) = self.bars.borrow_mut().take() {
            bars.file.finish_and_clear();
            bars.total.iter().for_each(ProgressBar::finish_and_clear);
        }
    }

    /// Writes a line above the bars.
    pub fn say(&self, text: &str) {
        if !self.is_quiet {
            self.all.suspend(|| eprintln!("{text}"));
        }
    }

    /// A step that has no length.
    fn step(&self, text: String) {
        if !self.is_terminal {
            return;
        }
        let mut bars = self.bars.borrow_mut();
        let bars = bars.get_or_insert_with(|| Bars {
            name: String::new(),
            file: self.all.add(ProgressBar::new_spinner()),
            total: None,
        });
        bars.name.clear();
        bars.file.set_style(style(STEP));
        bars.file.set_message(text);
        bars.file.enable_steady_tick(Duration::from_millis(200));
    }

    fn start(&self, bytes: u64) {
        if !self.is_terminal {
            return;
        }
        self.clear();
        let file = self.all.add(ProgressBar::new(0));
        let total = self.all.add(ProgressBar::new(bytes).with_style(style(TOTAL)));
        *self.bars.borrow_mut() = Some(Bars { name: String::new(), file, total: Some(total) });
    }

    fn bytes(&self, name: &str, done: u64, size: u64, all_done: u64) {
        let mut bars = self.bars.borrow_mut();
        let Some(bars) = bars.as_mut() else { return };
        let is_new = bars.name != name;
        if is_new {
            name.clone_into(&mut bars.name);
            bars.file.disable_steady_tick();
            bars.file.set_style(style(FILE));
            bars.file.set_length(size);
            bars.file.set_prefix(shortened(name));
        }
        bars.file.set_position(done);
        if let Some(total) = &bars.total {
            total.set_position(all_done);
            if is_new && done > 0 {
                total.reset_eta(); // bytes from an earlier run took no time
            }
        }
        if is_new {
            bars.file.reset_eta();
        }
    }
}

impl Progress for DownloadBars {
    fn report(&self, event: &Event<'_>) {
        match event {
            Event::Asking { repository } => self.step(format!("asking the Hub about {repository}")),
            Event::Started { bytes, .. } => self.start(*bytes),
            Event::Bytes { file, done, size, all_done, .. } => {
                self.bytes(file, *done, *size, *all_done);
            }
            Event::Waiting { file, .. } => {
                self.say(&format!("another process fetches {file}; waiting for it"));
            }
            Event::Retrying { wait, reason } => {
                let seconds = wait.as_secs_f64();
                self.say(&format!("{}; trying again in {seconds:.1} s", chain(reason)));
            }
            Event::Checking { file } => self.step(format!("checking {file}")),
            Event::Finished { file, path } if !self.is_terminal => {
                let bytes = path.metadata().map_or(0, |found| found.len());
                self.say(&format!("{file}: {}", DecimalBytes(bytes)));
            }
            _ => {}
        }
    }
}

impl Drop for DownloadBars {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Message of an error, followed by those of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Shortens a long name to its end.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 36;
    let skipped = name.chars().count().saturating_sub(LONGEST);
    if skipped == 0 {
        return name.to_owned();
    }
    format!("..{}", name.chars().skip(skipped + 2).collect::<String>())
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(shortened("ann/model/config.json"), "ann/model/config.json");
        let long = shortened("audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim/config.json");
        assert_eq!((long.len(), long.ends_with("msp-dim/config.json")), (36, true));
    }

    #[test]
    fn templates_are_well_formed() {
        for template in [FILE, TOTAL, STEP] {
            style(template);
        }
    }
}
