//! A Hub on loopback for the program, with one model and a list of weights.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

#[allow(dead_code)]
#[path = "fake_hub.rs"]
pub(crate) mod fake_hub;

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::weights_support::{PROGRAM, REFUSED, Run, command};
use fake_hub::{FakeHub, Host, Storage, noise, sha256};

pub(crate) const MODEL: &str = "ann/model";
pub(crate) const WEIGHTS: &str = "model.safetensors";

pub(crate) struct Fixture {
    pub(crate) hub: FakeHub,
    pub(crate) folder: TempDir,
    pub(crate) weights: Vec<u8>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let (hub, folder) = (FakeHub::start(), tempfile::tempdir().unwrap());
        let weights = noise(200_000, 1);
        hub.add(MODEL, WEIGHTS, Storage::Large, weights.clone());
        hub.add(MODEL, "config.json", Storage::Small, b"{}".to_vec());
        let list = format!(
            r#"{{ "schema": 1, "bundles": [ {{ "name": "all", "title": "All", "parts": ["model"] }} ],
                "parts": [ {{ "name": "model", "title": "A model", "repository": "{MODEL}",
                "licence": "CC-BY-NC-4.0", "non_commercial": true,
                "files": [ {{ "path": "config.json" }}, {{ "path": "{WEIGHTS}" }} ] }} ] }}"#
        );
        std::fs::write(folder.path().join("list.json"), list).unwrap();
        Self { hub, folder, weights }
    }

    pub(crate) fn list(&self) -> PathBuf {
        self.folder.path().join("list.json")
    }

    pub(crate) fn run_at(&self, endpoint: &str, line: &str) -> Run {
        self.command_at(endpoint, line).output().unwrap().into()
    }

    /// `meptr weights LINE` on the list of this fixture.
    pub(crate) fn command_at(&self, endpoint: &str, line: &str) -> Command {
        let mut command = command(PROGRAM, self.folder.path(), endpoint);
        command.args(["weights"]).args(line.split(' ')).arg("--manifest").arg(self.list());
        command
    }

    pub(crate) fn run(&self, line: &str) -> Run {
        self.run_at(&self.hub.endpoint(), line)
    }

    pub(crate) fn blob(&self) -> PathBuf {
        let name = format!("hub/models--ann--model/blobs/{}", sha256(&self.weights));
        self.folder.path().join(name)
    }

    pub(crate) fn assert_here(&self) {
        let folder = self.run_at(REFUSED, "path model").assert_code(0).stdout;
        let found = std::fs::read(Path::new(folder.trim()).join(WEIGHTS)).unwrap();
        assert!(found == self.weights, "other bytes");
    }

    pub(crate) fn downloads(&self) -> usize {
        self.hub.count(Host::Cdn, "GET", WEIGHTS)
    }

    /// Puts the files of a folder into a repository.
    pub(crate) fn upload(&self, id: &str, folder: &Path) {
        for file in files_below(folder) {
            let bytes = std::fs::read(folder.join(&file)).unwrap();
            let is_large = file.ends_with(".safetensors");
            let storage = if is_large { Storage::Large } else { Storage::Small };
            self.hub.add(id, &file, storage, bytes);
        }
    }
}

pub(crate) fn write_sound(path: &Path) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in 0..16_000u32 {
        let angle = f64::from(sample) * 440.0 * std::f64::consts::TAU / 16_000.0;
        writer.write_sample((9000.0 * angle.sin()) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    let mut open = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(inner) = open.pop() {
        for entry in std::fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files
}
