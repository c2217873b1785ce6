//! `meptr weights convert`: PyTorch files to safetensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::DecimalBytes;
use meptr_core::Modality;
use meptr_core::bundle::{PartMetadata, sha256_of};
use meptr_core::convert::{
    Assumed, Basis, Conversion, ConvertOptions, ConvertReport, Model, Storage, Trust,
};
use meptr_extract::bundle_builder::{FolderKind, check_folder, kind_and_config};
use serde_json::Value as Json;

use super::hub::quoted;
use crate::{Finish, output};

/// Convert PyTorch files (or safetensors) to safetensors, for `meptr weights assemble`
///
/// The file is read as data, and no code in it is run. Configuration values that the tensors do not
/// determine are reported with their source, and must be given if there is none. NAME.json beside
/// NAME.safetensors describes the file. A backbone becomes model.safetensors, with its
/// configuration files copied from the folder of the input.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Files such as body.pt, best.pth, pytorch_model.bin
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Data type to store; computation is in f32 either way
    #[arg(long, value_enum, default_value_t = StorageArg::F32)]
    storage: StorageArg,
    /// Modality of the head, if its file does not state it
    #[arg(long, value_enum)]
    modality: Option<ModalityArg>,
    /// A value of the configuration, such as fusion.transformer.heads=8; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, Json)>,
    /// Also read whole model objects, as saved by Ultralytics: accepts more classes, runs none
    #[arg(long)]
    trust_model_objects: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum StorageArg {
    /// 4 bytes per value
    F32,
    /// 2 bytes per value, with a relative error of at most 1 in 2048
    F16,
}

impl From<StorageArg> for Storage {
    fn from(arg: StorageArg) -> Self {
        match arg {
            StorageArg::F32 => Self::F32,
            StorageArg::F16 => Self::F16,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModalityArg {
    Body,
    Face,
    Scene,
    Audio,
    Text,
}

impl From<ModalityArg> for Modality {
    fn from(arg: ModalityArg) -> Self {
        Self::ALL[arg as usize]
    }
}

/// Parses `KEY=VALUE`; a value that is not JSON is a string.
fn key_value(text: &str) -> Result<(String, Json), String> {
    let (key, value) = text.split_once('=').ok_or("give KEY=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Json::String(value.to_owned()));
    Ok((key.to_owned(), value))
}

/// Converts the files in order, and stops at the first failure.
///
/// # Errors
/// When a file cannot be read or written, or does not determine its configuration.
pub fn run(args: &ConvertArgs) -> anyhow::Result<Finish> {
    let is_one = args.inputs.len() == 1;
    anyhow::ensure!(
        is_one || (args.set.is_empty() && args.modality.is_none()),
        "--set and --modality are about one file: convert the others on their own"
    );
    let mut stems: Vec<_> = args.inputs.iter().map(|input| input.file_stem()).collect();
    stems.sort();
    anyhow::ensure!(
        stems.windows(2).all(|pair| pair[0] != pair[1]),
        "two inputs have the same name: convert them to different folders"
    );
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make the folder `{}`", args.out.display()))?;
    for input in &args.inputs {
        args.convert(input)?;
    }
    Ok(Finish::Complete)
}

impl ConvertArgs {
    fn convert(&self, input: &Path) -> anyhow::Result<()> {
        let trust = if self.trust_model_objects { Trust::ModelObjects } else { Trust::Tensors };
        let storage = self.storage.into();
        let overrides: BTreeMap<_, _> = self.set.iter().cloned().collect();
        let modality = self.modality.map(Modality::from);
        let options = ConvertOptions { trust, storage, modality, overrides };
        let conversion = Conversion::prepare(input, &options)
            .map_err(|error| hinted(error, self.trust_model_objects))?;
        let report = &conversion.report;
        self.refuse_guesses(input, report)?;
        let output = self.output(input, report)?;
        conversion.write(&output)?;
        let noted = match &report.model {
            Model::Backbone(backbone) => {
                finish_backbone(FolderKind::from(*backbone), input, &output)
            }
            _ => write_note(input, &output, report),
        };
        if noted.is_err() {
            let _ = std::fs::remove_file(&output); // the first error is the one to report
        }
        noted?;
        describe(input, &output, report)
    }

    fn output(&self, input: &Path, report: &ConvertReport) -> anyhow::Result<PathBuf> {
        let stem = input.file_stem().context("an input has no file name")?;
        // `best.safetensors.index.json`, the index of several files
        let whole =
            Path::new(stem).file_stem().filter(|_| stem.as_encoded_bytes().ends_with(b".index"));
        let stem = whole.map_or(stem, |whole| Path::new(whole).file_stem().unwrap_or(whole));
        let stem = match report.model {
            Model::Backbone(_) => "model".into(),
            _ => stem.to_string_lossy(),
        };
        let output = self.out.join(format!("{stem}.safetensors"));
        let is_input = output
            .canonicalize()
            .is_ok_and(|output| input.canonicalize().is_ok_and(|input| input == output));
        anyhow::ensure!(!is_input, "`{}` would overwrite the input", output.display());
        Ok(output)
    }

    /// Fails when a value would have to be guessed; the message says how to give it.
    fn refuse_guesses(&self, input: &Path, report: &ConvertReport) -> anyhow::Result<()> {
        let guess = |assumed: &&Assumed| assumed.basis == Basis::Guess;
        let guesses: Vec<String> = report
            .assumed
            .iter()
            .filter(guess)
            .map(|Assumed { key, value, .. }| {
                format!("--set {}", quoted(&format!("{key}={}", word(value))))
            })
            .collect();
        let modality = match (&report.model, report.modality, self.modality) {
            (Model::Head(_) | Model::Unimodal { .. }, None, None) if !guesses.is_empty() => {
                "; --modality helps where the sizes are the published ones"
            }
            _ => "",
        };
        anyhow::ensure!(
            guesses.is_empty(),
            "`{}` does not tell the whole configuration of its {}: give these values, which are \
             guesses here, as they were in training: {}{modality}",
            input.display(),
            described(&report.model),
            guesses.join(" ")
        );
        Ok(())
    }
}

/// Adds to a refusal the option that permits it.
fn hinted(error: meptr_core::Error, is_trusting: bool) -> anyhow::Error {
    let is_object = matches!(
        &error,
        meptr_core::Error::Checkpoint {
            source: meptr_core::convert::CheckpointError::ModelObject { .. },
            ..
        }
    );
    let error = anyhow::Error::from(error);
    if is_object && !is_trusting {
        return error.context("the file needs --trust-model-objects");
    }
    error
}

/// Copies the files beside a backbone's weights, and opens it all.
fn finish_backbone(kind: FolderKind, input: &Path, output: &Path) -> anyhow::Result<()> {
    let from = input.parent().unwrap_or(Path::new(""));
    let to = output.parent().context("the output lies in a folder")?;
    for file in kind.small_files() {
        let (source, target) = (from.join(file), to.join(file));
        let is_there = source
            .canonicalize()
            .is_ok_and(|source| target.canonicalize().is_ok_and(|target| source == target));
        if !is_there {
            std::fs::copy(&source, &target).with_context(|| {
                format!("a backbone needs `{file}` beside `{}`", input.display())
            })?;
        }
    }
    Ok(check_folder(kind, to)?)
}

fn write_note(input: &Path, output: &Path, report: &ConvertReport) -> anyhow::Result<()> {
    let (kind, config) = kind_and_config(report).context("a backbone has no note")?;
    let hash =
        |path: &Path| sha256_of(path).with_context(|| format!("reading `{}`", path.display()));
    let name = input.file_name().unwrap_or_default().to_string_lossy();
    let note = PartMetadata {
        schema: PartMetadata::SCHEMA.to_owned(),
        kind,
        modality: report.modality,
        config,
        assumed: serde_json::to_value(&report.assumed)?,
        source: format!("{name}, SHA-256 {}", hash(input)?),
        sha256: hash(output)?,
    };
    Ok(note.write(output)?)
}

fn describe(input: &Path, output: &Path, report: &ConvertReport) -> anyhow::Result<()> {
    let of = report.modality.map(|modality| format!(" of {modality}")).unwrap_or_default();
    let size = DecimalBytes(output.metadata().map_or(0, |found| found.len()));
    output::line(format_args!(
        "{}: {}{of}, {} tensors\n  written to {}, {size}",
        input.display(),
        described(&report.model),
        report.tensors,
        output.display()
    ))?;
    for Assumed { key, value, basis } in &report.assumed {
        let basis = match basis {
            Basis::Given => "given",
            Basis::File => "from the file's own configuration",
            Basis::Published => "as in the published model, whose sizes these are",
            Basis::Guess => "a guess",
        };
        output::line(format_args!("  {key} = {} ({basis})", word(value)))?;
    }
    if !report.left_out.is_empty() {
        let (count, first) = (report.left_out.len(), &report.left_out[0]);
        output::line(format_args!(
            "  left out: {count} tensors that are not used, such as {first}"
        ))?;
    }
    Ok(())
}

fn described(model: &Model) -> &'static str {
    match model {
        Model::Fusion(_) => "fusion model",
        Model::Head(_) => "head",
        Model::Unimodal { .. } => "stage-1 model",
        Model::Yolo(_) => "YOLOv8 detector",
        Model::Backbone(_) => "backbone",
    }
}

/// Formats a value for `--set`.
fn word(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbers_flags_or_words() {
        let value = |text: &str| key_value(text).unwrap().1;
        assert_eq!(value("a.b=8"), Json::from(8));
        assert_eq!(value("a.b=true"), Json::from(true));
        assert_eq!(value("a.b=sigmoid"), Json::from("sigmoid"));
        assert!(key_value("a.b").is_err());
    }

    #[test]
    fn modalities_keep_their_order() {
        for arg in ModalityArg::value_variants() {
            let name = arg.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(Modality::from(*arg).name(), name);
        }
    }
}
