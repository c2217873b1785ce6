//! Face detection against the reference data in `blazeface` and `faces`.

use crate::golden;
use crate::support;

use anyhow::{Context, Result, ensure};
use candle::Tensor;
use meptr_extract::detect::blazeface::Letterbox;
use meptr_extract::detect::{
    BoundingBox, Detection, Detector, FaceDetector, FaceModel, weighted_nms,
};
use serde_json::Value;
use support::{list, number, numbers, picture};

const FACE_MODELS: [(FaceModel, &str); 2] =
    [(FaceModel::FullRange, "full_range"), (FaceModel::ShortRange, "short_range")];

/// MediaPipe's interpreter sums in another order. The networks give numbers up to 300 (full range)
/// and 12,000 (short range) where they see no face, of which f32 keeps seven digits; hence the
/// relative part. On our pictures, the interpreter's own sets of kernels differ from each other by
/// up to 2.7e-4 (full range) and 2.5e-3 (short range).
#[test]
fn raw_face_outputs_equal_the_reference() -> Result<()> {
    for (model, name) in FACE_MODELS {
        let detector = FaceDetector::bundled(model, &golden::device())?;
        let path = golden::root().join(format!("blazeface/golden_{name}.safetensors"));
        let tensors = golden::tensors_of(&path)?;
        let anchors: Vec<f32> = model.anchors().into_iter().flatten().collect();
        let anchors = Tensor::from_vec(anchors, ((), 2), &golden::device())?;
        golden::ensure_close("anchors", &anchors, &tensors["anchors_xy"], 1e-6)?;

        let mut cases = 0;
        for (key, squares) in &tensors {
            let Some(image) = key.strip_suffix(".letterboxed_u8") else { continue };
            let raw = detector.raw_output(&squares.unsqueeze(0)?)?;
            for (what, found) in [("regressors", raw.regressors), ("scores", raw.scores)] {
                let what = format!("{image}.{what}");
                let (found, expected) = (found.squeeze(0)?, &tensors[&what]);
                let largest = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                let relative = if model == FaceModel::ShortRange { 2e-6 } else { 1e-6 };
                let tolerance = (1e-4 + relative * largest) * golden::slack();
                let off = golden::ensure_close(&what, &found, expected, tolerance)?;
                eprintln!("{name}: {what} off by {off:e}");
            }
            cases += 1;
        }
        ensure!(cases > 0, "{} holds no case", path.display());
    }
    Ok(())
}

/// The reference's proposals at a lower threshold, merged.
#[test]
fn merged_face_proposals_equal_the_reference() -> Result<()> {
    for (_, name) in FACE_MODELS {
        let case = face_boxes(name)?;
        let mut merged_faces = 0;
        for (image, expected) in case.json["images"].as_object().context("images")? {
            let lower = &expected["lower_threshold_case"];
            let proposals = list(&lower["candidates_at_0_1"])?.iter().map(|candidate| {
                let edges = numbers(&candidate["box_in_letterbox"])?;
                let bounds = BoundingBox::new(edges[0], edges[1], edges[2], edges[3]);
                let score = number(&candidate["score"])?;
                Ok(Detection { bounds, score, keypoints: Vec::new() })
            });
            let merged = weighted_nms(proposals.collect::<Result<_>>()?, 0.3);
            let letterbox = letterbox_of(expected)?;
            let size = numbers(&expected["size_wh"])?;
            let expected = list(&lower["weighted_nms_of_those"])?;
            ensure!(merged.len() == expected.len(), "{image}: {} faces", merged.len());
            for (found, expected) in merged.iter().zip(expected) {
                let [x1, y1] = letterbox.to_picture([found.bounds.x1, found.bounds.y1]);
                let [x2, y2] = letterbox.to_picture([found.bounds.x2, found.bounds.y2]);
                let edges = BoundingBox::new(x1, y1, x2, y2);
                same_box(&edges, &relative_box(expected, &size)?, 0.01)?;
                merged_faces += 1;
            }
        }
        ensure!(merged_faces > 0, "{name}: nothing to merge");
    }
    Ok(())
}

/// From the picture to the boxes, where the reference data has its pictures.
#[test]
fn faces_in_pictures_equal_the_reference() -> Result<()> {
    for (model, name) in FACE_MODELS {
        let detector = FaceDetector::bundled(model, &golden::device())?;
        let case = face_boxes(name)?;
        let path = golden::root().join(format!("blazeface/golden_{name}.safetensors"));
        let squares = golden::tensors_of(&path)?;
        let mut cases = 0;
        for (image, expected) in case.json["images"].as_object().context("images")? {
            let Some(picture) = picture(&golden::root(), image, expected)? else { continue };
            let letterbox = Letterbox::around(picture.width(), picture.height());
            ensure!(letterbox == letterbox_of(expected)?, "{image}: {letterbox:?}");
            let square: Vec<u8> = detector.letterboxed(&[&picture])?.flatten_all()?.to_vec1()?;
            let reference = &squares[&format!("{image}.letterboxed_u8")];
            let reference: Vec<u8> = reference.flatten_all()?.to_vec1()?;
            let different = square.iter().zip(&reference).filter(|(a, b)| a != b).count();
            ensure!(different == 0, "{image}: the letterbox differs in {different} bytes");

            let found = detector.detect(&[&picture])?.remove(0);
            let size = numbers(&expected["size_wh"])?;
            let expected = list(&expected["mediapipe_detections"])?;
            same_faces(&found, expected, &size).with_context(|| format!("{name}: {image}"))?;
            eprintln!("{name}: {image} has its {} faces", found.len());
            cases += 1;
        }
        let is_ours = std::env::var_os("MEPTR_GOLDEN").is_none();
        ensure!(cases > 0 || !is_ours, "{name}: no picture to compare");
    }
    Ok(())
}

fn same_faces(found: &[Detection], expected: &[Value], size: &[f32]) -> Result<()> {
    ensure!(found.len() == expected.len(), "{} faces, not {}", found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        same_box(&found.bounds, &relative_box(expected, size)?, 0.01)?;
        let score = number(&expected["score"])?;
        ensure!((found.score - score).abs() < 1e-4, "score {} is not {score}", found.score);
        for (found, expected) in found.keypoints.iter().zip(list(&expected["keypoints"])?) {
            let expected = numbers(expected)?;
            for axis in 0..2 {
                let expected = expected[axis] * size[axis];
                ensure!((found[axis] - expected).abs() < 0.01, "{} is not {expected}", found[axis]);
            }
        }
    }
    Ok(())
}

fn face_boxes(name: &str) -> Result<golden::Case> {
    golden::Case::open(&golden::root().join(format!("blazeface/golden_boxes_{name}.json")))
}

fn same_box(found: &BoundingBox, expected: &BoundingBox, tolerance: f32) -> Result<()> {
    let edges = |b: &BoundingBox| [b.x1, b.y1, b.x2, b.y2];
    let off = edges(found).into_iter().zip(edges(expected)).map(|(a, b)| (a - b).abs());
    let off = off.fold(0.0, f32::max);
    ensure!(off <= tolerance, "{found:?} is off by {off} from {expected:?}");
    Ok(())
}

fn relative_box(face: &Value, size: &[f32]) -> Result<BoundingBox> {
    let value = |name: &str| number(&face["relative_box"][name]);
    let (x, y) = (value("xmin")?, value("ymin")?);
    let (right, lower) = (x + value("width")?, y + value("height")?);
    Ok(BoundingBox::new(x * size[0], y * size[1], right * size[0], lower * size[1]))
}

fn letterbox_of(expected: &Value) -> Result<Letterbox> {
    let value = |name: &str| number(&expected["letterbox"][name]);
    Ok(Letterbox { side: value("square_side")?, left: value("offset_x")?, top: value("offset_y")? })
}
