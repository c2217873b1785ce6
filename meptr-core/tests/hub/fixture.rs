//! Shared by the tests: a Hub with one model, an empty cache, a list of weights, short time limits.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use meptr_core::hub::{
    Catalog, Environment, Error, Event, LocalFile, Options, RetryPolicy, Token, resolve,
};
use tempfile::TempDir;

use super::fake_hub::{FakeHub, Storage, noise};

pub(crate) const MODEL: &str = "ann/model";
pub(crate) const WEIGHTS: &str = "model.safetensors";

pub(crate) struct Fixture {
    pub(crate) hub: FakeHub,
    pub(crate) folder: TempDir,
    pub(crate) options: Options,
    pub(crate) weights: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) events: Mutex<Vec<String>>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let hub = FakeHub::start();
        let (weights, config) = (noise(200_000, 1), br#"{"hidden_size": 4}"#.to_vec());
        hub.add(MODEL, WEIGHTS, Storage::Large, weights.clone());
        hub.add(MODEL, "config.json", Storage::Small, config.clone());
        hub.add(MODEL, "deep/er/words.txt", Storage::SmallRedirected, b"one two".to_vec());
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment::from_variables(|name| match name {
            "HF_HOME" => Some(folder.path().into()),
            "HF_ENDPOINT" => Some(hub.endpoint().into()),
            _ => None,
        });
        let mut options = Options::new(environment.unwrap());
        options.retry = short_retry_policy();
        let events = Mutex::default();
        let fixture = Self { hub, folder, options, weights, config, events };
        fixture.write_list("");
        fixture
    }

    /// The list of weights of the tests; `more` goes into the entry of the large file.
    pub(crate) fn write_list(&self, more: &str) {
        let text = format!(
            r#"{{ "schema": 1, "bundles": [], "parts": [ {{
                "name": "model", "title": "A model", "repository": "{MODEL}", "licence": "MIT",
                "non_commercial": false, "files": [ {{ "path": "config.json" }},
                {{ "path": "deep/er/words.txt" }}, {{ "path": "{WEIGHTS}" {more} }} ] }} ] }}"#
        );
        std::fs::write(self.list(), text).unwrap();
    }

    pub(crate) fn list(&self) -> PathBuf {
        self.folder.path().join("list.json")
    }

    pub(crate) fn catalog(&self) -> Catalog {
        Catalog::read(&self.list()).unwrap()
    }

    pub(crate) fn pull(&self) -> Result<Vec<LocalFile>, Error> {
        self.pull_named("model")
    }

    pub(crate) fn pull_named(&self, name: &str) -> Result<Vec<LocalFile>, Error> {
        resolve(&self.catalog(), name, &self.options, &|event: &Event| {
            self.events.lock().unwrap().push(format!("{event:?}"));
        })
    }

    pub(crate) fn with_token(mut self, token: &str) -> Self {
        self.options.environment.token = Token::parse(token).unwrap();
        self
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.cache().join("models--ann--model")
    }

    pub(crate) fn heard(&self, kind: &str) -> usize {
        self.events.lock().unwrap().iter().filter(|event| event.starts_with(kind)).count()
    }

    /// Asserts that a pull gave exactly the files of the Hub.
    pub(crate) fn assert_all_here(&self, files: &[LocalFile]) {
        let found: Vec<_> = files
            .iter()
            .map(|file| (file.path.as_str(), std::fs::read(&file.local).unwrap()))
            .collect();
        let words = b"one two".to_vec();
        let expected = [
            ("config.json", self.config.clone()),
            ("deep/er/words.txt", words),
            (WEIGHTS, self.weights.clone()),
        ];
        assert!(found == expected, "the files differ");
    }

    /// Asserts that nothing of the large file can be taken for the file.
    pub(crate) fn assert_no_weights(&self) {
        for path in all_files(&self.repository()) {
            let is_other = path.ends_with(".json") || path.ends_with(".txt");
            let found = std::fs::metadata(self.repository().join(&path));
            let is_small = found.is_ok_and(|found| found.len() < 1000);
            assert!(is_other || is_small || path.ends_with(".incomplete"), "{path} is there");
        }
        assert!(!self.repository().join("snapshots").join("01".repeat(20)).join(WEIGHTS).exists());
    }

    pub(crate) fn incomplete(&self) -> PathBuf {
        let tag = super::fake_hub::sha256(&self.weights);
        self.repository().join("blobs").join(format!("{tag}.incomplete"))
    }
}

pub(crate) fn short_retry_policy() -> RetryPolicy {
    RetryPolicy {
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_millis(800),
        max_attempts: 4,
        initial_delay: Duration::from_millis(5),
        max_retry_after: Duration::from_secs(5),
        lock_timeout: Duration::from_secs(5),
        ..RetryPolicy::default()
    }
}

/// Paths of all files and links below a folder, sorted.
pub(crate) fn all_files(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(inner) = open.pop() {
        for entry in std::fs::read_dir(&inner).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                let path = entry.path();
                files.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}
