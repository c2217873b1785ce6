//! The semi-supervised objective of stage 3: labels where there are some, confident predictions
//! where there are none, and weights that keep the parts in balance.

use std::collections::BTreeMap;

use candle::{DType, Result, Tensor, Var};
use meptr_core::Task;
use meptr_core::nn::GradientTape;
use serde::{Deserialize, Serialize};

use super::grad_norm::Gradients;
use super::multitask::over_labelled_traits;
use super::on_tape::{TapedGradients, measured_gradients, sum_of};
use super::wallet::{Measured, Wallet, WalletConfig};
use super::{EmotionLoss, PersonalityLoss, emotion};
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
    /// Emotion loss on unlabelled rows against their own confident predictions.
    #[serde(rename = "emo_ssl")]
    EmotionPseudo,
    /// Trait loss on unlabelled rows against their own confident predictions.
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

    /// The task whose predictions it is about.
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

/// The parts a batch has, each a scalar; a part without any row is absent.
pub type Components = BTreeMap<Component, Tensor>;

/// The semi-supervised objective; the defaults are those of the published run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectiveConfig {
    /// The parts that take part; one left out is never there, and the other of its two has their
    /// whole budget.
    pub components: Vec<Component>,
    /// Emotion loss: "CE" or "BCE".
    pub emotion_loss: EmotionLoss,
    /// Trait loss.
    pub personality_loss: PersonalityLoss,
    /// Are emotion losses weighted by [`emotion::STAGE_3_CLASS_WEIGHTS`]?
    pub class_weights: bool,
    /// First weight of the supervised emotion loss before scaling to the budget, above 0.
    pub emotion_weight: f32,
    /// First weight of the supervised trait loss before scaling to the budget, above 0.
    pub personality_weight: f32,
    /// Weights of the supervised parts; their budget is 2.
    pub supervised: WalletConfig,
    /// Weights of the pseudo-label parts; their budget is twice `lambda`.
    pub pseudo: WalletConfig,
    /// First weight of each pseudo-label part. With 0 they are measured, as in the reference, and count
    /// for nothing; to save that, leave them out of `components`.
    pub lambda: f32,
    /// An emotion is a pseudo-label when its probability is above this, 0 to 1.
    pub min_emotion_probability: f64,
    /// A trait score is a pseudo-label above this or below 1 minus this, 0.5 to 1.
    pub min_trait_confidence: f64,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            components: Component::ALL.to_vec(),
            emotion_loss: EmotionLoss::CrossEntropy,
            personality_loss: PersonalityLoss::Mae,
            class_weights: false,
            emotion_weight: 1.0,
            personality_weight: 1.0,
            supervised: WalletConfig { alpha: 1.0, learning_rate: 0.005, floor: 0.001 },
            pseudo: WalletConfig { alpha: 1.5, learning_rate: 0.01, floor: 0.001 },
            lambda: 0.4,
            min_emotion_probability: 0.6,
            min_trait_confidence: 0.6,
        }
    }
}

impl ObjectiveConfig {
    /// Everything that makes no sense; `place` is where the settings stand in their file.
    pub fn problems(&self, place: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |is_right: bool, key: &str, what: &str| {
            if !is_right {
                problems.push(format!("`{place}.{key}` must be {what}"));
            }
        };
        let is_above_0 = |value: f32| value > 0.0 && value.is_finite();
        require(!self.components.is_empty(), "components", "at least one");
        require(is_above_0(self.emotion_weight), "emotion_weight", "above 0");
        require(is_above_0(self.personality_weight), "personality_weight", "above 0");
        require(self.lambda >= 0.0 && self.lambda.is_finite(), "lambda", "0 or more");
        let is_unit = (0.0..=1.0).contains(&self.min_emotion_probability);
        require(is_unit, "min_emotion_probability", "in 0 to 1");
        let is_confidence = (0.5..=1.0).contains(&self.min_trait_confidence);
        require(is_confidence, "min_trait_confidence", "in 0.5 to 1");
        for (name, wallet) in [("supervised", self.supervised), ("pseudo", self.pseudo)] {
            require(wallet.alpha.is_finite(), &format!("{name}.alpha"), "a number");
            let key = format!("{name}.learning_rate");
            require(is_above_0(wallet.learning_rate), &key, "above 0");
            require(is_above_0(wallet.floor), &format!("{name}.floor"), "above 0");
        }
        problems
    }
}

impl ObjectiveConfig {
    /// Can a batch ever have this part?
    pub(crate) fn has(&self, component: Component) -> bool {
        // Nothing is more probable than 1.
        let is_possible = match component {
            Component::EmotionSupervised | Component::PersonalitySupervised => true,
            Component::EmotionPseudo => self.lambda > 0.0 && self.min_emotion_probability < 1.0,
            Component::PersonalityPseudo => self.lambda > 0.0 && self.min_trait_confidence < 1.0,
        };
        self.components.contains(&component) && is_possible
    }
}

/// The objective with the weights it has come to.
#[derive(Debug, Clone)]
pub struct Objective {
    config: ObjectiveConfig,
    class_weights: Option<Tensor>, // (7,)
    wallets: Wallets,
}

/// The state of an [`Objective`], for checkpoints and logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wallets {
    /// Weights of the supervised parts.
    pub supervised: Wallet,
    /// Weights of the pseudo-label parts.
    pub pseudo: Wallet,
}

/// What the objective says about one batch.
#[derive(Debug)]
pub struct Balanced {
    /// `sum_k weight_k loss_k`, with the weights of after the update.
    pub total: f32,
    /// Its gradient, the weights held constant.
    pub gradients: Gradients,
    /// Each part's loss and gradient norm.
    pub measured: BTreeMap<Component, Measured>,
}

impl Objective {
    /// Starts with the weights of the configuration.
    ///
    /// # Errors
    /// When the device has no memory for the class weights.
    pub fn new(config: ObjectiveConfig, device: &candle::Device) -> Result<Self> {
        let wallets = Wallets {
            supervised: Wallet::new(
                config.supervised,
                2.0,
                [config.emotion_weight, config.personality_weight],
            ),
            pseudo: Wallet::new(config.pseudo, 2.0 * config.lambda, [config.lambda; 2]),
        };
        Self::resume(config, wallets, device)
    }

    /// Goes on with weights from a checkpoint.
    ///
    /// # Errors
    /// When the device has no memory for the class weights.
    pub fn resume(
        config: ObjectiveConfig,
        wallets: Wallets,
        device: &candle::Device,
    ) -> Result<Self> {
        let class_weights = config
            .class_weights
            .then(|| Tensor::new(&emotion::STAGE_3_CLASS_WEIGHTS, device))
            .transpose()?;
        Ok(Self { config, class_weights, wallets })
    }

    /// The weights as they stand.
    pub fn wallets(&self) -> &Wallets {
        &self.wallets
    }

    /// The parts that a batch has.
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
        let part = |component: &Component| -> Result<Option<Tensor>> {
            match (component, emotion_logits, personality_scores) {
                (Component::EmotionSupervised, Some(logits), _) => {
                    self.emotion_supervised(logits, labels)
                }
                (Component::PersonalitySupervised, _, Some(scores)) => {
                    over_labelled_traits(self.config.personality_loss, scores, labels)
                }
                (Component::EmotionPseudo, Some(logits), _) => self.emotion_pseudo(logits, labels),
                (Component::PersonalityPseudo, _, Some(scores)) => {
                    self.personality_pseudo(scores, labels)
                }
                _ => Ok(None),
            }
        };
        let named = |component: &Component| Ok(part(component)?.map(|part| (*component, part)));
        self.config.components.iter().filter_map(|component| named(component).transpose()).collect()
    }

    /// Updates the weights from a batch's parts and says what to descend.
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
        let losses: Vec<&Tensor> = components.values().collect();
        let all = measured_gradients(tape, &losses, parameters)?;
        let mut measured = BTreeMap::new();
        let mut gradients = Vec::new();
        for (component, (part, of_part)) in components.keys().zip(all) {
            if part.loss.is_finite() && part.gradient_norm.is_finite() {
                measured.insert(*component, part);
                gradients.push((*component, of_part));
            }
        }
        let of = |component: Component| measured.get(&component).copied();
        self.wallets
            .supervised
            .update([of(Component::EmotionSupervised), of(Component::PersonalitySupervised)]);
        self.wallets
            .pseudo
            .update([of(Component::EmotionPseudo), of(Component::PersonalityPseudo)]);

        let total =
            measured.iter().map(|(component, part)| self.weight(*component) * part.loss).sum();
        let weighted: Vec<(f32, TapedGradients)> = gradients
            .into_iter()
            .map(|(component, gradients)| (self.weight(component), gradients))
            .collect();
        Ok(Balanced { total, gradients: sum_of(&weighted, parameters)?, measured })
    }

    /// The present weight of a part.
    pub fn weight(&self, component: Component) -> f32 {
        let [emotion, personality] = match component {
            Component::EmotionSupervised | Component::PersonalitySupervised => {
                self.wallets.supervised.weights()
            }
            Component::EmotionPseudo | Component::PersonalityPseudo => {
                self.wallets.pseudo.weights()
            }
        };
        match component {
            Component::EmotionSupervised | Component::EmotionPseudo => emotion,
            Component::PersonalitySupervised | Component::PersonalityPseudo => personality,
        }
    }

    fn emotion_supervised(&self, logits: &Tensor, labels: &Labels) -> Result<Option<Tensor>> {
        let rows = rows_where(&labels.has_emotion, true);
        if rows.is_empty() {
            return Ok(None);
        }
        let logits = select_rows(logits, &rows)?;
        let truth = select_rows(&labels.emotion, &rows)?;
        let loss = match self.config.emotion_loss {
            EmotionLoss::CrossEntropy => {
                let classes: Vec<u32> =
                    truth.to_vec2::<f32>()?.iter().map(|row| largest(row).0).collect();
                self.cross_entropy(&logits, &classes)
            }
            EmotionLoss::BinaryCrossEntropy => {
                let present = truth.gt(0.0)?.to_dtype(DType::F32)?; // NaN is not above 0
                emotion::binary_cross_entropy(&logits, &present, self.class_weights.as_ref())
            }
        };
        loss.map(Some)
    }

    fn emotion_pseudo(&self, logits: &Tensor, labels: &Labels) -> Result<Option<Tensor>> {
        let by_row = logits.detach().to_vec2::<f32>()?;
        let (rows, classes): (Vec<u32>, Vec<u32>) = rows_where(&labels.has_emotion, false)
            .into_iter()
            .filter_map(|row| {
                let logits = &by_row[row as usize];
                let (class, probability) = match self.config.emotion_loss {
                    EmotionLoss::CrossEntropy => {
                        let (class, highest) = largest(logits);
                        let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
                        (class, sum.recip())
                    }
                    // Of probabilities that round to the same number, the first counts.
                    EmotionLoss::BinaryCrossEntropy => {
                        let probability = |logit: &f32| (1.0 + (-logit).exp()).recip();
                        largest(&logits.iter().map(probability).collect::<Vec<f32>>())
                    }
                };
                (probability > self.config.min_emotion_probability as f32).then_some((row, class))
            })
            .unzip();
        if rows.is_empty() {
            return Ok(None);
        }
        let logits = select_rows(logits, &rows)?;
        let loss = match self.config.emotion_loss {
            EmotionLoss::CrossEntropy => self.cross_entropy(&logits, &classes),
            EmotionLoss::BinaryCrossEntropy => {
                let one_hot = classes.iter().flat_map(|class| {
                    (0..logits.dims()[1] as u32).map(move |index| f32::from(index == *class))
                });
                let one_hot = Tensor::from_vec(one_hot.collect(), logits.shape(), logits.device())?;
                emotion::binary_cross_entropy(&logits, &one_hot, self.class_weights.as_ref())
            }
        };
        loss.map(Some)
    }

    /// Binary cross-entropy of confident scores to the side they are on, mean over these.
    ///
    /// As the loss is `-ln(score)` above one half and `-ln(1 - score)` below, and confident scores
    /// lie well inside, no logarithm is large. At and beyond 0 and 1 there is no gradient.
    fn personality_pseudo(&self, scores: &Tensor, labels: &Labels) -> Result<Option<Tensor>> {
        let rows = rows_where(&labels.has_personality, false);
        if rows.is_empty() {
            return Ok(None);
        }
        let scores = select_rows(scores, &rows)?;
        let values = scores.detach();
        let threshold = self.config.min_trait_confidence;
        let as_numbers = |mask: Tensor| mask.to_dtype(DType::F32);
        let high = as_numbers(values.gt(threshold as f32)?)?;
        let low = as_numbers(values.lt((1.0 - threshold) as f32)?)?;
        let confident = high.add(&low)?.sum_all()?.to_scalar::<f32>()?;
        if confident == 0.0 {
            return Ok(None);
        }
        let has_loss = ((high + low)? * as_numbers(values.gt(0f32)?)?)?;
        let has_loss = (has_loss * as_numbers(values.lt(1f32)?)?)?.gt(0f32)?;
        let above_half = values.gt(0.5f32)?;
        let agreement = above_half.where_cond(&scores, &(1.0 - &scores)?)?;
        let agreement = has_loss.where_cond(&agreement, &agreement.ones_like()?)?;
        Ok(Some((agreement.log()?.sum_all()?.neg()? / f64::from(confident))?))
    }

    fn cross_entropy(&self, logits: &Tensor, classes: &[u32]) -> Result<Tensor> {
        let classes = Tensor::new(classes, logits.device())?;
        emotion::cross_entropy_index(logits, &classes, self.class_weights.as_ref())
    }
}

/// Index and value of the largest number, the first of equals; NaN is larger than all, as in PyTorch.
fn largest(row: &[f32]) -> (u32, f32) {
    let numbered = (0u32..).zip(row.iter().copied());
    let is_larger = |next: f32, best: f32| next > best || next.is_nan() && !best.is_nan();
    let larger =
        |best: (u32, f32), next: (u32, f32)| if is_larger(next.1, best.1) { next } else { best };
    numbered.reduce(larger).unwrap_or((0, f32::NAN))
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    const NAN: f32 = f32::NAN;

    fn objective(emotion_loss: EmotionLoss) -> Objective {
        let config = ObjectiveConfig { emotion_loss, ..ObjectiveConfig::default() };
        Objective::new(config, &Device::Cpu).unwrap()
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
            objective(EmotionLoss::CrossEntropy).components(&logits, &scores, &unlabelled(2))?;
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
            assert!(objective(kind).components(&logits, &scores, &unlabelled(2))?.is_empty());
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
        let config = ObjectiveConfig {
            personality_loss: PersonalityLoss::Ccc,
            ..ObjectiveConfig::default()
        };
        let mut objective = Objective::new(config, &Device::Cpu)?;
        let logits = Tensor::zeros((1, 7), DType::F32, &Device::Cpu)?;
        let parts = objective.components(&logits, &scores, &labels)?;
        assert!(parts[&Component::PersonalitySupervised].to_scalar::<f32>()?.is_nan());
        let balanced = objective.balance(&parts, &parameters, &GradientTape::default())?;
        assert!(balanced.gradients.is_empty() && balanced.total == 0.0);
        assert_eq!(objective.wallets().supervised.weights(), [1.0, 1.0]);
        Ok(())
    }
}
