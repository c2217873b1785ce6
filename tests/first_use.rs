//! Predicting where there are no weights yet, and bundles that a list of weights describes.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

use std::path::{Path, PathBuf};
use std::process::Stdio;

use meptr_core::bundle::{Manifest, PartKind, PartMetadata, sha256_of};
use meptr_core::{Modality, PerModality};
use serde_json::{Value as Json, json};

use super::hub_support::{Fixture, write_sound};
use super::weights_support::{PROGRAM, REFUSED, Run, command};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo")
}

/// Backbones and heads in repositories of the Hub, the fusion model in a folder, and a list that
/// says how they become a bundle; all of it is that of the demo weights.
struct Whole {
    fixture: Fixture,
    sound: PathBuf,
}

impl Whole {
    fn new() -> Self {
        let fixture = Fixture::new();
        for part in ["clip", "bert", "wav2vec2"] {
            fixture.upload(&format!("ann/{part}"), &demo().join(part));
        }
        let parts = &Manifest::read(&demo()).unwrap().parts;
        let folder = fixture.folder.path();
        for (modality, head) in parts.heads.iter() {
            let config = serde_json::to_value(&head.config).unwrap();
            let name = folder.join("heads").join(format!("{modality}.safetensors"));
            note(&demo().join(&head.file), &name, (PartKind::Head, Some(modality)), config);
        }
        fixture.upload("ann/heads", &folder.join("heads"));
        let config = serde_json::to_value(&parts.fusion.config).unwrap();
        let fusion = folder.join("mine/fusion.safetensors");
        note(&demo().join(&parts.fusion.file), &fusion, (PartKind::Fusion, None), config);
        let sound = folder.join("sound.wav");
        write_sound(&sound);
        let whole = Self { fixture, sound };
        std::fs::write(whole.fixture.list(), whole.list().to_string()).unwrap();
        whole
    }

    fn list(&self) -> Json {
        let part = |name: &str, licence: &str| {
            json!({ "name": name, "title": format!("The {name}"), "licence": licence,
                "repository": format!("ann/{name}"), "non_commercial": licence.contains("NC") })
        };
        let heads = PerModality::from_fn(|modality| format!("heads/{modality}.safetensors"));
        json!({ "schema": 1,
            "bundles": [ { "name": "whole", "title": "All of it",
                "parts": ["clip", "bert", "wav2vec2", "heads", "fusion"],
                "assembly": { "status": "untrained", "about": "as the demo", "bert": "bert",
                    "heads": heads, "fusion": "fusion/fusion.safetensors" } } ],
            "parts": [
                part("clip", "MIT"), part("bert", "MIT"), part("wav2vec2", "CC-BY-NC-SA-4.0"),
                part("heads", "MIT"),
                { "name": "fusion", "title": "Mine", "licence": "MIT", "non_commercial": false,
                  "folder": "mine", "files": [ { "path": "fusion.safetensors",
                    "sha256": sha256_of(&demo().join("fusion.safetensors")).unwrap() },
                    { "path": "fusion.json" } ] } ] })
    }

    /// `meptr predict ARGUMENTS sound.wav`
    fn predict(&self, endpoint: &str, arguments: &[&str]) -> Run {
        let mut predict = command(PROGRAM, self.fixture.folder.path(), endpoint);
        predict.args(["predict", "--format", "json"]).args(arguments).arg(&self.sound);
        predict.output().unwrap().into()
    }

    fn with_list<'a>(&self, arguments: &[&'a str]) -> Vec<String> {
        let list = ["--manifest".to_owned(), self.fixture.list().to_str().unwrap().to_owned()];
        arguments.iter().map(|word: &&'a str| (*word).to_owned()).chain(list).collect()
    }
}

/// Copies a weight file, with a note beside it as `meptr weights convert` writes one.
fn note(from: &Path, to: &Path, (kind, modality): (PartKind, Option<Modality>), config: Json) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
    let (schema, assumed) = (PartMetadata::SCHEMA.to_owned(), json!([]));
    let (source, sha256) = ("the demo".to_owned(), sha256_of(to).unwrap());
    PartMetadata { schema, kind, modality, config, assumed, source, sha256 }.write(to).unwrap();
}

fn weights_name(run: &Run) -> String {
    let found: Json = serde_json::from_str(&run.stdout).unwrap();
    found["videos"][0]["weights"]["name"].as_str().unwrap().to_owned()
}

#[test]
fn a_list_with_heads_gives_a_bundle_that_predict_finds() {
    let whole = Whole::new();
    let fixture = &whole.fixture;
    let run = fixture.run("pull whole --accept-licenses").assert_code(0);
    assert!(run.stderr.contains("CC-BY-NC-SA-4.0 (NON-COMMERCIAL USE ONLY)"), "{run:#?}");
    assert!(run.stdout.contains("whole is a bundle that predicts"), "{run:#?}");
    for arguments in [&[][..], &["--weights", "whole"], &["--offline"]] {
        let run = whole.predict(REFUSED, arguments).assert_code(0);
        assert_eq!((weights_name(&run).as_str(), run.stderr.as_str()), ("whole", ""));
    }
    let scores = |run: &Run| {
        let found: Json = serde_json::from_str(&run.stdout).unwrap();
        found["videos"][0]["predictions"].clone()
    };
    let of_demo = whole.predict(REFUSED, &["--weights", "demo"]).assert_code(0);
    let of_whole = whole.predict(REFUSED, &[]).assert_code(0);
    assert_eq!(scores(&of_whole), scores(&of_demo));

    let shown = fixture.run_at(REFUSED, "show whole").assert_code(0).stdout;
    let head = "The heads\n               from ann/heads@0101010101010101010101010101010101010101";
    assert!(shown.contains(head) && shown.contains("from the folder `mine`"), "{shown}");
    let listed = fixture.run_at(REFUSED, "list").assert_code(0).stdout;
    assert!(listed.contains("a bundle that predicts, here, used where none"), "{listed}");
    fixture.run_at(REFUSED, "verify whole").assert_code(0);
    // Made anew from what is here, as when a head in a folder was replaced.
    fixture.run_at(REFUSED, "pull whole --offline").assert_code(0);
    assert!(fixture.run_at(REFUSED, "remove whole").assert_code(2).stderr.contains("--yes"));
    let run = fixture.run_at(REFUSED, "remove whole --yes").assert_code(0);
    assert!(run.stdout.contains("deleted the bundle "), "{run:#?}");
    assert_eq!(weights_name(&whole.predict(REFUSED, &["--quiet"])), "demo-synthetic");
}

#[test]
fn with_consent_given_in_advance_predict_fetches_what_it_needs_once() {
    let whole = Whole::new();
    let endpoint = whole.fixture.hub.endpoint();
    let arguments = whole.with_list(&["--accept-licenses"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run = whole.predict(&endpoint, &arguments).assert_code(0);
    assert_eq!(weights_name(&run), "whole");
    assert!(run.stderr.contains("(NON-COMMERCIAL USE ONLY)") && run.stderr.contains("fetching "));
    let asked = whole.fixture.hub.seen().len();
    let run = whole.predict(REFUSED, &[]).assert_code(0);
    assert_eq!((weights_name(&run).as_str(), run.stderr.as_str()), ("whole", ""));
    assert_eq!(whole.fixture.hub.seen().len(), asked);
}

#[test]
fn a_list_whose_fusion_model_was_replaced_gives_nothing() {
    let whole = Whole::new();
    let path = whole.fixture.folder.path().join("mine/fusion.safetensors");
    std::fs::copy(demo().join("heads/text.safetensors"), path).unwrap();
    let run = whole.fixture.run("pull whole --accept-licenses").assert_code(2);
    assert!(run.stderr.contains("fusion.safetensors` is damaged or was replaced"), "{run:#?}");
    let bundles = whole.fixture.folder.path().join("hub/meptr-bundles");
    assert!(std::fs::read_dir(bundles).is_err(), "nothing is put together");
}

#[test]
fn without_a_terminal_predict_says_how_to_get_weights_and_goes_on() {
    let whole = Whole::new();
    let run = whole.predict(REFUSED, &[]).assert_code(0);
    assert_eq!(weights_name(&run), "demo-synthetic");
    for expected in [
        "`meptr weights pull light --accept-licenses` fetches about 1.70 GB",
        "wav2vec2: CC-BY-NC-SA-4.0 (NON-COMMERCIAL USE ONLY)",
        "yolov8n: AGPL-3.0",
        "the heads and the fusion model of MEPTR are not on the Hub",
    ] {
        assert!(run.stderr.contains(expected), "no {expected:?} in {run:#?}");
    }
    for quiet in [&["--quiet"][..], &["--weights", "demo"], &["--weights=x", "--weights=demo"]] {
        assert_eq!(whole.predict(REFUSED, quiet).assert_code(0).stderr, "");
    }
    let run = whole.predict(REFUSED, &["--weights", "clip"]).assert_code(2);
    assert!(run.stderr.contains("`clip` is no bundle that predicts"), "{run:#?}");
}

#[test]
fn a_bundle_that_is_named_and_not_here_is_fetched_only_when_that_is_agreed_to() {
    let whole = Whole::new();
    let endpoint = whole.fixture.hub.endpoint();
    whole.fixture.upload("ann/all", &demo());
    let cache = whole.fixture.folder.path().join("other cache");
    let cache = ["--cache-dir", cache.to_str().unwrap()];
    let named = ["--weights", "ann/all", cache[0], cache[1]];
    let run = whole.predict(&endpoint, &named).assert_code(2);
    let command = format!("`meptr weights pull --cache-dir '{}' ann/all`", cache[1]);
    assert!(run.stderr.contains(&command), "{run:#?}");
    let offline = [&named[..], &["--offline"]].concat();
    let run = whole.predict(&endpoint, &offline).assert_code(2);
    assert!(run.stderr.contains("everything of ann/all; with a network, run"), "{run:#?}");
    assert!(run.stderr.contains(&command), "{run:#?}");
    assert!(whole.fixture.hub.seen().is_empty(), "nobody agreed");
    let agreed = [&named[..], &["--accept-licenses"]].concat();
    let run = whole.predict(&endpoint, &agreed).assert_code(0);
    assert!(run.stderr.contains("MIT OR Apache-2.0  CLIP, random"), "{run:#?}");
    for arguments in [&named[..], &offline, &cache] {
        let run = whole.predict(REFUSED, arguments).assert_code(0);
        assert_eq!(weights_name(&run), "demo-synthetic");
        assert_eq!(run.stderr, "");
    }
    let one_missing = cache_blob(Path::new(cache[1]), "fusion.safetensors");
    std::fs::remove_file(one_missing).unwrap();
    let run = whole.predict(&endpoint, &offline).assert_code(2);
    assert!(run.stderr.contains("missing: ann/all/fusion.safetensors; with"), "{run:#?}");
}

fn cache_blob(cache: &Path, name: &str) -> PathBuf {
    cache
        .join("models--ann--all/snapshots")
        .join("01".repeat(20))
        .join(name)
        .canonicalize()
        .unwrap()
}

#[test]
fn a_bundle_assembled_without_a_place_is_the_one_that_predict_uses() {
    let whole = Whole::new();
    let base = demo();
    let line = format!(
        "assemble --from {} --name mine --status untrained --storage f16",
        base.to_str().unwrap()
    );
    let run = whole.fixture.run_at(REFUSED, &line).assert_code(0);
    assert!(run.stdout.contains("it is used from now on"), "{run:#?}");
    assert_eq!(weights_name(&whole.predict(REFUSED, &[])), "mine");
    let run = whole.fixture.run_at(REFUSED, &line.replace("mine", "Not/a/name")).assert_code(2);
    assert!(run.stderr.contains("cannot name a bundle"), "{run:#?}");
    for taken in ["demo", "whole", "clip"] {
        let run = whole.fixture.run_at(REFUSED, &line.replace("mine", taken)).assert_code(2);
        assert!(run.stderr.contains("names other weights"), "{run:#?}");
    }
    assert_eq!(weights_name(&whole.predict(REFUSED, &[])), "mine");
}

#[test]
fn bundles_are_built_upon_and_published_by_their_names() {
    let fixture = Fixture::new();
    let upload = fixture.folder.path().join("upload");
    for line in [
        "assemble --from demo --name mine --status untrained",
        "assemble --from mine --name next --status untrained",
        &format!("publish next --out {}", upload.display()),
        &format!("verify {}", upload.display()),
    ] {
        fixture.run_at(REFUSED, line).assert_code(0);
    }
    let found = Manifest::read(&upload).unwrap();
    assert_eq!(
        (found.name.as_str(), found.files),
        ("next", Manifest::read(&demo()).unwrap().files)
    );
    let run = fixture.run_at(REFUSED, "publish gone --out upload").assert_code(2);
    assert!(run.stderr.contains("no folder `gone`, and no bundle of this name"), "{run:#?}");
}

/// On a terminal, which `script` of util-linux makes; where it is missing, the tests of
/// `first_use.rs` in the program show the same with a stand-in for the user.
#[test]
#[cfg(target_os = "linux")]
fn on_a_terminal_predict_asks() {
    let whole = Whole::new();
    let list = whole.fixture.list();
    let sound = whole.sound.display();
    let line = format!("{PROGRAM} predict --manifest {} {sound}", list.display());
    let on_terminal = |answer: &str| -> Option<Run> {
        let folder = whole.fixture.folder.path();
        let mut script = command("script", folder, &whole.fixture.hub.endpoint());
        script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm");
        let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut script = match script {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            script => script.unwrap(),
        };
        let mut input = script.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, answer.as_bytes()).unwrap();
        let output = script.wait_with_output().unwrap();
        drop(input);
        Some(output.into())
    };
    let Some(run) = on_terminal("n\n") else {
        eprintln!("not tested: there is no program `script`");
        return;
    };
    let run = run.assert_code(0);
    for expected in ["not for commercial use: `wav2vec2`", "weights) [y/N]", "demo-synthetic"] {
        assert!(run.stdout.contains(expected), "no {expected:?} in {run:#?}");
    }
    assert!(whole.fixture.hub.seen().is_empty(), "nobody agreed");
    let run = on_terminal("y\n").unwrap().assert_code(0);
    assert!(run.stdout.contains("weights: whole"), "{run:#?}");
}

/// The lines of the guide after the heading `## A walk through`, by command.
fn walk() -> Vec<(String, Vec<String>)> {
    let guide = demo().join("../README.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let section = guide.split("## A walk through").nth(1).unwrap();
    let block = section.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let mut walk: Vec<(String, Vec<String>)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => walk.push((command.to_owned(), Vec::new())),
            None => walk.last_mut().unwrap().1.push(line.to_owned()),
        }
    }
    walk
}

/// `..` in the guide stands for any lines, at the end of a line for the rest of it.
fn is_as_in_the_guide(found: &[&str], expected: &[String]) -> bool {
    match (found, expected) {
        ([], []) => true,
        (_, [dots, rest @ ..]) if dots == ".." => {
            (0..=found.len()).any(|skipped| is_as_in_the_guide(&found[skipped..], rest))
        }
        ([line, found @ ..], [like, expected @ ..]) => {
            let is_same =
                like.strip_suffix("..").map_or(line == like, |start| line.starts_with(start));
            is_same && is_as_in_the_guide(found, expected)
        }
        _ => false,
    }
}

/// Runs every command of the guide's transcript, on a Hub on loopback.
#[test]
#[cfg(unix)]
fn the_guide_shows_what_happens() {
    let whole = Whole::new();
    let folder = whole.fixture.folder.path();
    let checkpoint = demo().join("../../tests/fixtures/checkpoints/audio_head.pt");
    std::fs::copy(checkpoint, folder.join("audio_head.pt")).unwrap();
    let path = format!("{}:/usr/bin:/bin", Path::new(PROGRAM).parent().unwrap().display());
    let mut endpoint = whole.fixture.hub.endpoint();
    for (line, expected) in walk() {
        let mut shell = command("/bin/sh", folder, &endpoint);
        shell.current_dir(folder).env("PATH", &path);
        let run = Run::from(shell.args(["-c", &format!("exec 2>&1; {line}")]).output().unwrap());
        let found = run.stdout.replace(folder.to_str().unwrap(), "/home/ann/huggingface");
        eprintln!("$ {line}\n{found}"); // to write the guide from
        let lines: Vec<&str> = found.lines().map(str::trim_end).collect();
        assert!(is_as_in_the_guide(&lines, &expected), "$ {line}\n{found}");
        if line.contains("--accept-licenses") {
            endpoint = REFUSED.to_owned(); // from here on, nothing needs the network
        }
    }
}
