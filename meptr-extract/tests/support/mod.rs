//! What the tests of detection share: pictures and JSON.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use meptr_extract::RgbImage;
use serde_json::Value;

/// The picture of that name below `root`, `None` where the reference data has no pictures, which
/// are not ours to pass on.
pub(crate) fn picture(root: &Path, name: &str) -> Result<Option<RgbImage>> {
    let path = match name {
        "bunny_70" => root.join("backbones/preprocessing/bunny_1280x720.png"),
        _ => root.join(format!("blazeface/images/{name}.png")),
    };
    if path.exists() { read_png(&path).map(Some) } else { Ok(None) }
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
