//! Losses on both tasks: gradients against finite differences, finite for every finite input.

use anyhow::{Context, Result, ensure};
use candle::{Device, Tensor, Var};
use meptr_train::data::Labels;
use meptr_train::loss::{
    Component, EmotionLoss, EmotionTargets, MultiTaskLoss, Objective, ObjectiveConfig,
    PersonalityLoss, PublishedObjective, SupervisedObjective,
};
use proptest::prelude::*;

const ROWS: usize = 6;

/// Rows 0 to 2 have emotion labels, rows 2 to 4 traits, row 5 none.
fn labels() -> Result<Labels> {
    let nan = f32::NAN;
    let matrix = |width: usize, least: f32, has: &dyn Fn(usize) -> bool| {
        let cell = |index: usize| {
            if has(index / width) { least + (index * 7 % 11) as f32 / 11.0 } else { nan }
        };
        Tensor::from_vec((0..ROWS * width).map(cell).collect(), (ROWS, width), &Device::Cpu)
    };
    let emotion = matrix(7, 0.0, &|row| row < 3)?;
    // Above every score, because `mae` has a kink where both are equal.
    let personality = matrix(5, 1.0, &|row| (2..5).contains(&row))?;
    Ok(Labels::new(emotion, personality)?)
}

/// Logits of which some are confident, and scores on both sides of the thresholds.
fn start(width: usize) -> Vec<f32> {
    let scale = if width == 7 { 3.0 } else { 0.43 };
    let offset = if width == 7 { 0.0 } else { 0.5 };
    (0..ROWS * width).map(|index| offset + scale * (index as f32 * 1.7).sin()).collect()
}

type Loss<'a> = dyn Fn(&Tensor, &Tensor) -> Result<Tensor> + 'a;

fn matrix(values: &[f32]) -> Result<Tensor> {
    Ok(Tensor::from_slice(values, (ROWS, values.len() / ROWS), &Device::Cpu)?)
}

/// Fails when a loss has another gradient than its finite differences, or none at all.
fn ensure_gradient(what: &str, loss: &Loss) -> Result<()> {
    let (logits, scores) = (start(7), start(5));
    let inputs = [Var::from_tensor(&matrix(&logits)?)?, Var::from_tensor(&matrix(&scores)?)?];
    let gradients = loss(&inputs[0], &inputs[1])?.backward()?;
    let mut reached = 0.0f32;
    for (which, input) in inputs.iter().enumerate() {
        let Some(gradient) = gradients.get(input) else { continue };
        for (index, slope) in gradient.flatten_all()?.to_vec1::<f32>()?.into_iter().enumerate() {
            let at = |step: f32| -> Result<f32> {
                let mut moved = [logits.clone(), scores.clone()];
                moved[which][index] += step;
                Ok(loss(&matrix(&moved[0])?, &matrix(&moved[1])?)?.to_scalar()?)
            };
            let difference = (at(2e-3)? - at(-2e-3)?) / 4e-3;
            let is_close = (slope - difference).abs() < 4e-3 * difference.abs().max(1.0);
            ensure!(is_close, "{what} input {which} at {index}: {slope}, not {difference}");
            reached = reached.max(slope.abs());
        }
    }
    ensure!(reached > 1e-3, "{what}: no gradient");
    Ok(())
}

fn class_weights() -> Result<Tensor> {
    Ok(Tensor::new(&[1.0f32, 2.0, 0.5, 3.0, 1.0, 1.5, 2.5], &Device::Cpu)?)
}

#[test]
fn losses_with_fixed_weights_have_the_gradient_of_finite_differences() -> Result<()> {
    let shares = EmotionTargets::Shares(matrix(&start(7))?.abs()?);
    let truth = matrix(&start(5))?.affine(0.3, 1.2)?; // equals no score
    let labels = labels()?;
    for personality_loss in [PersonalityLoss::Mae, PersonalityLoss::Ccc, PersonalityLoss::RmseBell]
    {
        let loss = MultiTaskLoss {
            emotion_weight: 0.7,
            personality_weight: 1.3,
            class_weights: Some(class_weights()?),
            personality_loss,
        };
        ensure_gradient("full", &|logits, scores| {
            let loss = loss.of(Some((logits, &shares)), Some((scores, &truth)))?;
            loss.context("a loss")
        })?;
        for emotion_loss in [EmotionLoss::CrossEntropy, EmotionLoss::BinaryCrossEntropy] {
            let config = SupervisedObjective {
                emotion_loss,
                personality_loss,
                ..SupervisedObjective::default() // class weights of up to 28 would drown the steps
            };
            let objective = Objective::new(&ObjectiveConfig::Supervised(config), &Device::Cpu)?;
            for component in [Component::EmotionSupervised, Component::PersonalitySupervised] {
                ensure_gradient("partly labelled", &|logits, scores| {
                    let parts = objective.components(logits, scores, &labels)?;
                    parts.get(&component).cloned().context("the part")
                })?;
            }
        }
    }
    Ok(())
}

fn objective(emotion_loss: EmotionLoss) -> Result<Objective> {
    let personality_loss = PersonalityLoss::RmseLogcosh;
    let config = PublishedObjective { emotion_loss, personality_loss, ..Default::default() };
    Ok(Objective::new(&ObjectiveConfig::Published(config), &Device::Cpu)?)
}

#[test]
fn parts_of_the_objective_have_the_gradient_of_finite_differences() -> Result<()> {
    let labels = labels()?;
    for emotion_loss in [EmotionLoss::CrossEntropy, EmotionLoss::BinaryCrossEntropy] {
        let objective = objective(emotion_loss)?;
        for component in Component::ALL {
            ensure_gradient(component.name(), &|logits, scores| {
                let parts = objective.components(logits, scores, &labels)?;
                parts.get(&component).cloned().context("the part")
            })?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parts_of_the_objective_are_finite_with_finite_gradients(
        logits in prop::collection::vec(-1e4f32..1e4, ROWS * 7),
        scores in prop::collection::vec(
            prop_oneof![-2f32..3.0, Just(0.0), Just(1.0), Just(0.5), Just(0.6), Just(0.4)],
            ROWS * 5,
        ),
    ) {
        let labels = labels().unwrap();
        for emotion_loss in [EmotionLoss::CrossEntropy, EmotionLoss::BinaryCrossEntropy] {
            let logits = Var::from_tensor(&matrix(&logits).unwrap()).unwrap();
            let scores = Var::from_tensor(&matrix(&scores).unwrap()).unwrap();
            let parts =
                objective(emotion_loss).unwrap().components(&logits, &scores, &labels).unwrap();
            for (component, part) in parts {
                prop_assert!(part.to_scalar::<f32>().unwrap().is_finite(), "{}", component.name());
                let gradients = part.backward().unwrap();
                for input in [&logits, &scores] {
                    let Some(gradient) = gradients.get(input) else { continue };
                    let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
                    prop_assert!(gradient.iter().all(|slope| slope.is_finite()));
                }
            }
        }
    }
}
