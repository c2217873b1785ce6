//! Gradients of everything that trains: each parameter gets one, and finite differences agree.
//!
//! Candle's fused layer norm and softmax cut the graph without a word; these tests would not pass
//! with either of them. All is computed in f64, where central differences are good to 1e-6.

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use meptr_core::models::{
    Ablation, CrossTaskModel, FeatureSlice, FusionConfig, FusionInput, FusionModel, HeadConfig,
    ModalityInput, SingleTaskConfig, SingleTaskModel, UnimodalModel,
};
use meptr_core::nn::{
    GraphAttention, LayerNorm, Linear, MambaBlock, Mode, MultiHeadAttention, TransformerLayer,
    TransformerLayerConfig, ops,
};
use meptr_core::rng::SeedStreams;
use meptr_core::weights::generated_tensor;
use meptr_core::{Modality, PerModality, Task};

/// Makes every tensor a variable, with generated values.
#[derive(Default)]
struct Trainable(Mutex<BTreeMap<String, Var>>);

impl SimpleBackend for &Trainable {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        let var = Var::from_tensor(&generated_tensor(name, &s, 5, dev)?.to_dtype(dtype)?)?;
        let tensor = var.as_tensor().clone();
        self.0.lock().expect("no test panics with the lock").insert(name.to_owned(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle::bail!("`{name}` was asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        false
    }
}

/// Builds in f64; returns the model and its parameters.
fn trainable<M>(load: impl FnOnce(VarBuilder) -> Result<M>) -> Result<(M, BTreeMap<String, Var>)> {
    let made = Trainable::default();
    let backend: Box<dyn SimpleBackend + '_> = Box::new(&made);
    let model = load(VarBuilder::new_with_args(backend, DType::F64, &Device::Cpu))?;
    let parameters = std::mem::take(&mut *made.0.lock().expect("no test panics with the lock"));
    Ok((model, parameters))
}

/// Numbers without a pattern, f64.
fn numbers(name: &str, shape: &[usize]) -> Result<Tensor> {
    generated_tensor(name, &Shape::from(shape), 9, &Device::Cpu)?.to_dtype(DType::F64)? * 3.0
}

/// A loss that weighs every element differently, so that no gradient cancels by symmetry.
fn loss(outputs: &[&Tensor]) -> Result<Tensor> {
    let mut sum = Tensor::zeros((), DType::F64, &Device::Cpu)?;
    for output in outputs {
        sum = (sum + (*output * numbers("loss", output.dims())?)?.sum_all()?)?;
    }
    Ok(sum)
}

/// Every parameter gets a finite gradient, not all 0, except those whose name `is_exempt`, which
/// get none or 0.
fn check_all_reached(
    what: &str,
    parameters: &BTreeMap<String, Var>,
    loss: &Tensor,
    is_exempt: impl Fn(&str) -> bool,
) -> Result<()> {
    let gradients = loss.backward()?;
    for (name, var) in parameters {
        let largest = match gradients.get(var) {
            Some(gradient) => gradient.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?,
            None => 0.0,
        };
        assert!(largest.is_finite(), "{what}: the gradient of {name} is not finite");
        assert_eq!(largest == 0.0, is_exempt(name), "{what}: {name} has the gradient {largest}");
    }
    Ok(())
}

/// Compares the gradient of each of `variables`, at a few elements, with central differences.
fn check_differences(
    what: &str,
    variables: &BTreeMap<String, Var>,
    loss: impl Fn() -> Result<Tensor>,
) -> Result<()> {
    const STEP: f64 = 1e-5;
    let gradients = loss()?.backward()?;
    for (name, var) in variables {
        let gradient = gradients.get(var).expect("check_all_reached says so");
        let gradient = gradient.flatten_all()?.to_vec1::<f64>()?;
        let values = var.flatten_all()?.to_vec1::<f64>()?;
        for index in (0..values.len()).step_by(values.len().div_ceil(5)) {
            let at = |shift: f64| -> Result<f64> {
                let mut values = values.clone();
                values[index] += shift;
                var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
                loss()?.to_scalar::<f64>()
            };
            let difference = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            at(0.0)?;
            let found = gradient[index];
            assert!(
                (found - difference).abs() <= 1e-5 * difference.abs().max(1.0),
                "{what}: {name}[{index}] has the gradient {found}, the difference {difference}"
            );
        }
    }
    Ok(())
}

/// Checks a block with respect to its parameters and its inputs.
fn check_block<M>(
    what: &str,
    load: impl FnOnce(VarBuilder) -> Result<M>,
    inputs: &[&[usize]],
    forward: impl Fn(&M, &[Var]) -> Result<Tensor>,
) -> Result<()> {
    let (block, mut variables) = trainable(load)?;
    let make = |index: usize| Var::from_tensor(&numbers(&format!("input{index}"), inputs[index])?);
    let inputs = (0..inputs.len()).map(make).collect::<Result<Vec<_>>>()?;
    for (index, input) in inputs.iter().enumerate() {
        variables.insert(format!("input{index}"), input.clone());
    }
    check_differences(what, &variables, || loss(&[&forward(&block, &inputs)?]))
}

/// Training mode with one and the same dropout, so that the function under test does not change.
fn training() -> Mode {
    Mode::Train(SeedStreams::new(3).stream("dropout"))
}

#[test]
fn finite_differences_agree_for_each_block() -> Result<()> {
    let x: &[usize] = &[2, 3, 8];
    let other: &[usize] = &[2, 4, 8];
    let mask = Tensor::new(&[[1.0_f64, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]], &Device::Cpu)?;
    let mask = Some(&mask);
    check_block("linear", |vb| Linear::load(8, 5, vb), &[x], |m, x| m.forward(&x[0]))?;
    check_block("layer norm", |vb| LayerNorm::load(8, vb), &[x], |m, x| m.forward(&x[0]))?;
    check_block("softmax", |_| Ok(()), &[other], |(), x| ops::softmax(&x[0].t()?))?;
    check_block("mean", |_| Ok(()), &[other], |(), x| ops::masked_mean(&x[0], mask))?;
    check_block("sigmoid", |_| Ok(()), &[x], |(), x| ops::sigmoid(&x[0]))?;
    check_block(
        "mamba",
        |vb| MambaBlock::load(8, 5, 0.3, vb),
        &[x],
        |m, x| m.forward(&x[0], &mut training()),
    )?;
    check_block(
        "attention",
        |vb| MultiHeadAttention::load(8, 2, 0.3, vb),
        &[x, other],
        |m, x| m.forward(&x[0], &x[1], &x[1], mask, &mut training()),
    )?;
    let (longer, others): (&[usize], &[usize]) = (&[2, 9, 8], &[2, 10, 8]); // by products of matrices
    check_block(
        "attention of longer sequences",
        |vb| MultiHeadAttention::load(8, 2, 0.3, vb),
        &[longer, others],
        |m, x| m.forward(&x[0], &x[1], &x[1], None, &mut training()),
    )?;
    let config = TransformerLayerConfig { width: 8, heads: 2, positions: true, dropout: 0.3 };
    check_block(
        "transformer",
        |vb| TransformerLayer::load(&config, vb),
        &[x, other],
        |m, x| m.forward(&x[0], &x[1], mask, &mut training()),
    )?;
    check_block(
        "graph attention",
        |vb| GraphAttention::load(8, 0.3, vb),
        &[other],
        |m, x| m.forward(&x[0], mask, &mut training()),
    )
}

/// A bias added to every key shifts all scores of a query alike, which softmax undoes: its true
/// gradient is 0, so packed biases are looked at as a whole.
#[test]
fn every_parameter_of_stages_1_and_2_gets_a_gradient() -> Result<()> {
    for modality in Modality::ALL {
        let config = HeadConfig::published(modality).scaled(6, 32);
        let x = numbers("features", &[2, 5, 6])?;
        for (task, config) in
            [(Task::Emotion, &config.emotion), (Task::Personality, &config.personality)]
        {
            let (model, parameters) = trainable(|vb| UnimodalModel::load(config, task, vb))?;
            let output = model.forward(&x, None, &mut training())?;
            let loss = loss(&[&output.prediction])?;
            check_all_reached(&format!("{modality} {task:?}"), &parameters, &loss, |_| false)?;
        }
        let (model, parameters) = trainable(|vb| CrossTaskModel::load(&config, vb))?;
        let output = model.forward(&x, None, &mut training())?;
        let loss = loss(&[&output.emotion_logits, &output.personality_scores])?;
        check_all_reached(&format!("{modality} cross-task"), &parameters, &loss, |_| false)?;
    }
    Ok(())
}

fn fusion_input(dims: &PerModality<usize>) -> Result<FusionInput> {
    PerModality::try_from_fn(|modality| {
        let is_present =
            Tensor::new(&[1.0_f64, f64::from(modality != Modality::Face), 1.0], &Device::Cpu)?;
        Ok(Some(ModalityInput {
            vector: numbers(modality.name(), &[3, dims[modality]])?,
            emotion_logits: Some(numbers(&format!("{modality}.logits"), &[3, 7])?),
            trait_values: Some(numbers(&format!("{modality}.scores"), &[3, 5])?),
            is_present: Some(is_present),
        }))
    })
}

const DIMS: PerModality<usize> = PerModality { body: 12, face: 10, scene: 8, audio: 6, text: 4 };

fn ablations() -> Vec<(Ablation, &'static [&'static str])> {
    let none = Ablation::default();
    vec![
        (none.clone(), &[]),
        (Ablation { disable_graph_attn: true, ..none.clone() }, &[]),
        (
            Ablation { disable_cross_attn: true, ..none.clone() },
            &["emo_query", "pkl_query"], // nothing asks
        ),
        (Ablation { disable_emo_logit_proj: true, ..none.clone() }, &[]),
        (Ablation { disable_pkl_logit_proj: true, ..none.clone() }, &[]),
        (Ablation { disable_guide_emo: true, ..none.clone() }, &["guide_bank_emo.embeddings"]),
        (Ablation { disable_guide_pkl: true, ..none.clone() }, &["guide_bank_pkl.embeddings"]),
        (Ablation { disable_guide_bank: true, ..none.clone() }, &[]),
        (Ablation { disabled_modalities: vec![Modality::Text], ..none }, &["projectors.text"]),
    ]
}

#[test]
fn every_parameter_of_stage_3_gets_a_gradient() -> Result<()> {
    for (ablation, exempt) in ablations() {
        let config = FusionConfig {
            hidden_dim: 16,
            num_heads: 4,
            input_dims: DIMS,
            ablation: ablation.clone(),
            ..FusionConfig::published()
        };
        let (model, parameters) = trainable(|vb| FusionModel::load(&config, vb))?;
        let output = model.forward(&fusion_input(&DIMS)?, &mut training())?;
        let loss = loss(&[&output.emotion_logits, &output.personality_scores])?;
        let is_exempt = |name: &str| exempt.iter().any(|start| name.starts_with(start));
        check_all_reached(&format!("{ablation:?}"), &parameters, &loss, is_exempt)?;
    }
    Ok(())
}

#[test]
fn every_parameter_of_the_single_task_models_gets_a_gradient() -> Result<()> {
    for task in [Task::Emotion, Task::Personality] {
        for slice in [FeatureSlice::Both, FeatureSlice::Emotion, FeatureSlice::Personality] {
            let config = SingleTaskConfig {
                hidden_dim: 16,
                num_heads: 4,
                dropout: 0.2,
                input_dims: DIMS,
                emotion_dims: None,
                slice,
                task,
            };
            let (model, parameters) = trainable(|vb| SingleTaskModel::load(&config, vb))?;
            let loss = loss(&[&model.forward(&fusion_input(&DIMS)?, &mut training())?])?;
            check_all_reached(&format!("{task:?} {slice:?}"), &parameters, &loss, |_| false)?;
        }
    }
    Ok(())
}

#[test]
fn finite_differences_agree_for_the_fusion_model() -> Result<()> {
    let config = FusionConfig {
        hidden_dim: 8,
        num_heads: 2,
        input_dims: DIMS,
        ablation: Ablation::default(),
        ..FusionConfig::published()
    };
    let (model, parameters) = trainable(|vb| FusionModel::load(&config, vb))?;
    let input = fusion_input(&DIMS)?;
    check_differences("fusion", &parameters, || {
        let output = model.forward(&input, &mut training())?;
        loss(&[&output.emotion_logits, &output.personality_scores])
    })
}
