//! Reads the features of one clip from a feature store and prints their shapes and means.
//!
//! For programs that train on stored features or look at them. From the root of the repository, with
//! a store of drawn clips:
//!
//! ```sh
//! meptr synth corpora --videos 6
//! meptr extract corpora/emotions.toml --store features --weights demo
//! cargo run --release -p meptr-extract --example read_features -- \
//!     features synthetic-emotions train emotions-00003
//! ```

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use anyhow::{Result, bail};
use meptr_core::Modality;
use meptr_core::store::Store;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, corpus, split, clip] = &arguments[..] else {
        bail!("usage: read_features STORE CORPUS SPLIT CLIP");
    };

    // Opening reads the header alone: the sequences are read when they are asked for.
    let file = Store::at(store).open(corpus, split, clip)?;
    let record = file.record();
    println!("{}: {:.1} s, {} frames", record.video, record.duration_seconds, record.frames.len());
    for (part, digest) in &record.provenance.weights {
        println!("made by {part}, SHA-256 {digest}");
    }

    for modality in Modality::ALL {
        // (steps, width), f32. Reading checks the hash of the values.
        let Some(sequence) = file.sequence(modality)? else {
            let reason = record.modalities[modality].reason.as_deref().unwrap_or("unknown");
            println!("{modality:6} absent: {reason}");
            continue;
        };
        let (steps, width) = sequence.dims2()?;
        let mean = sequence.mean_all()?.to_scalar::<f32>()?;
        println!("{modality:6} {steps} steps of width {width}, mean {mean:.4}");
    }
    Ok(())
}
