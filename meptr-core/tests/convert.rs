//! Recognition of models by their tensors, and the files that conversion writes.

use crate::golden;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use meptr_core::convert::{
    Assumed, Backbone, Basis, Checkpoint, CheckpointError, ConvertOptions, Layout, Model, Shapes,
    Storage, Trust, YoloShape, convert_file, identify,
};
use meptr_core::models::{
    CrossTaskConfig, CrossTaskModel, FusionConfig, FusionModel, HeadConfig, UnimodalModel,
    may_be_left,
};
use meptr_core::nn::Mode;
use meptr_core::weights::{generate, load_file, save_file};
use meptr_core::{Error, Modality, Task};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(name)
}

fn options(storage: Storage) -> ConvertOptions {
    let (modality, overrides) = (None, BTreeMap::new());
    ConvertOptions { trust: Trust::Tensors, storage, modality, overrides }
}

fn shapes_in(json: &Value) -> Result<BTreeMap<String, Vec<usize>>> {
    let weights = json.get("weights").context("a case lists its weights")?;
    Ok(serde_json::from_value(weights.clone())?)
}

/// The model that a reference case says it is of; `None` for the single-task models.
fn expected_model(json: &Value) -> Result<Option<Model>> {
    let name = json["model"].as_str().context("a case names its model")?;
    let config = &json["config"];
    if name.starts_with("stage3") {
        return Ok(Some(Model::Fusion(serde_json::from_value(config.clone())?)));
    }
    if name.starts_with("SingleTask") {
        return Ok(None);
    }
    let head = HeadConfig::from_reference_json(config)?;
    Ok(Some(if name.ends_with("fusion_transformer") {
        Model::Head(head)
    } else if name.contains("emotion") || name.ends_with("classifier") {
        Model::Unimodal { task: Task::Emotion, config: head.emotion }
    } else {
        Model::Unimodal { task: Task::Personality, config: head.personality }
    }))
}

/// The configuration as JSON, without what has no part in prediction.
fn config_json(model: &Model) -> Value {
    let mut json = model.config_json();
    drop_training_values(&mut json);
    json
}

fn drop_training_values(json: &mut Value) {
    let Value::Object(object) = json else { return };
    object.remove("dropout");
    object.values_mut().for_each(drop_training_values);
}

/// Replaces every assumed value by the expected one; what is left must have been seen.
fn with_expected_values(found: &mut Value, expected: &Value, assumed: &[Assumed]) -> Result<()> {
    for Assumed { key, .. } in assumed {
        let path = format!("/{}", key.replace('.', "/"));
        let value = expected.pointer(&path).with_context(|| format!("no `{key}`"))?;
        *found.pointer_mut(&path).with_context(|| format!("no `{key}`"))? = value.clone();
    }
    Ok(())
}

#[test]
fn the_shapes_of_every_reference_model_tell_all_but_what_is_listed() -> Result<()> {
    let mut cases = 0;
    for path in golden::json_files("models")? {
        let case = golden::Case::open(&path)?;
        let Some(expected) = expected_model(&case.json)? else { continue };
        cases += 1;
        let shapes = shapes_in(&case.json)?.into_iter().collect();
        let found = identify(&shapes, None, None).with_context(|| case.name.clone())?;
        let expected_json = config_json(&expected);
        let mut found_json = config_json(&found.model);
        with_expected_values(&mut found_json, &expected_json, &found.assumed)?;
        assert_eq!(found_json, expected_json, "{}", case.name);
        ensure!(std::mem::discriminant(&found.model) == std::mem::discriminant(&expected));
        let published = Modality::ALL.into_iter().find(|modality| {
            let head = HeadConfig::published(*modality);
            expected == Model::Head(head.clone())
        });
        if let Some(modality) = published {
            assert_eq!((found.model, found.modality), (expected, Some(modality)), "{}", case.name);
            assert!(found.assumed.iter().all(|assumed| assumed.basis == Basis::Published));
        }
    }
    ensure!(cases > 0, "no reference models");
    Ok(())
}

#[test]
fn the_file_s_own_configuration_is_taken_where_it_fits() -> Result<()> {
    let mut cases = 0;
    for path in golden::json_files("models")? {
        let case = golden::Case::open(&path)?;
        let Some(expected) = expected_model(&case.json)? else { continue };
        let shapes = shapes_in(&case.json)?.into_iter().collect();
        let found = identify(&shapes, Some(&case.json["config"]), None)?;
        if let Model::Fusion(expected) = &expected {
            let Model::Fusion(found) = &found.model else { panic!("{}", case.name) };
            assert_eq!(found.num_heads, expected.num_heads);
            continue; // the other values are not in these configurations
        }
        assert_eq!(found.model, expected, "{}", case.name);
        assert!(found.assumed.iter().all(|assumed| assumed.basis == Basis::File), "{}", case.name);
        cases += 1;
    }
    ensure!(cases > 0, "no reference models");
    Ok(())
}

#[test]
fn ablations_of_the_fusion_model_are_seen() -> Result<()> {
    let mut cases = 0;
    for path in golden::json_files("models")? {
        let case = golden::Case::open(&path)?;
        let Some(variants) = case.json["variants"].as_object() else { continue };
        for (name, flags) in variants {
            let mut shapes = shapes_in(&case.json)?;
            let absent = &case.json["state_dict_keys_absent_in_variant"][name];
            for key in serde_json::from_value::<Vec<String>>(absent.clone())? {
                shapes.remove(&key);
            }
            let mut config = case.json["config"].clone();
            config["ablation"] = flags.clone();
            let expected: FusionConfig = serde_json::from_value(config.clone())?;
            let shapes: Shapes = shapes.into_iter().collect();
            let found = identify(&shapes, Some(&config), None)?;
            assert_eq!(found.model, Model::Fusion(expected), "{name} of {}", case.name);
            cases += 1;
        }
    }
    ensure!(cases > 0, "no ablations");
    Ok(())
}

/// Each file of reference data holds several, under the name of what they read and predict.
#[test]
fn fusion_models_of_one_task_are_refused_by_name() -> Result<()> {
    let mut cases = 0;
    for path in golden::json_files("models")? {
        let case = golden::Case::open(&path)?;
        if expected_model(&case.json)?.is_some() {
            continue;
        }
        let shapes = shapes_in(&case.json)?;
        let models: BTreeSet<&str> =
            shapes.keys().filter_map(|n| Some(n.split_once('.')?.0)).collect();
        for model in models {
            let named = |(name, dims): (&String, &Vec<usize>)| {
                let name = name.strip_prefix(model)?.strip_prefix('.')?;
                Some((name.to_owned(), dims.clone()))
            };
            let found = identify(&shapes.iter().filter_map(named).collect(), None, None);
            let Err(error @ CheckpointError::Unsupported { .. }) = found else {
                panic!("{model} of {}: {found:?}", case.name)
            };
            assert!(error.to_string().contains("of one task"), "{error}");
            cases += 1;
        }
    }
    ensure!(cases > 0, "no single-task models");
    Ok(())
}

#[test]
fn published_heads_are_known_by_their_shapes() -> Result<()> {
    for modality in Modality::ALL {
        let config = HeadConfig::published(modality);
        let build = |vb: VarBuilder| CrossTaskModel::load(&config, vb).map(drop);
        let (_, tensors) = generate(1, &Device::Cpu, build)?;
        let found = identify(&Shapes::of(&tensors), None, None)?;
        assert_eq!(found.model, Model::Head(config), "{modality}");
        assert_eq!(found.modality, Some(modality));
        assert!(found.assumed.iter().all(|assumed| assumed.basis == Basis::Published));
    }
    let config = FusionConfig::published();
    let build = |vb: VarBuilder| FusionModel::load(&config, vb).map(drop);
    let (_, tensors) = generate(1, &Device::Cpu, build)?;
    let found = identify(&Shapes::of(&tensors), None, None)?;
    assert_eq!(found.model, Model::Fusion(config));
    Ok(())
}

#[test]
fn unpublished_heads_are_guesses() -> Result<()> {
    let config = HeadConfig::published(Modality::Body).scaled(512, 4);
    let build = |vb: VarBuilder| CrossTaskModel::load(&config, vb).map(drop);
    let (_, tensors) = generate(1, &Device::Cpu, build)?;
    let found = identify(&Shapes::of(&tensors), None, None)?;
    assert_eq!(found.modality, None);
    assert!(found.assumed.iter().all(|assumed| assumed.basis == Basis::Guess));
    let found = identify(&Shapes::of(&tensors), None, Some(Modality::Body))?;
    assert_eq!((found.model, found.modality), (Model::Head(config), Some(Modality::Body)));
    Ok(())
}

#[test]
fn detectors_and_backbones_are_known_by_their_names() -> Result<()> {
    let shapes = |names: &[(&str, &[usize])]| -> Shapes {
        names.iter().map(|(name, dims)| ((*name).to_owned(), dims.to_vec())).collect()
    };
    let shape = YoloShape { stem_width: 16, deepest_width: 256, stage_2_blocks: 2, classes: 1 };
    for [stem, deepest, blocks, head] in [
        ["model.0", "model.7", "model.4.m", "model.22"],
        ["net.b1.0", "net.b4.0", "net.b2.2.bottleneck", "head"],
    ] {
        let block = |number: usize| format!("{blocks}.{number}.cv1.conv.weight");
        let yolo = shapes(&[
            (&format!("{stem}.conv.weight"), &[16, 3, 3, 3]),
            (&block(0), &[32, 32, 3, 3]),
            (&block(1), &[32, 32, 3, 3]),
            (&format!("{deepest}.conv.weight"), &[256, 128, 3, 3]),
            (&format!("{head}.cv3.0.2.weight"), &[1, 64, 1, 1]),
        ]);
        assert_eq!(identify(&yolo, None, None)?.model, Model::Yolo(shape));
    }
    for (name, backbone) in [
        ("vision_model.embeddings.patch_embedding.weight", Backbone::Clip),
        ("bert.embeddings.word_embeddings.weight", Backbone::Bert),
        ("embeddings.word_embeddings.weight", Backbone::Bert),
        ("wav2vec2.feature_extractor.conv_layers.0.conv.weight", Backbone::Wav2Vec2),
        ("model.decoder.embed_positions.weight", Backbone::Whisper),
    ] {
        let found = identify(&shapes(&[(name, &[2, 2])]), None, None)?;
        assert_eq!(found.model, Model::Backbone(backbone));
    }
    let nothing = identify(&shapes(&[("weight", &[2])]), None, None);
    assert!(matches!(nothing, Err(CheckpointError::UnknownModel { .. })));
    Ok(())
}

#[test]
fn a_head_is_converted_with_the_number_of_heads_that_its_file_states() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("audio.safetensors");
    let report = convert_file(&fixture("audio_head.pt"), &output, &options(Storage::F32))?;
    assert_eq!((report.layout, report.modality), (Layout::StateDict, Some(Modality::Audio)));
    let key = "fusion.attention.heads".to_owned();
    assert_eq!(report.assumed, [Assumed { key, value: json!(2), basis: Basis::File }]);
    let Model::Head(config) = report.model else { panic!("{:?}", report.model) };
    assert!(matches!(config.fusion, CrossTaskConfig::Attention { heads: 2, width: 8, .. }));
    let found = candle::safetensors::load(&output, &Device::Cpu)?;
    let expected = candle::safetensors::load(fixture("audio_head.pt.safetensors"), &Device::Cpu)?;
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in &found {
        golden::ensure_close(name, tensor, &expected[name], 0.0)?;
    }
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 1, "temporary files stayed");
    Ok(())
}

#[test]
fn the_caller_can_set_what_the_shapes_do_not_tell() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("audio.safetensors");
    let convert = |key: &str, value: Value| {
        let overrides = BTreeMap::from([(key.to_owned(), value)]);
        let options = ConvertOptions { overrides, ..options(Storage::F32) };
        convert_file(&fixture("audio_head.pt"), &output, &options)
    };
    let report = convert("fusion.attention.heads", json!(4))?;
    assert_eq!((&report.assumed[0].value, report.assumed[0].basis), (&json!(4), Basis::Given));
    assert!(convert("fusion.attention.head", json!(4)).is_err(), "there is no such key");
    assert!(convert("fusion.attention.heads", json!("four")).is_err(), "no number");
    std::fs::remove_file(&output)?;
    assert!(convert("fusion.attention.heads", json!(3)).is_err(), "3 does not divide 8");
    assert!(convert("fusion.attention.width", json!(16)).is_err(), "other shapes");
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "half a conversion stayed");
    Ok(())
}

/// A width of 2^20 in one small tensor asks for terabytes elsewhere.
#[test]
fn a_width_that_the_other_tensors_lack_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("in"), folder.path().join("out.safetensors"));
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    let mut tensors = BTreeMap::from([("emo_query".to_owned(), zeros(&[1, 1, 1 << 20])?)]);
    for modality in Modality::ALL {
        tensors.insert(format!("projectors.{modality}.0.proj.0.weight"), zeros(&[4, 4])?);
    }
    save_file(&input, &tensors)?;
    let Err(Error::UnfitWeights { problems, .. }) =
        convert_file(&input, &output, &options(Storage::F32))
    else {
        panic!("it was converted")
    };
    let last = problems.last().context("a problem")?;
    assert!(last.contains("more than such a file can hold"), "{problems:?}");
    Ok(())
}

#[test]
fn a_detector_is_converted_from_its_object() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("yolo.safetensors");
    let trusting = ConvertOptions { trust: Trust::ModelObjects, ..options(Storage::F16) };
    let report = convert_file(&fixture("ultralytics.pt"), &output, &trusting)?;
    let Model::Yolo(shape) = report.model else { panic!("{:?}", report.model) };
    assert_eq!((shape.stem_width, shape.classes), (8, 1));
    assert!(!report.left_out.is_empty());
    assert!(report.left_out.iter().all(|name| name.ends_with("num_batches_tracked")));
    let found = candle::safetensors::load(&output, &Device::Cpu)?;
    assert_eq!(found.len(), report.tensors);
    assert!(found.values().all(|tensor| tensor.dtype() == DType::F16));
    Ok(())
}

#[test]
fn values_above_the_range_of_f16_are_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("in"), folder.path().join("out.safetensors"));
    let name = "embeddings.word_embeddings.weight".to_owned();
    let store = |value: f32, storage| -> Result<_> {
        let tensor = Tensor::new(&[[1.0, value]], &Device::Cpu)?;
        save_file(&input, &BTreeMap::from([(name.clone(), tensor)]))?;
        Ok(convert_file(&input, &output, &options(storage)))
    };
    store(65504.0, Storage::F16)??;
    store(-1e6, Storage::F32)??;
    std::fs::remove_file(&output)?;
    let Err(Error::Checkpoint { source, .. }) = store(-1e6, Storage::F16)? else {
        panic!("it was stored")
    };
    assert!(matches!(source, CheckpointError::Overflow { tensor, .. } if tensor == name));
    assert!(!output.exists());
    Ok(())
}

/// Two files of the fixtures, which PyTorch wrote, taken for the parts of one checkpoint.
#[test]
fn pickles_in_several_files_are_read_as_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let files = ["weight_norm_new.pt", "half.pt"];
    let mut expected = BTreeMap::new();
    let mut weight_map = BTreeMap::new();
    for file in files {
        std::fs::copy(fixture(file), folder.path().join(file))?;
        let reference = fixture(&format!("{file}.safetensors"));
        for (name, tensor) in candle::safetensors::load(reference, &Device::Cpu)? {
            weight_map.insert(name.clone(), file);
            expected.insert(name, tensor);
        }
    }
    let index = folder.path().join("pytorch_model.bin.index.json");
    std::fs::write(&index, json!({"metadata": {}, "weight_map": weight_map}).to_string())?;
    let found = Checkpoint::read(&index, Trust::Tensors)?;
    assert_eq!((found.layout, found.tensors.len()), (Layout::Shards, expected.len()));
    for (name, tensor) in &found.tensors {
        golden::ensure_close(name, tensor, &expected[name], 0.0)?;
    }
    Ok(())
}

/// Storing weights as f16 moves each by up to 2^-11 of itself; on this model of the text modality
/// (published widths, weights with all 24 bits in use) trait scores, which lie between 0 and 1,
/// move by less than 0.0005 (measured: 0.00009).
#[test]
fn f16_weights_give_nearly_the_answers_of_f32_weights() -> Result<()> {
    let device = Device::Cpu;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let config = HeadConfig::published(Modality::Text).personality;
    let build = |vb: VarBuilder| UnimodalModel::load(&config, Task::Personality, vb);
    let (_, tensors) = generate(5, &device, build)?;
    let uneven = |tensor: &Tensor| -> candle::Result<Tensor> {
        let waves = Tensor::arange(0f32, tensor.elem_count() as f32, &device)?.sin()?;
        tensor * ((waves * 0.3)? + 1.0)?.reshape(tensor.dims())?
    };
    let uneven: BTreeMap<String, Tensor> = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), uneven(tensor)?)))
        .collect::<Result<_>>()?;
    save_file(&path("f32.safetensors"), &uneven)?;
    let report =
        convert_file(&path("f32.safetensors"), &path("f16.safetensors"), &options(Storage::F16))?;
    assert_eq!(report.layout, Layout::Safetensors);
    let steps = Tensor::arange(0f32, 20.0 * 384.0, &device)?.sin()?.reshape((1, 20, 384))?;
    let answer = |name: &str| -> Result<_> {
        let model = load_file(&path(name), &device, may_be_left, build)?;
        Ok(model.forward(&steps, None, &mut Mode::Eval)?)
    };
    let (full, half) = (answer("f32.safetensors")?, answer("f16.safetensors")?);
    let prediction = golden::max_difference(&half.prediction, &full.prediction)?;
    let features = golden::max_difference(&half.features, &full.features)?;
    assert!(prediction > 0.0, "the weights do not differ");
    eprintln!("scores moved by {prediction:.1e}, features by {features:.1e}");
    ensure!(prediction < 5e-4, "scores moved by {prediction}");
    ensure!(features < 2e-2, "features moved by {features}");
    Ok(())
}
