//! The device against the processor.

use anyhow::{Result, ensure};
use candle::{DType, Device, Tensor};
use meptr_core::Precision;
use meptr_extract::detect::{FaceDetector, FaceModel};

use super::{models, say};

/// How far features may be off, as a share of the largest feature: rounding of f32 sums in another
/// order, of 11 bits, of 8 bits, through up to 32 layers.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 2e-4,
        Precision::F16 => 2e-2,
        Precision::Bf16 => 1e-1,
    }
}

/// Compares every frozen network, in every precision that it has.
pub(crate) fn run(device: &Device, is_quick: bool) -> Result<()> {
    let mut is_near = true;
    for (name, compute) in NETWORKS {
        let expected = compute(is_quick, Precision::F32, &Device::Cpu)?;
        let is_detector = matches!(name, "faces" | "bodies"); // those use f32 only
        let precisions = [Precision::F32, Precision::F16, Precision::Bf16];
        for precision in precisions.into_iter().take(if is_detector { 1 } else { 3 }) {
            if device.is_cpu() && precision == Precision::Bf16 && name == "whisper" {
                continue; // Candle has no such convolution on the processor
            }
            let found = compute(is_quick, precision, device)?;
            let (off, allowed) = (relative_difference(&found, &expected)?, tolerance(precision));
            let verdict = if off <= allowed { "ok" } else { "TOO FAR" };
            say(format_args!(
                "{name:10} {precision:?}: off by {off:.1e} of {allowed:.0e} {verdict}"
            ));
            is_near &= off <= allowed;
        }
    }
    ensure!(is_near, "a network is further off than it may be");
    Ok(())
}

type Compute = fn(bool, Precision, &Device) -> Result<Tensor>;

const NETWORKS: [(&str, Compute); 6] = [
    ("faces", |_, _, device| {
        let detector = FaceDetector::bundled(FaceModel::FullRange, device)?;
        let side = FaceModel::FullRange.input_size();
        let squares = models::wave(&[2, side, side, 3], device)?.affine(127.0, 127.0)?;
        let squares = squares.to_dtype(DType::U8)?;
        let output = detector.raw_output(&squares)?;
        Ok(Tensor::cat(&[output.regressors.flatten_all()?, output.scores.flatten_all()?], 0)?)
    }),
    ("bodies", |_, _, device| {
        let pictures = models::wave(&[2, 3, 384, 640], device)?.affine(0.5, 0.5)?;
        Ok(models::yolo(device)?.forward(&pictures)?)
    }),
    ("clip", |is_quick, precision, device| {
        let pictures = models::wave(&[3, 3, 224, 224], device)?;
        Ok(models::clip(is_quick, precision, device)?.forward(&pictures)?)
    }),
    ("bert", |_, precision, device| {
        let ids = models::tokens(40, device)?;
        Ok(models::bert(precision, device)?.forward(&ids, &[40])?)
    }),
    ("wav2vec2", |is_quick, precision, device| {
        let lengths = [2 * models::SAMPLE_RATE_HZ, models::SAMPLE_RATE_HZ];
        let sound = models::wave(&[2, lengths[0]], device)?;
        let model = models::wav2vec2(is_quick, precision, device)?;
        let whole = model.forward(&sound, &lengths)?;
        // What stands after the end of the shorter clip has no meaning.
        let steps = model.config().steps(lengths[1]);
        Ok(whole.narrow(1, 0, steps)?)
    }),
    ("whisper", |is_quick, precision, device| {
        let config = models::whisper_config(is_quick);
        let features = models::wave(&[1, config.num_mel_bins, config.window_frames()], device)?;
        let model = models::whisper(is_quick, precision, device)?;
        let encoded = model.encode(&features)?;
        let mut decoding = model.decoding(&encoded)?;
        decoding.feed(&[vec![50, 60, 70]])?;
        let logits = decoding.feed(&[vec![80]])?;
        Ok(Tensor::new(logits, &Device::Cpu)?)
    }),
];

/// The largest difference as a share of the largest number; NaN counts as infinite.
fn relative_difference(found: &Tensor, expected: &Tensor) -> Result<f32> {
    let numbers = |tensor: &Tensor| -> Result<Vec<f32>> {
        Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    };
    ensure!(found.dims() == expected.dims(), "{:?} is not {:?}", found.dims(), expected.dims());
    let (found, expected) = (numbers(found)?, numbers(expected)?);
    let largest = expected.iter().fold(0f32, |largest, number| largest.max(number.abs()));
    let off = found.iter().zip(&expected).map(|(found, expected)| (found - expected).abs());
    let off = off.fold(0f32, |off, one| if one.is_nan() { f32::INFINITY } else { off.max(one) });
    Ok(off / largest)
}
