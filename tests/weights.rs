//! `meptr weights`, and bundles that are not as their manifest says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use meptr_core::bundle::sha256_of;
use serde_json::{Map, Value, json};

use crate::support::{Folder, film, meptr, text};

/// Makes a bundle at demo sizes.
fn init(path: &Path, seed: &str) -> Result<Value> {
    let run = meptr(["weights", "init", "--preset", "demo", "--seed", seed, "--"]);
    let mut run = run;
    run.0.arg(path);
    run.ends_with(0)?;
    manifest(path)
}

fn manifest(bundle: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(bundle.join("manifest.json"))?)?)
}

/// Why `meptr predict` refuses a bundle.
fn refusal(bundle: &Path) -> Result<String> {
    let mut run = meptr(["predict", "none.mp4", "--weights"]);
    run.0.arg(bundle);
    let done = run.ends_with(2)?;
    assert_eq!(done.out, "");
    assert_eq!(done.err.matches("ERROR").count(), 1, "one error: {}", done.err);
    Ok(done.err)
}

/// A copy of the demo bundle.
fn copy(folder: &Folder, name: &str) -> Result<PathBuf> {
    fn copy_below(from: &Path, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                copy_below(&entry.path(), &target)?;
            } else {
                std::fs::copy(entry.path(), target)?;
            }
        }
        Ok(())
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo");
    let path = folder.at(name);
    copy_below(&demo, &path)?;
    Ok(path)
}

/// Writes size and hash of a changed file into the manifest.
fn relist(bundle: &Path, name: &str) -> Result<()> {
    let mut manifest = manifest(bundle)?;
    let path = bundle.join(name);
    let bytes = std::fs::metadata(&path)?.len();
    manifest["files"][name] = json!({"bytes": bytes, "sha256": sha256_of(&path)?});
    Ok(std::fs::write(bundle.join("manifest.json"), manifest.to_string())?)
}

/// Rewrites the list of tensors at the head of a safetensors file; their data stays.
fn retitle(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
    let bytes = std::fs::read(path)?;
    let (length, rest) = bytes.split_at(8);
    let (head, data) = rest.split_at(usize::try_from(u64::from_le_bytes(length.try_into()?))?);
    let mut tensors: Map<String, Value> = serde_json::from_slice(head)?;
    change(&mut tensors);
    let mut head = Value::from(tensors).to_string().into_bytes();
    head.resize(head.len().next_multiple_of(8), b' ');
    let length = (head.len() as u64).to_le_bytes();
    Ok(std::fs::write(path, [&length[..], &head, data].concat())?)
}

#[test]
fn a_made_bundle_predicts_and_its_seed_makes_it_again() -> Result<()> {
    let folder = Folder::new()?;
    let first = init(&folder.at("a"), "7")?;
    let again = init(&folder.at("b"), "7")?;
    let other = init(&folder.at("c"), "8")?;
    assert_eq!(first, again);
    assert_ne!(first["files"], other["files"]);
    assert_eq!(first["status"], "untrained");
    let files = first["files"].as_object().context("files")?;
    for (name, entry) in files {
        assert_eq!(sha256_of(&folder.at("a").join(name))?, text(&entry["sha256"]), "{name}");
    }

    let shown = meptr(["weights", "show", "a"]).within(folder.path()).ends_with(0)?.out;
    for (name, entry) in files {
        assert!(shown.contains(name.as_str()) && shown.contains(text(&entry["sha256"])), "{name}");
    }
    assert!(shown.contains(text(&first["name"])) && shown.contains("licence: "), "{shown}");

    folder.clip("v.mp4", &film(3))?;
    let run = meptr(["predict", "--format", "json", "--weights", "c", "v.mp4"]);
    let found = run.within(folder.path()).ends_with(0)?.json()?["videos"][0]["weights"].clone();
    let listed = found["files"].as_array().context("a list")?.iter();
    let hashes: BTreeMap<&str, &str> =
        listed.map(|one| (text(&one["name"]), text(&one["sha256"]))).collect();
    for (name, entry) in other["files"].as_object().context("files")? {
        assert_eq!(hashes[name.as_str()], text(&entry["sha256"]), "{name}");
    }

    let taken = meptr(["weights", "init", "--preset", "demo", "a"]).within(folder.path());
    let taken = taken.ends_with(2)?;
    assert!(taken.err.contains("`a`") && taken.err.contains("not empty"), "{}", taken.err);
    Ok(())
}

#[test]
fn the_weights_in_the_program_have_a_name() -> Result<()> {
    let shown = meptr(["weights", "show", "demo"]).ends_with(0)?.out;
    assert!(shown.contains("demonstration"), "{shown}");
    let verified = meptr(["weights", "verify", "demo"]).ends_with(0)?.out;
    assert!(verified.starts_with("intact"), "{verified}");
    let folder = meptr(["weights", "path", "demo"]).ends_with(0)?.out;
    assert!(Path::new(folder.trim()).join("manifest.json").is_file(), "{folder}");
    Ok(())
}

#[test]
fn altered_and_missing_files_are_listed_in_one_error() -> Result<()> {
    let folder = Folder::new()?;
    let bundle = copy(&folder, "bundle")?;
    let path = bundle.join("heads/text.safetensors");
    let mut bytes = std::fs::read(&path)?;
    *bytes.last_mut().context("bytes")? ^= 1;
    std::fs::write(&path, bytes)?;
    std::fs::write(bundle.join("bert/config.json"), "{}")?;
    std::fs::remove_file(bundle.join("heads/face.safetensors"))?;
    let mut show = meptr(["weights", "show"]);
    show.0.arg(&bundle);
    for error in [refusal(&bundle)?, show.ends_with(2)?.err] {
        for (name, why) in [
            ("heads/text.safetensors", "was altered"),
            ("bert/config.json", "has 2 bytes instead of"),
            ("heads/face.safetensors", "is missing"),
        ] {
            assert!(error.contains(&format!("`{name}` {why}")), "{error}");
        }
        assert!(error.contains(&bundle.display().to_string()), "{error}");
    }
    Ok(())
}

#[test]
fn tensors_that_do_not_fit_are_listed_in_one_error() -> Result<()> {
    let folder = Folder::new()?;
    for name in ["fusion.safetensors", "bert/model.safetensors", "heads/audio.safetensors"] {
        let bundle = copy(&folder, &name.replace('/', "-"))?;
        let mut expected = Vec::new();
        retitle(&bundle.join(name), |tensors| {
            let names: Vec<String> = tensors.keys().cloned().collect();
            let shape = |tensor: &Value| serde_json::from_value(tensor["shape"].clone());
            let is_oblong = |shape: &[usize]| shape.len() == 2 && shape[0] != shape[1];
            let oblong =
                |name: &&String| shape(&tensors[*name]).is_ok_and(|one: Vec<_>| is_oblong(&one));
            let turned = names.iter().find(oblong).expect("a matrix").clone();
            let renamed = names.iter().find(|one| **one != turned && *one != "__metadata__");
            let renamed = renamed.expect("another tensor").clone();
            let tensor = tensors.remove(&renamed).expect("listed");
            tensors.insert("a.stranger".to_owned(), tensor);
            let shape = tensors[&turned]["shape"].as_array_mut().expect("a shape");
            shape.reverse();
            expected = vec![renamed, turned, "a.stranger".to_owned()];
        })?;
        relist(&bundle, name)?;
        let error = refusal(&bundle)?;
        for tensor in &expected {
            assert!(error.contains(&format!("`{tensor}`")), "{tensor} is not in {error}");
        }
        for word in ["is missing", "has the shape", name.rsplit('/').next().unwrap_or(name)] {
            assert!(error.contains(word), "{word} is not in {error}");
        }
    }
    Ok(())
}

/// Of two backbones, a head and the fusion model, a tensor is renamed in each.
#[test]
fn all_files_that_do_not_fit_are_listed_in_one_error() -> Result<()> {
    let folder = Folder::new()?;
    let bundle = copy(&folder, "bundle")?;
    let names = [
        "clip/model.safetensors",
        "bert/model.safetensors",
        "heads/face.safetensors",
        "fusion.safetensors",
    ];
    for name in names {
        retitle(&bundle.join(name), |tensors| {
            let first = tensors.keys().find(|one| *one != "__metadata__").expect("one").clone();
            let tensor = tensors.remove(&first).expect("listed");
            tensors.insert("a.stranger".to_owned(), tensor);
        })?;
        relist(&bundle, name)?;
    }
    let error = refusal(&bundle)?;
    for name in names {
        let expected = format!("`{}` does not fit", bundle.join(name).display());
        assert!(error.contains(&expected), "{expected} is not in {error}");
    }
    Ok(())
}

/// Sizes that a configuration asks for are checked before memory is taken.
#[test]
fn sizes_that_no_model_has_are_refused_at_once() -> Result<()> {
    let folder = Folder::new()?;
    let billion = 1_000_000_000_u64;
    for (part, place, value, reason) in [
        ("wav2vec2", "/conv_kernel", json!(vec![billion; 7]), "`conv_kernel` is 1000000000"),
        ("clip", "/vision_config/num_hidden_layers", json!(billion), "`num_hidden_layers` is"),
        ("bert", "/vocab_size", json!(1_000 * billion), "`vocab_size` is 1000000000000"),
        ("bert", "/vocab_size", json!(1 << 20), "more than such a file can hold"),
        ("bert", "/num_hidden_layers", json!(1000), "more than such a file can hold"),
    ] {
        let bundle = copy(&folder, &format!("{part}{}", reason.len()))?;
        let name = format!("{part}/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(bundle.join(&name))?)?;
        *config.pointer_mut(place).context("a size")? = value;
        std::fs::write(bundle.join(&name), config.to_string())?;
        relist(&bundle, &name)?;
        let start = std::time::Instant::now();
        let error = refusal(&bundle)?;
        assert!(error.contains(reason) && error.contains(part), "{reason} is not in {error}");
        assert!(start.elapsed().as_secs() < 20, "it took {:?}", start.elapsed());
    }
    Ok(())
}

#[test]
fn a_manifest_that_makes_no_sense_is_refused() -> Result<()> {
    let folder = Folder::new()?;
    let bundle = copy(&folder, "bundle")?;
    let path = bundle.join("manifest.json");
    let good = manifest(&bundle)?;
    let mut cases: Vec<(String, &str)> = vec![
        (String::new(), "manifest.json"),
        ("{\"schema\": 1}".to_owned(), "manifest.json"),
        ("[".repeat(100_000), "manifest.json"),
    ];
    let mut with = |change: &dyn Fn(&mut Value), reason| {
        let mut manifest = good.clone();
        change(&mut manifest);
        cases.push((manifest.to_string(), reason));
    };
    with(&|manifest| manifest["schema"] = json!("meptr-bundle/999"), "meptr-bundle/999");
    with(&|manifest| manifest["surprise"] = json!(1), "surprise");
    with(
        &|manifest| manifest["parts"]["fusion"]["file"] = json!("../fusion.safetensors"),
        "fusion",
    );
    with(
        &|manifest| manifest["parts"]["clip"]["folder"] = json!("/clip"),
        "`/clip/model.safetensors` is used but not listed",
    );
    with(
        &|manifest| {
            drop(
                manifest["files"]
                    .as_object_mut()
                    .and_then(|files| files.remove("bert/tokenizer.json")),
            )
        },
        "`bert/tokenizer.json` is used but not listed",
    );
    with(
        &|manifest| manifest["parts"]["fusion"]["config"]["hidden_dim"] = json!(1u64 << 60),
        "the fusion model: `hidden_dim`",
    );
    with(&|manifest| manifest["files"] = json!({}), "fusion.safetensors");
    for (text, reason) in cases {
        std::fs::write(&path, &text)?;
        let error = refusal(&bundle)?;
        assert!(error.contains(reason), "{reason} is not in {error}");
    }

    // Lists a file that is no safetensors file at all.
    std::fs::write(&path, good.to_string())?;
    for content in ["", "no tensors here", "\u{1}\0\0\0\0\0\0\u{7f}{}"] {
        std::fs::write(bundle.join("heads/body.safetensors"), content)?;
        relist(&bundle, "heads/body.safetensors")?;
        assert!(refusal(&bundle)?.contains("body.safetensors"));
    }
    Ok(())
}
