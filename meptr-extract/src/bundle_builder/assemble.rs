//! Assembly of a bundle from parts: backbones of the Hub, converted heads, detectors.

use std::path::{Path, PathBuf};

use meptr_core::bundle::{
    BodyDetectorPart, Bundle, FaceDetectorPart, FolderPart, FusionPart, HeadPart, Manifest, Origin,
    PartKind, Parts, TrainingStatus,
};
use meptr_core::convert::Storage;
use meptr_core::{Modality, PerModality};

use super::backbone_folder::FolderKind;
use super::face_detector::{FACE_DETECTOR_FILE, write_face_detector};
use super::model_file::{self, ExpectedPart};
use super::staging::Staging;
use crate::DeviceChoice;
use crate::detect::FaceModel;
use crate::predictor::{Predictor, PredictorOptions};
use crate::{Error, Result};

/// Sources of the parts of a bundle. Parts that are not given are taken from `base`.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Name of the bundle.
    pub name: String,
    /// Description of the weights and how they were made.
    pub about: String,
    /// Kind of training, by which results are to be judged.
    pub status: TrainingStatus,
    /// Bundle from which the other parts are taken.
    pub base: Option<Bundle>,
    /// CLIP: `config.json`, `preprocessor_config.json`, `model.safetensors`.
    pub clip: Option<Source>,
    /// Wav2Vec2: the same files.
    pub wav2vec2: Option<Source>,
    /// BERT: `config.json`, `tokenizer.json`, `model.safetensors`.
    pub bert: Option<Source>,
    /// Cross-task models, each a converted file or the authors' own.
    pub heads: PerModality<Option<Source>>,
    /// Fusion model, likewise.
    pub fusion: Option<Source>,
    /// Face detector, of those that are part of the program.
    pub face_detector: Option<FaceModel>,
    /// YOLOv8 detector, converted or in safetensors.
    pub body_detector: Option<Source>,
    /// Whisper.
    pub transcriber: Option<Source>,
    /// Data type of all weights but those of the face detector; unchanged when none is given.
    pub storage: Option<Storage>,
}

/// Location of a part, and its entry in the manifest.
#[derive(Debug, Clone)]
pub struct Source {
    /// File, or folder of a backbone.
    pub path: PathBuf,
    /// Name, source and licence.
    pub origin: Origin,
}

/// Assembles a bundle at `target`, which must be empty or not exist.
///
/// The bundle gets its name only when it is complete and all its parts load.
///
/// # Errors
/// When a part is missing, does not fit its configuration or the other parts, or a file cannot be
/// read or written.
pub fn assemble(sources: &Sources, target: &Path) -> Result<Manifest> {
    let mut assembly = Assembly { sources, staging: Staging::start(target)? };
    let parts = assembly.parts()?;
    let staging = assembly.staging;
    if let Some(storage) = sources.storage {
        // The face detector is small, and the edges of faces should not depend on the data type.
        staging.recast(storage, FACE_DETECTOR_FILE)?;
    }
    let Sources { name, about, status, .. } = sources;
    let manifest = Manifest {
        schema: Manifest::SCHEMA.to_owned(),
        name: name.clone(),
        about: about.clone(),
        status: *status,
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
            let expected = ExpectedPart { kind: PartKind::Head, modality: Some(modality) };
            let config = model_file::take(&mut self.staging, &source.path, expected, &file)?;
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
            let expected = ExpectedPart { kind: PartKind::Fusion, modality: None };
            let config = model_file::take(&mut self.staging, &source.path, expected, &file)?;
            return Ok(FusionPart { file, config, origin: source.origin.clone() });
        }
        let base = sources.base.as_ref().map(|base| &base.manifest().parts.fusion);
        let part = base.ok_or_else(|| missing("fusion"))?.clone();
        self.take_file(&part.file, &file)?;
        Ok(FusionPart { file, ..part })
    }

    fn face_detector(&mut self) -> Result<Option<FaceDetectorPart>> {
        if let Some(model) = self.sources.face_detector {
            return write_face_detector(&mut self.staging, model).map(Some);
        }
        let base = self.sources.base.as_ref();
        let part = base.and_then(|base| base.manifest().parts.face_detector.clone());
        part.map(|part| {
            self.take_file(&part.file, FACE_DETECTOR_FILE)?;
            Ok(FaceDetectorPart { file: FACE_DETECTOR_FILE.to_owned(), ..part })
        })
        .transpose()
    }

    fn body_detector(&mut self) -> Result<Option<BodyDetectorPart>> {
        let file = "body_detector.safetensors".to_owned();
        let sources = self.sources;
        if let Some(source) = &sources.body_detector {
            let expected = ExpectedPart { kind: PartKind::BodyDetector, modality: None };
            let config = model_file::take(&mut self.staging, &source.path, expected, &file)?;
            return Ok(Some(BodyDetectorPart { file, config, origin: source.origin.clone() }));
        }
        let base = sources.base.as_ref().and_then(|b| b.manifest().parts.body_detector.clone());
        base.map(|part| {
            self.take_file(&part.file, &file)?;
            Ok(BodyDetectorPart { file, ..part })
        })
        .transpose()
    }

    /// Copies or links a file of the base.
    fn take_file(&mut self, file: &str, name: &str) -> Result<()> {
        let base = self.sources.base.as_ref().expect("the file was found in it");
        self.staging.place(&base.path(file), name)
    }

    /// Copies or links all files that the base lists below a folder.
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
        transcribes: true,
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
            status: TrainingStatus::Untrained,
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
    fn another_face_detector_replaces_that_of_the_base() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources { face_detector: Some(FaceModel::ShortRange), ..like_demo() };
        let manifest = assemble(&sources, &folder.path().join("copy")).unwrap();
        assert_eq!(manifest.parts.face_detector.unwrap().kind, "short_range");
    }
}
