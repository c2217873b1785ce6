//! Every model of stages 1 to 3 against the reference, case by case.
//!
//! Source of the data: the reference's own classes with generated weights, f32 on the CPU; one JSON
//! and one safetensors file per model. Tolerance: 1e-4, as the data's index suggests, of the largest
//! value of a tensor, or of 1. The worst case is the scene model, ten layers that each add their
//! output to their input: its features reach 10, and there both programs are equally far from the
//! same model run in f64 (ours 7e-5, the reference 9e-5).

use crate::golden;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use candle::{DType, Shape, Tensor};
use candle_nn::VarBuilder;
use golden::Case;
use meptr_core::models::{
    Ablation, CrossTaskModel, FusionConfig, FusionInput, FusionModel, HeadConfig, Lengths,
    ModalityInput, SingleTaskConfig, SingleTaskModel, UnimodalModel, may_be_left,
};
use meptr_core::nn::Mode;
use meptr_core::weights::{generated_tensor, load_file, save_file};
use meptr_core::{Modality, PerModality, Task};

const TOLERANCE: f32 = 1e-4;

/// Comparisons so far.
#[derive(Default)]
struct Tally {
    compared: usize,
    worst: f32,
    used: BTreeSet<String>,
}

impl Tally {
    /// Compares with the output of that name, or with its mean over steps if only that is stored.
    fn check(&mut self, case: &Case, output: &str, found: &Tensor) -> Result<()> {
        let name = format!("output.{output}");
        let mean = format!("{name}.mean_dim1");
        let (name, found) = match case.tensors.contains_key(&mean) {
            true => (mean, found.mean(1)?),
            false => (name, found.clone()),
        };
        let what = format!("{} {name}", case.name);
        let expected = case.tensor(&name)?;
        let scale = expected.abs()?.max_all()?.to_scalar::<f32>()?.max(1.0);
        let difference = golden::ensure_close(&what, &found, expected, TOLERANCE * scale)?;
        self.compared += 1;
        self.worst = self.worst.max(difference);
        self.used.insert(name);
        Ok(())
    }
}

#[test]
fn models_equal_the_reference() -> Result<()> {
    let files = golden::json_files("models")?;
    ensure!(!files.is_empty(), "no case in {}", golden::root().display());
    let mut total = Tally::default();
    for file in &files {
        let case = Case::open(file)?;
        let tally = check(&case).with_context(|| case.name.clone())?;
        let outputs = case.tensors.keys().filter(|name| name.starts_with("output."));
        let unused: Vec<_> = outputs.filter(|name| !tally.used.contains(*name)).collect();
        ensure!(unused.is_empty(), "{} was not compared with {unused:?}", case.name);
        eprintln!("{}: {} tensors, off by {:.1e}", case.name, tally.compared, tally.worst);
        total.compared += tally.compared;
        total.worst = total.worst.max(tally.worst);
    }
    eprintln!("{} cases, {} tensors, off by {:.1e}", files.len(), total.compared, total.worst);
    Ok(())
}

fn check(case: &Case) -> Result<Tally> {
    let model = case.json["model"].as_str().context("a case names its model")?;
    let mut tally = Tally::default();
    match model {
        "stage3_multimodal_fusion_with_ablation" => check_fusion(case, &mut tally)?,
        "SingleTaskSlimModel" => check_single_task(case, None, &mut tally)?,
        "SingleTaskAsymModel" => {
            check_single_task(case, Some(SingleTaskConfig::ASYM_EMOTION_DIMS), &mut tally)?;
        }
        _ if model.contains("fusion") => check_cross_task(case, &mut tally)?,
        _ if model.contains("emotion") || model.contains("classifier") => {
            check_unimodal(case, Task::Emotion, &mut tally)?;
        }
        _ if model.contains("personality") || model.contains("regressor") => {
            check_unimodal(case, Task::Personality, &mut tally)?;
        }
        _ => bail!("unknown model `{model}`"),
    }
    Ok(tally)
}

fn check_unimodal(case: &Case, task: Task, tally: &mut Tally) -> Result<()> {
    let head = HeadConfig::from_reference_json(&case.json["config"])?;
    let config = match task {
        Task::Emotion => &head.emotion,
        Task::Personality => &head.personality,
    };
    let model = build(&weights(case)?, |vb| UnimodalModel::load(config, task, vb))?;
    for input in input_names(case) {
        let x = case.tensor(&format!("input.{input}.x"))?;
        let lengths = lengths(case, &input)?;
        let output = model.forward(x, lengths.as_ref(), &mut Mode::Eval)?;
        let is_audio = case.tensors.contains_key(&format!("output.{input}.out"));
        let (prediction, features) = match (is_audio, task) {
            (true, _) => ("out", "features"),
            (false, Task::Emotion) => ("emotion_logits", "last_encoder_features"),
            (false, Task::Personality) => ("personality_scores", "last_encoder_features"),
        };
        tally.check(case, &format!("{input}.{prediction}"), &output.prediction)?;
        tally.check(case, &format!("{input}.{features}"), &output.features)?;
    }
    Ok(())
}

fn check_cross_task(case: &Case, tally: &mut Tally) -> Result<()> {
    let config = HeadConfig::from_reference_json(&case.json["config"])?;
    let model = build(&weights(case)?, |vb| CrossTaskModel::load(&config, vb))?;
    for input in input_names(case) {
        let of = |name: &str| case.tensors.get(&format!("input.{input}.{name}"));
        let emotion = of("x").or(of("emo_x")).or(of("emotion_x")).context("no emotion input")?;
        let personality =
            of("x").or(of("per_x")).or(of("personality_x")).context("no personality input")?;
        let lengths = lengths(case, &input)?;
        let lengths = lengths.as_ref();
        let output =
            model.forward_pair((emotion, lengths), (personality, lengths), &mut Mode::Eval)?;
        for (name, found) in [
            ("emotion_logits", &output.emotion_logits),
            ("personality_scores", &output.personality_scores),
            ("last_emo_encoder_features", &output.emotion_features),
            ("last_per_encoder_features", &output.personality_features),
        ] {
            tally.check(case, &format!("{input}.{name}"), found)?;
        }
        let unactivated = format!("{input}.no_activation.personality_scores");
        if case.tensors.contains_key(&format!("output.{unactivated}")) {
            tally.check(case, &unactivated, &output.unactivated_scores)?;
        }
    }
    check_one_task_alone(case, &model, tally)
}

/// `emo_only` and `per_only` give no input of their own: they are one of the others, with one
/// branch left out.
fn check_one_task_alone(case: &Case, model: &CrossTaskModel, tally: &mut Tally) -> Result<()> {
    for (output, task, own_input, prediction, features) in [
        ("emo_only", Task::Emotion, "emo_x", "emotion_logits", "last_emo_encoder_features"),
        ("per_only", Task::Personality, "per_x", "personality_scores", "last_per_encoder_features"),
    ] {
        let prediction = format!("{output}.{prediction}");
        let Some(expected) = case.tensors.get(&format!("output.{prediction}")) else { continue };
        let mut found = None;
        for input in input_names(case) {
            let of = |name: &str| case.tensors.get(&format!("input.{input}.{name}"));
            let Some(x) = of("x").or(of(own_input)) else { continue };
            let lengths = lengths(case, &input)?;
            let result = model.forward_single(task, x, lengths.as_ref(), &mut Mode::Eval)?;
            if result.0.dims() == expected.dims()
                && golden::max_difference(&result.0, expected)? <= TOLERANCE
            {
                found = Some(result);
            }
        }
        let (values, vector) = found.with_context(|| format!("no input gives {prediction}"))?;
        tally.check(case, &prediction, &values)?;
        tally.check(case, &format!("{output}.{features}"), &vector)?;
    }
    Ok(())
}

fn check_fusion(case: &Case, tally: &mut Tally) -> Result<()> {
    let all = weights(case)?;
    let variants = case.json["variants"].as_object().context("variants")?;
    for (variant, ablation) in variants {
        let mut config: FusionConfig = serde_json::from_value(case.json["config"].clone())?;
        config.ablation = serde_json::from_value::<Ablation>(ablation.clone())?;
        let absent = &case.json["state_dict_keys_absent_in_variant"][variant];
        let absent: BTreeSet<String> = serde_json::from_value(absent.clone())?;
        let mut weights = all.clone();
        weights.retain(|name, _| !absent.contains(name));
        let model = build(&weights, |vb| FusionModel::load(&config, vb))?;
        for input in input_names(case) {
            let output = model.forward(&fusion_input(case, &input)?, &mut Mode::Eval)?;
            let name = |what| format!("{variant}.{input}.{what}");
            tally.check(case, &name("emotion_logits"), &output.emotion_logits)?;
            tally.check(case, &name("personality_scores"), &output.personality_scores)?;
        }
    }
    Ok(())
}

fn check_single_task(
    case: &Case,
    emotion_dims: Option<PerModality<usize>>,
    tally: &mut Tally,
) -> Result<()> {
    let modes: Vec<(String, String)> = serde_json::from_value(case.json["modes"].clone())?;
    let all = weights(case)?;
    for (slice, target) in modes {
        let mode = format!("{slice}_{target}");
        let (task, output) = match target.as_str() {
            "emo" => ("emotion", "emotion_logits"),
            _ => ("personality", "personality_scores"),
        };
        let mut json = case.json["config"].clone();
        json["slice"] = slice.into();
        json["task"] = task.into();
        let mut config: SingleTaskConfig = serde_json::from_value(json)?;
        config.emotion_dims = emotion_dims;
        let prefix = format!("{mode}.");
        let own = |(name, tensor): (&String, &Tensor)| {
            Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone()))
        };
        let weights: BTreeMap<_, _> = all.iter().filter_map(own).collect();
        let model = build(&weights, |vb| SingleTaskModel::load(&config, vb))?;
        for input in input_names(case) {
            let parts = fusion_input(case, &input)?;
            let found = model.forward(&parts, &mut Mode::Eval)?;
            tally.check(case, &format!("{mode}.{input}.{output}"), &found)?;
            let alone = format!("{mode}.{input}_noaux.{output}");
            if case.tensors.contains_key(&format!("output.{alone}")) {
                tally.check(
                    case,
                    &alone,
                    &model.forward(&without_predictions(parts), &mut Mode::Eval)?,
                )?;
            }
        }
    }
    Ok(())
}

fn fusion_input(case: &Case, input: &str) -> Result<FusionInput> {
    PerModality::try_from_fn(|modality: Modality| {
        let of = |what| case.tensors.get(&format!("input.{input}.{what}.{modality}")).cloned();
        let Some(vector) = of("features") else { return Ok(None) };
        Ok(Some(ModalityInput {
            vector,
            emotion_logits: of("emotion_logits"),
            trait_values: of("personality_scores"),
            is_present: None,
        }))
    })
}

fn without_predictions(mut input: FusionInput) -> FusionInput {
    for modality in Modality::ALL {
        if let Some(part) = &mut input[modality] {
            part.emotion_logits = None;
            part.trait_values = None;
        }
    }
    input
}

/// The reference sees lengths in the mean of the stage-1 audio models only.
fn lengths(case: &Case, input: &str) -> Result<Option<Lengths>> {
    let Some(lengths) = case.tensors.get(&format!("input.{input}.lengths")) else {
        return Ok(None);
    };
    let lengths = lengths.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    let lengths = lengths.into_iter().map(usize::try_from).collect::<Result<_, _>>()?;
    Ok(Some(Lengths::StageOneAudio(lengths)))
}

/// `b1t7` of `input.b1t7.x`.
fn input_names(case: &Case) -> BTreeSet<String> {
    let name = |name: &String| Some(name.strip_prefix("input.")?.split_once('.')?.0.to_owned());
    case.tensors.keys().filter_map(name).collect()
}

/// The stored weights, or the generated ones where the case stores none.
fn weights(case: &Case) -> Result<BTreeMap<String, Tensor>> {
    let stored = case.below("weights");
    if !stored.is_empty() {
        return Ok(stored);
    }
    let seed = case.json["seed"].as_u64().context("a case without weights has a seed")?;
    let shapes: BTreeMap<String, Vec<usize>> =
        serde_json::from_value(case.json["weights"].clone())?;
    let modes: Vec<(String, String)> = match &case.json["modes"] {
        serde_json::Value::Null => Vec::new(),
        modes => serde_json::from_value(modes.clone())?,
    };
    let mut weights = BTreeMap::new();
    for (name, shape) in shapes.into_iter().filter(|(name, _)| !may_be_left(name)) {
        let of_mode = |(slice, target): &(String, String)| {
            name.strip_prefix(&format!("{slice}_{target}.")).map(str::to_owned)
        };
        let key = modes.iter().find_map(of_mode).unwrap_or_else(|| name.clone());
        let tensor = generated_tensor(&key, &Shape::from(shape), seed, &golden::device())?;
        weights.insert(name, tensor);
    }
    Ok(weights)
}

/// By way of a file, so that every name and shape is accounted for.
fn build<M>(
    weights: &BTreeMap<String, Tensor>,
    load: impl FnOnce(VarBuilder) -> candle::Result<M>,
) -> Result<M> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    save_file(&path, weights)?;
    Ok(load_file(&path, &golden::device(), may_be_left, load)?)
}

/// Names and shapes as the reference has them; anything else in a file is refused.
#[test]
fn a_state_dict_fits_exactly_or_is_refused() -> Result<()> {
    let config = HeadConfig::published(Modality::Scene).scaled(16, 32);
    let load = |vb: VarBuilder| CrossTaskModel::load(&config, vb);
    let (_, mut weights) = meptr_core::weights::generate(1, &golden::device(), load)?;
    build(&weights, load)?;
    let table = "emotion_to_personality_attn.0.positional_encoding.pe".to_owned();
    weights.insert(table, Tensor::zeros((9, 24), DType::F32, &golden::device())?);
    build(&weights, load)?;
    let spare = Tensor::zeros(3, DType::F32, &golden::device())?;
    weights.insert("spare".to_owned(), spare);
    weights.remove("emo_proj.1.bias");
    let message = format!("{:#}", build(&weights, load).err().context("it loaded")?);
    for problem in ["`emo_proj.1.bias` [24] is missing", "`spare` is superfluous"] {
        ensure!(message.contains(problem), "{message}");
    }
    Ok(())
}

/// For heads at their real widths, our published configuration is that of the data.
#[test]
fn published_configurations_are_those_of_the_reference() -> Result<()> {
    for modality in Modality::ALL {
        let name = match modality {
            Modality::Body | Modality::Face | Modality::Scene => format!("video_{modality}"),
            Modality::Audio | Modality::Text => modality.to_string(),
        };
        let file = golden::root().join(format!("models/{name}_fusion_real.json"));
        if file.exists() {
            let reference = HeadConfig::from_reference_json(&Case::open(&file)?.json["config"])?;
            ensure!(HeadConfig::published(modality) == reference, "{modality} differs");
        }
    }
    Ok(())
}
