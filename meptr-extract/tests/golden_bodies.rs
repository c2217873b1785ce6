//! Body detection against the reference data in `yolo`.

use crate::golden;
use crate::support;

use anyhow::{Context, Result, ensure};
use candle::{IndexOp, Tensor};
use meptr_core::weights::load_file;
use meptr_extract::detect::yolo::{YoloConfig, YoloLetterbox, may_be_left};
use meptr_extract::detect::{BodyConfig, BodyDetector, Detection, PersonClass, persons};
use serde_json::Value;
use support::{list, number, numbers, picture};

/// Made by `scripts/golden_bodies.py` from clips in the repository.
const OWN_CASE: &str = "tests/golden/yolo/own_pictures_golden.json";

/// Every `NAME_golden.json` of the reference data, and our own, whatever folder is chosen.
fn cases() -> Result<Vec<golden::Case>> {
    let mut files = golden::json_files("yolo")?;
    let own = golden::in_repository(OWN_CASE);
    let has_own = files.iter().any(|path| path.file_name() == own.file_name());
    files.extend((!has_own).then_some(own));
    let cases = files.iter().map(|path| golden::Case::open(path));
    let cases: Vec<golden::Case> = cases.collect::<Result<_>>()?;
    ensure!(!cases.is_empty(), "the reference data has no body detector");
    Ok(cases)
}

/// The detector of a case, with the weights that it names or those of its own name.
fn detector(case: &golden::Case) -> Result<BodyDetector> {
    let own = case.name.strip_suffix("_golden").context("a name with `_golden`")?;
    let name = case.json["weights"].as_str().unwrap_or(own);
    let config = &case.json["config"];
    let network = YoloConfig {
        width_multiple: config["width_multiple"].as_f64().context("a width")?,
        depth_multiple: config["depth_multiple"].as_f64().context("a depth")?,
        max_channels: number(&config["max_channels"])? as usize,
        classes: number(&config["nc"])? as usize,
    };
    let config = BodyConfig { network, class_names: Vec::new(), person: PersonClass::Index(0) };
    let folder = match OWN_CASE.ends_with(&format!("/{}.json", case.name)) {
        true => golden::in_repository("tests/golden"),
        false => golden::root(),
    };
    let weights = folder.join(format!("yolo/{name}.safetensors"));
    let load =
        load_file(&weights, &golden::device(), may_be_left, |vb| BodyDetector::load(&config, vb));
    Ok(load?)
}

/// Input of the network: as the case gives it, or made from one of our own images.
fn input(detector: &BodyDetector, case: &golden::Case, image: &str) -> Result<Option<Tensor>> {
    if let Some(given) = case.tensors.get(&format!("{image}.letterboxed_u8_as_fed")) {
        return Ok(Some(given.unsqueeze(0)?));
    }
    let expected = &case.json["images"][image];
    let name = image.split('.').next().unwrap_or(image);
    let Some(picture) = picture(&golden::root(), name, expected)? else { return Ok(None) };
    Ok(Some(detector.letterboxed(&[&picture], &letterbox(expected)?)?))
}

/// The reference's own boxes are off by 0.014 pixel from a computation in f64, as random weights
/// enlarge every rounding; the probabilities are not.
#[test]
fn raw_body_outputs_equal_the_reference() -> Result<()> {
    let mut compared = 0;
    for case in cases()? {
        let detector = detector(&case)?;
        for (name, expected) in &case.tensors {
            let Some(image) = name.strip_suffix(".output") else { continue };
            let Some(input) = input(&detector, &case, image)? else { continue };
            let found = detector.raw_output(&input)?;
            let part = |tensor: &Tensor, from, count| tensor.narrow(1, from, count);
            let classes = expected.dim(1)? - 4;
            for (what, from, count, tolerance) in
                [("boxes", 0, 4, 0.03), ("probabilities", 4, classes, 1e-4)]
            {
                let (found, expected) = (part(&found, from, count)?, part(expected, from, count)?);
                let tolerance = tolerance * golden::slack();
                let off = golden::ensure_close(image, &found, &expected, tolerance)?;
                eprintln!("{}: {what} of {image} off by {off:e}", case.name);
            }
            compared += 1;
        }
    }
    ensure!(compared > 0, "nothing to compare");
    Ok(())
}

#[test]
fn persons_equal_the_reference() -> Result<()> {
    for case in cases()? {
        let mut compared = 0;
        for (image, expected) in case.json["images"].as_object().context("images")? {
            let Some(output) = case.tensors.get(&format!("{image}.output")) else { continue };
            let found = persons(&output.i(0)?, 0, &letterbox(expected)?)?;
            let off = same_boxes(&found, list(&expected["boxes"])?)
                .with_context(|| format!("{}: {image}", case.name))?;
            eprintln!("{}: {} boxes of {image} off by {off} pixel", case.name, found.len());
            compared += 1;
        }
        ensure!(compared > 0, "{}: nothing to compare", case.name);
    }
    Ok(())
}

/// From the picture to the boxes, on our own pictures and those that the reference data brings.
#[test]
fn persons_in_pictures_equal_the_reference() -> Result<()> {
    let mut compared = 0;
    for case in cases()? {
        let detector = detector(&case)?;
        for (image, expected) in case.json["images"].as_object().context("images")? {
            let name = image.split('.').next().unwrap_or(image);
            let Some(picture) = picture(&golden::root(), name, expected)? else { continue };
            let letterbox = letterbox(expected)?;
            let input = detector.letterboxed(&[&picture], &letterbox)?;
            if let Some(reference) = case.tensors.get(&format!("{image}.letterboxed_u8_as_fed")) {
                let reference: Vec<u8> = reference.flatten_all()?.to_vec1()?;
                let bytes: Vec<u8> = input.flatten_all()?.to_vec1()?;
                let different = bytes.iter().zip(&reference).filter(|(a, b)| a != b).count();
                ensure!(different == 0, "{image}: the letterbox differs in {different} bytes");
            }
            compared += 1;
            if !golden::device().is_cpu() {
                // 300 boxes of random weights, many with scores closer than the rounding of a sum.
                eprintln!("{}: the boxes of {image} are left out, for their order", case.name);
                continue;
            }
            let output = detector.raw_output(&input)?.i(0)?;
            let found = persons(&output, 0, &letterbox)?;
            let off = same_boxes(&found, list(&expected["boxes"])?)
                .with_context(|| format!("{}: {image}", case.name))?;
            eprintln!("{}: {image} as a picture is off by {off} pixel", case.name);
        }
    }
    ensure!(compared > 0, "no picture to compare");
    Ok(())
}

fn letterbox(image: &Value) -> Result<YoloLetterbox> {
    let size = numbers(&image["original_size_wh"])?;
    let minimal = image["minimal_rectangle"] == Value::Bool(true);
    let letterbox = YoloLetterbox::new(size[0] as usize, size[1] as usize, 640, minimal);
    let [width, height] = letterbox.input_size();
    let expected = numbers(&image["network_input_hw"])?;
    ensure!([height as f32, width as f32] == expected[..], "{letterbox:?} is not {expected:?}");
    Ok(letterbox)
}

fn same_boxes(found: &[Detection], expected: &[Value]) -> Result<f32> {
    ensure!(found.len() == expected.len(), "{} boxes, not {}", found.len(), expected.len());
    let mut off = 0f32;
    for (found, expected) in found.iter().zip(expected) {
        let bounds = found.bounds;
        let edges = [bounds.x1, bounds.y1, bounds.x2, bounds.y2];
        for (edge, expected) in edges.iter().zip(numbers(&expected["xyxy"])?) {
            off = off.max((edge - expected).abs());
        }
        let score = number(&expected["conf"])?;
        ensure!(
            (found.score - score).abs() < 1e-4 * golden::slack(),
            "{} is not {score}",
            found.score
        );
    }
    ensure!(off <= 0.05 * golden::slack(), "a box is off by {off}");
    Ok(off)
}
