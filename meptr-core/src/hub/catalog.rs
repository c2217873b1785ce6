//! Catalogue of weights with their sources and licences: `weights/catalog.json`, or a file like it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cache::RepositoryId;
use super::{Error, Result};
use crate::PerModality;
use crate::bundle::TrainingStatus;
use crate::files::read_small_text;
use crate::paths::stays_inside;

const SCHEMA: u32 = 1;

/// A list of parts, and of bundles made of them.
///
/// ```json
/// { "schema": 1,
///   "bundles": [ { "name": "...", "title": "...", "parts": ["NAME of a part", ...],
///                  "assembly": { "status": "trained", "fusion": "PART/FILE",
///                                "heads": { "body": "PART/FILE", ... } } } ],
///   "parts": [ { "name": "...", "title": "...",
///                "repository": "OWNER/NAME", "revision": "COMMIT, branch or tag",
///                "licence": "...", "non_commercial": false,
///                "files": [ { "path": "...", "size": 7, "sha256": "..." } ] } ] }
/// ```
///
/// Instead of `repository` and `revision` a part may have a `folder`, relative to the list. Without
/// `files`, the whole repository is meant. `size` and `sha256` may be left out: the Hub's own are
/// then taken. A revision that is no commit is resolved at the first download and kept from then on.
/// A bundle with an `assembly` ([`Assembly`]) becomes one that predicts as soon as its parts are here.
/// Its parts may be those of the compiled-in list.
#[derive(Debug, Clone)]
pub struct Catalog {
    file: Option<PathBuf>,
    bundles: Vec<Bundle>,
    parts: Vec<Part>,
}

/// Parts that are fetched together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Name on the command line.
    pub name: String,
    /// Description in one line.
    pub title: String,
    /// Names of parts.
    pub parts: Vec<String>,
    /// Assembly of the parts to a bundle that predicts; without it, they are only fetched together.
    #[serde(default)]
    pub assembly: Option<Assembly>,
}

/// Role of each part of a bundle.
///
/// Places are `PART`, the folder of a part, or `PART/PATH`, a file or folder in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assembly {
    /// Whether the weights were trained, and on what. Earlier lists call it `standing`.
    #[serde(alias = "standing")]
    pub status: TrainingStatus,
    /// Description of the weights and of their making.
    #[serde(default)]
    pub about: String,
    /// CLIP.
    #[serde(default = "default_clip")]
    pub clip: String,
    /// Wav2Vec2.
    #[serde(default = "default_wav2vec2")]
    pub wav2vec2: String,
    /// BERT.
    #[serde(default = "default_bert")]
    pub bert: String,
    /// The cross-task models, each a file that `meptr weights convert` wrote (with its note beside
    /// it), or one that tells its whole configuration.
    pub heads: PerModality<String>,
    /// The fusion model, likewise.
    pub fusion: String,
    /// A YOLOv8 detector, a file.
    pub body_detector: Option<String>,
    /// Whisper.
    pub transcriber: Option<String>,
}

fn default_clip() -> String {
    "clip".to_owned()
}

fn default_wav2vec2() -> String {
    "wav2vec2".to_owned()
}

fn default_bert() -> String {
    "bge".to_owned()
}

impl Assembly {
    /// Part and path inside it (empty for its folder) of a place.
    pub fn split(place: &str) -> (&str, &str) {
        place.split_once('/').unwrap_or((place, ""))
    }

    fn places(&self) -> impl Iterator<Item = &String> {
        let always = [&self.clip, &self.wav2vec2, &self.bert, &self.fusion];
        let heads: Vec<_> = self.heads.iter().map(|(_, place)| place).collect();
        let optional = [self.body_detector.as_ref(), self.transcriber.as_ref()];
        always.into_iter().chain(heads).chain(optional.into_iter().flatten())
    }
}

/// Files that make sense together only, such as one backbone.
#[derive(Debug, Clone)]
pub struct Part {
    /// Name on the command line.
    pub name: String,
    /// Description in one line.
    pub title: String,
    /// Source of the files.
    pub source: Source,
    /// SPDX identifier where there is one.
    pub licence: String,
    /// Whether the licence excludes commercial use.
    pub non_commercial: bool,
    /// Its files; none means all files of the repository or folder.
    pub files: Vec<PartFile>,
}

/// Source of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A model repository on the Hub.
    Hub {
        /// `owner/name`.
        repository: RepositoryId,
        /// Commit, branch, tag or `refs/pr/N`.
        revision: String,
    },
    /// A folder of this machine.
    Folder(PathBuf),
}

/// File of a part.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartFile {
    /// Inside the repository, with `/` between names.
    pub path: String,
    /// Bytes, where known.
    pub size: Option<u64>,
    /// 64 hexadecimal digits, lower case, where known.
    pub sha256: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    schema: u32,
    #[serde(default)]
    bundles: Vec<Bundle>,
    parts: Vec<WrittenPart>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPart {
    name: String,
    title: String,
    repository: Option<String>,
    revision: Option<String>,
    folder: Option<PathBuf>,
    licence: String,
    non_commercial: bool,
    #[serde(default)]
    files: Vec<PartFile>,
}

impl Catalog {
    /// The list that is compiled into the program.
    ///
    /// Every part is pinned to a commit. The large files have their size and SHA-256 in the list,
    /// except those of YOLOv8, for which no published SHA-256 was found: there, and for the small
    /// files, the hash that the Hub states for the pinned commit is the one that counts, and the
    /// first download notes it beside the blobs.
    pub fn built_in() -> Self {
        let text = include_str!("../../../weights/catalog.json");
        Self::parse(text, None).expect("a test reads the compiled-in list")
    }

    /// Reads a list of the user's.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Json`] when it cannot be read, [`Error::BadCatalog`] with all
    /// problems when names are missing, double or unusable.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_small_text(path)
            .map_err(|source| Error::File { path: path.to_owned(), source })?;
        Self::parse(&text, Some(path))
    }

    fn parse(text: &str, file: Option<&Path>) -> Result<Self> {
        let origin = file.unwrap_or(Path::new("weights/catalog.json"));
        let what = "list of weights";
        let written: Written = serde_json::from_str(text).map_err(|source| Error::Json {
            path: origin.to_owned(),
            what,
            source,
        })?;
        let mut problems = Vec::new();
        if written.schema != SCHEMA {
            problems.push(format!("schema {} is not {SCHEMA}", written.schema));
        }
        let base = origin.parent().unwrap_or(Path::new(""));
        let parts = written.parts.into_iter().map(|part| part.check(base, &mut problems));
        let parts: Vec<Part> = parts.collect();
        let mut catalog = Self { file: file.map(Path::to_owned), bundles: written.bundles, parts };
        if file.is_some() {
            catalog.borrow_parts(&Self::built_in());
        }
        problems.extend(catalog.problems_of_names());
        if problems.is_empty() {
            return Ok(catalog);
        }
        Err(Error::BadCatalog { origin: origin.display().to_string(), problems })
    }

    /// Takes over the parts of another list that bundles name and this list does not have.
    fn borrow_parts(&mut self, other: &Self) {
        for name in self.bundles.iter().flat_map(|bundle| &bundle.parts) {
            let is_it = |part: &&Part| part.name == *name;
            if let (None, Some(part)) =
                (self.parts.iter().find(is_it), other.parts.iter().find(is_it))
            {
                self.parts.push(part.clone());
            }
        }
    }

    fn problems_of_names(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut names = self.names();
        names.sort();
        let doubles = names.windows(2).filter(|pair| pair[0] == pair[1]);
        problems.extend(doubles.map(|pair| format!("`{}` is there twice", pair[0])));
        problems.extend(
            names.iter().filter(|name| !is_name(name)).map(|name| {
                format!("`{name}` is no name: small letters, digits, `-` and `.` only")
            }),
        );
        for bundle in &self.bundles {
            let is_unknown = |name: &&String| !self.parts.iter().any(|part| part.name == **name);
            problems.extend(
                bundle.parts.iter().filter(is_unknown).map(|name| {
                    format!("bundle `{}` needs `{name}`, which is no part", bundle.name)
                }),
            );
            let places = bundle.assembly.iter().flat_map(Assembly::places);
            let is_usable = |place: &&String| {
                let (part, path) = Assembly::split(place);
                bundle.parts.iter().any(|name| name == part)
                    && (path.is_empty() || stays_inside(path))
            };
            problems.extend(places.filter(|place| !is_usable(place)).map(|place| {
                format!("bundle `{}` takes `{place}`, which is in none of its parts", bundle.name)
            }));
        }
        problems
    }

    /// All parts.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// All bundles.
    pub fn bundles(&self) -> &[Bundle] {
        &self.bundles
    }

    /// The bundle of a name, if it is one.
    pub fn bundle(&self, name: &str) -> Option<&Bundle> {
        self.bundles.iter().find(|bundle| bundle.name == name)
    }

    /// Resolves a name: a bundle, a part, `OWNER/REPO(@REVISION)`, or a folder.
    ///
    /// A folder needs a path with something before the first `/`, or more than one `/`: `./heads`,
    /// `/data/heads`; `owner/heads` is a repository.
    ///
    /// # Errors
    /// [`Error::UnknownName`] lists the names there are.
    pub fn select(&self, name: &str) -> Result<Vec<Part>> {
        let part = |name: &String| self.parts.iter().find(|part| part.name == *name).cloned();
        if let Some(bundle) = self.bundle(name) {
            return Ok(bundle.parts.iter().filter_map(part).collect());
        }
        if let Some(part) = part(&name.to_owned()) {
            return Ok(vec![part]);
        }
        let source = source_of(name).ok_or_else(|| {
            let known = self.names().into_iter().map(str::to_owned).collect();
            Error::UnknownName { name: name.to_owned(), known }
        })?;
        let licence = match &source {
            Source::Hub { repository, .. } => format!("see the page of {repository}"),
            Source::Folder(_) => "as its owner says".to_owned(),
        };
        let (name, title) = (name.to_owned(), "Chosen by the user".to_owned());
        Ok(vec![Part { name, title, source, licence, non_commercial: false, files: Vec::new() }])
    }

    /// The command that fetches a name of this list.
    pub fn command(&self, name: &str) -> String {
        match &self.file {
            Some(file) => {
                let file = file.to_string_lossy().replace('\'', r"'\''");
                format!("meptr weights pull --manifest '{file}' {name}")
            }
            None => format!("meptr weights pull {name}"),
        }
    }

    fn names(&self) -> Vec<&str> {
        let bundles = self.bundles.iter().map(|bundle| bundle.name.as_str());
        bundles.chain(self.parts.iter().map(|part| part.name.as_str())).collect()
    }
}

impl WrittenPart {
    /// Records problems; the returned value is valid only when there are none.
    fn check(self, base: &Path, problems: &mut Vec<String>) -> Part {
        let name = &self.name;
        let repository = self.repository.as_deref();
        let id = repository.and_then(RepositoryId::parse);
        let revision = self.revision.unwrap_or_else(|| "main".to_owned());
        let mut require = |is_met: bool, problem: String| {
            if !is_met {
                problems.push(problem);
            }
        };
        require(
            repository.is_some() != self.folder.is_some(),
            format!("`{name}` needs either a repository or a folder"),
        );
        require(
            id.is_some() == repository.is_some(),
            format!("the repository of `{name}` is not OWNER/NAME"),
        );
        require(is_revision(&revision), format!("`{name}` has no usable revision"));
        for file in &self.files {
            require(
                stays_inside(&file.path),
                format!("`{name}` has no usable path `{}`", file.path),
            );
            let is_hash = |hash: &String| {
                hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            };
            require(
                file.sha256.as_ref().is_none_or(is_hash),
                format!("the sha256 of `{}` in `{name}` is none", file.path),
            );
        }
        let source = match id {
            Some(repository) => Source::Hub { repository, revision },
            None => Source::Folder(base.join(self.folder.unwrap_or_default())),
        };
        let Self { name, title, licence, non_commercial, files, .. } = self;
        Part { name, title, source, licence, non_commercial, files }
    }
}

fn source_of(name: &str) -> Option<Source> {
    let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
    match RepositoryId::parse(repository) {
        Some(repository) if is_revision(revision) => {
            Some(Source::Hub { repository, revision: revision.to_owned() })
        }
        _ => Some(PathBuf::from(name)).filter(|path| path.is_dir()).map(Source::Folder),
    }
}

/// Whether a name can stand in a list, and be that of a folder.
pub(super) fn is_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    !name.is_empty() && name.bytes().all(is_plain) && !name.starts_with(['.', '-'])
}

fn is_revision(revision: &str) -> bool {
    stays_inside(revision) && revision.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_list_is_sound_and_states_every_licence() {
        let catalog = Catalog::built_in();
        assert!(catalog.parts().iter().all(|part| !part.licence.is_empty()));
        let non_commercial: Vec<_> =
            catalog.parts().iter().filter(|part| part.non_commercial).collect();
        assert_eq!(non_commercial.len(), 1, "the audeering model alone");
        assert!(non_commercial[0].licence.contains("NC"));
        for bundle in catalog.bundles() {
            assert_eq!(catalog.select(&bundle.name).unwrap().len(), bundle.parts.len());
        }
        for part in catalog.parts() {
            assert!(!part.files.is_empty() && matches!(part.source, Source::Hub { .. }));
        }
    }

    #[test]
    fn all_problems_of_a_list_come_in_one_error() {
        let text = r#"{ "schema": 2, "bundles": [ { "name": "x", "title": "", "parts": ["z"] } ],
          "parts": [ { "name": "x", "title": "", "repository": "no-slash", "revision": "../up",
            "licence": "MIT", "non_commercial": false,
            "files": [ { "path": "/etc/passwd", "sha256": "XY" } ] } ] }"#;
        let Err(Error::BadCatalog { problems, .. }) = Catalog::parse(text, None) else {
            panic!("it was taken")
        };
        assert_eq!(problems.len(), 7, "{problems:#?}");
        let unknown = text.replace("\"schema\"", "\"more\": 1, \"schema\"");
        assert!(matches!(Catalog::parse(&unknown, None), Err(Error::Json { .. })));
    }

    #[test]
    fn a_bundle_says_what_its_parts_are_for_and_may_use_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list.json");
        let text = r#"{ "schema": 1,
          "bundles": [ { "name": "mine", "title": "", "parts": ["clip", "bge", "wav2vec2", "heads"],
            "assembly": { "status": "trained", "fusion": "heads/fusion.safetensors",
              "heads": { "body": "heads/b.pt", "face": "heads/f.pt", "scene": "heads/s.pt",
                         "audio": "heads/a.pt", "text": "heads/t.pt" } } } ],
          "parts": [ { "name": "heads", "title": "", "folder": "heads", "licence": "MIT",
            "non_commercial": false } ] }"#;
        std::fs::write(&file, text).unwrap();
        let catalog = Catalog::read(&file).unwrap();
        assert_eq!(catalog.select("mine").unwrap().len(), 4);
        let assembly = catalog.bundle("mine").unwrap().assembly.as_ref().unwrap();
        assert_eq!((assembly.bert.as_str(), assembly.heads.text.as_str()), ("bge", "heads/t.pt"));
        assert_eq!(Assembly::split("heads/x/t.pt"), ("heads", "x/t.pt"));
        for (good, bad) in [("heads/b.pt", "others/b.pt"), ("heads/b.pt", "heads/../b.pt")] {
            std::fs::write(&file, text.replace(good, bad)).unwrap();
            let Err(Error::BadCatalog { problems, .. }) = Catalog::read(&file) else {
                panic!("it was taken")
            };
            assert_eq!(problems.len(), 1, "{problems:?}");
        }
    }

    #[test]
    fn a_name_is_a_bundle_a_part_a_repository_or_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list.json");
        let text = r#"{ "schema": 1,
          "bundles": [ { "name": "both", "title": "", "parts": ["one", "two"] } ],
          "parts": [
            { "name": "one", "title": "", "repository": "ann/one", "licence": "MIT",
              "non_commercial": false, "files": [ { "path": "a" } ] },
            { "name": "two", "title": "", "folder": "heads", "licence": "MIT",
              "non_commercial": false } ] }"#;
        std::fs::write(&file, text).unwrap();
        let catalog = Catalog::read(&file).unwrap();
        let sources = |name: &str| -> Vec<Source> {
            catalog.select(name).unwrap().into_iter().map(|part| part.source).collect()
        };
        let hub = |id: &str, revision: &str| Source::Hub {
            repository: RepositoryId::parse(id).unwrap(),
            revision: revision.to_owned(),
        };
        let heads = Source::Folder(folder.path().join("heads"));
        assert_eq!(sources("both"), [hub("ann/one", "main"), heads.clone()]);
        assert_eq!(sources("two"), [heads]);
        assert_eq!(sources("bob/x@refs/pr/15"), [hub("bob/x", "refs/pr/15")]);
        let path = folder.path().to_str().unwrap();
        assert_eq!(sources(path), [Source::Folder(folder.path().to_owned())]);
        for bad in ["three", "/does/not/exist", "bob/x@../up", "bob/../x"] {
            assert!(matches!(catalog.select(bad), Err(Error::UnknownName { .. })), "{bad}");
        }
        assert!(catalog.command("both").contains("--manifest"));
        assert_eq!(Catalog::built_in().command("x"), "meptr weights pull x");
    }
}
