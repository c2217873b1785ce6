//! `meptr weights convert`, `assemble` and `publish`.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tempfile::TempDir;

use super::weights_support::{PROGRAM, REFUSED, Run, command};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn fixture(name: &str) -> String {
    root().join("tests/fixtures/checkpoints").join(name).to_str().unwrap().to_owned()
}

fn demo(name: &str) -> String {
    root().join("weights/demo").join(name).to_str().unwrap().to_owned()
}

/// Runs `meptr weights` with `arguments`; those that start with `+` are paths below `folder`.
fn run(folder: &TempDir, arguments: &[&str]) -> Run {
    let mut command = command(PROGRAM, folder.path(), REFUSED);
    command.arg("weights");
    for argument in arguments {
        match argument.split_once('+') {
            Some((before, path)) if before.is_empty() || before.ends_with('=') => {
                command.arg(format!("{before}{}", folder.path().join(path).display()));
            }
            _ => {
                command.arg(argument);
            }
        }
    }
    command.output().unwrap().into()
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The tensors of an F32 safetensors file.
fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (header, data) = bytes[8..].split_at(header);
    let header: BTreeMap<String, Json> = serde_json::from_slice(header).unwrap();
    let read = |about: &Json| {
        assert_eq!(about["dtype"], "F32");
        let at = |index: usize| about["data_offsets"][index].as_u64().unwrap() as usize;
        let values = data[at(0)..at(1)].chunks_exact(4);
        values.map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect()
    };
    let named = header.iter().filter(|(name, _)| *name != "__metadata__");
    named.map(|(name, about)| (name.clone(), read(about))).collect()
}

#[test]
fn a_checkpoint_is_converted_and_the_report_says_what_was_assumed() {
    let folder = tempfile::tempdir().unwrap();
    let found = run(&folder, &["convert", &fixture("audio_head.pt"), "--out", "+out"]);
    let found = found.assert_code(0);
    assert!(found.stdout.contains("head of audio, 76 tensors"), "{found:#?}");
    let assumed = "fusion.attention.heads = 2 (from the file's own configuration)";
    assert!(found.stdout.contains(assumed), "{found:#?}");
    let note = json(&folder.path().join("out/audio_head.json"));
    assert_eq!((&note["kind"], &note["modality"]), (&"head".into(), &"audio".into()));
    assert_eq!(note["config"]["fusion"]["attention"]["heads"], 2);
    let converted = tensors(&folder.path().join("out/audio_head.safetensors"));
    let expected = tensors(Path::new(&fixture("audio_head.pt.safetensors")));
    assert!(converted == expected, "other numbers");
}

/// Every value keeps 11 bits: it moves by at most 2^-11 of itself, or by 2^-25 near zero.
#[test]
fn f16_storage_keeps_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    let input = fixture("audio_head.pt");
    run(&folder, &["convert", &input, "--storage", "f16", "--out", "+half"]).assert_code(0);
    let half = folder.path().join("half/audio_head.safetensors");
    let back = ["convert", half.to_str().unwrap(), "--set", "fusion.attention.heads=2"];
    run(&folder, &[&back[..], &["--out", "+back"]].concat()).assert_code(0);
    let found = tensors(&folder.path().join("back/audio_head.safetensors"));
    let expected = tensors(Path::new(&fixture("audio_head.pt.safetensors")));
    assert_eq!(found.len(), expected.len());
    for (name, values) in expected {
        for (found, expected) in found[&name].iter().zip(values) {
            let bound = (expected.abs() / 2048.0).max(2f32.powi(-25));
            assert!((found - expected).abs() <= bound, "{name}: {found} for {expected}");
        }
    }
    let size = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
    assert!(size("half/audio_head.safetensors") < size("back/audio_head.safetensors") * 4 / 5);
}

#[test]
fn files_that_would_run_code_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(fixture("malicious")).unwrap() {
        let path = entry.unwrap().path();
        let input = path.to_str().unwrap();
        for options in [&[][..], &["--trust-model-objects"]] {
            let arguments = [&["convert", input, "--out", "+out"], options].concat();
            let found = run(&folder, &arguments).assert_code(2);
            assert!(found.stderr.contains("cannot convert"), "{found:#?}");
        }
        count += 1;
    }
    assert!(count > 20, "{count} files");
    assert_eq!(std::fs::read_dir(folder.path().join("out")).unwrap().count(), 0);
}

#[test]
fn model_objects_need_consent() {
    let folder = tempfile::tempdir().unwrap();
    let input = fixture("ultralytics.pt");
    let found = run(&folder, &["convert", &input, "--out", "+out"]).assert_code(2);
    assert!(found.stderr.contains("needs --trust-model-objects"), "{found:#?}");
    let arguments = ["convert", &input, "--out", "+out", "--trust-model-objects"];
    let found = run(&folder, &arguments).assert_code(0);
    assert!(found.stdout.contains("YOLOv8 detector"), "{found:#?}");
    let note = json(&folder.path().join("out/ultralytics.json"));
    assert_eq!(note["kind"], "body_detector");
    assert_eq!(note["config"]["network"]["width_multiple"], 0.125);
}

#[test]
fn what_cannot_be_known_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let head = demo("heads/audio.safetensors");
    let found = run(&folder, &["convert", &head, "--out", "+out"]).assert_code(2);
    assert!(found.stderr.contains("--set fusion.attention.heads=8"), "{found:#?}");
    assert!(!folder.path().join("out/audio.safetensors").exists());
    let set = ["--set", "fusion.attention.heads=7"];
    let found = run(&folder, &[&["convert", &head, "--out", "+out"], &set[..]].concat());
    found.assert_code(2); // 7 does not divide the width
    let two = ["convert", &head, &demo("fusion.safetensors"), "--out", "+out"];
    run(&folder, &[&two[..], &set].concat()).assert_code(2);
}

#[test]
fn an_input_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("audio.safetensors");
    std::fs::copy(demo("heads/audio.safetensors"), &input).unwrap();
    let set = ["--set", "fusion.attention.heads=8", "--out", "+"];
    let arguments = [&["convert", input.to_str().unwrap()], &set[..]].concat();
    let found = run(&folder, &arguments).assert_code(2);
    assert!(found.stderr.contains("would overwrite"), "{found:#?}");
}

#[test]
fn a_backbone_becomes_a_folder_that_opens() {
    let folder = tempfile::tempdir().unwrap();
    let input = root().join("tests/golden/backbones/bert/model.safetensors");
    let arguments = ["convert", input.to_str().unwrap(), "--storage", "f16", "--out", "+bert"];
    run(&folder, &arguments).assert_code(0);
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        assert!(folder.path().join("bert").join(file).is_file(), "no {file}");
    }
    let alone = folder.path().join("alone.safetensors");
    std::fs::copy(&input, &alone).unwrap();
    let found = run(&folder, &["convert", alone.to_str().unwrap(), "--out", "+other"]);
    assert!(found.assert_code(2).stderr.contains("`config.json` beside"));
    assert!(!folder.path().join("other/model.safetensors").exists());
}

/// The demo bundle, with one head converted to f32 and back in its place: every number in it is
/// exact in f16, so that predictions stay the same.
#[test]
fn a_bundle_is_assembled_checked_and_published() {
    let folder = tempfile::tempdir().unwrap();
    let head = demo("heads/audio.safetensors");
    let set = ["--set", "fusion.attention.heads=8", "--out", "+parts"];
    run(&folder, &[&["convert", &head], &set[..]].concat()).assert_code(0);
    let base = demo("");
    let assemble = ["assemble", "--from", &base, "--name", "mine", "--status", "untrained"];
    let parts = ["--head", "audio=+parts/audio.safetensors", "--out", "+bundle"];
    let found = run(&folder, &[&assemble[..], &parts].concat()).assert_code(0);
    assert!(
        found.stderr.contains("no licence was given (--licence) for: audio head"),
        "{found:#?}"
    );
    run(&folder, &["verify", "+bundle"]).assert_code(0);
    let published = run(&folder, &["publish", "+bundle", "--out", "+upload"]).assert_code(2);
    assert!(published.stderr.contains("audio head"), "{published:#?}");

    std::fs::remove_dir_all(folder.path().join("bundle")).unwrap();
    let licence = ["--licence", "heads=CC-BY-NC-4.0"];
    run(&folder, &[&assemble[..], &parts, &licence].concat()).assert_code(0);
    let score = ["--score", "mean CCC, test=0.31", "--repository", "ann/mine"];
    let publish = [&["publish", "+bundle", "--out", "+upload"], &score[..]].concat();
    let found = run(&folder, &publish).assert_code(0);
    assert!(found.stderr.contains("non-commercial"), "{found:#?}");
    let card = std::fs::read_to_string(folder.path().join("upload/README.md")).unwrap();
    for expected in
        ["| mean CCC, test | 0.31 |", "CC-BY-NC-4.0 (**non", "European Union", "ann/mine"]
    {
        assert!(card.contains(expected), "no {expected:?} in {card}");
    }
    run(&folder, &["verify", "+upload"]).assert_code(0);
    assert_eq!(predicted(&folder, "upload"), predicted(&folder, &base));
}

fn predicted(folder: &TempDir, weights: &str) -> Json {
    let scores = prediction(folder, weights)["emotions"].clone();
    assert_eq!(scores.as_array().map(Vec::len), Some(7));
    scores
}

fn prediction(folder: &TempDir, weights: &str) -> Json {
    let video = root().join("samples/portrait.mp4");
    let mut command = command(PROGRAM, folder.path(), REFUSED);
    command.args(["--quiet", "predict", "--format", "json", "--weights"]);
    let found = command.arg(folder.path().join(weights)).arg(video).output().unwrap();
    let found = Run::from(found).assert_code(0);
    let json: Json = serde_json::from_str(&found.stdout).unwrap();
    json["videos"][0]["predictions"][0].clone()
}

/// Writes every second tensor of a safetensors file to a file of its own, and an index of both.
fn split(from: &Path, to: &Path) {
    let bytes = std::fs::read(from).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (header, data) = bytes[8..].split_at(header);
    let header: BTreeMap<String, Json> = serde_json::from_slice(header).unwrap();
    let mut weight_map = BTreeMap::new();
    std::fs::create_dir_all(to).unwrap();
    for part in 0..2 {
        let file = format!("model-{}-of-2.safetensors", part + 1);
        let (mut tensors, mut kept) = (BTreeMap::new(), Vec::new());
        let named = header.iter().filter(|(name, _)| *name != "__metadata__");
        for (name, about) in named.skip(part).step_by(2) {
            let at = |index: usize| about["data_offsets"][index].as_u64().unwrap() as usize;
            let mut about = about.clone();
            about["data_offsets"] = [kept.len(), kept.len() + at(1) - at(0)].into();
            kept.extend_from_slice(&data[at(0)..at(1)]);
            tensors.insert(name, about);
            weight_map.insert(name, file.clone());
        }
        let mut head = serde_json::to_vec(&tensors).unwrap();
        head.resize(head.len().next_multiple_of(8), b' ');
        let length = (head.len() as u64).to_le_bytes();
        std::fs::write(to.join(&file), [&length[..], &head, &kept].concat()).unwrap();
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
    std::fs::write(to.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn weights_in_several_files_become_one() {
    let folder = tempfile::tempdir().unwrap();
    let parts = folder.path().join("parts");
    split(Path::new(&demo("bert/model.safetensors")), &parts);
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(demo(&format!("bert/{file}")), parts.join(file)).unwrap();
    }
    let index = "+parts/model.safetensors.index.json";
    run(&folder, &["convert", index, "--out", "+whole"]).assert_code(0);
    let one = folder.path().join("one");
    std::fs::create_dir(&one).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(demo(&format!("bert/{file}")), one.join(file)).unwrap();
    }
    run(&folder, &["convert", "+one/model.safetensors", "--out", "+other"]).assert_code(0);
    let found = tensors(&folder.path().join("whole/model.safetensors"));
    assert!(found == tensors(&folder.path().join("other/model.safetensors")), "other numbers");

    let base = demo("");
    let assemble = ["assemble", "--from", &base, "--name", "x", "--status", "untrained"];
    let with_parts = ["--bert", "+parts", "--out", "+bundle"];
    run(&folder, &[&assemble[..], &with_parts].concat()).assert_code(0);
    assert_eq!(predicted(&folder, "bundle"), predicted(&folder, &base));

    std::fs::remove_file(parts.join("model-2-of-2.safetensors")).unwrap();
    let found = run(&folder, &["convert", index, "--out", "+gone"]).assert_code(2);
    assert!(found.stderr.contains("`model-2-of-2.safetensors` is missing"), "{found:#?}");
}

/// Adds 23-bit noise to all weights, as trained weights have: those of the demo are exact in f16.
fn make_uneven(from: &Path, to: &Path) {
    use candle::{DType, Device, Tensor};
    let tensors = candle::safetensors::load(from, &Device::Cpu).unwrap();
    let uneven = |tensor: Tensor| -> candle::Result<Tensor> {
        let tensor = tensor.to_dtype(DType::F32)?;
        let waves = Tensor::arange(0f32, tensor.elem_count() as f32, &Device::Cpu)?.sin()?;
        &tensor * ((waves * 0.01)? + 1.0)?.reshape(tensor.dims())?
    };
    let uneven = tensors.into_iter().map(|(name, tensor)| (name, uneven(tensor).unwrap()));
    let uneven: std::collections::HashMap<_, _> = uneven.collect();
    candle::safetensors::save(&uneven, to).unwrap();
}

/// The bound that `weights/README.md` states.
#[test]
fn predictions_with_f16_weights_stay_within_the_stated_bound() {
    let readme = std::fs::read_to_string(root().join("weights/README.md")).unwrap();
    let stated = readme.split("by less than ").nth(1).unwrap().split(' ').next().unwrap();
    let bound: f64 = stated.parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let base = demo("");
    let assemble = ["assemble", "--name", "x", "--status", "untrained"];
    let full = ["--from", &base, "--out", "+full"];
    run(&folder, &[&assemble[..], &full].concat()).assert_code(0);
    let mut manifest = json(&folder.path().join("full/manifest.json"));
    let files: Vec<String> = manifest["files"].as_object().unwrap().keys().cloned().collect();
    let is_meant = |name: &&String| name.ends_with(".safetensors") && !name.starts_with("face");
    for name in files.iter().filter(is_meant) {
        let path = folder.path().join("full").join(name);
        std::fs::remove_file(&path).unwrap(); // it may be a second name of the demo's own file
        make_uneven(Path::new(&demo(name)), &path);
        let (bytes, sha256) =
            (path.metadata().unwrap().len(), meptr_core::bundle::sha256_of(&path));
        manifest["files"][name] = serde_json::json!({ "bytes": bytes, "sha256": sha256.unwrap() });
    }
    std::fs::write(folder.path().join("full/manifest.json"), manifest.to_string()).unwrap();
    let half = ["--from", "+full", "--storage", "f16", "--out", "+half"];
    let half = half.map(|word| match word {
        "+full" => folder.path().join("full").to_str().unwrap().to_owned(),
        word => word.to_owned(),
    });
    let half: Vec<&str> = half.iter().map(String::as_str).collect();
    run(&folder, &[&assemble[..], &half].concat()).assert_code(0);
    let clip = |bundle: &str| {
        folder.path().join(bundle).join("clip/model.safetensors").metadata().unwrap().len()
    };
    assert!(clip("half") * 19 < clip("full") * 10, "it is not half the size");
    let numbers = |weights: &str| -> Vec<f64> {
        let found = prediction(&folder, weights);
        let emotions = found["emotions"].as_array().unwrap().iter().map(|one| &one["probability"]);
        let traits = found["traits"].as_array().unwrap().iter().map(|one| &one["score"]);
        emotions.chain(traits).map(|number| number.as_f64().unwrap()).collect()
    };
    let (full, half) = (numbers("full"), numbers("half"));
    assert_eq!((full.len(), half.len()), (12, 12));
    let moved = full.iter().zip(&half).map(|(full, half)| (full - half).abs()).fold(0.0, f64::max);
    eprintln!("moved by {moved:.1e}");
    assert!(moved > 0.0 && moved < bound, "moved by {moved}, {bound} is stated");
}

#[test]
fn parts_that_do_not_fit_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    run(&folder, &["convert", &fixture("audio_head.pt"), "--out", "+parts"]).assert_code(0);
    let base = demo("");
    let assemble = ["assemble", "--from", &base, "--name", "x", "--status", "untrained"];
    let refused = |part: &[&str], why: &str| {
        let found = run(&folder, &[&assemble[..], part, &["--out", "+bundle"]].concat());
        let found = found.assert_code(2);
        assert!(found.stderr.contains(why), "no {why:?} in {found:#?}");
        assert!(!folder.path().join("bundle").exists());
    };
    refused(&["--head", "audio=+parts/audio_head.safetensors"], "vectors of width 16");
    refused(&["--head", "body=+parts/audio_head.safetensors"], "the head of audio, not of body");
    refused(&["--fusion", "+parts/audio_head.safetensors"], "it holds a head");
    refused(&["--clip", "clip"], "`meptr weights pull clip` gets it");
    let raw = format!("audio={}", demo("heads/audio.safetensors"));
    refused(&["--head", &raw], "`meptr weights convert` asks for");
    let weights = folder.path().join("parts/audio_head.safetensors");
    std::fs::copy(fixture("half.pt.safetensors"), weights).unwrap();
    refused(&["--head", "audio=+parts/audio_head.safetensors"], "is not the file that");
}
