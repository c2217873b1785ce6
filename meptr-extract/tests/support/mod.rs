//! Shared by the tests: pictures, clips, JSON, bundles.

pub(crate) mod e2e_bundle;
pub(crate) mod taken;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use meptr_core::bundle::sha256_of;
use meptr_extract::RgbImage;
use meptr_extract::decode::{DecodeOptions, Event, Reader};
use meptr_extract::windows::WindowPlan;
use serde_json::Value;

/// The clip of a case: one of ours where the case names it, else the file in `e2e` that has the hash
/// that the case tells or, where it tells none, whose name begins like the case's, e.g.
/// `bikes_with_audio.mp4` of `bikes_front_end`. `None`, with a word on stderr, where there is none.
pub(crate) fn clip(case: &crate::golden::Case) -> Result<Option<PathBuf>> {
    if let Some(clip) = case.json["clip"].as_str() {
        return Ok(Some(crate::golden::in_repository(clip)));
    }
    let folder = crate::golden::root().join("e2e");
    let mut files = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let kind = path.extension().unwrap_or_default();
            if path.is_file() && !["json", "safetensors", "md"].iter().any(|other| kind == *other) {
                files.push(path);
            }
        }
    }
    files.sort();
    let hash = case.json["video_sha256"].as_str();
    let stem = case.name.split(['_', '.']).next().unwrap_or(&case.name);
    for path in files {
        let is_it = match hash {
            Some(hash) => sha256_of(&path)? == hash,
            None => path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(stem)),
        };
        if is_it {
            return Ok(Some(path));
        }
    }
    eprintln!("{}: skipped, {} does not hold its clip", case.name, folder.display());
    Ok(None)
}

/// At most `wanted` frames of a clip with their numbers.
pub(crate) fn frames(clip: &Path, wanted: usize) -> Result<Vec<(usize, RgbImage)>> {
    let mut frames = Vec::new();
    let options = DecodeOptions { frames_per_window: wanted, ..DecodeOptions::default() };
    for event in Reader::open(clip, WindowPlan::Whole, &options)? {
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
