//! What came of the trainings of a run.

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
    /// Those that have begun.
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

    /// Mean over the dev corpora that have the score.
    fn dev(&self, task: &str, score: &str) -> Option<f64> {
        let corpora = self.best.as_ref()?["dev"]["corpora"].as_array()?;
        let values = corpora.iter().filter_map(|corpus| corpus[1][task][score].as_f64());
        let values: Vec<f64> = values.collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }
}

impl RunSummary {
    /// The format this program writes.
    pub const SCHEMA: &'static str = "meptr-training/1";

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

impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<28}{:>7}{:>6}{:>11}{:>8}{:>8}{:>8}{:>8}",
            "dev", "epochs", "best", "dev score", "mUAR", "mF1", "mACC", "CCC"
        )?;
        for model in &self.models {
            let number =
                |value: Option<f64>| value.map_or("-".to_owned(), |one| format!("{one:.4}"));
            let best = model.best.as_ref();
            let [muar, mf1] = ["muar", "mf1"].map(|score| number(model.dev("emotion", score)));
            let [macc, ccc] = ["macc", "ccc"].map(|score| number(model.dev("personality", score)));
            writeln!(
                f,
                "{:<28}{:>7}{:>6}{:>11}{muar:>8}{mf1:>8}{macc:>8}{ccc:>8}",
                model.model,
                model.epochs,
                best.map_or("-".to_owned(), |best| best["epoch"].to_string()),
                number(best.and_then(|best| best["dev_score"].as_f64()))
            )?;
        }
        Ok(())
    }
}
