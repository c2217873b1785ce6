//! Input of the backbones against the reference.
//!
//! VisualWindow: `backbones/*/clip_input.json` (Pillow on synthetic pictures) and
//! `backbones/*/clip_pixel_values.safetensors` (transformers' processor on the PNG files beside
//! it). Sound: `wav2vec2_normalised.NAME` beside `librosa16k.NAME` in `backbones/*/audio.*`.

use crate::golden;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle::{DType, Tensor};
use meptr_extract::RgbImage;
use meptr_extract::backbones::{ClipPreprocessor, Wav2Vec2Preprocessor};

/// Files of that name in the folders of backbones, and our own, whatever reference is chosen.
fn files(name: &str) -> Result<Vec<PathBuf>> {
    let own = golden::in_repository("tests/golden/backbones/preprocessing_synthetic");
    let mut files = vec![own.join(name)];
    for entry in std::fs::read_dir(golden::root().join("backbones"))? {
        let folder = entry?.path();
        if folder.join(name).exists() && !folder.ends_with("preprocessing_synthetic") {
            files.push(folder.join(name));
        }
    }
    Ok(files)
}

fn read_png(path: &Path) -> Result<RgbImage> {
    let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path)?));
    reader.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = reader.read_info()?;
    let mut bytes = vec![0; reader.output_buffer_size().context("a picture of sane size")?];
    let info = reader.next_frame(&mut bytes)?;
    ensure!(info.color_type == png::ColorType::Rgb, "{} is not RGB", path.display());
    bytes.truncate(info.buffer_size());
    Ok(RgbImage::new(info.width as usize, info.height as usize, bytes))
}

/// Tolerance 1e-6: the pixels are equal to the bit, the rest is one rounding of f32.
#[test]
fn pictures_equal_the_processor() -> Result<()> {
    let mut cases = 0;
    for path in files("clip_pixel_values.safetensors")? {
        for (name, expected) in golden::tensors_of(&path)? {
            let name = name.strip_prefix("pixel_values.").context("a name of pixel values")?;
            let png = path.with_file_name(format!("{name}.png"));
            if !png.exists() {
                eprintln!("{name}: skipped, no {}", png.display());
                continue;
            }
            let input = ClipPreprocessor::new(expected.dim(2)?);
            let found = input.prepare(&[read_png(&png)?], &golden::device())?;
            let off = golden::ensure_close(name, &found, &expected, 1e-6)?;
            eprintln!("{name}: {off}");
            cases += 1;
        }
    }
    ensure!(cases > 0, "no picture to compare");
    Ok(())
}

#[test]
fn synthetic_pictures_equal_pillow() -> Result<()> {
    for path in files("clip_input.json")? {
        let case = golden::Case::open(&path)?;
        for (name, config) in case.json.as_object().context("cases by name")? {
            let picture = case.tensor(&format!("picture.{name}"))?;
            let (height, width, _) = picture.dims3()?;
            let picture = RgbImage::new(width, height, picture.flatten_all()?.to_vec1()?);
            let recipe = tempfile::tempdir()?;
            let mut config = config.clone();
            config["image_mean"] = serde_json::json!([0.0, 0.0, 0.0]);
            config["image_std"] = serde_json::json!([1.0, 1.0, 1.0]);
            config["rescale_factor"] = serde_json::json!(1.0);
            std::fs::write(recipe.path().join("preprocessor_config.json"), config.to_string())?;
            let found =
                ClipPreprocessor::open(recipe.path())?.prepare(&[picture], &golden::device())?;
            let expected = case.tensor(&format!("cut.{name}"))?.to_dtype(DType::F32)?;
            let expected = expected.permute((2, 0, 1))?.unsqueeze(0)?;
            golden::ensure_close(name, &found, &expected, 0.0)?;
        }
    }
    Ok(())
}

#[test]
fn normalised_sound_equals_the_processor() -> Result<()> {
    let mut cases = 0;
    for path in files("audio.safetensors")? {
        let tensors = golden::tensors_of(&path)?;
        for (name, expected) in &tensors {
            let Some(name) = name.strip_prefix("wav2vec2_normalised.") else { continue };
            let samples: Vec<f32> = tensors[&format!("librosa16k.{name}")].to_vec1()?;
            let found: Tensor =
                Wav2Vec2Preprocessor::new(true).prepare(&samples, &golden::device())?;
            let off = golden::ensure_close(name, &found, expected, 1e-5)?;
            eprintln!("{name}: {off}");
            cases += 1;
        }
    }
    ensure!(cases > 0, "no sound to compare");
    Ok(())
}
