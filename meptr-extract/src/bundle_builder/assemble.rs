//! A bundle from parts: backbones of the Hub, converted heads, detectors.

use std::path::{Path, PathBuf};

use meptr_core::bundle::{
    BodyDetectorPart, Bundle, FaceDetectorPart, FolderPart, FusionPart, HeadPart, Manifest, Origin,
    PartKind, Parts, Standing,
};
use meptr_core::convert::Storage;
use meptr_core::{Modality, PerModality};

use super::backbone_folder::FolderKind;
use super::model_file;
use super::random::FACE_DETECTOR;
use super::staging::Staging;
use crate::DeviceChoice;
use crate::detect::FaceModel;
use crate::predictor::{Predictor, PredictorOptions};
use crate::{Error, Result};

pub(super) const FACE_DETECTOR_FILE: &str = "face_detector.safetensors";
const SHORT_RANGE: &[u8] = include_bytes!("../../../weights/face_detector/short_range.safetensors");

/// What a bundle is made of. Parts that are not given come from `base`.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Name of the bundle.
    pub name: String,
    /// What the weights are and how they were made.
    pub about: String,
    /// What results made with them are worth.
    pub standing: Standing,
    /// A bundle to take the other parts from.
    pub base: Option<Bundle>,
    /// CLIP: `config.json`, `preprocessor_config.json`, `model.safetensors`.
    pub clip: Option<Source>,
    /// Wav2Vec2: the same files.
    pub wav2vec2: Option<Source>,
    /// BERT: `config.json`, `tokenizer.json`, `model.safetensors`.
    pub bert: Option<Source>,
    /// The cross-task models, each a converted file or the authors' own.
    pub heads: PerModality<Option<Source>>,
    /// The fusion model, likewise.
    pub fusion: Option<Source>,
    /// The face detector, of those that the program carries.
    pub face_detector: Option<FaceModel>,
    /// A YOLOv8 detector, converted or in safetensors.
    pub body_detector: Option<Source>,
    /// Whisper.
    pub transcriber: Option<Source>,
    /// Number format of all weights but the face detector's; as they are when none is given.
    pub storage: Option<Storage>,
}

/// Where a part lies, and what the manifest says about it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file, or the folder of a backbone.
    pub path: PathBuf,
    /// Name, source and licence.
    pub origin: Origin,
}

/// Puts a bundle together at `target`, which must be empty or not exist, and opens it.
///
/// It gets its name only when it is whole and every part of it loads.
///
/// # Errors
/// When a part is missing, does not fit its configuration or the other parts, or a file cannot be
/// read or written.
pub fn assemble(sources: &Sources, target: &Path) -> Result<Manifest> {
    let mut assembly = Assembly { sources, staging: Staging::start(target)? };
    let parts = assembly.parts()?;
    let staging = assembly.staging;
    if let Some(storage) = sources.storage {
        staging.recast(storage)?;
    }
    let Sources { name, about, standing, .. } = sources;
    let manifest = Manifest {
        schema: Manifest::SCHEMA.to_owned(),
        name: name.clone(),
        about: about.clone(),
        standing: *standing,
        parts,
        files: staging.entries()?,
    };
    let problems = manifest.problems();
    if !problems.is_empty() {
        let path = target.to_owned();
        return Err(meptr_core::Error::UnfitBundle { path, problems }.into());
    }
    staging.write_manifest(&manifest)?;
    check(staging.folder())?;
    staging.finish()?;
    Ok(manifest)
}

struct Assembly<'a> {
    sources: &'a Sources,
    staging: Staging,
}

impl Assembly<'_> {
    fn parts(&mut self) -> Result<Parts> {
        let sources = self.sources;
        let base = sources.base.as_ref().map(|base| &base.manifest().parts);
        Ok(Parts {
            clip: self.folder(FolderKind::Clip, &sources.clip, base.map(|base| &base.clip))?,
            wav2vec2: self.folder(
                FolderKind::Wav2Vec2,
                &sources.wav2vec2,
                base.map(|base| &base.wav2vec2),
            )?,
            bert: self.folder(FolderKind::Bert, &sources.bert, base.map(|base| &base.bert))?,
            heads: PerModality::try_from_fn(|modality| self.head(modality))?,
            fusion: self.fusion()?,
            face_detector: self.face_detector()?,
            body_detector: self.body_detector()?,
            transcriber: match base.and_then(|base| base.transcriber.as_ref()) {
                None if sources.transcriber.is_none() => None,
                base => Some(self.folder(FolderKind::Whisper, &sources.transcriber, base)?),
            },
        })
    }

    fn folder(
        &mut self,
        kind: FolderKind,
        source: &Option<Source>,
        base: Option<&FolderPart>,
    ) -> Result<FolderPart> {
        let name = kind.folder();
        let origin = match (source, base) {
            (Some(source), _) => {
                kind.take(&mut self.staging, &source.path)?;
                source.origin.clone()
            }
            (None, Some(part)) => {
                self.take_below(&part.folder, name)?;
                part.origin.clone()
            }
            (None, None) => return Err(missing(name)),
        };
        Ok(FolderPart { folder: name.to_owned(), origin })
    }

    fn head(&mut self, modality: Modality) -> Result<HeadPart> {
        let file = format!("heads/{modality}.safetensors");
        let sources = self.sources;
        if let Some(source) = &sources.heads[modality] {
            let wanted = (PartKind::Head, Some(modality));
            let config = model_file::take(&mut self.staging, &source.path, wanted, &file)?;
            return Ok(HeadPart { file, config, origin: source.origin.clone() });
        }
        let base = sources.base.as_ref().map(|base| &base.manifest().parts.heads[modality]);
        let part = base.ok_or_else(|| missing(&format!("{modality} head")))?.clone();
        self.take_file(&part.file, &file)?;
        Ok(HeadPart { file, ..part })
    }

    fn fusion(&mut self) -> Result<FusionPart> {
        let file = "fusion.safetensors".to_owned();
        let sources = self.sources;
        if let Some(source) = &sources.fusion {
            let wanted = (PartKind::Fusion, None);
            let config = model_file::take(&mut self.staging, &source.path, wanted, &file)?;
            return Ok(FusionPart { file, config, origin: source.origin.clone() });
        }
        let base = sources.base.as_ref().map(|base| &base.manifest().parts.fusion);
        let part = base.ok_or_else(|| missing("fusion"))?.clone();
        self.take_file(&part.file, &file)?;
        Ok(FusionPart { file, ..part })
    }

    fn face_detector(&mut self) -> Result<Option<FaceDetectorPart>> {
        let file = FACE_DETECTOR_FILE.to_owned();
        let sources = self.sources;
        let base = sources.base.as_ref().and_then(|b| b.manifest().parts.face_detector.clone());
        let (kind, words, content) = match (sources.face_detector, base) {
            (Some(FaceModel::FullRange), _) => ("full_range", "full range", FACE_DETECTOR),
            (Some(FaceModel::ShortRange), _) => ("short_range", "short range", SHORT_RANGE),
            (None, Some(part)) => {
                self.take_file(&part.file, &file)?;
                return Ok(Some(FaceDetectorPart { file, ..part }));
            }
            (None, None) => return Ok(None),
        };
        self.staging.write(&file, content)?;
        let sparse = if kind == "full_range" { "_sparse" } else { "" };
        let origin = Origin {
            name: format!("MediaPipe face detection, {words}"),
            source: format!("mediapipe 0.10.21, face_detection_{kind}{sparse}.tflite"),
            licence: "Apache-2.0".to_owned(),
        };
        Ok(Some(FaceDetectorPart { file, kind: kind.to_owned(), origin }))
    }

    fn body_detector(&mut self) -> Result<Option<BodyDetectorPart>> {
        let file = "body_detector.safetensors".to_owned();
        let sources = self.sources;
        if let Some(source) = &sources.body_detector {
            let wanted = (PartKind::BodyDetector, None);
            let config = model_file::take(&mut self.staging, &source.path, wanted, &file)?;
            return Ok(Some(BodyDetectorPart { file, config, origin: source.origin.clone() }));
        }
        let base = sources.base.as_ref().and_then(|b| b.manifest().parts.body_detector.clone());
        base.map(|part| {
            self.take_file(&part.file, &file)?;
            Ok(BodyDetectorPart { file, ..part })
        })
        .transpose()
    }

    /// Takes a file of the base over.
    fn take_file(&mut self, file: &str, name: &str) -> Result<()> {
        let base = self.sources.base.as_ref().expect("the file was found in it");
        self.staging.place(&base.path(file), name)
    }

    /// Takes all files over that the base lists below a folder.
    fn take_below(&mut self, folder: &str, name: &str) -> Result<()> {
        let base = self.sources.base.as_ref().expect("the folder was found in it");
        for file in base.manifest().files.keys() {
            let inner = file.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            if let Some(inner) = inner {
                self.staging.place(&base.path(file), &format!("{name}/{inner}"))?;
            }
        }
        Ok(())
    }
}

fn missing(part: &str) -> Error {
    Error::MissingPart { part: part.to_owned() }
}

/// Loads every part.
fn check(folder: &Path) -> Result<()> {
    let options = PredictorOptions {
        device: DeviceChoice::Cpu,
        listens: true,
        ..PredictorOptions::default()
    };
    Predictor::open_with(folder, &options).map(drop)
}

#[cfg(test)]
mod tests {
    use candle::Device;
    use candle_nn::VarBuilder;
    use meptr_core::weights::{generate, save_file};

    use super::*;
    use crate::detect::yolo::{Yolo, YoloConfig};

    fn demo() -> Bundle {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo");
        Bundle::open(&folder).unwrap()
    }

    fn like_demo() -> Sources {
        Sources {
            name: "copy".to_owned(),
            about: String::new(),
            standing: Standing::Untrained,
            base: Some(demo()),
            clip: None,
            wav2vec2: None,
            bert: None,
            heads: PerModality::default(),
            fusion: None,
            face_detector: None,
            body_detector: None,
            transcriber: None,
            storage: None,
        }
    }

    #[test]
    fn a_bundle_like_its_base_has_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("copy");
        let manifest = assemble(&like_demo(), &target).unwrap();
        assert_eq!(manifest.files, demo().manifest().files);
        assert_eq!(Bundle::open(&target).unwrap().manifest().name, "copy");
    }

    #[test]
    fn parts_that_nothing_gives_are_named_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("copy");
        let error = assemble(&Sources { base: None, ..like_demo() }, &target).unwrap_err();
        assert!(matches!(&error, Error::MissingPart { part } if part == "clip"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_body_detector_is_known_by_its_shapes() {
        let folder = tempfile::tempdir().unwrap();
        let config = YoloConfig { width_multiple: 0.125, ..YoloConfig::nano(2) };
        let build = |vb: VarBuilder| Yolo::load(&config, vb).map(drop);
        let (_, tensors) = generate(1, &Device::Cpu, build).unwrap();
        let path = folder.path().join("yolo.safetensors");
        save_file(&path, &tensors).unwrap();
        let (name, source, licence) = ("YOLO".to_owned(), String::new(), "AGPL-3.0".to_owned());
        let body_detector = Some(Source { path, origin: Origin { name, source, licence } });
        let sources = Sources { body_detector, ..like_demo() };
        let manifest = assemble(&sources, &folder.path().join("copy")).unwrap();
        let part = manifest.parts.body_detector.unwrap();
        assert_eq!(
            (part.config["network"]["classes"].as_u64(), part.file.as_str()),
            (Some(2), "body_detector.safetensors")
        );
    }

    #[test]
    fn another_face_detector_takes_the_place_of_the_base_s() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources { face_detector: Some(FaceModel::ShortRange), ..like_demo() };
        let manifest = assemble(&sources, &folder.path().join("copy")).unwrap();
        assert_eq!(manifest.parts.face_detector.unwrap().kind, "short_range");
    }
}
