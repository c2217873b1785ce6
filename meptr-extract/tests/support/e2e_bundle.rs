//! The weight bundle that the end-to-end reference cases were computed with, built from the
//! `e2e` folder of the reference data.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle::{DType, Device, Shape, Tensor};
use meptr_core::bundle::{
    Bundle, FaceDetectorPart, FileEntry, FolderPart, FusionPart, HeadPart, Manifest, Origin, Parts,
    TrainingStatus, sha256_of,
};
use meptr_core::models::{Ablation, FusionConfig, HeadConfig, ScoreTransform};
use meptr_core::weights::{generated_tensor, save_file};
use meptr_core::{Modality, PerModality};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

const FACE_DETECTOR: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/face_detector/full_range.safetensors");

/// A bundle in a folder that is removed in the end.
pub(crate) struct CaseBundle {
    folder: TempDir,
    manifest: Manifest,
}

/// Entry of `weights_spec.json` about one weight file.
#[derive(Deserialize)]
struct WeightFile {
    seed: u64,
    tensors: BTreeMap<String, Vec<usize>>,
}

impl CaseBundle {
    /// Builds the bundle of the reference data in `root`.
    pub(crate) fn build(root: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let files: BTreeMap<String, WeightFile> =
            serde_json::from_value(json(&root.join("e2e/weights_spec.json"))?)?;
        for (name, file) in &files {
            write_weights(&folder.path().join(format!("{name}.safetensors")), file)?;
        }
        for backbone in ["clip", "bert", "wav2vec2"] {
            for entry in std::fs::read_dir(root.join("e2e/hf").join(backbone))? {
                let entry = entry?;
                std::fs::copy(entry.path(), folder.path().join(backbone).join(entry.file_name()))?;
            }
        }
        std::fs::copy(FACE_DETECTOR, folder.path().join("face_detector.safetensors"))?;
        let manifest = Manifest {
            schema: Manifest::SCHEMA.to_owned(),
            name: "end-to-end".to_owned(),
            about: "The weights of the end-to-end reference cases.".to_owned(),
            status: TrainingStatus::Untrained,
            parts: parts(root, &files)?,
            files: listed(folder.path())?,
        };
        Ok(Self { folder, manifest })
    }

    /// Writes the manifest with this transform of trait scores; the folder is a bundle then.
    pub(crate) fn open(&self, score_transform: ScoreTransform) -> Result<Bundle> {
        let mut manifest = self.manifest.clone();
        manifest.parts.fusion.config.score_transform = score_transform;
        let text = serde_json::to_vec_pretty(&manifest)?;
        std::fs::write(self.folder.path().join(Manifest::FILE), text)?;
        Ok(Bundle::open(self.folder.path())?)
    }
}

fn json(path: &Path) -> Result<Value> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Stores f16, in which every generated value is exact.
fn write_weights(path: &Path, file: &WeightFile) -> Result<()> {
    std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
    let tensors = file.tensors.iter().map(|(name, shape)| {
        let shape = Shape::from(shape.as_slice());
        let tensor = generated_tensor(name, &shape, file.seed, &Device::Cpu)?;
        Ok((name.clone(), tensor.to_dtype(DType::F16)?))
    });
    let tensors: BTreeMap<String, Tensor> = tensors.collect::<Result<_>>()?;
    Ok(save_file(path, &tensors)?)
}

fn parts(root: &Path, files: &BTreeMap<String, WeightFile>) -> Result<Parts> {
    let backbone = |folder: &str| FolderPart { folder: folder.to_owned(), origin: origin() };
    let heads = PerModality::try_from_fn(|modality| -> Result<HeadPart> {
        let name = match modality {
            Modality::Audio | Modality::Text => format!("{modality}_fusion"),
            _ => format!("video_{modality}_fusion"),
        };
        let case = json(&root.join(format!("models/{name}_real.json")))?;
        let config = HeadConfig::from_reference_json(&case["config"])?;
        Ok(HeadPart { file: format!("{name}.safetensors"), config, origin: origin() })
    })?;
    let stage3 = files.get("stage3").context("no weights of stage 3")?;
    let config = FusionConfig {
        hidden_dim: stage3.tensors.get("emo_head.weight").context("no emotion head")?[1],
        num_heads: 8,
        dropout: 0.0,
        input_dims: PerModality::from_fn(|modality| heads[modality].config.vector_width()),
        ablation: Ablation { disable_guide_pkl: true, ..Ablation::default() },
        score_transform: ScoreTransform::Logits,
    };
    Ok(Parts {
        clip: backbone("clip"),
        wav2vec2: backbone("wav2vec2"),
        bert: backbone("bert"),
        heads,
        fusion: FusionPart { file: "stage3.safetensors".to_owned(), config, origin: origin() },
        face_detector: Some(FaceDetectorPart {
            file: "face_detector.safetensors".to_owned(),
            kind: "full_range".to_owned(),
            origin: origin(),
        }),
        body_detector: None,
        transcriber: None,
    })
}

fn origin() -> Origin {
    Origin {
        name: "reference case".to_owned(),
        source: "generated".to_owned(),
        licence: "MIT OR Apache-2.0".to_owned(),
    }
}

/// Every file below a folder with its size and hash.
fn listed(root: &Path) -> Result<BTreeMap<String, FileEntry>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            let bytes = std::fs::metadata(&path)?.len();
            files.insert(name, FileEntry { bytes, sha256: sha256_of(&path)? });
        }
    }
    Ok(files)
}
