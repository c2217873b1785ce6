//! Search for settings: one training per trial, judged by its best dev score.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use meptr_core::files::read_small_text;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::config::{parse, read_text};
use crate::run::files::{FolderLock, lock_folder, write_whole};
use crate::select::DevScore;
use crate::settings::{look_up, overlay, table_of};
use crate::{Error, Result};

/// The values to try, by the dotted keys of a configuration, in the order of their file.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid(Vec<(String, Vec<Value>)>);

/// Combinations of values that are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// One parameter after another: each of its values with the best of those before it and the
    /// configuration's of those after it.
    Greedy,
    /// Every combination.
    Exhaustive,
}

/// One training and how it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Number of the trial, from 1.
    pub trial: usize,
    /// The value of every parameter; one that neither was set nor has a default is absent.
    pub settings: BTreeMap<String, Value>,
    /// Best dev score; none when no epoch's was a number.
    pub dev_score: Option<f64>,
    /// Seconds it took.
    pub seconds: f64,
}

/// A search and its folder: `results.jsonl` with a line per trial, `base.toml` with the
/// configuration that the trials change, `best.toml` with the best one so far.
#[derive(Debug)]
pub struct Search<'a> {
    folder: PathBuf,
    base: &'a Table,
    trials: Vec<Trial>,
    _lock: FolderLock,
}

/// Result of the training of a trial.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trained {
    /// With this best dev score; none when no epoch's was a number.
    To(Option<DevScore>),
    /// It was interrupted, which ends the search.
    Interrupted,
}

const RESULTS: &str = "results.jsonl";
const BASE: &str = "base.toml";
const BEST: &str = "best.toml";

impl Grid {
    /// Reads a file of keys with lists of values.
    ///
    /// # Errors
    /// [`Error::Unfit`] names everything that is no list of values; the others say that the file
    /// cannot be read or is no TOML.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let values: Table = parse(path, &text)?;
        let mut keys = Vec::new();
        let spanned = toml::de::DeTable::parse(&text).expect("it was parsed just now");
        find_keys(spanned.get_ref(), "", &mut keys);
        keys.sort_unstable();
        let mut problems = Vec::new();
        let mut parameters = Vec::new();
        for (_, key) in keys {
            match look_up(&values, &key) {
                Some(Value::Array(values)) if !values.is_empty() => {
                    parameters.push((key, values.clone()));
                }
                _ => problems.push(format!("`{key}` is no list of values to try")),
            }
        }
        if parameters.is_empty() && problems.is_empty() {
            problems.push("it names no parameter".to_owned());
        }
        match problems.is_empty() {
            true => Ok(Self(parameters)),
            false => Err(Error::Unfit { path: path.to_owned(), problems }),
        }
    }

    /// Keys that are no settings of what the trials train: a search over them would try nothing out.
    pub fn strangers(&self, stage: &str) -> Vec<String> {
        let strangers = self.keys().filter(|key| key.split('.').next() != Some(stage));
        strangers
            .map(|key| format!("`{key}` is no setting of {stage}, which is what the trials train"))
            .collect()
    }

    /// Configurations with each value set, to check before any training.
    pub fn variants<'a>(&'a self, base: &'a Table) -> impl Iterator<Item = Table> + 'a {
        self.0.iter().flat_map(move |(key, values)| {
            values.iter().map(move |value| with(base, [(key, value)]))
        })
    }

    /// The parameters.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }
}

/// Dotted keys of lists, and where in the file they stand.
fn find_keys(table: &toml::de::DeTable<'_>, place: &str, keys: &mut Vec<(usize, String)>) {
    for (key, value) in table {
        let name = format!("{place}{}", key.get_ref());
        match value.get_ref() {
            toml::de::DeValue::Table(inner) => find_keys(inner, &format!("{name}."), keys),
            _ => keys.push((key.span().start, name)),
        }
    }
}

fn with<'a>(base: &Table, values: impl IntoIterator<Item = (&'a String, &'a Value)>) -> Table {
    let mut table = base.clone();
    for (key, value) in values {
        overlay(&mut table, &table_of(key, value.clone()));
    }
    table
}

impl<'a> Search<'a> {
    /// Starts a search in a folder, or goes on with the one there.
    ///
    /// # Errors
    /// When the folder holds a search from another configuration, another process searches there, or
    /// it cannot be read or written.
    pub fn open(folder: &Path, base: &'a Table) -> Result<Self> {
        let lock = lock_folder(folder)?;
        let text = base.to_string();
        let (base_file, results) = (folder.join(BASE), folder.join(RESULTS));
        match read_small_text(&base_file) {
            Ok(found) if found == text => {}
            Ok(_) => {
                let why = "is of another configuration; name another folder".to_owned();
                return Err(Error::NotOfARun { path: base_file, why });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                write_whole(&base_file, text.as_bytes())?;
            }
            Err(source) => return Err(Error::Read { path: base_file, source }),
        }
        let found = match read_small_text(&results) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(Error::Read { path: results, source }),
        };
        // A kill can cut off the last line: that trial is done again.
        let trials: Vec<Trial> =
            found.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let kept: String = trials.iter().map(Trial::line).collect();
        write_whole(&results, kept.as_bytes())?;
        Ok(Self { folder: folder.to_owned(), base, trials, _lock: lock })
    }

    /// Tries what the strategy asks for, except what was tried before.
    ///
    /// `train` gets the number of a trial and its configuration. Says whether everything was tried.
    ///
    /// # Errors
    /// The first of `train`; when the folder takes no more.
    pub fn run(
        &mut self,
        strategy: Strategy,
        grid: &Grid,
        mut train: impl FnMut(usize, &Table) -> Result<Trained>,
    ) -> Result<bool> {
        let at_first = |key: &String| Some((key.clone(), look_up(self.base, key)?.clone()));
        let start: BTreeMap<String, Value> =
            grid.0.iter().filter_map(|(key, _)| at_first(key)).collect();
        match strategy {
            Strategy::Exhaustive => {
                for settings in combinations(&grid.0, &start) {
                    if self.try_out(settings, &mut train)?.is_none() {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Strategy::Greedy => self.one_after_another(grid, start, &mut train),
        }
    }

    fn one_after_another(
        &mut self,
        grid: &Grid,
        mut settled: BTreeMap<String, Value>,
        train: &mut impl FnMut(usize, &Table) -> Result<Trained>,
    ) -> Result<bool> {
        for (key, values) in &grid.0 {
            let mut best: Option<(f64, &Value)> = None;
            for value in values {
                let mut settings = settled.clone();
                settings.insert(key.clone(), value.clone());
                let Some(score) = self.try_out(settings, train)? else { return Ok(false) };
                if !score.is_nan() && best.is_none_or(|(best, _)| score > best) {
                    best = Some((score, value));
                }
            }
            settled.extend(best.map(|(_, value)| (key.clone(), value.clone())));
        }
        Ok(true)
    }

    /// Score of some settings; none when interrupted.
    fn try_out(
        &mut self,
        settings: BTreeMap<String, Value>,
        train: &mut impl FnMut(usize, &Table) -> Result<Trained>,
    ) -> Result<Option<f64>> {
        if let Some(known) = self.trials.iter().find(|trial| trial.settings == settings) {
            return Ok(Some(known.dev_score.unwrap_or(f64::NAN)));
        }
        let (trial, clock) = (self.trials.len() + 1, Instant::now());
        let Trained::To(score) = train(trial, &with(self.base, &settings))? else {
            return Ok(None);
        };
        let dev_score = score.map(DevScore::value).filter(|score| !score.is_nan());
        let done = Trial { trial, settings, dev_score, seconds: clock.elapsed().as_secs_f64() };
        let path = self.folder.join(RESULTS);
        let write = || -> std::io::Result<()> {
            let mut file = File::options().append(true).open(&path)?;
            file.write_all(done.line().as_bytes())?;
            file.sync_data()
        };
        write().map_err(|source| Error::Write { path: path.clone(), source })?;
        self.trials.push(done);
        if let Some(best) = self.best().filter(|best| best.trial == trial) {
            let config = with(self.base, &best.settings).to_string();
            write_whole(&self.folder.join(BEST), config.as_bytes())?;
        }
        Ok(Some(dev_score.unwrap_or(f64::NAN)))
    }

    /// All trials, in the order in which they were made.
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// The best trial; the first of equals.
    pub fn best(&self) -> Option<&Trial> {
        let scored = self.trials.iter().filter(|trial| trial.dev_score.is_some());
        scored.reduce(|best, trial| if trial.dev_score > best.dev_score { trial } else { best })
    }

    /// Every file that a search in a folder writes there itself.
    pub fn files(folder: &Path) -> [PathBuf; 3] {
        [RESULTS, BASE, BEST].map(|name| folder.join(name))
    }

    /// Path of the best configuration.
    pub fn best_file(&self) -> PathBuf {
        self.folder.join(BEST)
    }

    /// The trials, for reading; the best one is marked.
    pub fn table(&self, grid: &Grid) -> String {
        let best = self.best().map(|best| best.trial);
        let mut text = format!("{:>5}  {:>9}  settings\n", "trial", "dev score");
        for trial in &self.trials {
            let score = trial.dev_score.map_or("none".to_owned(), |score| format!("{score:.4}"));
            let mark = if best == Some(trial.trial) { "*" } else { " " };
            let values: Vec<String> = grid
                .keys()
                .filter_map(|key| Some(format!("{key} = {}", trial.settings.get(key)?)))
                .collect();
            let _ = writeln!(text, "{:>5}{mark} {score:>9}  {}", trial.trial, values.join(", "));
        }
        text
    }
}

impl Trial {
    fn line(&self) -> String {
        format!("{}\n", serde_json::to_string(self).expect("a trial is plain data"))
    }
}

/// Every combination of values; the last parameter changes fastest.
fn combinations(
    parameters: &[(String, Vec<Value>)],
    start: &BTreeMap<String, Value>,
) -> Vec<BTreeMap<String, Value>> {
    let mut all = vec![start.clone()];
    for (key, values) in parameters {
        let each = |settings: &BTreeMap<String, Value>| -> Vec<BTreeMap<String, Value>> {
            let with = |value: &Value| {
                let mut settings = settings.clone();
                settings.insert(key.clone(), value.clone());
                settings
            };
            values.iter().map(with).collect()
        };
        all = all.iter().flat_map(each).collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: &str = "stage3.width = [8, 16, 32]\n[stage3.training]\nrate = [0.1, 0.2]\n";

    fn grid(text: &str) -> Result<Grid> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid.toml");
        std::fs::write(&path, text).unwrap();
        Grid::read(&path)
    }

    fn base() -> Table {
        toml::from_str("seed = 1\nstage3.width = 8\nstage3.training.rate = 0.2\n").unwrap()
    }

    fn score(config: &Table) -> f64 {
        let number = |key: &str| {
            let value = look_up(config, key).unwrap();
            value.as_float().or(value.as_integer().map(|whole| whole as f64)).unwrap()
        };
        // Best at 16 and 0.1, and worthless at 32.
        let width = number("stage3.width");
        if width > 30.0 { f64::NAN } else { width - 10.0 * number("stage3.training.rate") }
    }

    fn trained(config: &Table) -> Trained {
        let score = Some(score(config)).filter(|score| !score.is_nan());
        Trained::To(score.map(|score| serde_json::from_str(&score.to_string()).unwrap()))
    }

    fn run(folder: &Path, strategy: Strategy, most: usize) -> (Vec<Trial>, bool, usize) {
        let (base, grid) = (base(), grid(GRID).unwrap());
        let mut search = Search::open(folder, &base).unwrap();
        let mut count = 0;
        let is_whole = search
            .run(strategy, &grid, |_, config| {
                if count == most {
                    return Ok(Trained::Interrupted);
                }
                count += 1;
                Ok(trained(config))
            })
            .unwrap();
        assert!(search.table(&grid).lines().count() == search.trials().len() + 1);
        (search.trials().to_vec(), is_whole, count)
    }

    #[test]
    fn greedy_settles_one_parameter_after_another() {
        let folder = tempfile::tempdir().unwrap();
        let (trials, is_whole, _) = run(folder.path(), Strategy::Greedy, usize::MAX);
        let tried: Vec<String> = trials
            .iter()
            .map(|t| {
                format!("{} {}", t.settings["stage3.width"], t.settings["stage3.training.rate"])
            })
            .collect();
        // 16 at 0.2 is known from the first parameter.
        assert_eq!(tried, ["8 0.2", "16 0.2", "32 0.2", "16 0.1"]);
        assert!(is_whole && trials[2].dev_score.is_none());
        let best: Table =
            toml::from_str(&std::fs::read_to_string(folder.path().join(BEST)).unwrap()).unwrap();
        assert_eq!(score(&best), 15.0);
        assert_eq!(best["seed"], 1.into());
    }

    #[test]
    fn an_interrupted_search_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (trials, is_whole, _) = run(folder.path(), Strategy::Exhaustive, 2);
        assert_eq!((trials.len(), is_whole), (2, false));
        let results = folder.path().join(RESULTS);
        let mut text = std::fs::read_to_string(&results).unwrap();
        text += "{\"trial\": 3, \"sett"; // cut off by a kill
        std::fs::write(&results, text).unwrap();
        let (trials, is_whole, trained) = run(folder.path(), Strategy::Exhaustive, usize::MAX);
        assert_eq!((trials.len(), is_whole, trained), (6, true, 4));
        assert_eq!(run(folder.path(), Strategy::Exhaustive, usize::MAX).2, 0);
        let numbers: Vec<usize> = trials.iter().map(|trial| trial.trial).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_search_from_another_configuration_is_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), Strategy::Greedy, 1);
        let other = Table::new();
        let error = Search::open(folder.path(), &other).unwrap_err().to_string();
        assert!(error.contains("another configuration"), "{error}");
    }

    #[test]
    fn a_grid_keeps_the_order_of_its_file_and_names_what_is_no_list() {
        let grid_of = grid("b.x = [1]\na = [[1, 2], [3]]\n[c]\ny = ['p']\n").unwrap();
        assert_eq!(grid_of.keys().collect::<Vec<_>>(), ["b.x", "a", "c.y"]);
        assert_eq!(grid_of.variants(&base()).count(), 4);
        let error = grid("a = 1\nb = []\nc = [1]\n").unwrap_err().to_string();
        assert!(error.contains("`a` is no list") && error.contains("`b` is no list"), "{error}");
        assert_eq!(grid_of.strangers("b").len(), 2);
        assert!(grid("").unwrap_err().to_string().contains("no parameter"));
    }
}
