//! Checkpoint files made with PyTorch (scripts/make_checkpoint_fixtures.py) against what PyTorch
//! says they hold, and hostile files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle::{DType, Device, Tensor};
use meptr_core::Error;
use meptr_core::convert::{Checkpoint, CheckpointError, Layout, Trust};
use proptest::prelude::*;
use serde_json::json;

const ANY_TIME: Duration = Duration::from_secs(10); // these take milliseconds on a quiet machine

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(name)
}

fn fixtures(folder: &str) -> Result<Vec<PathBuf>> {
    let folder = fixture(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "pt"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "no fixtures in {}", folder.display());
    Ok(files)
}

/// As f64, which is exact for every value in the fixtures.
fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn reason(result: meptr_core::Result<Checkpoint>) -> CheckpointError {
    match result {
        Err(Error::Checkpoint { source, .. }) => source,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn every_file_gives_what_pytorch_wrote() -> Result<()> {
    for path in fixtures("")? {
        let found = Checkpoint::read(&path, Trust::ModelObjects)?.tensors;
        let expected = path.with_extension("pt.safetensors");
        let expected = candle::safetensors::load(expected, &Device::Cpu)?;
        let names: Vec<&String> = found.keys().collect();
        let mut expected_names: Vec<&String> = expected.keys().collect();
        expected_names.sort();
        assert_eq!(names, expected_names, "{}", path.display());
        for (name, tensor) in &found {
            let expected = &expected[name];
            assert_eq!(tensor.dtype(), expected.dtype(), "{name} of {}", path.display());
            assert!(tensor.is_contiguous());
            assert_eq!(tensor.dims(), expected.dims(), "{name} of {}", path.display());
            assert_eq!(values(tensor)?, values(expected)?, "{name} of {}", path.display());
        }
    }
    Ok(())
}

#[test]
fn layouts_are_told_apart() -> Result<()> {
    for (name, layout) in [
        ("every_kind.pt", Layout::Bare),
        ("every_kind_legacy.pt", Layout::Bare),
        ("module_prefix.pt", Layout::Bare),
        ("model_state_dict.pt", Layout::ModelStateDict),
        ("state_dict_config.pt", Layout::StateDict),
        ("half.pt", Layout::Model),
    ] {
        let checkpoint = Checkpoint::read(&fixture(name), Trust::Tensors)?;
        assert_eq!(checkpoint.layout, layout, "{name}");
    }
    Ok(())
}

#[test]
fn the_config_is_plain_json() -> Result<()> {
    let config = |name| Ok::<_, Error>(Checkpoint::read(&fixture(name), Trust::Tensors)?.config);
    assert_eq!(config("every_kind.pt")?, None);
    assert_eq!(
        config("state_dict_config.pt")?,
        Some(json!({
            "hidden_dim": 4, "dropout": 0.2, "tr_heads": 8, "best": 0.5, "name": "größe",
            "widths": [1, 2, [3, null]], "big": null, "flags": {"mask": true, "1": "one"},
            "infinite": null, "device": null, "dtype": null, "set": [4],
        }))
    );
    let namespace = Some(json!({"hidden_dim": 4, "heads": 2}));
    assert_eq!(config("state_dict_namespace.pt")?, namespace);
    Ok(())
}

#[test]
fn model_objects_need_their_own_mode() -> Result<()> {
    let path = fixture("ultralytics.pt");
    let error = reason(Checkpoint::read(&path, Trust::Tensors)).to_string();
    assert!(error.contains("ultralytics.nn.tasks.DetectionModel"), "{error}");
    let checkpoint = Checkpoint::read(&path, Trust::ModelObjects)?;
    assert_eq!(checkpoint.layout, Layout::ModelObject);
    let config = checkpoint.config.context("it has a config")?;
    assert_eq!(config["names"], json!({"0": "person"}));
    assert_eq!(config["yaml"]["nc"], json!(1));
    assert_eq!(config["train_args"]["imgsz"], json!(640));
    Ok(())
}

#[test]
fn malicious_files_are_refused_by_name() -> Result<()> {
    let called =
        ["system", "eval", "Popen", "getattr", "exec", "__import__", "load", "extension registry"];
    for path in fixtures("malicious")? {
        for trust in [Trust::Tensors, Trust::ModelObjects] {
            let error = reason(Checkpoint::read(&path, trust));
            let CheckpointError::ForbiddenGlobal { global } = &error else {
                panic!("{}: {error}", path.display());
            };
            let is_named = called.iter().any(|name| global.contains(name));
            assert!(is_named, "{}: {error}", path.display());
        }
    }
    Ok(())
}

#[test]
fn hostile_files_are_refused_at_once() -> Result<()> {
    for path in fixtures("hostile")? {
        let start = Instant::now();
        let error = reason(Checkpoint::read(&path, Trust::ModelObjects));
        assert!(start.elapsed() < ANY_TIME, "{} took {:?}", path.display(), start.elapsed());
        assert!(!matches!(error, CheckpointError::Read(_)), "{}: {error}", path.display());
    }
    Ok(())
}

#[test]
fn cut_files_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("cut.pt");
    for name in ["every_kind.pt", "every_kind_legacy.pt"] {
        let bytes = std::fs::read(fixture(name))?;
        for length in (0..bytes.len()).step_by(7) {
            std::fs::write(&path, &bytes[..length])?;
            reason(Checkpoint::read(&path, Trust::Tensors));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Whatever bytes change, reading ends soon, takes little memory and does not panic.
    #[test]
    fn changed_bytes_do_no_harm(
        name in prop::sample::select(vec![
            "every_kind.pt",
            "every_kind_legacy.pt",
            "every_kind_protocol_4.pt",
            "state_dict_config.pt",
            "model_state_dict.pt",
            "ultralytics.pt",
            "hostile/shared_lists.pt",
        ]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("changed.pt");
        std::fs::write(&path, &bytes).unwrap();
        let start = Instant::now();
        if let Ok(checkpoint) = Checkpoint::read(&path, Trust::ModelObjects) {
            let size = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
            let total: usize = checkpoint.tensors.values().map(size).sum();
            prop_assert!(total <= 4 * bytes.len());
        }
        prop_assert!(start.elapsed() < ANY_TIME);
    }
}
