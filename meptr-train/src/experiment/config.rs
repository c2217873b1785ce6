//! `train.toml`: what is trained on what, and the settings of the three stages.

use std::path::{Path, PathBuf};

use meptr_core::bundle::TrainingStatus;
use meptr_core::models::HeadConfig;
use meptr_core::{Modality, PerModality, Task};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::splits::FeatureSplits;
use crate::config::{parse, read_text};
use crate::run::files::{make_folder, write_whole};
use crate::settings::{overlay, table_of, to_table, understand};
use crate::stage::{StageOne, StageThree, StageTwo};
use crate::{Error, Result};

/// An experiment. Every key is explained in `configs/train.toml`, those of the stages in
/// `configs/stage1.toml` to `configs/stage3.toml`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExperimentConfig {
    /// Folder of the feature store.
    pub store: PathBuf,
    /// `CORPUS.toml` of each corpus.
    pub corpora: Vec<PathBuf>,
    /// Bundle whose backbones made the features and whose other parts the trained bundle takes
    /// over; none = the demo bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Run whose models are built upon where this run has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Description of the trained bundle.
    pub bundle: BundleText,
    /// One modality, one task.
    pub stage1: StageOne,
    /// One modality, both tasks.
    pub stage2: StageTwo,
    /// All modalities.
    pub stage3: StageThree,
}

/// Description of a trained bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BundleText {
    /// Name.
    pub name: String,
    /// Free text beside corpora, seed and scores, which are written in any case.
    pub about: String,
    /// Training status; none = a demonstration when the base is no more, else trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<TrainingStatus>,
    /// Licence of the trained weights.
    pub licence: String,
}

impl Default for BundleText {
    fn default() -> Self {
        Self {
            name: "trained".to_owned(),
            about: String::new(),
            status: None,
            licence: "not stated".to_owned(),
        }
    }
}

/// Settings of the command line, which count more than those of files.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// See [`ExperimentConfig::store`].
    pub store: Option<PathBuf>,
    /// See [`ExperimentConfig::corpora`]; empty = what the files say.
    pub corpora: Vec<PathBuf>,
    /// See [`ExperimentConfig::base`].
    pub base: Option<PathBuf>,
    /// See [`ExperimentConfig::from`].
    pub from: Option<PathBuf>,
    /// Seed of all stages, 0 or more.
    pub seed: Option<i64>,
    /// Other keys with their values.
    pub settings: Vec<(String, Value)>,
}

impl Overrides {
    /// Converts the settings to a table.
    pub fn to_table(&self) -> Table {
        let text = |path: &PathBuf| Value::String(path.display().to_string());
        let mut table = Table::new();
        let paths = [("store", &self.store), ("base", &self.base), ("from", &self.from)];
        for (key, path) in paths {
            table.extend(path.as_ref().map(|path| (key.to_owned(), text(path))));
        }
        if !self.corpora.is_empty() {
            let corpora = self.corpora.iter().map(text).collect();
            table.insert("corpora".to_owned(), Value::Array(corpora));
        }
        if let Some(seed) = self.seed {
            for stage in STAGES {
                overlay(&mut table, &table_of(&format!("{stage}.seed"), seed.into()));
            }
        }
        for (key, value) in &self.settings {
            overlay(&mut table, &table_of(key, value.clone()));
        }
        table
    }
}

/// Keys of paths, which are relative to the file they stand in.
const PATHS: [&str; 4] = ["store", "corpora", "base", "from"];

const STAGES: [&str; 3] = ["stage1", "stage2", "stage3"];

/// Keys of earlier versions: their table, their name then and their name now.
const FORMER_KEYS: [(&str, &str, &str); 6] = [
    ("stage1", "course", "training"),
    ("stage2", "course", "training"),
    ("stage3", "course", "training"),
    ("stage1", "course_of", "training_overrides"),
    ("stage2", "course_of", "training_overrides"),
    ("bundle", "standing", "status"),
];

/// Takes keys of earlier versions out of a table; returns a problem for each.
fn take_former_keys(table: &mut Table) -> Vec<String> {
    let mut problems = Vec::new();
    for (section, former, now) in FORMER_KEYS {
        if let Some(Value::Table(settings)) = table.get_mut(section)
            && settings.remove(former).is_some()
        {
            problems.push(format!("`{section}.{former}` is called `{section}.{now}` now"));
        }
    }
    problems
}

impl ExperimentConfig {
    /// Reads a file. The settings of a stage may be a table in it, or the name of a file of theirs.
    ///
    /// # Errors
    /// When a file cannot be read or is no TOML.
    pub fn table(path: &Path) -> Result<Table> {
        let mut table: Table = parse(path, &read_text(path)?)?;
        // The run's copy of the settings stands elsewhere, so paths become absolute.
        let path = std::path::absolute(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for key in PATHS {
            match table.get_mut(key) {
                // A bundle may go by another name than that of a folder.
                Some(Value::String(base)) if key == "base" && !folder.join(&*base).exists() => {}
                Some(Value::String(path)) => *path = below(folder, path),
                Some(Value::Array(paths)) => paths.iter_mut().for_each(|path| {
                    if let Value::String(path) = path {
                        *path = below(folder, path);
                    }
                }),
                _ => {}
            }
        }
        for key in STAGES {
            if let Some(Value::String(file)) = table.get(key) {
                let file = folder.join(file);
                let stage = parse(&file, &read_text(&file)?)?;
                table.insert(key.to_owned(), Value::Table(stage));
            }
        }
        Ok(table)
    }

    /// Makes a configuration of tables, the later ones on top; also returns everything that is
    /// wrong with them.
    pub fn of(tables: &[Table]) -> (Self, Vec<String>) {
        let mut table = Table::new();
        tables.iter().for_each(|over| overlay(&mut table, over));
        let mut problems = take_former_keys(&mut table);
        let (config, not_understood) = understand::<Self>(&table);
        problems.extend(not_understood);
        problems.extend(config.problems());
        (config, problems)
    }

    /// The configuration in force of a run.
    pub fn file(run: &Path) -> PathBuf {
        run.join("config.toml")
    }

    /// Makes the folder of a run and writes the configuration there.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        make_folder(run)?;
        write_whole(&Self::file(run), self.to_table().to_string().as_bytes())
    }

    /// The configuration in force, defaults and all.
    pub fn to_table(&self) -> Table {
        to_table(self)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.store.as_os_str().is_empty() {
            problems.push("`store` is missing; it names the folder of the feature store".into());
        }
        if self.corpora.is_empty() {
            problems.push("`corpora` is missing; it lists the files of the corpora".into());
        }
        let stages = [self.stage1.problems(), self.stage2.problems(), self.stage3.problems()];
        for (name, found) in STAGES.into_iter().zip(stages) {
            let below = |problem: String| problem.replacen('`', &format!("`{name}."), 1);
            problems.extend(found.into_iter().map(below));
        }
        problems
    }

    /// Shapes of the models of a modality for features as the sources have them.
    pub(super) fn head(&self, modality: Modality, sources: &FeatureSplits) -> HeadConfig {
        let published = || HeadConfig::published(modality).input_width();
        let width = sources.width(modality).unwrap_or_else(published);
        let emotion = self.stage1.model(modality, Task::Emotion, width);
        let personality = self.stage1.model(modality, Task::Personality, width);
        self.stage2.model(modality, [&emotion, &personality])
    }

    /// [`ExperimentConfig::head`] of all modalities.
    pub(super) fn heads(&self, sources: &FeatureSplits) -> PerModality<HeadConfig> {
        PerModality::from_fn(|modality| self.head(modality, sources))
    }
}

fn below(folder: &Path, path: &str) -> String {
    folder.join(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::schedule::Decay;
    use crate::optim::{OptimiserConfig, ScheduleConfig};
    use crate::settings::parse_assignment;

    fn set(text: &str) -> Table {
        let (key, value) = parse_assignment(text).unwrap();
        table_of(&key, value)
    }

    #[test]
    fn stages_stand_in_the_file_or_in_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("s2.toml"), "seed = 7\n[training]\nmax_epochs = 3\n").unwrap();
        let text = "store = 'features'\ncorpora = ['a/corpus.toml', '/b.toml']\n\
                    stage2 = 's2.toml'\n[stage3.training]\nmax_epochs = 4\n";
        std::fs::write(at("train.toml"), text).unwrap();
        let table = ExperimentConfig::table(&at("train.toml")).unwrap();
        let (config, problems) =
            ExperimentConfig::of(&[table, set("stage2.training.max_epochs=5")]);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(config.store, at("features"));
        assert_eq!(config.corpora, [at("a/corpus.toml"), PathBuf::from("/b.toml")]);
        assert_eq!((config.stage2.seed, config.stage2.training.max_epochs), (7, 5));
        // What is not said stays as published for that stage, not for the others.
        let published = StageThree::default().training;
        assert_eq!(config.stage3.training.batch_size, published.batch_size);
        assert_eq!(config.stage3.training.max_epochs, 4);
        let (again, problems) = ExperimentConfig::of(&[config.to_table()]);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(again, config);
        let overrides = Overrides { seed: Some(3), ..Overrides::default() };
        assert_eq!(ExperimentConfig::of(&[overrides.to_table()]).0.stage1.seed, 3);
    }

    #[test]
    fn rules_and_schedules_go_by_their_names_with_the_decay_of_their_stage() {
        let tables = [
            set("stage1.training.optimiser=lion"),
            set("stage1.training.schedule=warm_up"),
            set("stage2.training_overrides.text.schedule=cosine"),
            set("stage3.training.optimiser={ kind = 'sgd' }"),
        ];
        let (config, problems) = ExperimentConfig::of(&tables);
        assert_eq!(problems.len(), 2, "{problems:?}"); // no store, no corpora
        let ExperimentConfig { stage1, stage2, stage3, .. } = config;
        let lion = OptimiserConfig::Lion { weight_decay: 0.0 };
        let warm_up = ScheduleConfig::WarmUp { ratio: 0.1, decay: Decay::Linear };
        assert_eq!((stage1.training.optimiser, stage1.training.schedule), (lion, warm_up));
        let text = stage2.training(Modality::Text).training;
        assert_eq!(text.schedule, ScheduleConfig::Cosine);
        let sgd = OptimiserConfig::Sgd { weight_decay: 1e-5, momentum: 0.9 };
        assert_eq!(stage3.training.optimiser, sgd);
    }

    #[test]
    fn five_mistakes_are_told_at_once() {
        let tables = [
            set("store=features"),
            set("stage1.training.learning_rate=-1"),
            set("stage1.training.batch_sise=4"),
            set("stage2.pairing=none"),
            set("stage3.training.max_epochs=many"),
        ];
        let (_, problems) = ExperimentConfig::of(&tables);
        let expected = [
            "`corpora` is missing",
            "`stage1.training.learning_rate` must be above 0",
            "`stage1.training.batch_sise`: there is no such key",
            "`stage2.pairing`",
            "`stage3.training.max_epochs`",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for part in expected {
            assert!(problems.iter().any(|one| one.contains(part)), "{part}: {problems:#?}");
        }
    }

    #[test]
    fn keys_of_earlier_versions_are_refused_with_their_names_now() {
        let tables = [
            set("store=s"),
            set("corpora=['c']"),
            set("stage1.course.max_epochs=4"),
            set("stage2.course_of.text.batch_size=4"),
            set("bundle.standing=trained"),
        ];
        let (_, problems) = ExperimentConfig::of(&tables);
        let expected = [
            "`stage1.course` is called `stage1.training` now",
            "`stage2.course_of` is called `stage2.training_overrides` now",
            "`bundle.standing` is called `bundle.status` now",
        ];
        assert_eq!(problems, expected);
    }
}
