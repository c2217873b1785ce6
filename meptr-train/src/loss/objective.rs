//! The objective of stage 3: losses on labelled rows and, by its kind, on pseudo-labels, with
//! weights that stay or that GradNorm balances.

use std::collections::BTreeMap;

use candle::{DType, Result, Tensor, Var};
use meptr_core::Task;
use meptr_core::nn::GradientTape;
use serde::{Deserialize, Serialize};

use super::factored_gradients::{FactoredGradients, gradients_on, measured_gradients, sum_of};
use super::grad_norm::{GradNormState, GradNormWeights, Measured};
use super::gradients::Gradients;
use super::multitask::over_labelled_traits;
use super::pseudo_labels::largest;
use super::{
    EmotionLoss, ObjectiveConfig, PseudoLabels, PublishedObjective, SupervisedObjective, emotion,
};
use crate::data::Labels;
use crate::data::labels::{rows_where, select_rows};

/// A part of the objective, in the order in which parts are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Component {
    /// Emotion loss on rows with emotion labels.
    #[serde(rename = "emo_sup")]
    EmotionSupervised,
    /// Trait loss on rows with trait labels.
    #[serde(rename = "per_sup")]
    PersonalitySupervised,
    /// Emotion loss on rows without emotion labels against their own confident predictions.
    #[serde(rename = "emo_ssl")]
    EmotionPseudo,
    /// Trait loss on rows without trait labels against their own confident predictions.
    #[serde(rename = "per_ssl")]
    PersonalityPseudo,
}

impl Component {
    /// Every part, in order.
    pub const ALL: [Self; 4] = [
        Self::EmotionSupervised,
        Self::PersonalitySupervised,
        Self::EmotionPseudo,
        Self::PersonalityPseudo,
    ];

    /// Task whose predictions the part is about.
    pub fn task(self) -> Task {
        match self {
            Self::EmotionSupervised | Self::EmotionPseudo => Task::Emotion,
            Self::PersonalitySupervised | Self::PersonalityPseudo => Task::Personality,
        }
    }

    /// Short name, as in the reference's logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::EmotionSupervised => "emo_sup",
            Self::PersonalitySupervised => "per_sup",
            Self::EmotionPseudo => "emo_ssl",
            Self::PersonalityPseudo => "per_ssl",
        }
    }
}

/// Parts that a batch has, each a scalar; a part without any row is absent.
pub type Components = BTreeMap<Component, Tensor>;

/// An objective with the weights it has come to.
#[derive(Debug, Clone)]
pub struct Objective {
    labelled: SupervisedObjective,
    /// Emotion labels as shares, or as the strongest emotion alone.
    takes_shares: bool,
    pseudo: Option<PseudoLabels>,
    class_weights: Option<Tensor>, // (7,)
    weighting: Weighting,
}

#[derive(Debug, Clone)]
enum Weighting {
    /// In the order of [`Component::ALL`].
    Fixed([f32; 4]),
    GradNorm(GradNormState),
}

/// Loss and gradient of one batch.
#[derive(Debug)]
pub struct Balanced {
    /// `sum_k weight_k loss_k`, with the weights of after the update.
    pub total: f32,
    /// Gradient of the total, the weights held constant.
    pub gradients: Gradients,
    /// Each part's loss, unweighted; parts that are not finite are left out.
    pub losses: BTreeMap<Component, f32>,
    /// Norm of each part's gradient; empty with weights that stay.
    pub gradient_norms: BTreeMap<Component, f32>,
}

impl Objective {
    /// Starts with the weights of the configuration.
    ///
    /// # Errors
    /// When the device has no memory for the class weights.
    pub fn new(config: &ObjectiveConfig, device: &candle::Device) -> Result<Self> {
        let labelled = config.labelled();
        let class_weights = labelled
            .class_weights
            .then(|| Tensor::new(&emotion::STAGE_3_CLASS_WEIGHTS, device))
            .transpose()?;
        let weights = [labelled.emotion_weight, labelled.personality_weight];
        let weighting = match config {
            ObjectiveConfig::Supervised(_) => Weighting::Fixed([weights[0], weights[1], 0.0, 0.0]),
            ObjectiveConfig::Fixed(fixed) => Weighting::Fixed([
                weights[0],
                weights[1],
                fixed.pseudo_emotion_weight,
                fixed.pseudo_personality_weight,
            ]),
            ObjectiveConfig::Published(published) => {
                Weighting::GradNorm(first_weights(published, weights))
            }
        };
        let takes_shares = matches!(config, ObjectiveConfig::Supervised(_));
        let pseudo = config.pseudo_labels();
        Ok(Self { labelled, takes_shares, pseudo, class_weights, weighting })
    }

    /// Goes on with GradNorm weights from a checkpoint; objectives with weights that stay have none.
    #[must_use]
    pub fn resumed(mut self, state: Option<GradNormState>) -> Self {
        if let (Weighting::GradNorm(weights), Some(state)) = (&mut self.weighting, state) {
            *weights = state;
        }
        self
    }

    /// GradNorm weights as they stand; none with weights that stay.
    pub fn grad_norm(&self) -> Option<&GradNormState> {
        match &self.weighting {
            Weighting::Fixed(_) => None,
            Weighting::GradNorm(state) => Some(state),
        }
    }

    /// Parts that a batch has.
    ///
    /// - `emotion_logits`: `(batch, 7)`, f32
    /// - `personality_scores`: `(batch, 5)`, f32; outside 0..1 a pseudo-label has no gradient
    ///
    /// A part is NaN where the reference's is: with a trait loss other than `ccc` when a labelled
    /// row misses a trait, and with `ccc` when a trait has a single labelled row.
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn components(
        &self,
        emotion_logits: &Tensor,
        personality_scores: &Tensor,
        labels: &Labels,
    ) -> Result<Components> {
        self.components_of(Some(emotion_logits), Some(personality_scores), labels)
    }

    /// As [`Objective::components`], for a model that may answer for one task only.
    ///
    /// # Errors
    /// When a shape differs from that there.
    pub fn components_of(
        &self,
        emotion_logits: Option<&Tensor>,
        personality_scores: Option<&Tensor>,
        labels: &Labels,
    ) -> Result<Components> {
        let mut parts = Components::new();
        let mut add = |component: Component, part: Option<Tensor>| {
            parts.extend(part.map(|part| (component, part)));
        };
        if let Some(logits) = emotion_logits {
            add(Component::EmotionSupervised, self.emotion_supervised(logits, labels)?);
            if let Some(pseudo) = self.pseudo {
                let part = pseudo.emotion(logits, labels, self.class_weights.as_ref())?;
                add(Component::EmotionPseudo, part);
            }
        }
        if let Some(scores) = personality_scores {
            let part = over_labelled_traits(self.labelled.personality_loss, scores, labels)?;
            add(Component::PersonalitySupervised, part);
            if let Some(pseudo) = self.pseudo {
                add(Component::PersonalityPseudo, pseudo.personality(scores, labels)?);
            }
        }
        Ok(parts)
    }

    /// Updates GradNorm's weights from a batch's parts and gives the total with its gradient.
    ///
    /// `tape` is that of the forward pass, if it had one; otherwise any.
    ///
    /// Parts that are not finite count as absent: one of them would otherwise end the training (for
    /// instance `ccc` on a batch with a single labelled row).
    ///
    /// # Errors
    /// When a part holds an operation without a gradient.
    pub fn balance(
        &mut self,
        components: &Components,
        parameters: &BTreeMap<String, Var>,
        tape: &GradientTape,
    ) -> Result<Balanced> {
        match &mut self.weighting {
            Weighting::Fixed(weights) => total_of(components, *weights, parameters, tape),
            Weighting::GradNorm(state) => balanced(components, state, parameters, tape),
        }
    }

    /// Emotion loss over the rows with emotion labels; none without such a row.
    fn emotion_supervised(&self, logits: &Tensor, labels: &Labels) -> Result<Option<Tensor>> {
        let rows = rows_where(&labels.has_emotion, true);
        if rows.is_empty() {
            return Ok(None);
        }
        let class_weights = self.class_weights.as_ref();
        let logits = select_rows(logits, &rows)?;
        let shares = select_rows(&labels.emotion, &rows)?;
        match (self.labelled.emotion_loss, self.takes_shares) {
            (EmotionLoss::CrossEntropy, true) => {
                emotion::cross_entropy_soft(&logits, &shares, class_weights)
            }
            (EmotionLoss::CrossEntropy, false) => {
                let strongest: Vec<u32> =
                    shares.to_vec2::<f32>()?.iter().map(|row| largest(row).0).collect();
                let strongest = Tensor::new(strongest, logits.device())?;
                emotion::cross_entropy_index(&logits, &strongest, class_weights)
            }
            (EmotionLoss::BinaryCrossEntropy, takes_shares) => {
                let mut present = shares.gt(0.0)?.to_dtype(DType::F32)?; // NaN is not above 0
                if takes_shares {
                    present = (present + (&shares * 0.0)?)?; // NaN stays NaN, as in the reference
                }
                emotion::binary_cross_entropy(&logits, &present, class_weights)
            }
        }
        .map(Some)
    }
}

/// GradNorm weights before the first step.
fn first_weights(config: &PublishedObjective, labelled: [f32; 2]) -> GradNormState {
    let PublishedObjective { grad_norm, lambda, .. } = config;
    GradNormState {
        supervised: GradNormWeights::new(grad_norm.supervised, 2.0, labelled),
        pseudo: GradNormWeights::new(grad_norm.pseudo, 2.0 * lambda, [*lambda; 2]),
    }
}

/// Total of the parts with weights that stay, in the order of [`Component::ALL`]. A part of weight 0
/// counts for nothing.
fn total_of(
    components: &Components,
    weights: [f32; 4],
    parameters: &BTreeMap<String, Var>,
    tape: &GradientTape,
) -> Result<Balanced> {
    let mut losses = BTreeMap::new();
    let mut total: Option<Tensor> = None;
    for (component, part) in components {
        let loss: f32 = part.to_scalar()?;
        let weight = weights[*component as usize];
        if !loss.is_finite() || weight == 0.0 {
            continue;
        }
        losses.insert(*component, loss);
        let weighted = (part * f64::from(weight))?;
        total = Some(match total {
            None => weighted,
            Some(sum) => (sum + weighted)?,
        });
    }
    let gradient_norms = BTreeMap::new();
    let Some(total) = total else {
        return Ok(Balanced { total: 0.0, gradients: Gradients::new(), losses, gradient_norms });
    };
    let gradients = sum_of(&[(1.0, gradients_on(tape, &total, parameters)?)], parameters)?;
    Ok(Balanced { total: total.to_scalar()?, gradients, losses, gradient_norms })
}

/// Total of the parts with GradNorm's weights, which move first.
fn balanced(
    components: &Components,
    state: &mut GradNormState,
    parameters: &BTreeMap<String, Var>,
    tape: &GradientTape,
) -> Result<Balanced> {
    let losses: Vec<&Tensor> = components.values().collect();
    let all = measured_gradients(tape, &losses, parameters)?;
    let mut measured: BTreeMap<Component, Measured> = BTreeMap::new();
    let mut gradients = Vec::new();
    for (component, (part, of_part)) in components.keys().zip(all) {
        if part.loss.is_finite() && part.gradient_norm.is_finite() {
            measured.insert(*component, part);
            gradients.push((*component, of_part));
        }
    }
    let of = |component: Component| measured.get(&component).copied();
    let supervised = [Component::EmotionSupervised, Component::PersonalitySupervised];
    state.supervised.update(supervised.map(of));
    state.pseudo.update([Component::EmotionPseudo, Component::PersonalityPseudo].map(of));
    let weight = |component: Component| {
        let pair = match component {
            Component::EmotionSupervised | Component::PersonalitySupervised => &state.supervised,
            Component::EmotionPseudo | Component::PersonalityPseudo => &state.pseudo,
        };
        let [emotion, personality] = pair.weights();
        match component.task() {
            Task::Emotion => emotion,
            Task::Personality => personality,
        }
    };
    let total = measured.iter().map(|(component, part)| weight(*component) * part.loss).sum();
    let weighted: Vec<(f32, FactoredGradients)> = gradients
        .into_iter()
        .map(|(component, gradients)| (weight(component), gradients))
        .collect();
    Ok(Balanced {
        total,
        gradients: sum_of(&weighted, parameters)?,
        losses: measured.iter().map(|(component, part)| (*component, part.loss)).collect(),
        gradient_norms: measured
            .iter()
            .map(|(component, part)| (*component, part.gradient_norm))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;
    use crate::loss::{FixedObjective, PersonalityLoss};

    const NAN: f32 = f32::NAN;

    fn published(emotion_loss: EmotionLoss) -> Objective {
        let config = PublishedObjective { emotion_loss, ..PublishedObjective::default() };
        Objective::new(&ObjectiveConfig::Published(config), &Device::Cpu).unwrap()
    }

    fn unlabelled(rows: usize) -> Labels {
        let unknown = |columns| Tensor::full(NAN, (rows, columns), &Device::Cpu).unwrap();
        Labels::new(unknown(7), unknown(5)).unwrap()
    }

    #[test]
    fn only_confident_rows_and_cells_are_pseudo_labels() -> Result<()> {
        let logits = Tensor::new(&[[9.0f32, 0., 0., 0., 0., 0., 0.], [0.0; 7]], &Device::Cpu)?;
        let scores = Tensor::new(&[[0.5f32, 0.61, 0.39, 0.45, 1.0], [0.5; 5]], &Device::Cpu)?;
        let parts =
            published(EmotionLoss::CrossEntropy).components(&logits, &scores, &unlabelled(2))?;
        let value = |component| parts[&component].to_scalar::<f32>();
        let sure = 9.0f32.exp() / (9.0f32.exp() + 6.0);
        assert!((value(Component::EmotionPseudo)? + sure.ln()).abs() < 1e-6);
        let cells = -(0.61f32.ln() + 0.61f32.ln() + 1f32.ln()) / 3.0;
        assert!((value(Component::PersonalityPseudo)? - cells).abs() < 1e-6);
        assert_eq!(parts.len(), 2);
        Ok(())
    }

    #[test]
    fn nothing_confident_gives_no_part() -> Result<()> {
        let logits = Tensor::zeros((2, 7), DType::F32, &Device::Cpu)?;
        let scores = Tensor::full(0.5f32, (2, 5), &Device::Cpu)?;
        for kind in [EmotionLoss::CrossEntropy, EmotionLoss::BinaryCrossEntropy] {
            assert!(published(kind).components(&logits, &scores, &unlabelled(2))?.is_empty());
        }
        Ok(())
    }

    #[test]
    fn a_part_that_is_not_finite_is_left_out() -> Result<()> {
        let scores = Var::new(&[[0.3f32, 0.4, 0.5, 0.6, 0.7]], &Device::Cpu)?;
        let parameters = BTreeMap::from([("scores".to_owned(), scores.clone())]);
        let labels = Labels::new(
            Tensor::full(NAN, (1, 7), &Device::Cpu)?,
            Tensor::new(&[[0.1f32; 5]], &Device::Cpu)?,
        )?;
        let personality_loss = PersonalityLoss::Ccc;
        let configs = [
            ObjectiveConfig::Published(PublishedObjective {
                personality_loss,
                ..PublishedObjective::default()
            }),
            ObjectiveConfig::Supervised(SupervisedObjective {
                personality_loss,
                ..SupervisedObjective::default()
            }),
        ];
        for config in configs {
            let mut objective = Objective::new(&config, &Device::Cpu)?;
            let logits = Tensor::zeros((1, 7), DType::F32, &Device::Cpu)?;
            let parts = objective.components(&logits, &scores, &labels)?;
            assert!(parts[&Component::PersonalitySupervised].to_scalar::<f32>()?.is_nan());
            let balanced = objective.balance(&parts, &parameters, &GradientTape::default())?;
            assert!(balanced.gradients.is_empty() && balanced.total == 0.0);
            if let Some(state) = objective.grad_norm() {
                assert_eq!(state.supervised.weights(), [1.0, 1.0]);
            }
        }
        Ok(())
    }

    /// Two rows of emotion labels with several emotions each. With logits of 0, every class has
    /// `ln p = -ln 7`; logits of `ln 2` for Anger alone give it 2/8 and the others 1/8.
    #[test]
    fn shares_and_strongest_emotion_are_told_apart() -> Result<()> {
        let third = 1.0 / 3.0;
        let shares =
            [[0.0, 0.25, 0.75, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, third, third, third, 0.0]];
        let labels = Labels::new(
            Tensor::new(&shares.map(|row: [f64; 7]| row.map(|share| share as f32)), &Device::Cpu)?,
            Tensor::full(NAN, (2, 5), &Device::Cpu)?,
        )?;
        let anger = 2f32.ln();
        let logits = [[0.0, anger, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0; 7]];
        let logits = Tensor::new(&logits, &Device::Cpu)?;
        let scores = Tensor::full(0.5f32, (2, 5), &Device::Cpu)?;
        let of = |config: ObjectiveConfig| -> Result<f32> {
            let parts =
                Objective::new(&config, &Device::Cpu)?.components(&logits, &scores, &labels)?;
            assert_eq!(parts.len(), 1, "{:?}", parts.keys());
            parts[&Component::EmotionSupervised].to_scalar()
        };
        // -(1/4 ln 1/4 + 3/4 ln 1/8), and ln 7 for the other row.
        let soft = (0.25 * 4f32.ln() + 0.75 * 8f32.ln() + 7f32.ln()) / 2.0;
        assert!((of(ObjectiveConfig::default())? - soft).abs() < 1e-6);
        // Strongest: Disgust with 1/8; of three equals the first.
        let hard = (8f32.ln() + 7f32.ln()) / 2.0;
        assert!((of(ObjectiveConfig::Fixed(FixedObjective::default()))? - hard).abs() < 1e-6);
        let published = PublishedObjective::default();
        assert!((of(ObjectiveConfig::Published(published))? - hard).abs() < 1e-6);
        Ok(())
    }

    /// `0.5 ln 7 + 2 (0.5 - 0.25)`, by hand.
    #[test]
    fn weights_that_stay_weigh_the_sum_and_its_gradient() -> Result<()> {
        let logits = Var::zeros((1, 7), DType::F32, &Device::Cpu)?;
        let scores = Var::new(&[[0.5f32; 5]], &Device::Cpu)?;
        let parameters = BTreeMap::from([("scores".to_owned(), scores.clone())]);
        let labels = Labels::new(
            Tensor::new(&[[0f32, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]], &Device::Cpu)?,
            Tensor::new(&[[0.25f32; 5]], &Device::Cpu)?,
        )?;
        let config = SupervisedObjective {
            emotion_weight: 0.5,
            personality_weight: 2.0,
            ..SupervisedObjective::default()
        };
        let mut objective = Objective::new(&ObjectiveConfig::Supervised(config), &Device::Cpu)?;
        let parts = objective.components(&logits, &scores, &labels)?;
        let found = objective.balance(&parts, &parameters, &GradientTape::default())?;
        assert!((found.total - (0.5 * 7f32.ln() + 0.5)).abs() < 1e-6, "{}", found.total);
        // d total / d score = 2 sign(0.5 - 0.25) / 5 cells.
        let gradient = found.gradients["scores"].to_vec2::<f32>()?;
        assert!(gradient[0].iter().all(|slope| (slope - 0.4).abs() < 1e-6), "{gradient:?}");
        assert_eq!(found.losses.len(), 2);
        Ok(())
    }
}
