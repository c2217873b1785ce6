//! Predicts one video and prints its emotions and traits.
//!
//! For programs that use meptr as a library. From the root of the repository:
//!
//! ```sh
//! cargo run --release -p meptr-extract --example predict_video -- weights/demo samples/portrait.mp4
//! ```

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::path::Path;

use anyhow::{Result, bail};
use meptr_extract::Predictor;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, video] = &arguments[..] else {
        bail!("usage: predict_video BUNDLE VIDEO");
    };

    // Opening checks every file of the bundle against its hash. One predictor serves any number of
    // videos.
    let predictor = Predictor::open(Path::new(bundle))?;
    let prediction = predictor.predict(Path::new(video))?;

    // The first row is about the whole video.
    let whole = &prediction.predictions[0];
    for one in &whole.emotions {
        println!("{:18} {:.3}", one.emotion.name(), one.probability);
    }
    for one in &whole.traits {
        println!("{:18} {:.3}", one.personality_trait.name(), one.score);
    }

    // A modality that is not there has a reason.
    for (modality, report) in whole.modalities.iter() {
        if !report.available {
            println!("without {modality}: {}", report.reason.as_deref().unwrap_or("unknown"));
        }
    }
    // The value of the weights decides the value of the scores: show it.
    println!("weights: {}, {:?}", prediction.weights.name, prediction.weights.status);
    Ok(())
}
