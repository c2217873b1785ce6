//! Backbones and Whisper: folders of the Hugging Face layout.

use std::collections::BTreeMap;
use std::path::Path;

use candle::Device;
use meptr_core::Precision;
use meptr_core::bundle::FolderPart;
use meptr_core::convert::{Backbone, ConvertOptions, Storage, Trust, convert_file};

use super::staging::Staging;
use crate::backbones::{
    Bert, BertTokenizer, ClipPreprocessor, ClipVision, FromCheckpoint, Wav2Vec2,
    Wav2Vec2Preprocessor,
};
use crate::speech::Whisper;
use crate::{Error, Result};

/// Files that may replace `model.safetensors`, in order of preference.
const TO_CONVERT: [&str; 3] =
    ["model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Model of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // names of architectures
pub enum FolderKind {
    Clip,
    Wav2Vec2,
    Bert,
    Whisper,
}

impl From<Backbone> for FolderKind {
    fn from(backbone: Backbone) -> Self {
        match backbone {
            Backbone::Clip => Self::Clip,
            Backbone::Wav2Vec2 => Self::Wav2Vec2,
            Backbone::Bert => Self::Bert,
            Backbone::Whisper => Self::Whisper,
        }
    }
}

impl FolderKind {
    /// Files beside the weights that are read.
    pub fn small_files(self) -> &'static [&'static str] {
        match self {
            Self::Clip => FolderPart::CLIP_FILES,
            Self::Wav2Vec2 => FolderPart::WAV2VEC2_FILES,
            Self::Bert => FolderPart::BERT_FILES,
            Self::Whisper => FolderPart::WHISPER_FILES,
        }
    }

    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Clip => "clip",
            Self::Wav2Vec2 => "wav2vec2",
            Self::Bert => "bert",
            Self::Whisper => "whisper",
        }
    }

    /// Copies the files of a folder into a bundle. Weights in several files are joined, and pickles are
    /// converted where there are no safetensors.
    pub(super) fn take(self, staging: &mut Staging, folder: &Path) -> Result<()> {
        let name = self.folder();
        for file in self.small_files() {
            staging.place(&folder.join(file), &format!("{name}/{file}"))?;
        }
        let weights = format!("{name}/model.safetensors");
        let safetensors = folder.join("model.safetensors");
        let others = TO_CONVERT.map(|name| folder.join(name));
        let other = others.iter().find(|path| path.is_file());
        let Some(other) = other.filter(|_| !safetensors.is_file()) else {
            return staging.place(&safetensors, &weights);
        };
        let options = ConvertOptions {
            trust: Trust::Tensors,
            storage: Storage::F32,
            modality: None,
            overrides: BTreeMap::new(),
        };
        convert_file(other, &staging.new_file(&weights)?, &options)?;
        Ok(())
    }
}

/// Checks a folder by opening all that prediction opens.
///
/// # Errors
/// When a file is missing or does not fit the others.
pub fn check_folder(kind: FolderKind, folder: &Path) -> Result<()> {
    let device = Device::Cpu;
    let missing = kind.small_files().iter().find(|file| !folder.join(file).is_file());
    if let Some(file) = missing {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Error::Read { path: folder.join(file), source });
    }
    match kind {
        FolderKind::Clip => {
            ClipPreprocessor::open(folder)?;
            ClipVision::open(folder, &device, Precision::F32).map(drop)
        }
        FolderKind::Wav2Vec2 => {
            Wav2Vec2Preprocessor::open(folder)?;
            Wav2Vec2::open(folder, &device, Precision::F32).map(drop)
        }
        FolderKind::Bert => {
            let model = Bert::open(folder, &device, Precision::F32)?;
            BertTokenizer::open(folder, model.config().max_position_embeddings).map(drop)
        }
        FolderKind::Whisper => Whisper::open(folder, &device, Precision::F32).map(drop),
    }
}
