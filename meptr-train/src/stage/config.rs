//! The files in `configs/`: one per stage, every key with the published value as its default.

use meptr_core::models::{Ablation, FusionConfig, HeadConfig, SingleTaskConfig, UnimodalConfig};
use meptr_core::{Modality, PerModality, Task};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::fusion::WEIGHT_DECAY;
use super::single_task::SingleTaskChoice;
use super::training_config::{TrainingConfig, TrainingOverrides};
use super::unimodal::selection;
use super::{CrossTaskTraining, FusionTraining, Pairing, UnimodalTraining};
use crate::loss::objective_config::read_objective;
use crate::loss::{FixedLossConfig, ObjectiveConfig, PersonalityLoss};
use crate::metrics::EmotionMean;
use crate::select::{Selection, SelectionMetric};
use crate::settings::{Table, Value, as_table};

/// `stage1.toml`: the models of one modality and one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageOne {
    /// Start of everything random.
    pub seed: u64,
    /// Modalities to train models of.
    pub modalities: Vec<Modality>,
    /// Tasks to train models of.
    pub tasks: Vec<Task>,
    /// Emotions that the means in the dev score are over.
    pub selection_mean: EmotionMean,
    /// Training loss.
    pub loss: FixedLossConfig,
    /// Settings of the training loop.
    pub training: TrainingConfig,
    /// Settings that differ for a modality.
    pub training_overrides: PerModality<Option<TrainingOverrides>>,
    /// Shapes of the models.
    pub models: ModelsConfig,
}

/// `stage2.toml`: the models of one modality and both tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageTwo {
    /// Start of everything random.
    pub seed: u64,
    /// Modalities to train models of.
    pub modalities: Vec<Modality>,
    /// Videos that the two branches see in a step.
    pub pairing: Pairing,
    /// Score that chooses the best epoch.
    pub selection: SelectionMetric,
    /// Emotions that the means in the dev score are over.
    pub selection_mean: EmotionMean,
    /// Training loss.
    pub loss: FixedLossConfig,
    /// Settings of the training loop.
    pub training: TrainingConfig,
    /// Settings that differ for a modality.
    pub training_overrides: PerModality<Option<TrainingOverrides>>,
    /// Shapes of the models; the stage-1 models inside are as stage 1 made them.
    pub models: ModelsConfig,
}

/// `stage3.toml`: the model of all modalities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageThree {
    /// Start of everything random.
    pub seed: u64,
    /// Train a model of one task instead of both.
    pub single_task: Option<SingleTaskChoice>,
    /// Score that chooses the best epoch; with `single_task`, `combined` is the mean of that task's
    /// scores.
    pub selection: SelectionMetric,
    /// Emotions that the means in the dev score are over.
    pub selection_mean: EmotionMean,
    /// Training loss.
    #[serde(deserialize_with = "read_objective")]
    pub objective: ObjectiveConfig,
    /// Settings of the training loop.
    #[serde(deserialize_with = "changes_of_stage_three")]
    pub training: TrainingConfig,
    /// Shape of the model; its input widths follow from the stage-2 models.
    pub model: FusionConfig,
}

/// Shapes of the models of stages 1 and 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelsConfig {
    /// Divides the inner widths of the published models, for tiny experiments; at least 1.
    pub width_divisor: usize,
    /// Models other than the published ones, whole and not divided.
    pub heads: PerModality<Option<HeadConfig>>,
}

impl Default for StageOne {
    fn default() -> Self {
        Self {
            seed: DEFAULT_SEED,
            modalities: Modality::ALL.to_vec(),
            tasks: Task::ALL.to_vec(),
            selection_mean: EmotionMean::default(),
            loss: FixedLossConfig::default(),
            training: TrainingConfig::default(),
            training_overrides: published_changes(),
            models: ModelsConfig::default(),
        }
    }
}

impl Default for StageTwo {
    fn default() -> Self {
        Self {
            seed: DEFAULT_SEED,
            modalities: Modality::ALL.to_vec(),
            pairing: Pairing::default(),
            selection: SelectionMetric::Combined,
            selection_mean: EmotionMean::default(),
            loss: FixedLossConfig::default(),
            training: TrainingConfig::default(),
            training_overrides: published_changes(),
            models: ModelsConfig::default(),
        }
    }
}

impl Default for StageThree {
    fn default() -> Self {
        let FusionTraining { objective, training, selection } = FusionTraining::default();
        let Selection { metric: selection, mean: selection_mean } = selection;
        let (seed, model) = (DEFAULT_SEED, FusionConfig::published());
        Self { seed, single_task: None, selection, selection_mean, objective, training, model }
    }
}

impl Default for ModelsConfig {
    fn default() -> Self {
        Self { width_divisor: 1, heads: PerModality::default() }
    }
}

const DEFAULT_SEED: u64 = 42;

/// Widest node of the stage-3 model, 32 times the published one: its weights alone take 3 GB.
const MAX_WIDTH: usize = 8192;

fn published_changes() -> PerModality<Option<TrainingOverrides>> {
    let scene = TrainingOverrides {
        batch_size: Some(384),
        patience_epochs: Some(10),
        ..TrainingOverrides::default()
    };
    PerModality { scene: Some(scene), ..PerModality::default() }
}

impl StageOne {
    /// Training settings of a model.
    pub fn training(&self, modality: Modality, task: Task) -> UnimodalTraining {
        let training = changed(&self.training, self.training_overrides[modality].as_ref());
        let selection_mean = self.selection_mean;
        UnimodalTraining { task, loss: self.loss.clone(), training, selection_mean }
    }

    /// Shape of a model that reads features of this width.
    pub fn model(&self, modality: Modality, task: Task, input_width: usize) -> UnimodalConfig {
        let head = self.models.head(modality, input_width);
        match task {
            Task::Emotion => head.emotion,
            Task::Personality => head.personality,
        }
    }

    /// Everything that makes no sense, before any data is touched.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = chosen("modalities", &self.modalities);
        problems.extend(chosen("tasks", &self.tasks));
        problems.extend(self.loss.problems("loss"));
        for task in self.tasks.iter().filter(|task| self.loss.weight(**task) == 0.0) {
            let name = task.name();
            problems
                .push(format!("`loss.{name}_weight` is 0: models of {name} would learn nothing"));
        }
        problems.extend(training_problems(&self.training, &self.training_overrides));
        if self.tasks.contains(&Task::Personality) {
            problems.extend(single_rows(&self.loss, &self.training, &self.training_overrides));
        }
        problems.extend(self.models.problems());
        problems
    }
}

impl StageTwo {
    /// Training settings of a model.
    pub fn training(&self, modality: Modality) -> CrossTaskTraining {
        let training = changed(&self.training, self.training_overrides[modality].as_ref());
        let selection = Selection { metric: self.selection, mean: self.selection_mean };
        CrossTaskTraining { loss: self.loss.clone(), training, selection }
    }

    /// Shape of a model around these stage-1 models: emotion, personality.
    pub fn model(
        &self,
        modality: Modality,
        [emotion, personality]: [&UnimodalConfig; 2],
    ) -> HeadConfig {
        HeadConfig {
            emotion: emotion.clone(),
            personality: personality.clone(),
            ..self.models.head(modality, emotion.input_width())
        }
    }

    /// Everything that makes no sense, before any data is touched.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = chosen("modalities", &self.modalities);
        problems.extend(self.loss.problems("loss"));
        if Task::ALL.iter().all(|task| self.loss.weight(*task) == 0.0) {
            problems.push("`loss` has no weight above 0: there is nothing to learn".to_owned());
        }
        problems.extend(training_problems(&self.training, &self.training_overrides));
        problems.extend(single_rows(&self.loss, &self.training, &self.training_overrides));
        problems.extend(self.models.problems());
        problems
    }
}

impl StageThree {
    /// Training settings of the model.
    pub fn training(&self) -> FusionTraining {
        let metric = match (self.single_task, self.selection) {
            (Some(single), SelectionMetric::Combined) => selection(single.task),
            (_, chosen) => chosen,
        };
        let selection = Selection { metric, mean: self.selection_mean };
        let (objective, training) = (self.objective.clone(), self.training.clone());
        FusionTraining { objective, training, selection }
    }

    /// Shape of a model that reads what these stage-2 models give.
    pub fn model(&self, heads: &PerModality<HeadConfig>) -> FusionConfig {
        let input_dims = PerModality::from_fn(|modality| heads[modality].vector_width());
        FusionConfig { input_dims, ..self.model.clone() }
    }

    /// Shape of the model of one task, when that is what is to be trained.
    pub fn single_task_model(&self, heads: &PerModality<HeadConfig>) -> Option<SingleTaskConfig> {
        self.single_task.map(|choice| choice.model(self.model(heads), heads))
    }

    /// Everything that makes no sense, before any data is touched.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.objective.problems("objective");
        problems.extend(self.training.problems("training"));
        if self.objective.labelled().personality_loss == PersonalityLoss::Ccc {
            problems.extend(single_row("training", &self.training));
        }
        problems.extend(self.ignored());
        let FusionConfig { hidden_dim, num_heads, dropout, ablation, .. } = &self.model;
        if !(1..=MAX_WIDTH).contains(hidden_dim) || !hidden_dim.is_multiple_of(2) {
            problems
                .push(format!("`model.hidden_dim` must be even, above 0 and at most {MAX_WIDTH}"));
        }
        if *num_heads == 0 || !hidden_dim.is_multiple_of(*num_heads) {
            problems.push("`model.num_heads` must divide `model.hidden_dim`".to_owned());
        }
        if !(0.0..1.0).contains(dropout) {
            problems.push("`model.dropout` must be in 0 to 1, and below 1".to_owned());
        }
        let is_off = |modality: &Modality| ablation.disabled_modalities.contains(modality);
        if Modality::ALL.iter().all(is_off) {
            problems.push("`model.ablation.disabled_modalities` leaves none".to_owned());
        }
        problems
    }

    /// Settings that nothing would come of.
    fn ignored(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let published = FusionConfig::published();
        if self.model.input_dims != published.input_dims {
            problems
                .push("`model.input_dims` follows from the stage-2 models; leave it away".into());
        }
        let Some(SingleTaskChoice { task, .. }) = self.single_task else { return problems };
        let name = task.name();
        let disabled_modalities = self.model.ablation.disabled_modalities.clone();
        if self.model.ablation != (Ablation { disabled_modalities, ..published.ablation }) {
            problems.push(format!(
                "`model.ablation`: a model of {name} alone has no parts to leave out but \
                 `disabled_modalities`"
            ));
        }
        if self.selection != SelectionMetric::Combined && self.selection.tasks() != [task] {
            let selection = self.selection.name();
            problems.push(format!("`selection`: a model of {name} alone has no `{selection}`"));
        }
        problems
    }
}

impl ModelsConfig {
    /// The models of a modality whose backbone gives features of this width.
    pub fn head(&self, modality: Modality, input_width: usize) -> HeadConfig {
        match &self.heads[modality] {
            Some(head) => head.clone(),
            None => HeadConfig::published(modality).scaled(input_width, self.width_divisor),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.width_divisor == 0 {
            problems.push("`models.width_divisor` must be at least 1".to_owned());
        }
        for (modality, head) in self.heads.iter() {
            let Some(head) = head else { continue };
            let wrong = head.problems();
            problems.extend(wrong.iter().map(|wrong| format!("`models.heads.{modality}` {wrong}")));
        }
        problems
    }
}

/// A key that is not there has the value of stage 3, not that of stages 1 and 2; so has the decay
/// of an update rule that is named without one.
fn changes_of_stage_three<'de, D>(deserializer: D) -> Result<TrainingConfig, D::Error>
where
    D: Deserializer<'de>,
{
    let mut table = Table::deserialize(deserializer)?;
    if let Some(rule) = table.get_mut("optimiser") {
        *rule = as_table(rule.clone());
        if let Value::Table(rule) = rule {
            rule.entry("weight_decay").or_insert(Value::Float(WEIGHT_DECAY));
        }
    }
    let changes: TrainingOverrides = table.try_into().map_err(D::Error::custom)?;
    Ok(changes.applied_to(&FusionTraining::default().training))
}

/// Problems of a batch of one video, whose concordance is not defined.
fn single_rows(
    loss: &FixedLossConfig,
    training: &TrainingConfig,
    changes: &PerModality<Option<TrainingOverrides>>,
) -> Vec<String> {
    if loss.personality_loss != PersonalityLoss::Ccc || loss.personality_weight == 0.0 {
        return Vec::new();
    }
    let own = |(modality, change): (Modality, &Option<TrainingOverrides>)| {
        let change = change.as_ref().filter(|change| change.batch_size.is_some())?;
        single_row(&format!("training_overrides.{modality}"), &change.applied_to(training))
    };
    single_row("training", training).into_iter().chain(changes.iter().filter_map(own)).collect()
}

fn single_row(key: &str, training: &TrainingConfig) -> Option<String> {
    let is_single = training.batch_size == 1;
    is_single.then(|| format!("`{key}.batch_size` must be at least 2 for the trait loss `ccc`"))
}

fn changed(training: &TrainingConfig, change: Option<&TrainingOverrides>) -> TrainingConfig {
    change.map_or_else(|| training.clone(), |change| change.applied_to(training))
}

/// Problems of the common settings, and those that the overrides of a modality add.
fn training_problems(
    training: &TrainingConfig,
    changes: &PerModality<Option<TrainingOverrides>>,
) -> Vec<String> {
    let mut problems = training.problems("training");
    let common = training.problems("");
    for (modality, change) in changes.iter() {
        let own = changed(training, change.as_ref()).problems("");
        let added = own.into_iter().filter(|problem| !common.contains(problem));
        let prefix = format!("`training_overrides.{modality}.");
        problems.extend(added.map(|problem| problem.replacen("`.", &prefix, 1)));
    }
    problems
}

fn chosen<T: PartialEq>(key: &str, values: &[T]) -> Vec<String> {
    let mut problems = Vec::new();
    if values.is_empty() {
        problems.push(format!("`{key}` is empty"));
    }
    if (1..values.len()).any(|index| values[..index].contains(&values[index])) {
        problems.push(format!("`{key}` names something twice"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use meptr_core::models::FeatureSlice;

    use super::*;
    use crate::stage::SingleTaskVectors;

    fn problems(change: impl FnOnce(&mut StageThree)) -> Vec<String> {
        let mut stage = StageThree::default();
        change(&mut stage);
        stage.problems()
    }

    fn single(task: Task) -> Option<SingleTaskChoice> {
        let (slice, vectors) = (FeatureSlice::Both, SingleTaskVectors::default());
        Some(SingleTaskChoice { task, slice, vectors })
    }

    #[test]
    fn vectors_of_stage_1_have_the_widths_of_its_published_models() {
        let heads = PerModality::from_fn(HeadConfig::published);
        let config = |slice: FeatureSlice, vectors: SingleTaskVectors| {
            let single_task = Some(SingleTaskChoice { task: Task::Emotion, slice, vectors });
            let stage = StageThree { single_task, ..StageThree::default() };
            stage.single_task_model(&heads).unwrap()
        };
        use SingleTaskVectors::{Stage1, Stage2};
        let asym = SingleTaskConfig::ASYM_EMOTION_DIMS;
        let both = config(FeatureSlice::Both, Stage1);
        assert_eq!(both.emotion_dims, Some(asym));
        let whole = PerModality { body: 1280, face: 1280, scene: 1024, audio: 512, text: 768 };
        assert_eq!(both.input_dims, whole);
        let emotion = config(FeatureSlice::Emotion, Stage1);
        assert_eq!((emotion.input_dims, emotion.emotion_dims), (asym, Some(asym)));
        let traits = config(FeatureSlice::Personality, Stage1);
        let widths = PerModality { body: 1024, face: 256, scene: 512, audio: 256, text: 512 };
        assert_eq!(traits.input_dims, widths);
        assert_eq!(traits.emotion_dims, Some(PerModality::default()));
        let slim = config(FeatureSlice::Emotion, Stage2);
        assert_eq!((slim.input_dims.body, slim.emotion_dims), (2048, None));
        let choice = |text: &str| toml::from_str::<SingleTaskChoice>(text).unwrap();
        let authors = choice("task = 'emotion'\nslice = 'emo'");
        assert_eq!(authors.vectors, Stage1);
        assert_eq!(authors.stage_one_tasks(), Some(vec![Task::Emotion]));
        let mixed = choice("task = 'personality'\nslice = 'emo'");
        assert_eq!(mixed.stage_one_tasks(), Some(Task::ALL.to_vec()));
        let slim = choice("task = 'emotion'\nslice = 'emo'\nvectors = 'stage2'");
        assert_eq!(slim.stage_one_tasks(), None);
    }

    #[test]
    fn settings_that_nothing_comes_of_are_refused() {
        assert!(problems(|stage| stage.single_task = single(Task::Emotion)).is_empty());
        let found = problems(|stage| {
            stage.single_task = single(Task::Emotion);
            stage.selection = SelectionMetric::Ccc;
            stage.model.ablation.disable_graph_attn = true;
            stage.model.input_dims.body = 7;
        });
        assert_eq!(found.len(), 3, "{found:?}");
        let disabled = vec![Modality::Text];
        let found = problems(|stage| {
            stage.single_task = single(Task::Emotion);
            stage.model.ablation.disabled_modalities = disabled;
        });
        assert!(found.is_empty(), "{found:?}");
        let found = problems(|stage| stage.model.hidden_dim = 100_000_000);
        assert!(found[0].contains("at most 8192"), "{found:?}");
    }

    #[test]
    fn a_concordance_needs_two_videos() {
        let mut stage = StageOne::default();
        stage.loss.personality_loss = PersonalityLoss::Ccc;
        assert!(stage.problems().is_empty());
        stage.training.batch_size = 1;
        assert_eq!(stage.problems().len(), 1, "{:?}", stage.problems());
        stage.tasks = vec![Task::Emotion];
        assert!(stage.problems().is_empty());
        stage.loss.emotion_weight = Some(0.0);
        assert!(stage.problems()[0].contains("would learn nothing"), "{:?}", stage.problems());
    }
}
