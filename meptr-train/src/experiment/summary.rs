//! Summary of the trainings of a run.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::Result;
use crate::run::ModelFolder;

/// A model's best epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSummary {
    /// `STAGE MODEL`.
    pub model: String,
    /// Epochs done.
    pub epochs: usize,
    /// Line of the best epoch in the log; none when no epoch has a dev score that is a number.
    pub best: Option<Value>,
}

/// All models of a run, in the order of training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSummary {
    /// [`RunSummary::SCHEMA`]; fields are only ever added under one version.
    pub schema: &'static str,
    /// Models whose training has begun.
    pub models: Vec<ModelSummary>,
}

impl ModelSummary {
    /// Reads the log of a model.
    ///
    /// # Errors
    /// When it cannot be read, or is gone although the model was trained.
    pub fn of(folder: &ModelFolder) -> Result<Self> {
        let lines = folder.lines()?;
        if lines.is_empty() {
            let epochs = folder.state()?.map_or(0, |state| state.progress.epochs);
            folder.ensure_logged(epochs)?;
        }
        let epochs = lines.len();
        let best = lines.into_iter().rev().find(|line| line["is_best"] == true);
        Ok(Self { model: folder.title(), epochs, best })
    }

    /// Best dev score with its epoch, in words.
    pub fn in_words(&self) -> String {
        let Some(best) = &self.best else { return "no dev score".to_owned() };
        let score = best["dev_score"].as_f64().unwrap_or(f64::NAN);
        format!("dev score {score:.4} at epoch {}", best["epoch"])
    }

    /// Mean over the dev corpora that have the score, by its path below a corpus's scores.
    fn dev(&self, score: &str) -> Option<f64> {
        let values = self.corpora().filter_map(|(_, scores)| scores.pointer(score)?.as_f64());
        let values: Vec<f64> = values.collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// `EMOTION (CORPUS)` of what the means over present emotions leave out.
    fn left_out(&self) -> impl Iterator<Item = String> {
        self.corpora().flat_map(|(corpus, scores)| {
            let classes = scores["emotion"]["classes"].as_array().into_iter().flatten();
            let left_out = classes.filter(|class| class["occurrence"] != "some_rows");
            let names = left_out.filter_map(|class| class["class"].as_str());
            names.map(move |name| format!("{name} ({corpus})"))
        })
    }

    /// Dev corpora by name, with the scores of the best epoch.
    fn corpora(&self) -> impl Iterator<Item = (&str, &Value)> {
        let corpora = self.best.as_ref().and_then(|best| best["dev"]["corpora"].as_array());
        corpora.into_iter().flatten().filter_map(|corpus| Some((corpus[0].as_str()?, &corpus[1])))
    }
}

impl RunSummary {
    /// The format this program writes.
    pub const SCHEMA: &'static str = "meptr-training/2";

    /// Reads the logs of models; those that have not begun are left out.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn of(folders: &[ModelFolder]) -> Result<Self> {
        let models = folders.iter().map(ModelSummary::of).collect::<Result<Vec<_>>>()?;
        let models = models.into_iter().filter(|model| model.epochs > 0).collect();
        Ok(Self { schema: Self::SCHEMA, models })
    }
}

/// Columns of the table, as paths below the scores of a corpus.
const SCORES: [&str; 6] = [
    "/emotion/muar",
    "/emotion/mf1",
    "/personality/macc",
    "/personality/ccc",
    "/emotion/reference/muar",
    "/emotion/reference/mf1",
];

impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<28}{:>7}{:>6}{:>11}{:>8}{:>8}{:>8}{:>8}{:>10}{:>10}",
            "dev",
            "epochs",
            "best",
            "dev score",
            "mUAR",
            "mF1",
            "mACC",
            "CCC",
            "ref. mUAR",
            "ref. mF1"
        )?;
        for model in &self.models {
            let number =
                |value: Option<f64>| value.map_or("-".to_owned(), |one| format!("{one:.4}"));
            let best = model.best.as_ref();
            let [muar, mf1, macc, ccc, ref_muar, ref_mf1] =
                SCORES.map(|score| number(model.dev(score)));
            writeln!(
                f,
                "{:<28}{:>7}{:>6}{:>11}{muar:>8}{mf1:>8}{macc:>8}{ccc:>8}{ref_muar:>10}{ref_mf1:>10}",
                model.model,
                model.epochs,
                best.map_or("-".to_owned(), |best| best["epoch"].to_string()),
                number(best.and_then(|best| best["dev_score"].as_f64()))
            )?;
        }
        let left_out: BTreeSet<String> =
            self.models.iter().flat_map(ModelSummary::left_out).collect();
        if !left_out.is_empty() {
            let left_out = left_out.into_iter().collect::<Vec<_>>().join(", ");
            writeln!(
                f,
                "mUAR and mF1 leave out what no dev video shows, or every one: {left_out}; the \
                 reference's means (ref.) do not"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn emotions_that_the_means_leave_out_are_named() {
        let class =
            |class: &str, occurrence: &str| json!({ "class": class, "occurrence": occurrence });
        let emotion = json!({
            "muar": 0.5, "mf1": 0.25, "reference": { "muar": 0.75, "mf1": null },
            "classes": [class("anger", "some_rows"), class("fear", "no_row")],
        });
        let undefined = json!({ "muar": null, "reference": { "muar": 1.0 }, "classes": [] });
        let best = json!({ "epoch": 3, "dev_score": 0.5, "dev": { "corpora": [
            ["moods", { "emotion": emotion, "personality": null }],
            ["calm", { "emotion": undefined }],
        ]}});
        let model = ModelSummary { model: "stage1 face".into(), epochs: 4, best: Some(best) };
        assert_eq!(model.dev("/emotion/muar"), Some(0.5));
        assert_eq!(model.dev("/emotion/reference/muar"), Some(0.875));
        assert_eq!(model.dev("/personality/ccc"), None);
        let summary = RunSummary { schema: RunSummary::SCHEMA, models: vec![model] };
        let table = summary.to_string();
        assert!(table.contains("every one: fear (moods);") && table.contains("0.8750"), "{table}");
    }
}
