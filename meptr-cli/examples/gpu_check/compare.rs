//! The device against the processor.

use anyhow::{Result, ensure};
use candle::{DType, Device, Tensor};
use meptr_core::Precision;
use meptr_core::device::BatchSize;
use meptr_extract::RgbImage;
use meptr_extract::backbones::ClipPreprocessor;
use meptr_extract::detect::yolo::YoloLetterbox;
use meptr_extract::detect::{FaceDetector, FaceModel};
use meptr_extract::image::PixelBox;

use super::{models, say};

/// Tolerance of features, as a share of the largest feature: rounding of f32 sums in another
/// order, of 11 bits, of 8 bits, through up to 32 layers.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 2e-4,
        Precision::F16 => 2e-2,
        Precision::Bf16 => 1e-1,
    }
}

/// Compares the way of pictures to CLIP, and every frozen network in every precision that it has;
/// then sees what happens where there is no memory.
pub(crate) fn run(device: &Device, is_quick: bool) -> Result<()> {
    pictures(device)?;
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
    if !device.is_cpu() {
        without_memory(device)?;
    }
    Ok(())
}

/// Pictures and parts of them, of common and of odd shapes, on their way to CLIP and to the
/// detectors; they are to be equal to the bit.
fn pictures(device: &Device) -> Result<()> {
    let input = ClipPreprocessor::new(224);
    let letterboxed = |image: &RgbImage, device: &Device| -> Result<[Tensor; 3]> {
        let faces = |model| -> Result<Tensor> {
            Ok(FaceDetector::bundled(model, device)?.letterboxed(&[image, image])?)
        };
        let letterbox = YoloLetterbox::new(image.width(), image.height(), 640, true);
        Ok([
            faces(FaceModel::FullRange)?,
            faces(FaceModel::ShortRange)?,
            models::body_detector(device)?.letterboxed(&[image, image], &letterbox)?,
        ])
    };
    let part = |x1, y1, x2, y2| PixelBox { x1, y1, x2, y2 };
    for (width, height, bounds) in [
        (1280, 720, part(0, 0, 1280, 720)),
        (1280, 720, part(411, 97, 530, 260)),
        (1279, 719, part(411, 97, 530, 260)),
        (640, 640, part(0, 0, 640, 640)),
        (1920, 1080, part(0, 0, 1080, 1080)),
        (640, 360, part(1, 0, 640, 359)),
        (300, 224, part(0, 0, 224, 224)),
        (37, 91, part(3, 5, 4, 90)),
        (9, 4000, part(0, 0, 9, 4000)),
    ] {
        let bytes = (0..width * height * 3).map(|at| (at * at / 7 + at * 13) as u8).collect();
        let image = RgbImage::new(width, height, bytes);
        let prepared = |device| -> Result<Tensor> {
            Ok(input.prepare_crops(&[(&image, bounds), (&image, bounds)], device)?)
        };
        let mut off = relative_difference(&prepared(device)?, &prepared(&Device::Cpu)?)?;
        let both = letterboxed(&image, device)?.into_iter().zip(letterboxed(&image, &Device::Cpu)?);
        for (found, expected) in both {
            off = off.max(relative_difference(&found, &expected)?);
        }
        say(format_args!("{width} x {height} and {bounds:?} of it: off by {off:.1e}"));
        ensure!(off == 0.0, "pictures are prepared otherwise than by the processor");
    }
    Ok(())
}

/// CLIP on more pictures than there is room for: batches get smaller, and the features stay the
/// same.
fn without_memory(device: &Device) -> Result<()> {
    const PICTURES: usize = 512;
    let model = models::clip(true, Precision::F32, device)?;
    let pictures = models::wave(&[PICTURES, 3, 224, 224], device)?;
    let expected = model.forward(&pictures.narrow(0, PICTURES - 2, 2)?)?;
    let batch = BatchSize::fixed(PICTURES);
    let hold = |bytes: usize| {
        let mut held = Vec::new();
        while let Ok(one) = Tensor::zeros(bytes, DType::U8, device) {
            held.push(one);
        }
        held
    };
    let mut large = hold(1 << 30);
    large.pop(); // 1 GB and what is left beside it, of which 256 MB stay free
    let mut small = hold(64 << 20);
    small.truncate(small.len().saturating_sub(4));
    let features = batch
        .run(PICTURES, |rows| model.forward(&pictures.narrow(0, rows.start, rows.len())?))?;
    let features = Tensor::cat(&features, 0)?.narrow(0, PICTURES - 2, 2)?;
    let off = relative_difference(&features, &expected)?;
    say(format_args!(
        "without memory: {} pictures at a time instead of {PICTURES}, off by {off:.1e}",
        batch.rows()
    ));
    ensure!(batch.rows() < PICTURES, "memory did not run out");
    ensure!(off <= tolerance(Precision::F32), "smaller batches give other features");
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
        let mut decoding = model.start_decoding(&encoded)?;
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
