//! `manifest.json`: its fields and their checks.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::read_small;
use crate::models::{FusionConfig, HeadConfig};
use crate::paths::stays_inside;
use crate::{Error, PerModality, Result};

/// Description of a bundle: its name, its parts and their files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`Manifest::SCHEMA`]; another value means another format.
    pub schema: String,
    /// Short name, shown with every result.
    pub name: String,
    /// Description of the weights and of their making, in a sentence or two.
    pub about: String,
    /// Whether the weights were trained, and on what; shown with every result. Manifests of earlier
    /// programs call it `standing`.
    #[serde(alias = "standing")]
    pub status: TrainingStatus,
    /// The parts a prediction is made of.
    pub parts: Parts,
    /// Files of the parts, by path inside the bundle (with `/`).
    pub files: BTreeMap<String, FileEntry>,
}

/// Training status of a bundle's weights, which limits the meaning of its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingStatus {
    /// Random weights: the program runs, the results mean nothing.
    Untrained,
    /// Trained on synthetic data: the results mean nothing about people.
    Demonstration,
    /// Trained on recordings of people.
    Trained,
}

/// Size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the content, 64 hexadecimal digits in lower case.
    pub sha256: String,
}

/// Name, source and licence of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Name of the model.
    pub name: String,
    /// Source: an address, a file, or how the part was made.
    pub source: String,
    /// Licence of the weights, as an SPDX expression where there is one.
    pub licence: String,
}

impl Origin {
    /// Placeholder for a licence that was not stated.
    pub const NO_LICENCE: &'static str = "not stated";

    /// Whether the licence, as it is written, excludes commercial use.
    pub fn is_non_commercial(&self) -> bool {
        let licence = self.licence.to_ascii_lowercase();
        let mut words = licence.split(|letter: char| !letter.is_ascii_alphanumeric());
        words.any(|word| matches!(word, "nc" | "noncommercial"))
            || licence.contains("non-commercial")
    }
}

/// The parts of a bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// CLIP, for body, face and scene.
    pub clip: FolderPart,
    /// Wav2Vec2, for audio.
    pub wav2vec2: FolderPart,
    /// BERT, for text.
    pub bert: FolderPart,
    /// Cross-task model of each modality (stage 2, with both stage-1 encoders inside). The key is
    /// `heads`, since such a model reads the features of a backbone.
    pub heads: PerModality<HeadPart>,
    /// The fusion model (stage 3).
    pub fusion: FusionPart,
    /// The face detector; without one, faces fall back to bodies or the whole frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub face_detector: Option<FaceDetectorPart>,
    /// The body detector; without one, bodies fall back to the whole frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_detector: Option<BodyDetectorPart>,
    /// Whisper; without it, text must come with the video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcriber: Option<FolderPart>,
}

/// A backbone in a folder of the Hugging Face layout.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderPart {
    /// Folder inside the bundle.
    pub folder: String,
    /// Name, source and licence.
    pub origin: Origin,
}

/// The cross-task model of one modality.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadPart {
    /// Weight file inside the bundle.
    pub file: String,
    /// Kind, widths and layers.
    pub config: HeadConfig,
    /// Name, source and licence.
    pub origin: Origin,
}

/// The fusion model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionPart {
    /// Weight file inside the bundle.
    pub file: String,
    /// Widths, ablated parts, and input of the model.
    pub config: FusionConfig,
    /// Name, source and licence.
    pub origin: Origin,
}

/// The face detector.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaceDetectorPart {
    /// Weight file inside the bundle.
    pub file: String,
    /// `full_range` or `short_range`.
    pub kind: String,
    /// Name, source and licence.
    pub origin: Origin,
}

/// The body detector.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyDetectorPart {
    /// Weight file inside the bundle.
    pub file: String,
    /// Configuration of the network, as the extractor reads it.
    pub config: serde_json::Value,
    /// Name, source and licence.
    pub origin: Origin,
}

impl Manifest {
    /// The format this program reads and writes.
    pub const SCHEMA: &'static str = "meptr-bundle/1";

    /// Name of the manifest inside a bundle.
    pub const FILE: &'static str = "manifest.json";

    /// Reads the manifest of a bundle, and no other file of it.
    ///
    /// # Errors
    /// When there is none, or it does not have the fields it must have.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::FILE);
        let text =
            read_small(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let what = "bundle manifest";
        serde_json::from_slice(&text).map_err(|source| Error::Json { path, what, source })
    }

    /// Contradictions in the manifest, found before any file is read; empty when there are none.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.schema != Self::SCHEMA {
            problems.push(format!(
                "its format is `{}`, this program reads `{}`",
                self.schema,
                Self::SCHEMA
            ));
        }
        for name in self.files.keys().filter(|name| !stays_inside(name)) {
            problems.push(format!("`{name}` does not name a file inside the bundle"));
        }
        for name in self.used_files().filter(|name| !self.files.contains_key(name)) {
            problems.push(format!("`{name}` is used but not listed under `files`"));
        }
        problems.extend(self.parts.config_problems());
        problems.extend(self.parts.width_problems());
        problems
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.values().fold(0, |all, file| all.saturating_add(file.bytes))
    }

    /// Parts with their names, in a fixed order.
    pub fn origins(&self) -> Vec<(String, &Origin)> {
        let parts = &self.parts;
        let mut origins = vec![
            ("clip".to_owned(), &parts.clip.origin),
            ("wav2vec2".to_owned(), &parts.wav2vec2.origin),
            ("bert".to_owned(), &parts.bert.origin),
        ];
        origins.extend(
            parts.heads.iter().map(|(modality, head)| (format!("{modality} head"), &head.origin)),
        );
        origins.push(("fusion".to_owned(), &parts.fusion.origin));
        let optional = [
            ("face detector", parts.face_detector.as_ref().map(|part| &part.origin)),
            ("body detector", parts.body_detector.as_ref().map(|part| &part.origin)),
            ("transcriber", parts.transcriber.as_ref().map(|part| &part.origin)),
        ];
        let present = optional.into_iter().filter_map(|(name, origin)| Some((name, origin?)));
        origins.extend(present.map(|(name, origin)| (name.to_owned(), origin)));
        origins
    }

    /// Files that the parts are read from, each of which must be listed with its hash.
    fn used_files(&self) -> impl Iterator<Item = String> {
        let parts = &self.parts;
        let detectors = [
            parts.face_detector.as_ref().map(|part| &part.file),
            parts.body_detector.as_ref().map(|part| &part.file),
        ];
        let mut files: Vec<String> =
            parts.heads.iter().map(|(_, head)| head.file.clone()).collect();
        files.push(parts.fusion.file.clone());
        files.extend(detectors.into_iter().flatten().cloned());
        let backbones = [
            (Some(&parts.clip), FolderPart::CLIP_FILES),
            (Some(&parts.wav2vec2), FolderPart::WAV2VEC2_FILES),
            (Some(&parts.bert), FolderPart::BERT_FILES),
            (parts.transcriber.as_ref(), FolderPart::WHISPER_FILES),
        ];
        for (part, names) in backbones {
            let Some(part) = part else { continue };
            let names = names.iter().chain(&[FolderPart::WEIGHTS]);
            files.extend(names.map(|name| format!("{}/{name}", part.folder)));
        }
        files.into_iter()
    }
}

impl FolderPart {
    /// Name of the weights in every folder.
    pub const WEIGHTS: &str = "model.safetensors";
    /// Files of CLIP beside its weights.
    pub const CLIP_FILES: &[&str] = &["config.json", "preprocessor_config.json"];
    /// Files of Wav2Vec2 beside its weights.
    pub const WAV2VEC2_FILES: &[&str] = &["config.json", "preprocessor_config.json"];
    /// Files of BERT beside its weights.
    pub const BERT_FILES: &[&str] = &["config.json", "tokenizer.json"];
    /// Files of Whisper beside its weights.
    pub const WHISPER_FILES: &[&str] =
        &["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"];
}

impl Parts {
    /// Problems of the configurations in the manifest.
    fn config_problems(&self) -> Vec<String> {
        let heads = self.heads.iter().flat_map(|(modality, head)| {
            let wrong = head.config.problems().into_iter();
            wrong.map(move |wrong| format!("the {modality} head: {wrong}"))
        });
        let fusion = self.fusion.config.problems().into_iter();
        heads.chain(fusion.map(|wrong| format!("the fusion model: {wrong}"))).collect()
    }

    /// Heads whose vectors have another width than the fusion model expects. Disabled modalities do
    /// not count.
    fn width_problems(&self) -> Vec<String> {
        let widths = &self.fusion.config.input_dims;
        let disabled = &self.fusion.config.ablation.disabled_modalities;
        self.heads
            .iter()
            .filter(|(modality, _)| !disabled.contains(modality))
            .filter(|(modality, head)| head.config.vector_width() != widths[*modality])
            .map(|(modality, head)| {
                format!(
                    "the {modality} head gives vectors of width {}, the fusion model takes {}",
                    head.config.vector_width(),
                    widths[modality]
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_commercial_licences_are_known_by_their_names() {
        let is_non_commercial = |licence: &str| {
            let (name, source) = (String::new(), String::new());
            Origin { name, source, licence: licence.to_owned() }.is_non_commercial()
        };
        for licence in ["CC-BY-NC-SA-4.0", "CC BY-NC 4.0", "Non-commercial research only"] {
            assert!(is_non_commercial(licence), "{licence}");
        }
        for licence in ["MIT", "Apache-2.0", "MIT OR Apache-2.0", "AGPL-3.0", "NCSA"] {
            assert!(!is_non_commercial(licence), "{licence}");
        }
    }

    fn demo() -> Manifest {
        serde_json::from_str(include_str!("../../../weights/demo/manifest.json")).unwrap()
    }

    fn problems_with(change: impl FnOnce(&mut Manifest)) -> Vec<String> {
        let mut manifest = demo();
        change(&mut manifest);
        manifest.problems()
    }

    #[test]
    fn names_that_leave_the_bundle_are_seen() {
        assert!(problems_with(|_| ()).is_empty());
        let entry = || FileEntry { bytes: 0, sha256: String::new() };
        for name in ["", "/etc/passwd", "../x", "a/../../x", "a\\..\\x", "./a"] {
            let problems = problems_with(|it| drop(it.files.insert(name.to_owned(), entry())));
            assert_eq!(problems.len(), 1, "{name:?}: {problems:?}");
        }
    }

    #[test]
    fn what_a_folder_is_read_from_must_be_listed() {
        for folder in ["/etc", "../clip", "clip/", "./clip", "", "elsewhere"] {
            let problems = problems_with(|it| it.parts.clip.folder = folder.to_owned());
            assert_eq!(problems.len(), 3, "{folder:?}: {problems:?}");
        }
        for name in ["wav2vec2/model.safetensors", "bert/tokenizer.json", "clip/config.json"] {
            let problems = problems_with(|it| drop(it.files.remove(name)));
            assert_eq!(problems, [format!("`{name}` is used but not listed under `files`")]);
        }
        let problems = problems_with(|it| {
            let folder = "whisper".to_owned();
            it.parts.transcriber = Some(FolderPart { folder, ..it.parts.clip.clone() });
        });
        assert_eq!(problems.len(), 5, "{problems:?}");
    }

    #[test]
    fn configurations_that_no_model_has_are_named() {
        let problems = problems_with(|it| it.parts.fusion.config.num_heads = 0);
        assert!(problems[0].starts_with("the fusion model: `num_heads` 0"), "{problems:?}");
        let problems = problems_with(|it| it.parts.fusion.config.hidden_dim = 1 << 60);
        assert!(problems[0].starts_with("the fusion model: `hidden_dim`"), "{problems:?}");
        let problems = problems_with(|it| match &mut it.parts.heads.body.config.emotion {
            crate::models::UnimodalConfig::Sequence(config) => config.input_width = usize::MAX,
            crate::models::UnimodalConfig::Audio(_) => unreachable!("of body"),
        });
        assert!(problems[0].starts_with("the body head: `emotion` has the width"), "{problems:?}");
    }
}
