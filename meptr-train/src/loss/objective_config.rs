//! Settings of the objective of stage 3, one struct per kind.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use toml::{Table, Value};

use super::{EmotionLoss, GradNormConfig, PersonalityLoss, PseudoLabels};
use crate::settings::{KIND, as_table};

/// Objective of stage 3, by its `kind`.
///
/// All kinds share the losses on labelled rows; they differ in what rows without labels add and in
/// how the parts are weighted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ObjectiveConfig {
    /// Labelled rows alone, weights that stay.
    Supervised(SupervisedObjective),
    /// Pseudo-labels on rows without labels, weights balanced by GradNorm.
    Published(PublishedObjective),
    /// Pseudo-labels on rows without labels, weights that stay.
    Fixed(FixedObjective),
}

/// Losses on labelled rows: the objective of the published scores.
///
/// Soft-label cross-entropy on the emotion shares plus a trait loss; source: SSL-MEPR `main`,
/// `utils/losses.py`, `MultiTaskLossWithNaN`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SupervisedObjective {
    /// Emotion loss: "CE" on the shares, or "BCE" on shares above 0.
    pub emotion_loss: EmotionLoss,
    /// Trait loss.
    pub personality_loss: PersonalityLoss,
    /// Whether emotion losses are weighted by [`super::emotion::STAGE_3_CLASS_WEIGHTS`].
    pub class_weights: bool,
    /// Weight of the emotion loss, above 0.
    pub emotion_weight: f32,
    /// Weight of the trait loss, above 0.
    pub personality_weight: f32,
}

/// Losses on labelled rows and on the model's own confident predictions, balanced by GradNorm.
///
/// Source: SSL-MEPR `main`, `utils/losses.py`, `MultiTaskLossWithNaN_v2`; defaults of its published
/// configuration. Under "CE" a labelled row counts as its strongest emotion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishedObjective {
    /// Emotion loss: "CE" on the strongest share, or "BCE" on shares above 0.
    pub emotion_loss: EmotionLoss,
    /// Trait loss on labelled rows.
    pub personality_loss: PersonalityLoss,
    /// Whether emotion losses are weighted by [`super::emotion::STAGE_3_CLASS_WEIGHTS`].
    pub class_weights: bool,
    /// First weight of the emotion loss on labelled rows before scaling to the budget, above 0.
    pub emotion_weight: f32,
    /// First weight of the trait loss on labelled rows before scaling to the budget, above 0.
    pub personality_weight: f32,
    /// First weight of each pseudo-label loss; their budget is twice this. With 0 they are measured,
    /// as in the reference, and count for nothing.
    pub lambda: f32,
    /// An emotion is a pseudo-label when its probability is above this, 0 to 1.
    pub min_emotion_probability: f64,
    /// A trait score is a pseudo-label above this or below 1 minus this, 0.5 to 1.
    pub min_trait_confidence: f64,
    /// GradNorm settings of the two losses on labelled rows and of the two pseudo-label losses.
    pub grad_norm: GradNormPair,
}

/// GradNorm settings of both pairs of losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradNormPair {
    /// Losses on labelled rows; their budget is 2.
    pub supervised: GradNormConfig,
    /// Pseudo-label losses; their budget is twice `lambda`.
    pub pseudo: GradNormConfig,
}

/// Losses on labelled rows and on the model's own confident predictions, with weights that stay.
///
/// Source: SSL-MEPR `main`, `utils/losses.py`, `MultiTaskLossWithNaN_v2_FLAGGED` with
/// `enable_gradnorm` off. Under "CE" a labelled row counts as its strongest emotion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FixedObjective {
    /// Emotion loss: "CE" on the strongest share, or "BCE" on shares above 0.
    pub emotion_loss: EmotionLoss,
    /// Trait loss on labelled rows.
    pub personality_loss: PersonalityLoss,
    /// Whether emotion losses are weighted by [`super::emotion::STAGE_3_CLASS_WEIGHTS`].
    pub class_weights: bool,
    /// Weight of the emotion loss on labelled rows, above 0.
    pub emotion_weight: f32,
    /// Weight of the trait loss on labelled rows, above 0.
    pub personality_weight: f32,
    /// Weight of the emotion loss on pseudo-labels, 0 or more.
    pub pseudo_emotion_weight: f32,
    /// Weight of the trait loss on pseudo-labels, 0 or more.
    pub pseudo_personality_weight: f32,
    /// An emotion is a pseudo-label when its probability is above this, 0 to 1.
    pub min_emotion_probability: f64,
    /// A trait score is a pseudo-label above this or below 1 minus this, 0.5 to 1.
    pub min_trait_confidence: f64,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self::Supervised(SupervisedObjective::default())
    }
}

impl Default for SupervisedObjective {
    fn default() -> Self {
        Self {
            emotion_loss: EmotionLoss::CrossEntropy,
            personality_loss: PersonalityLoss::Mae,
            class_weights: false,
            emotion_weight: 1.0,
            personality_weight: 1.0,
        }
    }
}

impl Default for PublishedObjective {
    fn default() -> Self {
        Self {
            emotion_loss: EmotionLoss::CrossEntropy,
            personality_loss: PersonalityLoss::Mae,
            class_weights: false,
            emotion_weight: 1.0,
            personality_weight: 1.0,
            lambda: 0.4,
            min_emotion_probability: 0.6,
            min_trait_confidence: 0.6,
            grad_norm: GradNormPair::default(),
        }
    }
}

impl Default for GradNormPair {
    fn default() -> Self {
        Self {
            supervised: GradNormConfig { alpha: 1.0, learning_rate: 0.005, floor: 0.001 },
            pseudo: GradNormConfig { alpha: 1.5, learning_rate: 0.01, floor: 0.001 },
        }
    }
}

impl Default for FixedObjective {
    fn default() -> Self {
        Self {
            emotion_loss: EmotionLoss::CrossEntropy,
            personality_loss: PersonalityLoss::Mae,
            class_weights: false,
            emotion_weight: 1.0,
            personality_weight: 1.0,
            pseudo_emotion_weight: 1.0,
            pseudo_personality_weight: 0.2,
            min_emotion_probability: 0.6,
            min_trait_confidence: 0.6,
        }
    }
}

impl ObjectiveConfig {
    /// Losses on labelled rows, which every kind has.
    pub fn labelled(&self) -> SupervisedObjective {
        match self {
            Self::Supervised(config) => config.clone(),
            Self::Published(PublishedObjective {
                emotion_loss,
                personality_loss,
                class_weights,
                emotion_weight,
                personality_weight,
                ..
            })
            | Self::Fixed(FixedObjective {
                emotion_loss,
                personality_loss,
                class_weights,
                emotion_weight,
                personality_weight,
                ..
            }) => SupervisedObjective {
                emotion_loss: *emotion_loss,
                personality_loss: *personality_loss,
                class_weights: *class_weights,
                emotion_weight: *emotion_weight,
                personality_weight: *personality_weight,
            },
        }
    }

    /// Rule of the pseudo-labels, for the kinds that have them.
    pub fn pseudo_labels(&self) -> Option<PseudoLabels> {
        match self {
            Self::Supervised(_) => None,
            Self::Published(PublishedObjective {
                emotion_loss,
                min_emotion_probability,
                min_trait_confidence,
                ..
            })
            | Self::Fixed(FixedObjective {
                emotion_loss,
                min_emotion_probability,
                min_trait_confidence,
                ..
            }) => Some(PseudoLabels {
                emotion_loss: *emotion_loss,
                min_emotion_probability: *min_emotion_probability,
                min_trait_confidence: *min_trait_confidence,
            }),
        }
    }

    /// Everything that makes no sense; `place` is where the settings stand in their file.
    pub fn problems(&self, place: &str) -> Vec<String> {
        let mut problems = Problems { place, found: Vec::new() };
        let labelled = self.labelled();
        problems.require_above_0("emotion_weight", labelled.emotion_weight);
        problems.require_above_0("personality_weight", labelled.personality_weight);
        if let Some(pseudo) = self.pseudo_labels() {
            let is_unit = (0.0..=1.0).contains(&pseudo.min_emotion_probability);
            problems.require(is_unit, "min_emotion_probability", "in 0 to 1");
            let is_confidence = (0.5..=1.0).contains(&pseudo.min_trait_confidence);
            problems.require(is_confidence, "min_trait_confidence", "in 0.5 to 1");
        }
        match self {
            Self::Supervised(_) => {}
            Self::Published(PublishedObjective { lambda, grad_norm, .. }) => {
                problems.require_0_or_more("lambda", *lambda);
                problems.require_grad_norm("grad_norm.supervised", grad_norm.supervised);
                problems.require_grad_norm("grad_norm.pseudo", grad_norm.pseudo);
            }
            Self::Fixed(FixedObjective {
                pseudo_emotion_weight,
                pseudo_personality_weight,
                ..
            }) => {
                problems.require_0_or_more("pseudo_emotion_weight", *pseudo_emotion_weight);
                problems.require_0_or_more("pseudo_personality_weight", *pseudo_personality_weight);
            }
        }
        problems.found
    }
}

struct Problems<'a> {
    place: &'a str,
    found: Vec<String>,
}

impl Problems<'_> {
    fn require(&mut self, is_right: bool, key: &str, what: &str) {
        if !is_right {
            self.found.push(format!("`{}.{key}` must be {what}", self.place));
        }
    }

    fn require_above_0(&mut self, key: &str, value: f32) {
        self.require(value > 0.0 && value.is_finite(), key, "above 0");
    }

    fn require_0_or_more(&mut self, key: &str, value: f32) {
        self.require(value >= 0.0 && value.is_finite(), key, "0 or more");
    }

    fn require_grad_norm(&mut self, key: &str, config: GradNormConfig) {
        self.require(config.alpha.is_finite(), &format!("{key}.alpha"), "a number");
        self.require_above_0(&format!("{key}.learning_rate"), config.learning_rate);
        self.require_above_0(&format!("{key}.floor"), config.floor);
    }
}

/// Reads an objective: a table with a `kind`, or the name of a kind alone. Keys of files written
/// before there were kinds are refused with the line to write instead.
pub(crate) fn read_objective<'de, D>(deserializer: D) -> Result<ObjectiveConfig, D::Error>
where
    D: Deserializer<'de>,
{
    let Value::Table(mut table) = as_table(Value::deserialize(deserializer)?) else {
        return Err(D::Error::custom("give a name, or a table with a `kind`"));
    };
    // A table that says nothing of its kind changes keys of the default one.
    table.entry(KIND).or_insert_with(|| Value::String("supervised".to_owned()));
    if let Some(remedy) = outdated(&table) {
        return Err(D::Error::custom(remedy));
    }
    let read: Result<ObjectiveConfig, _> = table.try_into();
    read.map_err(|error: toml::de::Error| D::Error::custom(error.message()))
}

/// Keys that only objectives with pseudo-labels have.
const PSEUDO_KEYS: [&str; 6] = [
    "lambda",
    "min_emotion_probability",
    "min_trait_confidence",
    "supervised",
    "pseudo",
    "grad_norm",
];

/// Remedy for a table that holds keys of before `kind`, or keys of another kind.
fn outdated(table: &Table) -> Option<String> {
    let kind = table.get(KIND).and_then(Value::as_str);
    if let Some(components) = table.get("components") {
        return Some(instead_of_components(components));
    }
    let has = |key: &&str| table.contains_key(*key);
    match kind {
        Some("supervised") => PSEUDO_KEYS.into_iter().find(has).map(|key| {
            format!(
                "`{key}` is a key of objectives with pseudo-labels; write `kind = \"published\"` \
                 (weights balanced by GradNorm) or `kind = \"fixed\"` before it"
            )
        }),
        Some("published") => ["supervised", "pseudo"]
            .into_iter()
            .find(has)
            .map(|key| format!("`{key}` has another place; write `grad_norm.{key}` instead")),
        _ => None,
    }
}

/// The line to write instead of `components`.
fn instead_of_components(components: &Value) -> String {
    let names = components.as_array().map(Vec::as_slice).unwrap_or_default();
    let has_pseudo =
        names.iter().any(|name| name.as_str().is_some_and(|one| one.ends_with("_ssl")));
    match has_pseudo {
        false => {
            "`components` is gone; write `kind = \"supervised\"` instead: labelled rows alone, \
                  with weights that stay"
                .to_owned()
        }
        true => "`components` is gone; write `kind = \"published\"` (pseudo-labels, weights \
                 balanced by GradNorm) or `kind = \"fixed\"` (pseudo-labels, weights that stay: 0 \
                 switches a part off) instead"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Stage {
        #[serde(deserialize_with = "read_objective")]
        objective: ObjectiveConfig,
    }

    fn read(text: &str) -> Result<ObjectiveConfig, String> {
        let stage = toml::from_str::<Stage>(text).map_err(|error| error.message().to_owned())?;
        Ok(stage.objective)
    }

    #[test]
    fn a_kind_goes_by_its_name_or_with_its_keys() {
        assert_eq!(read("objective = 'supervised'"), Ok(ObjectiveConfig::default()));
        let expected = PublishedObjective { lambda: 0.1, ..PublishedObjective::default() };
        let found = read("[objective]\nkind = 'published'\nlambda = 0.1");
        assert_eq!(found, Ok(ObjectiveConfig::Published(expected)));
        let expected = FixedObjective { pseudo_emotion_weight: 0.5, ..FixedObjective::default() };
        let found = read("[objective]\nkind = 'fixed'\npseudo_emotion_weight = 0.5");
        assert_eq!(found, Ok(ObjectiveConfig::Fixed(expected)));
    }

    #[test]
    fn keys_of_before_are_refused_with_the_line_to_write() {
        for (text, line) in [
            ("kind = 'supervised'\nlambda = 0.1", "kind = \"published\""),
            ("lambda = 0.1", "kind = \"published\""),
            ("kind = 'supervised'\ncomponents = ['emo_sup', 'per_sup']", "kind = \"supervised\""),
            ("kind = 'supervised'\ncomponents = ['emo_sup', 'per_ssl']", "kind = \"fixed\""),
            ("kind = 'published'\npseudo = { alpha = 1.0 }", "grad_norm.pseudo"),
            ("kind = 'fixed'\nlambda = 0.1", "unknown field `lambda`"),
        ] {
            let error = read(&format!("[objective]\n{text}")).unwrap_err();
            assert!(error.contains(line), "{text}: {error}");
        }
    }

    #[test]
    fn five_mistakes_are_five_problems() {
        let config = ObjectiveConfig::Published(PublishedObjective {
            emotion_weight: 0.0,
            lambda: f32::NAN,
            min_emotion_probability: 1.5,
            min_trait_confidence: 0.3,
            grad_norm: GradNormPair {
                pseudo: GradNormConfig { floor: 0.0, ..GradNormPair::default().pseudo },
                ..GradNormPair::default()
            },
            ..PublishedObjective::default()
        });
        assert_eq!(config.problems("objective").len(), 5, "{:?}", config.problems("objective"));
        let fixed = FixedObjective { pseudo_emotion_weight: -1.0, ..FixedObjective::default() };
        assert_eq!(ObjectiveConfig::Fixed(fixed).problems("objective").len(), 1);
    }
}
