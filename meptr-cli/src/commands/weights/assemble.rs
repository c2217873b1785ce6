//! `meptr weights assemble`: a bundle from parts.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::DecimalBytes;
use meptr_core::bundle::{Manifest, Origin, PartMetadata, TrainingStatus};
use meptr_core::hub::{self, LocalPart};
use meptr_core::{Bundle, Modality, PerModality};
use meptr_extract::bundle_builder::{Source, Sources, assemble};
use meptr_extract::detect::FaceModel;

use super::convert::StorageArg;
use super::hub::{DEMO, HubArgs, folder_of};
use super::install::install;
use crate::{Finish, output};

/// Assemble a bundle from backbones, heads and detectors
///
/// Backbones are names from `meptr weights list` that were pulled, or folders with config.json,
/// model.safetensors (or pytorch_model.bin) and the files beside them. Heads and fusion are files
/// that `meptr weights convert` wrote, or the authors' own. With --from, parts that are not named
/// come from that bundle.
#[derive(Debug, Args)]
pub struct AssembleArgs {
    /// Folder to write; must not exist or be empty [default: beside the cache, where `meptr
    /// predict` finds the bundle, in place of an older one of this name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Name of the bundle, shown with every result
    #[arg(long)]
    name: String,
    /// Description of the weights and their training
    #[arg(long, value_name = "TEXT", default_value = "")]
    about: String,
    /// Training status of the weights
    #[arg(long, alias = "standing", value_enum)]
    status: StatusArg,
    /// Bundle that provides all parts that are not named: a folder, the name of one that was
    /// assembled or pulled, or `demo`
    #[arg(long, value_name = "DIR|NAME")]
    from: Option<PathBuf>,
    /// CLIP [default: clip, unless --from]
    #[arg(long, value_name = "NAME|DIR")]
    clip: Option<String>,
    /// BERT [default: bge, unless --from]
    #[arg(long, value_name = "NAME|DIR")]
    bert: Option<String>,
    /// Wav2Vec2 [default: wav2vec2, unless --from]
    #[arg(long, value_name = "NAME|DIR")]
    wav2vec2: Option<String>,
    /// Head of a modality: body=FILE, face=FILE, scene=FILE, audio=FILE, text=FILE
    #[arg(long = "head", value_name = "MODALITY=FILE", value_parser = head)]
    heads: Vec<(Modality, PathBuf)>,
    /// Fusion model
    #[arg(long, value_name = "FILE")]
    fusion: Option<PathBuf>,
    /// Face detector, one of those in the program [default: full-range, unless --from]
    #[arg(long, value_enum)]
    face_detector: Option<FaceArg>,
    /// YOLOv8 body detector; without one, bodies fall back to the whole frame
    #[arg(long, value_name = "NAME|FILE")]
    body_detector: Option<String>,
    /// Whisper; without it, text must come with the video
    #[arg(long, value_name = "NAME|DIR")]
    transcriber: Option<String>,
    /// Data type of all stored weights except the face detector's [default: that of the inputs]
    #[arg(long, value_enum)]
    storage: Option<StorageArg>,
    /// Licence of a part that is a file or folder: clip=, bert=, wav2vec2=, heads=, fusion=,
    /// body-detector=, transcriber=
    #[arg(long = "licence", value_name = "PART=TEXT", value_parser = licence)]
    licences: Vec<(String, String)>,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StatusArg {
    /// Random weights: the results mean nothing
    Untrained,
    /// Trained on synthetic data: the results mean nothing about people
    Demonstration,
    /// Trained on recordings of people
    Trained,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FaceArg {
    /// Faces within about five metres
    FullRange,
    /// Faces within about two metres, as in front of a webcam
    ShortRange,
}

const LICENSED: [&str; 7] =
    ["clip", "bert", "wav2vec2", "heads", "fusion", "body-detector", "transcriber"];

fn head(text: &str) -> Result<(Modality, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("give MODALITY=FILE")?;
    let modality =
        Modality::named(name).ok_or("the modality is body, face, scene, audio or text")?;
    Ok((modality, PathBuf::from(file)))
}

fn licence(text: &str) -> Result<(String, String), String> {
    let (part, licence) = text.split_once('=').ok_or("give PART=TEXT")?;
    if LICENSED.contains(&part) {
        return Ok((part.to_owned(), licence.to_owned()));
    }
    Err(format!("the part is one of {}", LICENSED.join(", ")))
}

/// Assembles the bundle and loads every part of it.
///
/// # Errors
/// When a part is missing or does not fit.
pub fn run(args: &AssembleArgs) -> anyhow::Result<Finish> {
    if args.out.is_none() {
        args.require_free_name()?;
    }
    let sources = args.sources()?;
    let folder = match &args.out {
        Some(folder) => {
            assemble(&sources, folder)
                .with_context(|| format!("cannot make a bundle in `{}`", folder.display()))?;
            folder.clone()
        }
        None => install(&args.hub, &sources)?,
    };
    let manifest = Manifest::read(&folder)?;
    let bytes = DecimalBytes(manifest.bytes());
    let shown = folder.display();
    output::line(format_args!("{shown}: {}, {bytes}; every part loads", manifest.name))?;
    if args.out.is_none() {
        output::line(format_args!("it is used from now on: meptr predict VIDEO"))?;
    }
    let unlicensed = manifest.origins().into_iter();
    let unlicensed: Vec<String> = unlicensed
        .filter(|(_, origin)| origin.licence == Origin::NO_LICENCE)
        .map(|(part, _)| part)
        .collect();
    if !unlicensed.is_empty() {
        tracing::warn!("no licence was given (--licence) for: {}", unlicensed.join(", "));
    }
    Ok(Finish::Complete)
}

impl AssembleArgs {
    /// Refuses reserved names for bundles beside the cache, which are found by name.
    fn require_free_name(&self) -> anyhow::Result<()> {
        let (catalog, name) = (self.hub.catalog()?, &self.name);
        let is_listed =
            catalog.bundle(name).is_some() || catalog.parts().iter().any(|part| part.name == *name);
        anyhow::ensure!(
            name != DEMO && !is_listed,
            "`{name}` names other weights (`meptr weights list`): choose another --name, or a folder \
             with --out"
        );
        Ok(())
    }

    fn sources(&self) -> anyhow::Result<Sources> {
        let base = self.from.as_deref().map(|from| self.hub.bundle_at(from)).transpose()?;
        let base = base.as_deref().map(Bundle::open).transpose()?;
        // Without --from, backbones default to those of the catalogue.
        let known = |name: &'static str| base.is_none().then(|| name.to_owned());
        let backbone = |option: &Option<String>, part: &str, name| {
            let chosen = option.clone().or_else(|| known(name));
            chosen.map(|chosen| self.source(part, &chosen)).transpose()
        };
        let (clip, bert) =
            (backbone(&self.clip, "clip", "clip")?, backbone(&self.bert, "bert", "bge")?);
        let wav2vec2 = backbone(&self.wav2vec2, "wav2vec2", "wav2vec2")?;
        let heads = PerModality::try_from_fn(|modality| {
            let given = self.heads.iter().rfind(|(of, _)| *of == modality);
            given.map(|(_, file)| self.file("heads", file)).transpose()
        })?;
        let face_detector = match self.face_detector {
            Some(FaceArg::FullRange) => Some(FaceModel::FullRange),
            Some(FaceArg::ShortRange) => Some(FaceModel::ShortRange),
            None => base.is_none().then_some(FaceModel::FullRange),
        };
        let source = |option: &Option<String>, part| {
            option.as_ref().map(|chosen| self.source(part, chosen)).transpose()
        };
        Ok(Sources {
            name: self.name.clone(),
            about: self.about.clone(),
            status: match self.status {
                StatusArg::Untrained => TrainingStatus::Untrained,
                StatusArg::Demonstration => TrainingStatus::Demonstration,
                StatusArg::Trained => TrainingStatus::Trained,
            },
            clip,
            wav2vec2,
            bert,
            heads,
            fusion: self.fusion.as_deref().map(|file| self.file("fusion", file)).transpose()?,
            face_detector,
            body_detector: source(&self.body_detector, "body-detector")?,
            transcriber: source(&self.transcriber, "transcriber")?,
            storage: self.storage.map(Into::into),
            base,
        })
    }

    /// A file, a folder, or a name from the list of weights that was pulled.
    fn source(&self, part: &str, chosen: &str) -> anyhow::Result<Source> {
        let path = Path::new(chosen);
        if path.is_file() {
            return self.file(part, path);
        }
        let parts = self.hub.catalog()?.select(chosen);
        if let Ok([hub::Part { source: hub::Source::Folder(folder), .. }]) = parts.as_deref() {
            let source = format!("the folder `{}`", last_name(folder));
            let origin = self.origin(part, last_name(folder), source);
            return Ok(Source { path: folder.clone(), origin });
        }
        let [local] = <[LocalPart; 1]>::try_from(self.hub.complete_parts(chosen)?)
            .map_err(|_| anyhow::anyhow!("`{chosen}` is a bundle: name one part of it"))?;
        let mut path = folder_of(&local).context("the part has no files")?;
        if part == "body-detector" {
            let weights = local.files.iter().find(|file| file.path.ends_with(".safetensors"));
            path = weights.with_context(|| format!("`{chosen}` holds no weights"))?.local.clone();
        }
        let known = &local.part;
        let commit = local.files.first().and_then(|file| {
            Some(format!("{}@{}", file.repository.as_ref()?, file.commit.as_ref()?))
        });
        let mut origin = self.origin(part, known.title.clone(), commit.unwrap_or_default());
        if origin.licence == Origin::NO_LICENCE {
            origin.licence.clone_from(&known.licence);
        }
        Ok(Source { path, origin })
    }

    fn file(&self, part: &str, path: &Path) -> anyhow::Result<Source> {
        let note = PartMetadata::read(path)?;
        let source = note.map_or_else(|| last_name(path), |note| note.source);
        Ok(Source { path: path.to_owned(), origin: self.origin(part, last_name(path), source) })
    }

    fn origin(&self, part: &str, name: String, source: String) -> Origin {
        let given = self.licences.iter().rfind(|(of, _)| of == part);
        let licence = given.map_or(Origin::NO_LICENCE, |(_, licence)| licence).to_owned();
        Origin { name, source, licence }
    }
}

/// Last component of a path; the rest is private.
fn last_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_licences_are_named() {
        assert_eq!(head("body=x/y.pt"), Ok((Modality::Body, "x/y.pt".into())));
        assert!(head("nose=x").is_err() && head("body").is_err());
        assert!(licence("heads=MIT").is_ok() && licence("head=MIT").is_err());
    }
}
