//! Bundles of seeded random weights with the complete architecture: for trials, tests and benchmarks.

use std::collections::BTreeMap;
use std::path::Path;

use candle::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use meptr_core::bundle::{
    Bundle, FolderPart, FusionPart, HeadPart, Manifest, Origin, Parts, TrainingStatus,
};
use meptr_core::models::{CrossTaskModel, FusionConfig, FusionModel, HeadConfig};
use meptr_core::weights::{generate, save_file};
use meptr_core::{Modality, PerModality};
use serde_json::Value;

use super::face_detector::write_face_detector;
use super::preset::{Preset, clip_preprocessor, wav2vec2_preprocessor};
use super::staging::Staging;
use super::tokenizer::tokenizer_json;
use crate::backbones::{Bert, ClipVision, Wav2Vec2};
use crate::detect::FaceModel;
use crate::{Error, Result};

/// Writes a bundle of random weights to `folder`, which must be empty or not exist, and opens it.
///
/// The result depends on preset and seed only, byte by byte, on any machine. Backbones, heads and fusion are random;
/// the face detector is MediaPipe's.
///
/// # Errors
/// When the folder holds something or cannot be written.
pub fn init_bundle(folder: &Path, preset: Preset, seed: u64) -> Result<Bundle> {
    let mut writer = Writer { staging: Staging::start(folder)?, preset, seed };
    let parts = writer.parts()?;
    let staging = writer.staging;
    let manifest = Manifest {
        schema: Manifest::SCHEMA.to_owned(),
        name: format!("{}-untrained", preset.name()),
        about: format!(
            "Seeded random numbers (seed {seed}) in the {} sizes. Untrained: results mean nothing.",
            match preset {
                Preset::Demo => "small",
                Preset::Full => "published",
            }
        ),
        status: TrainingStatus::Untrained,
        parts,
        files: staging.entries()?,
    };
    staging.write_manifest(&manifest)?;
    staging.finish()?;
    Ok(Bundle::open(folder)?)
}

struct Writer {
    staging: Staging,
    preset: Preset,
    seed: u64,
}

impl Writer {
    fn parts(&mut self) -> Result<Parts> {
        let preset = self.preset;
        let config = preset.clip();
        let clip = self.backbone("clip", "CLIP", &config, |vb| {
            ClipVision::load(&parsed(&config), vb).map(drop)
        })?;
        self.staging.write_json("clip/preprocessor_config.json", &clip_preprocessor())?;
        let config = preset.wav2vec2();
        let wav2vec2 = self.backbone("wav2vec2", "Wav2Vec2", &config, |vb| {
            Wav2Vec2::load(&parsed(&config), vb).map(drop)
        })?;
        self.staging.write_json("wav2vec2/preprocessor_config.json", &wav2vec2_preprocessor())?;
        let config = preset.bert();
        let bert = self
            .backbone("bert", "BERT", &config, |vb| Bert::load(&parsed(&config), vb).map(drop))?;
        self.staging.write_json("bert/tokenizer.json", &tokenizer_json(preset.vocabulary()))?;
        let heads = PerModality::try_from_fn(|modality| self.head(modality))?;
        let fusion =
            self.fusion(PerModality::from_fn(|modality| heads[modality].config.vector_width()))?;
        let face_detector = Some(write_face_detector(&mut self.staging, FaceModel::FullRange)?);
        let (body_detector, transcriber) = (None, None);
        Ok(Parts { clip, wav2vec2, bert, heads, fusion, face_detector, body_detector, transcriber })
    }

    fn backbone(
        &mut self,
        folder: &str,
        name: &str,
        config: &Value,
        build: impl FnOnce(VarBuilder) -> candle::Result<()>,
    ) -> Result<FolderPart> {
        self.staging.write_json(&format!("{folder}/config.json"), config)?;
        self.weights(&format!("{folder}/model.safetensors"), build)?;
        Ok(FolderPart { folder: folder.to_owned(), origin: self.origin(name) })
    }

    fn head(&mut self, modality: Modality) -> Result<HeadPart> {
        let config = self.preset.head(modality);
        let file = format!("heads/{modality}.safetensors");
        self.weights(&file, |vb| CrossTaskModel::load(&config, vb).map(drop))?;
        Ok(HeadPart { file, config, origin: self.origin(&format!("MEPTR {modality} head")) })
    }

    fn fusion(&mut self, input_dims: PerModality<usize>) -> Result<FusionPart> {
        let config = self.preset.fusion(input_dims);
        let file = "fusion.safetensors".to_owned();
        self.weights(&file, |vb| FusionModel::load(&config, vb).map(drop))?;
        Ok(FusionPart { file, config, origin: self.origin("MEPTR fusion") })
    }

    fn origin(&self, name: &str) -> Origin {
        Origin {
            name: format!("{name}, random"),
            source: format!(
                "meptr weights init --preset {} --seed {}",
                self.preset.name(),
                self.seed
            ),
            licence: "MIT OR Apache-2.0".to_owned(),
        }
    }

    /// Writes random values for every tensor that `build` loads.
    fn weights(
        &mut self,
        name: &str,
        build: impl FnOnce(VarBuilder) -> candle::Result<()>,
    ) -> Result<()> {
        let doing = || Error::doing(format!("making the weights `{name}`"));
        // Each file has its own seed; otherwise tensors of one name would be equal.
        let seed = name.bytes().fold(self.seed, |seed, byte| {
            seed.wrapping_mul(0x0000_0100_0000_01B3).wrapping_add(u64::from(byte))
        });
        let ((), tensors) = generate(seed, &Device::Cpu, build).map_err(doing())?;
        let storage = self.preset.storage();
        let stored: candle::Result<BTreeMap<String, Tensor>> =
            tensors.into_iter().map(|(name, t)| Ok((name, t.to_dtype(storage)?))).collect();
        Ok(save_file(&self.staging.new_file(name)?, &stored.map_err(doing())?)?)
    }
}

impl Preset {
    fn storage(self) -> DType {
        match self {
            Self::Demo => DType::F16, // every generated value is exact in f16
            Self::Full => DType::F32, // as the published files are
        }
    }

    /// Configuration of a modality's head, for this preset's backbones.
    fn head(self, modality: Modality) -> HeadConfig {
        let published = HeadConfig::published(modality);
        match self {
            Self::Full => published,
            Self::Demo => published.scaled(self.features(modality), 8),
        }
    }

    fn fusion(self, input_dims: PerModality<usize>) -> FusionConfig {
        let hidden_dim = match self {
            Self::Demo => 64,
            Self::Full => 256,
        };
        FusionConfig { hidden_dim, input_dims, ..FusionConfig::published() }
    }
}

fn parsed<C: serde::de::DeserializeOwned>(config: &Value) -> C {
    serde_json::from_value(config.clone()).expect("the configurations of presets are well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_bundle_opens_and_the_same_seed_gives_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, seed| {
            let bundle = init_bundle(&folder.path().join(name), Preset::Demo, seed).unwrap();
            bundle.manifest().files.clone()
        };
        let first = make("a", 7);
        assert_eq!(first, make("b", 7));
        assert_ne!(first, make("c", 8));
        let bytes: u64 = first.values().map(|file| file.bytes).sum();
        assert!(bytes < 12 << 20, "{bytes} bytes");
    }

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine"), "").unwrap();
        assert!(init_bundle(folder.path(), Preset::Demo, 1).is_err());
    }
}
