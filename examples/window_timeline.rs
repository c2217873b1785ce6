//! Predicts a video in time windows and prints the strongest emotion of each as a time line.
//!
//! For programs that use meptr as a library. From the root of the repository:
//!
//! ```sh
//! cargo run --release -p meptr-extract --example window_timeline -- \
//!     weights/demo samples/portrait.mp4 4 2
//! ```

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::path::Path;

use anyhow::{Result, bail, ensure};
use meptr_core::prediction::{Scope, Scores};
use meptr_extract::pipeline::ExtractRequest;
use meptr_extract::progress::Unwatched;
use meptr_extract::windows::SlidingWindow;
use meptr_extract::{Predictor, Request};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, video, window, hop] = &arguments[..] else {
        bail!("usage: window_timeline BUNDLE VIDEO WINDOW_SECONDS HOP_SECONDS");
    };
    let window = SlidingWindow { window_seconds: window.parse()?, hop_seconds: hop.parse()? };
    ensure!(
        window.window_seconds > 0.0 && window.hop_seconds > 0.0,
        "window and hop must be above 0"
    );

    // All else stays as in `Predictor::predict`: everybody in the picture, the first transcript.
    let request = Request {
        extract: ExtractRequest { window: Some(window), ..ExtractRequest::default() },
        ..Request::default()
    };
    let predictor = Predictor::open(Path::new(bundle))?;
    let prediction = predictor.predict_with(Path::new(video), &request, &Unwatched)?;

    // The first row is the mean over the windows; the windows follow in their order.
    for row in prediction.predictions.iter().filter(|row| row.scope == Scope::Window) {
        print_bar(row);
    }
    Ok(())
}

/// Prints one window: its time, its strongest emotion, and a bar of 40 columns for probability 1.
fn print_bar(row: &Scores) {
    let strongest = row.emotions.iter().max_by(|a, b| a.probability.total_cmp(&b.probability));
    let Some(strongest) = strongest else { return };
    let bar = "#".repeat((strongest.probability * 40.0).round() as usize);
    println!(
        "{:7.1} - {:7.1} s  {:10} {:.3} {bar}",
        row.t_start,
        row.t_end,
        strongest.emotion.name(),
        strongest.probability
    );
}
