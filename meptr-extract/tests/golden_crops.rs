//! Detection on the frames of real clips against the reference data in `faces` and `e2e`.
//!
//! Runs on a clip of our own, and on those of the reference data where it comes with them.

use crate::golden;
use crate::support;

use anyhow::{Result, ensure};
use candle::{DType, Device};
use candle_nn::VarBuilder;
use meptr_extract::RgbImage;
use meptr_extract::detect::tracker::{BotSort, BotSortConfig};
use meptr_extract::detect::yolo::YoloConfig;
use meptr_extract::detect::{
    BodyConfig, BodyDetector, BoundingBox, Crop, Detection, Detector, FaceDetector, FaceModel,
    FrameBoxes, PersonClass,
};
use meptr_extract::pipeline::fallback::crops;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{clip, frames, list, number, numbers};

/// Made by `scripts/golden_faces.py` from a clip in the repository.
const OWN_CASE: &str = "tests/golden/faces/two_people.json";

/// The cases in `folder` of the reference data, and our own, whatever folder is chosen.
fn cases(folder: &str) -> Result<Vec<golden::Case>> {
    let mut paths = golden::json_files(folder)?;
    let own = golden::in_repository(OWN_CASE);
    let has_own = paths.iter().any(|path| path.file_name() == own.file_name());
    paths.extend((!has_own).then_some(own));
    paths.iter().map(|path| golden::Case::open(path)).collect()
}

fn faces(frames: &[(usize, RgbImage)]) -> Result<Vec<Vec<Detection>>> {
    let images: Vec<&RgbImage> = frames.iter().map(|(_, image)| image).collect();
    Ok(FaceDetector::bundled(FaceModel::FullRange, &Device::Cpu)?.detect(&images)?)
}

#[test]
fn faces_in_clips_equal_the_reference() -> Result<()> {
    for case in cases("faces")? {
        let Some(clip) = clip(&case)? else { continue };
        let size = numbers(&case.json["size_wh"])?;
        let frames = frames(&clip, usize::MAX)?;
        let found = faces(&frames)?;
        let (mut frames_compared, mut faces_compared, mut off) = (0, 0, 0f32);
        for expected in list(&case.json["detections"])? {
            // The clip may be shorter than the one the case was made from.
            let Some(found) = found.get(number(&expected["frame"])? as usize) else { continue };
            let expected = list(&expected["faces"])?;
            ensure!(found.len() == expected.len(), "frame {frames_compared}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                let value = |name: &str| number(&expected["relative_box"][name]);
                let (x, y) = (value("xmin")?, value("ymin")?);
                let edges = [x, y, x + value("width")?, y + value("height")?];
                let bounds = found.bounds;
                for (axis, edge) in [bounds.x1, bounds.y1, bounds.x2, bounds.y2].iter().enumerate()
                {
                    off = off.max((edge - edges[axis] * size[axis % 2]).abs());
                }
                let score = number(&expected["score"])?;
                ensure!((found.score - score).abs() < 1e-3, "{} is not {score}", found.score);
                faces_compared += 1;
            }
            frames_compared += 1;
        }
        ensure!(frames_compared > 0 && off < 0.05, "{}: off by {off}", case.name);
        eprintln!(
            "{}: {faces_compared} faces in {frames_compared} frames off by {off} pixel",
            case.name
        );
    }
    Ok(())
}

/// With the reference's own body boxes, every crop is the same to the byte.
#[test]
fn crops_of_clips_equal_the_reference() -> Result<()> {
    for case in cases("e2e")? {
        let Some(expected) = expected_crops(&case.json)? else { continue };
        let Some(clip) = clip(&case)? else { continue };
        let frames = frames(&clip, 30)?;
        let bodies = frames.iter().enumerate().map(|(at, _)| reference_bodies(&case.json, at));
        let found = crops(&frame_boxes(&frames, bodies.collect::<Result<_>>()?)?);
        let different = differences(&frames, &found, expected)?;
        ensure!(different.is_empty(), "{}: {different:?}", case.name);
        eprintln!("{}: all {} crops equal", case.name, found.len());
    }
    Ok(())
}

/// With the bodies we find ourselves, where the reference data has a clip for it; rounding moves an
/// edge by a pixel now and then.
#[test]
fn crops_around_our_own_bodies_equal_the_reference() -> Result<()> {
    for path in golden::json_files("e2e")? {
        let case = golden::Case::open(&path)?;
        let results = &case.json["detector_results_per_frame"];
        let (Some(results), Some(expected)) = (results.as_array(), expected_crops(&case.json)?)
        else {
            continue;
        };
        let Some(clip) = clip(&case)? else { continue };
        let frames = frames(&clip, 30)?;
        let images: Vec<&RgbImage> = frames.iter().map(|(_, image)| image).collect();
        let shift = case.json["class_bias_shift"].as_f64().unwrap_or(0.0);
        let bodies = body_detector(shift)?.detect(&images)?;
        let bodies = BotSort::new(BotSortConfig::default()).track(&images, bodies);
        let mut off = 0f32;
        for (index, (found, expected)) in bodies.iter().zip(results).enumerate() {
            let expected = list(&expected["boxes"])?;
            // The least likely may fall on the other side of the threshold.
            ensure!(found.len().abs_diff(expected.len()) <= 1, "frame {index}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                let expected = numbers(expected)?;
                let bounds = found.bounds;
                let edges = [bounds.x1, bounds.y1, bounds.x2, bounds.y2];
                let ends = [images[index].width(), images[index].height()].repeat(2);
                for ((edge, expected), end) in edges.iter().zip(&expected).zip(ends) {
                    // The reference's list has its boxes cut off at the picture's edges.
                    off = off.max((edge.clamp(0.0, end as f32) - expected).abs());
                }
            }
        }
        ensure!(off < 0.1, "{}: bodies off by {off}", case.name);
        let bodies = bodies.iter().map(|found| found.iter().map(|body| body.bounds).collect());
        let found = crops(&frame_boxes(&frames, bodies.collect())?);
        let different = differences(&frames, &found, expected)?;
        eprintln!("{}: bodies off by {off}, other crops: {different:?}", case.name);
        ensure!(different.len() * 20 <= found.len(), "{}: {different:?}", case.name);
    }
    Ok(())
}

/// The random weights that the front-end cases were made with, whose class has `shift` added to its
/// logits in a case.
fn body_detector(shift: f64) -> Result<BodyDetector> {
    let network =
        YoloConfig { width_multiple: 0.125, depth_multiple: 0.33, max_channels: 1024, classes: 1 };
    let config = BodyConfig { network, class_names: Vec::new(), person: PersonClass::Index(0) };
    let weights = golden::root().join("yolo/yolov8_w0125_nc1.safetensors");
    let mut weights = candle::safetensors::load(&weights, &Device::Cpu)?;
    for (name, tensor) in &mut weights {
        if name.starts_with("model.22.cv3.") && name.ends_with(".2.bias") {
            *tensor = (&*tensor + shift)?;
        }
    }
    let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    Ok(BodyDetector::load(&config, vb)?)
}

fn expected_crops(case: &Value) -> Result<Option<&Vec<Value>>> {
    let crops = ["crops_in_processing_order", "crops"].iter().find_map(|name| case.get(name));
    crops.map(list).transpose()
}

/// The boxes that the reference had at a frame.
fn reference_bodies(case: &Value, frame: usize) -> Result<Vec<BoundingBox>> {
    let boxes = match case.get("detector_results_per_frame") {
        Some(results) => list(&results[frame]["boxes"])?,
        None => list(&case["body_boxes_supplied_per_frame"])?,
    };
    let bounds = |edges: Vec<f32>| BoundingBox::new(edges[0], edges[1], edges[2], edges[3]);
    boxes.iter().map(|edges| Ok(bounds(numbers(edges)?))).collect()
}

fn frame_boxes(
    frames: &[(usize, RgbImage)],
    bodies: Vec<Vec<BoundingBox>>,
) -> Result<Vec<FrameBoxes>> {
    let faces = faces(frames)?;
    let boxes = frames.iter().zip(faces).zip(bodies).map(|(((_, image), faces), bodies)| {
        let faces = faces.iter().map(|face| face.bounds).collect();
        FrameBoxes { width: image.width(), height: image.height(), faces, bodies }
    });
    Ok(boxes.collect())
}

/// Differences of the crops, in words.
fn differences(
    frames: &[(usize, RgbImage)],
    found: &[Crop],
    expected: &[Value],
) -> Result<Vec<String>> {
    ensure!(found.len() == expected.len(), "{} crops, not {}", found.len(), expected.len());
    let mut different = Vec::new();
    for (index, (crop, expected)) in found.iter().zip(expected).enumerate() {
        let image = crop.bounds.crop(&frames[crop.frame].1);
        let hash: String =
            Sha256::digest(image.data())[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        if Some(&hash[..]) != expected["sha256_16"].as_str() {
            let size = (image.width(), image.height());
            let (width, height) = (&expected["width"], &expected["height"]);
            let modality = crop.modality;
            different.push(format!("crop {index} ({modality}): {size:?}, not ({width}, {height})"));
        }
    }
    Ok(different)
}
