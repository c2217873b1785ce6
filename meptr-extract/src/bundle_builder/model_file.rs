//! Kind and configuration of a weight file, for the manifest of a bundle.

use std::collections::BTreeMap;
use std::path::Path;

use meptr_core::Modality;
use meptr_core::bundle::{PartKind, PartMetadata, sha256_of};
use meptr_core::convert::{
    Basis, Conversion, ConvertOptions, ConvertReport, Layout, Model, Storage, Trust,
};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::staging::Staging;
use crate::detect::yolo::YoloConfig;
use crate::detect::{BodyConfig, PersonClass};
use crate::{Error, Result};

/// Kind of part that a converted file can be, and its configuration in the manifest; `None` for a
/// backbone, whose configuration is the `config.json` beside it.
pub fn kind_and_config(report: &ConvertReport) -> Option<(PartKind, Json)> {
    let kind = match &report.model {
        Model::Head(_) => PartKind::Head,
        Model::Fusion(_) => PartKind::Fusion,
        Model::Unimodal { .. } => PartKind::Unimodal,
        Model::Yolo(shape) => {
            let network = YoloConfig::of_shape(*shape);
            let class_names = class_names(report.config_in_file.as_ref(), network.classes);
            let by_name = class_names.iter().any(|name| name == "person");
            let person = match by_name {
                true => PersonClass::Name("person".to_owned()),
                false => PersonClass::default(),
            };
            let config = BodyConfig { network, class_names, person };
            let config = serde_json::to_value(config).expect("numbers and names are JSON");
            return Some((PartKind::BodyDetector, config));
        }
        Model::Backbone(_) => return None,
    };
    Some((kind, report.model.config_json()))
}

/// Class names of an Ultralytics file, from a list or a table by number; empty unless all are there.
fn class_names(config: Option<&Json>, classes: usize) -> Vec<String> {
    let names = config.and_then(|config| config.get("names"));
    let name = |class: usize| {
        let name =
            names.and_then(|names| names.get(class).or_else(|| names.get(class.to_string())));
        name.and_then(Json::as_str).map(str::to_owned)
    };
    (0..classes).map(name).collect::<Option<_>>().unwrap_or_default()
}

/// Kind of part that a file must be, and its modality, if that matters.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpectedPart {
    pub(super) kind: PartKind,
    pub(super) modality: Option<Modality>,
}

/// Copies or converts a weight file into a bundle, and returns its configuration.
///
/// A file that `meptr weights convert` wrote has a note beside it. Others are converted here, which is
/// possible only if the tensors determine the whole configuration.
///
/// # Errors
/// When the file cannot be read, is of another kind or modality, or does not determine its
/// configuration.
pub(super) fn take<C: DeserializeOwned>(
    staging: &mut Staging,
    path: &Path,
    expected: ExpectedPart,
    name: &str,
) -> Result<C> {
    let unusable = |why: String| {
        let path = path.to_owned();
        Error::BackboneFile { path, what: expected.kind.name(), why }
    };
    if let Some(note) = PartMetadata::read(path)? {
        expected.check(note.kind, note.modality).map_err(unusable)?;
        let found =
            sha256_of(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if found != note.sha256 {
            let beside = PartMetadata::path(path);
            return Err(unusable(format!("it is not the file that `{}` is of", beside.display())));
        }
        staging.place(path, name)?;
        return Ok(note.config(path)?);
    }
    let overrides = BTreeMap::new();
    let storage = Storage::F32;
    let modality = expected.modality;
    let options = ConvertOptions { trust: Trust::Tensors, storage, modality, overrides };
    let conversion = Conversion::prepare(path, &options)?;
    let report = &conversion.report;
    if report.assumed.iter().any(|assumed| assumed.basis == Basis::Guess) {
        return Err(unusable(
            "its tensors do not determine the whole configuration; `meptr weights convert` asks \
             for the rest"
                .to_owned(),
        ));
    }
    let backbone = || unusable("it is a backbone".to_owned());
    let (found, config) = kind_and_config(report).ok_or_else(backbone)?;
    expected.check(found, report.modality).map_err(unusable)?;
    if report.layout == Layout::Safetensors {
        staging.place(path, name)?; // keeps the published hash
    } else {
        conversion.write(&staging.new_file(name)?)?;
    }
    serde_json::from_value(config).map_err(|error| unusable(error.to_string()))
}

impl ExpectedPart {
    /// Refuses a file of another kind or modality.
    fn check(self, kind: PartKind, modality: Option<Modality>) -> std::result::Result<(), String> {
        if kind != self.kind {
            return Err(format!("it holds a {}", kind.name()));
        }
        match (modality, self.modality) {
            (Some(found), Some(expected)) if found != expected => {
                Err(format!("it is the head of {found}, not of {expected}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_names_come_as_a_list_or_a_table() {
        let list = serde_json::json!({"names": ["cat", "person"]});
        let table = serde_json::json!({"names": {"1": "person", "0": "cat"}});
        for config in [list, table] {
            assert_eq!(class_names(Some(&config), 2), ["cat", "person"]);
            assert!(class_names(Some(&config), 3).is_empty(), "one has no name");
        }
        assert!(class_names(None, 1).is_empty());
    }
}
