//! Backbones that compute with fewer bits: how far the final probabilities move.
//!
//! The bundled sample with the bundled weights, on the processor. f16 takes the operations that a
//! GPU takes, with sums in f32 as there, and so does bf16 where the processor does not multiply it.

use anyhow::{Result, ensure};
use meptr_core::VideoPrediction;
use meptr_extract::{DeviceChoice, Precision, Predictor, PredictorOptions};

/// Largest difference of a probability or trait score from those of f32. Measured: f16 3.2e-3, bf16
/// 6.6e-3, on tiles 3.3e-3.
const BOUNDS: [(Precision, f32); 2] = [(Precision::F16, 1e-2), (Precision::Bf16, 5e-2)];

fn predict(precision: Precision) -> Result<VideoPrediction> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let options =
        PredictorOptions { device: DeviceChoice::Cpu, precision, ..PredictorOptions::default() };
    let predictor = Predictor::open_with(&root.join("weights/demo"), &options)?;
    ensure!(!predictor.is_on_gpu());
    Ok(predictor.predict(&root.join("samples/portrait.mp4"))?)
}

fn numbers(prediction: &VideoPrediction) -> Vec<f32> {
    let row = &prediction.predictions[0];
    let emotions = row.emotions.iter().map(|one| one.probability);
    emotions.chain(row.traits.iter().map(|one| one.score)).collect()
}

#[test]
fn fewer_bits_move_the_result_within_bounds() -> Result<()> {
    let exact = predict(Precision::F32)?;
    for (precision, bound) in BOUNDS {
        let found = predict(precision)?;
        let pairs = numbers(&found).into_iter().zip(numbers(&exact));
        let off = pairs.map(|(found, exact)| (found - exact).abs()).fold(0.0, f32::max);
        eprintln!("{precision:?}: off by {off:.1e}");
        ensure!(off > 0.0, "{precision:?} computes as f32 does");
        ensure!(off <= bound, "{precision:?}: off by {off}, more than {bound}");
        let shown = |prediction: &VideoPrediction| prediction.predictions[0].shown.clone();
        ensure!(shown(&found) == shown(&exact), "{precision:?} decides otherwise");
    }
    Ok(())
}
