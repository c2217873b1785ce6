//! What the tests of detection share: pictures, clips and JSON.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use meptr_extract::RgbImage;
use meptr_extract::decode::{DecodeOptions, Event, FramePlan, Reader};
use serde_json::Value;

/// At most `wanted` frames of a clip with their numbers.
pub(crate) fn frames(clip: &Path, wanted: usize) -> Result<Vec<(usize, RgbImage)>> {
    let mut frames = Vec::new();
    let options = DecodeOptions { frames_per_window: wanted, ..DecodeOptions::default() };
    for event in Reader::open(clip, FramePlan::Whole, &options)? {
        match event? {
            Event::Frame { index, image, .. } => frames.push((index, image)),
            Event::Restart { .. } => frames.clear(),
            _ => {}
        }
    }
    Ok(frames)
}

/// The picture of a case: a frame of one of our clips where `case` says so, else a file below
/// `root`. `None`, with a word on stderr, where the reference data comes without its pictures.
pub(crate) fn picture(root: &Path, name: &str, case: &Value) -> Result<Option<RgbImage>> {
    if let Some(clip) = case["clip"].as_str() {
        let frame = number(&case["frame"])? as usize;
        let mut frames = frames(&crate::golden::in_repository(clip), usize::MAX)?;
        ensure!(frame < frames.len(), "{clip} has {} frames", frames.len());
        return Ok(Some(frames.swap_remove(frame).1));
    }
    let path = match name {
        "bunny_70" => root.join("backbones/preprocessing/bunny_1280x720.png"),
        _ => root.join(format!("blazeface/images/{name}.png")),
    };
    if !path.exists() {
        eprintln!("{name}: skipped, the reference data has no {}", path.display());
        return Ok(None);
    }
    read_png(&path).map(Some)
}

/// An RGB picture.
pub(crate) fn read_png(path: &Path) -> Result<RgbImage> {
    let file = std::io::BufReader::new(std::fs::File::open(path)?);
    let mut reader = png::Decoder::new(file).read_info()?;
    let mut bytes = vec![0; reader.output_buffer_size().context("a picture of some size")?];
    let info = reader.next_frame(&mut bytes)?;
    ensure!(info.color_type == png::ColorType::Rgb, "{} is not RGB", path.display());
    bytes.truncate(info.buffer_size());
    Ok(RgbImage::new(info.width as usize, info.height as usize, bytes))
}

pub(crate) fn number(value: &Value) -> Result<f32> {
    Ok(value.as_f64().with_context(|| format!("{value} is no number"))? as f32)
}

pub(crate) fn numbers(value: &Value) -> Result<Vec<f32>> {
    list(value)?.iter().map(number).collect()
}

pub(crate) fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("{value} is no list"))
}
