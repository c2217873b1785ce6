//! Comparison of a run's settings with those its models were begun with.

use std::collections::BTreeSet;

use meptr_core::{Modality, Task};
use serde_json::{Map, Value, json};

use super::config::ExperimentConfig;
use super::splits::append_messages;
use super::train::{Experiment, FUSION, unimodal};
use crate::Result;
use crate::run::ModelFolder;
use crate::settings::to_json;
use crate::stage::{CrossTaskTraining, FusionTraining, Stage, UnimodalTraining};

impl Experiment<'_> {
    /// Models of a stage that were begun with other settings than there are now.
    pub(super) fn changed_since(&self, stage: Stage) -> Vec<String> {
        let models: Vec<(String, Value)> = match stage {
            Stage::Stage1 => self
                .unimodal_models()
                .map(|(modality, task)| {
                    (unimodal(modality, task), self.unimodal_settings(modality, task))
                })
                .collect(),
            Stage::Stage2 => {
                let modalities = self.config.stage2.modalities.iter();
                let of = |one: &Modality| (one.name().to_owned(), self.cross_task_settings(*one));
                modalities.map(of).collect()
            }
            Stage::Stage3 => vec![(FUSION.to_owned(), self.fusion_settings())],
        };
        let mut problems = Vec::new();
        for (name, settings) in models {
            match self.change(&self.folder(stage, &name), &settings, stage) {
                Ok(change) => problems.extend(change),
                Err(error) => append_messages(&mut problems, &error),
            }
        }
        problems
    }

    /// Difference between the settings of a model and those it was begun with.
    fn change(&self, folder: &ModelFolder, now: &Value, stage: Stage) -> Result<Option<String>> {
        let Some(was) = folder.settings()? else { return Ok(None) };
        if let Some(problem) = other_labels(&was, &self.labels) {
            return Ok(Some(problem));
        }
        let was = with_present_names(was);
        let difference = first_difference(&was, now, stage.name());
        Ok(difference.map(|(key, was, is)| {
            format!(
                "`{}` says `{key}` = {is}, but {} was begun with {was}: change it back, or start \
                 another run",
                ExperimentConfig::file(&self.run).display(),
                folder.title()
            )
        }))
    }

    /// Models of the run that this one builds upon whose labels were read otherwise. Other corpora
    /// are no problem there.
    pub(super) fn outdated_before(&self, stage: Stage) -> Vec<String> {
        let before = match stage {
            Stage::Stage1 => return Vec::new(),
            Stage::Stage2 => Stage::Stage1,
            Stage::Stage3 => Stage::Stage2,
        };
        let mut problems = Vec::new();
        for folder in self.borrowed(before) {
            match folder.settings() {
                Ok(Some(settings)) if settings[LABELS].is_null() => {
                    problems.push(format!(
                        "the run named by --from {OLD_LABELS}: train that run again"
                    ));
                }
                Ok(_) => {}
                Err(error) => append_messages(&mut problems, &error),
            }
        }
        problems
    }

    /// Settings of a model of stage 1.
    pub(super) fn unimodal_settings(&self, modality: Modality, task: Task) -> Value {
        let stage = &self.config.stage1;
        let UnimodalTraining { loss, training, selection_mean, .. } =
            stage.training(modality, task);
        let (loss, training) = (to_json(&loss), to_json(&training));
        let model = to_json(self.unimodal_config(modality, task));
        json!({
            "labels": self.labels,
            "seed": stage.seed,
            "selection_mean": selection_mean,
            "loss": loss,
            "training": training,
            "model": model,
        })
    }

    /// Settings of a model of stage 2.
    pub(super) fn cross_task_settings(&self, modality: Modality) -> Value {
        let stage = &self.config.stage2;
        let CrossTaskTraining { loss, training, selection } = stage.training(modality);
        json!({
            "labels": self.labels,
            "seed": stage.seed,
            "pairing": stage.pairing,
            "selection": selection.metric,
            "selection_mean": selection.mean,
            "loss": to_json(&loss),
            "training": to_json(&training),
            "model": to_json(&self.heads[modality]),
        })
    }

    /// Settings of the model of stage 3.
    pub(super) fn fusion_settings(&self) -> Value {
        let stage = &self.config.stage3;
        let FusionTraining { objective, training, selection } = stage.training();
        json!({
            "labels": self.labels,
            "seed": stage.seed,
            "single_task": stage.single_task,
            "selection": selection.metric,
            "selection_mean": selection.mean,
            "objective": to_json(&objective),
            "training": to_json(&training),
            "model": to_json(&self.fusion_config()),
        })
    }
}

/// Key of the digest of the labels among a model's settings.
const LABELS: &str = "labels";
/// Continues a sentence about a model that an earlier version trained.
const OLD_LABELS: &str = "was trained by an earlier version of meptr, which took emotion labels for \
                          intensities and counted class weights by rows";

/// Problem with a model whose training began on other labels than those of digest `now`; the same
/// sentence for every model of a run.
fn other_labels(was: &Value, now: &str) -> Option<String> {
    match &was[LABELS] {
        Value::String(labels) if labels == now => None,
        Value::Null => Some(format!("this run {OLD_LABELS}: start another run")),
        _ => Some(
            "this run was begun with other labels: a table or the description of a corpus has \
             changed since; change it back, or start another run"
                .to_owned(),
        ),
    }
}

/// Renames the settings that earlier versions stored under another key.
fn with_present_names(mut settings: Value) -> Value {
    if let Some(fields) = settings.as_object_mut()
        && let Some(training) = fields.remove("course")
    {
        fields.insert("training".to_owned(), training);
    }
    settings
}

/// The first key whose values differ, with both of them.
fn first_difference(was: &Value, is: &Value, place: &str) -> Option<(String, Value, Value)> {
    let (Value::Object(was), Value::Object(is)) = (was, is) else {
        return (was != is).then(|| (place.to_owned(), was.clone(), is.clone()));
    };
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    names.into_iter().find_map(|name| {
        let of = |fields: &Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
        first_difference(&of(was), &of(is), &format!("{place}.{name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_before_and_other_labels_are_told_apart() {
        assert_eq!(other_labels(&json!({ "labels": "ab" }), "ab"), None);
        let other = other_labels(&json!({ "labels": "cd" }), "ab").unwrap();
        assert!(other.contains("begun with other labels"), "{other}");
        let old = other_labels(&json!({ "seed": 1 }), "ab").unwrap();
        assert!(old.contains("earlier version"), "{old}");
    }

    #[test]
    fn the_differing_key_is_named() {
        let was = json!({ "training": { "rate": 0.1, "steps": 4 }, "seed": 1 });
        let is = json!({ "training": { "rate": 0.1, "steps": 5, "most": 2 }, "seed": 1 });
        assert_eq!(first_difference(&was, &was, "stage1"), None);
        let expected = ("stage1.training.most".to_owned(), Value::Null, json!(2));
        assert_eq!(first_difference(&was, &is, "stage1"), Some(expected));
    }

    #[test]
    fn settings_of_earlier_versions_are_compared_by_their_present_names() {
        let now = json!({ "training": { "rate": 0.1 }, "seed": 1 });
        let former = json!({ "course": { "rate": 0.1 }, "seed": 1 });
        assert_eq!(with_present_names(former), now);
        assert_eq!(with_present_names(now.clone()), now);
    }
}
