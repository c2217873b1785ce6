//! Assembly of a bundle beside the cache.

use std::path::PathBuf;

use anyhow::Context;
use meptr_core::PerModality;
use meptr_core::bundle::Origin;
use meptr_core::hub::{self, Assembly, Catalog, LocalFile};
use meptr_extract::bundle_builder::{Source, Sources, assemble};
use meptr_extract::detect::FaceModel;

use super::hub::{HubArgs, root_of};

/// Message for a list whose bundles do not name heads and fusion model.
pub const HEADS_ARE_MISSING: &str = "the heads and the fusion model of MEPTR are not on the Hub. \
    With the authors' files, `meptr weights convert FILE.. --out parts` and then `meptr weights \
    assemble` make a bundle that `meptr predict` uses from then on; `meptr weights pull OWNER/REPO` \
    gets one that somebody published";

/// Assembles a listed bundle beside the cache, and makes it the default one.
///
/// # Errors
/// When a part contradicts the list, or does not fit the others.
pub fn install_from_catalog(
    hub: &HubArgs,
    name: &str,
    assembly: &Assembly,
    files: &[LocalFile],
) -> anyhow::Result<PathBuf> {
    let catalog = hub.catalog()?;
    let source = |place: &String| source_of(place, &catalog, files);
    let optional = |place: &Option<String>| place.as_ref().map(source).transpose();
    let heads = PerModality::try_from_fn(|modality| source(&assembly.heads[modality]).map(Some))?;
    let sources = Sources {
        name: name.to_owned(),
        about: assembly.about.clone(),
        status: assembly.status,
        base: None,
        clip: Some(source(&assembly.clip)?),
        wav2vec2: Some(source(&assembly.wav2vec2)?),
        bert: Some(source(&assembly.bert)?),
        heads,
        fusion: Some(source(&assembly.fusion)?),
        face_detector: Some(FaceModel::FullRange),
        body_detector: optional(&assembly.body_detector)?,
        transcriber: optional(&assembly.transcriber)?,
        storage: None,
    };
    install(hub, &sources)
}

/// Assembles a bundle beside the cache, and replaces an older one of its name.
///
/// # Errors
/// When it cannot be assembled, or its name is not valid for a folder.
pub fn install(hub: &HubArgs, sources: &Sources) -> anyhow::Result<PathBuf> {
    let (bundles, name) = (hub.bundles()?, &sources.name);
    bundles.path(name).with_context(|| {
        format!("`{name}` cannot name a bundle: small letters, digits, `-` and `.` can")
    })?;
    let staging = bundles.staging_folder(name)?;
    assemble(sources, &staging).with_context(|| format!("cannot put `{name}` together"))?;
    let folder = bundles.install(&staging, name)?;
    bundles.set_default(name)?;
    Ok(folder)
}

fn source_of(place: &str, catalog: &Catalog, files: &[LocalFile]) -> anyhow::Result<Source> {
    let (part, path) = Assembly::split(place);
    let missing = || format!("there is no `{place}` among the files of the list");
    let mut of_part = files.iter().filter(|file| file.part == part);
    let first = of_part.clone().next().with_context(missing)?;
    let file = of_part.find(|file| file.path == path);
    let path = match file {
        Some(file) => file.local.clone(),
        None => root_of(first).join(path),
    };
    anyhow::ensure!(path.exists(), missing());
    let part = catalog.select(part)?.into_iter().next().with_context(missing)?;
    let source = match (&part.source, &first.repository, &first.commit) {
        (_, Some(repository), Some(commit)) => format!("{repository}@{commit}"),
        (hub::Source::Folder(folder), ..) => {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            format!("the folder `{name}`") // the rest of the path is private
        }
        _ => part.name.clone(),
    };
    Ok(Source { path, origin: Origin { name: part.title, source, licence: part.licence } })
}
