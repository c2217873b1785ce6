//! The table of one split: a CSV file with a row per video.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use meptr_core::files::read_small;
use meptr_core::paths::is_file_name;
use meptr_core::{Emotion, PersonalityTrait, Task};

use super::corpus_config::Columns;
use super::emotion_labels::EmotionsAs;
use crate::{Error, Result};

/// A video and what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// Name of its file, without ending.
    pub name: String,
    /// Spoken words; absent when the table has no text.
    pub text: Option<String>,
    /// Share of each emotion, 0 to 1, in the order of [`Emotion::ALL`]; they sum to 1.
    pub emotion: Option<[f32; Emotion::COUNT]>,
    /// Trait scores, 0 to 1.
    pub personality: Option<[f32; PersonalityTrait::COUNT]>,
}

impl Clip {
    /// Has it labels of the task?
    pub fn has_labels(&self, task: Task) -> bool {
        match task {
            Task::Emotion => self.emotion.is_some(),
            Task::Personality => self.personality.is_some(),
        }
    }
}

/// Rows of a split.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) clips: Vec<Clip>,
    /// Rows left out because a cell is empty.
    pub(super) dropped: usize,
    /// Tasks whose labels the table has.
    pub(super) tasks: Vec<Task>,
}

const NO_NEUTRAL: &str =
    " (raw intensities without it are read with `emotions_as = \"intensities\"`)";
const UNKNOWN_COLUMNS: &str =
    "has unknown columns (name them in `columns.ignored` if they do not matter)";

/// Columns of a table, and how its emotion labels are scaled.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableFormat<'a> {
    pub(super) columns: &'a Columns,
    /// Tasks that the table must have labels of; without it, those whose columns are there.
    pub(super) tasks: Option<&'a [Task]>,
    pub(super) emotions_as: EmotionsAs,
}

/// Reads labels alone, by the default names of their columns; a column of text does not matter.
///
/// # Errors
/// [`Error::Unfit`] lists everything that is wrong with the table.
pub fn read_labels(path: &Path, emotions_as: EmotionsAs) -> Result<Vec<Clip>> {
    let columns =
        Columns { text: String::new(), ignored: vec!["text".to_owned()], ..Columns::default() };
    let mut problems = Vec::new();
    let format = TableFormat { columns: &columns, tasks: None, emotions_as };
    let table = read_table(path, format, &mut problems);
    if table.tasks.is_empty() && problems.is_empty() {
        problems.push("it has no column of labels".to_owned());
    }
    match problems.is_empty() {
        true => Ok(table.clips),
        false => Err(Error::Unfit { path: path.to_owned(), problems }),
    }
}

/// Reads a table; everything wrong with it goes to `problems`.
///
/// A row with an empty cell (or a label that is NaN) is left out, ignored columns aside.
pub(super) fn read_table(
    path: &Path,
    format: TableFormat<'_>,
    problems: &mut Vec<String>,
) -> Table {
    let mut found = TableProblems { path, notes: BTreeMap::new() };
    let table = read(path, format, &mut found).unwrap_or_else(|error| {
        found.note("cannot be read", error.to_string());
        Table::default()
    });
    problems.extend(found.messages());
    table
}

fn read(
    path: &Path,
    format: TableFormat<'_>,
    problems: &mut TableProblems<'_>,
) -> csv::Result<Table> {
    let bytes = read_small(path)?;
    if bytes.contains(&0) || std::str::from_utf8(&bytes).is_err() {
        problems.note("is no text in UTF-8", "save it as UTF-8".to_owned());
        return Ok(Table::default());
    }
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let header: Vec<String> =
        reader.headers()?.iter().map(|name| name.trim().trim_matches('\u{feff}').into()).collect();
    if let [only] = &header[..]
        && let Some(separator) = [';', '\t'].into_iter().find(|one| only.contains(*one))
    {
        let fix = format!("they are separated by {separator:?}; save it with commas");
        problems.note("has no columns", fix);
        return Ok(Table::default());
    }
    let columns = ColumnIndices::find(&header, format, problems);
    let tasks = columns.labels.iter().map(|(task, _)| *task).collect();
    let mut table = Table { tasks, ..Table::default() };
    if problems.has_notes() {
        return Ok(table); // what the cells mean is not known
    }
    let mut seen = BTreeSet::new();
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                problems.note("has rows that cannot be read", error.to_string());
                continue;
            }
        };
        let line = record.position().map_or(0, |start| line_of(start, &bytes));
        let Some(clip) = columns.clip(&record, line, problems) else {
            table.dropped += 1;
            continue;
        };
        if !is_file_name(&clip.name) {
            problems
                .note("has names that no file can have", format!("line {line}: {:?}", clip.name));
        }
        if !seen.insert(clip.name.clone()) {
            problems.note("has names twice", format!("line {line}: `{}`", clip.name));
        }
        table.clips.push(clip);
    }
    if table.clips.is_empty() {
        let dropped = table.dropped;
        problems.note("holds no row", format!("{dropped} were left out for an empty cell"));
    }
    Ok(table)
}

/// Index of each column in a row.
struct ColumnIndices {
    name: usize,
    text: Option<usize>,
    labels: Vec<(Task, Vec<usize>)>,
    emotions_as: EmotionsAs,
    /// Columns whose cells do not matter.
    ignored: BTreeSet<usize>,
}

impl ColumnIndices {
    fn find(header: &[String], format: TableFormat<'_>, problems: &mut TableProblems<'_>) -> Self {
        let TableFormat { columns, tasks, emotions_as } = format;
        let index = |name: &String| header.iter().position(|column| column == name);
        let mut ignored: BTreeSet<usize> = columns.ignored.iter().filter_map(index).collect();
        let mut needed = |name: &String, hint: &str| {
            index(name).unwrap_or_else(|| {
                problems.note("lacks the columns", format!("`{name}`{hint}"));
                ABSENT // never read: a table that lacks a column is not read on
            })
        };
        let video = needed(&columns.video_name, "");
        let text = (!columns.text.is_empty()).then(|| needed(&columns.text, ""));
        let mut labels = Vec::new();
        for task in [Task::Emotion, Task::Personality] {
            let there: Vec<usize> = columns.of(task).iter().filter_map(index).collect();
            if tasks.map_or(!there.is_empty(), |tasks| tasks.contains(&task)) {
                let names = columns.of(task).iter().enumerate();
                let indices = names.map(|(number, name)| match index(name) {
                    // Raw CMU-MOSEI has no column for Neutral.
                    None if task == Task::Emotion
                        && emotions_as == EmotionsAs::Intensities
                        && number == Emotion::Neutral as usize =>
                    {
                        ABSENT
                    }
                    _ if task == Task::Emotion && number == Emotion::Neutral as usize => {
                        needed(name, NO_NEUTRAL)
                    }
                    _ => needed(name, ""),
                });
                labels.push((task, indices.collect()));
            } else {
                ignored.extend(there);
            }
        }
        let indices = Self { name: video, text, labels, emotions_as, ignored };
        for (number, name) in header.iter().enumerate() {
            if header[..number].contains(name) {
                problems.note("has columns twice", format!("`{name}`"));
            } else if !indices.means(number) {
                problems.note(UNKNOWN_COLUMNS, format!("`{name}`"));
            }
        }
        indices
    }

    fn means(&self, index: usize) -> bool {
        index == self.name
            || self.text == Some(index)
            || self.ignored.contains(&index)
            || self.labels.iter().any(|(_, indices)| indices.contains(&index))
    }

    /// A row; `None` when a cell that matters is empty.
    fn clip(
        &self,
        record: &csv::StringRecord,
        line: u64,
        problems: &mut TableProblems<'_>,
    ) -> Option<Clip> {
        let cell = |index: usize| record.get(index).unwrap_or_default().trim();
        let matters = |index: &usize| !self.ignored.contains(index);
        if (0..record.len()).filter(matters).any(|index| cell(index).is_empty()) {
            return None;
        }
        let mut clip = Clip {
            name: cell(self.name).to_owned(),
            text: self.text.map(|index| cell(index).to_owned()),
            emotion: None,
            personality: None,
        };
        for (task, indices) in &self.labels {
            let values = indices.iter().map(|index| match *index {
                ABSENT => Some(0.0),
                index => number(cell(index), line, problems),
            });
            let values = values.collect::<Option<Vec<f32>>>()?;
            match task {
                Task::Emotion => clip.emotion = self.shares(&values, line, problems),
                Task::Personality => clip.personality = scores(&values, line, problems),
            }
        }
        Some(clip)
    }

    /// Emotion labels of a row as shares; what does not fit their scale is noted.
    fn shares(
        &self,
        values: &[f32],
        line: u64,
        problems: &mut TableProblems<'_>,
    ) -> Option<[f32; Emotion::COUNT]> {
        match self.emotions_as.shares(values.try_into().ok()?) {
            Ok(shares) => Some(shares),
            Err(why) => {
                problems.note(self.emotions_as.misfit(), format!("line {line}: {why}"));
                None
            }
        }
    }
}

/// Line of a record, from 1. The reader's position lies before the line breaks that still belong to
/// the record before: the second byte of CR LF, and empty lines.
fn line_of(start: &csv::Position, bytes: &[u8]) -> u64 {
    let rest = bytes.get(start.byte() as usize..).unwrap_or_default();
    let breaks = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    start.line() + breaks.filter(|byte| **byte == b'\n').count() as u64
}

/// Place of a column that is not there.
const ABSENT: usize = usize::MAX;

/// The number in a cell; `None` when it is NaN. Text is noted and counts as 0.
fn number(cell: &str, line: u64, problems: &mut TableProblems<'_>) -> Option<f32> {
    match cell.parse::<f32>() {
        Ok(value) if value.is_nan() => None,
        Ok(value) => Some(value),
        Err(_) => {
            problems.note("has labels that are no numbers", format!("line {line}: {cell:?}"));
            Some(0.0)
        }
    }
}

/// Trait scores of a row; what is out of range is noted.
fn scores(
    values: &[f32],
    line: u64,
    problems: &mut TableProblems<'_>,
) -> Option<[f32; PersonalityTrait::COUNT]> {
    for value in values.iter().filter(|value| !(0.0..=1.0).contains(*value)) {
        let place = format!("line {line}: {value} is not in 0 to 1");
        problems.note("has trait labels out of range", place);
    }
    values.try_into().ok()
}

/// Mistakes of a table: for each kind, the lines or columns.
struct TableProblems<'a> {
    path: &'a Path,
    notes: BTreeMap<&'static str, Vec<String>>,
}

impl TableProblems<'_> {
    fn note(&mut self, what: &'static str, place: String) {
        self.notes.entry(what).or_default().push(place);
    }

    fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// One problem for each kind of mistake.
    fn messages(self) -> impl Iterator<Item = String> {
        let path = self.path.display().to_string();
        let notes = self.notes.into_iter();
        notes.map(move |(what, places)| format!("`{path}` {what}: {}", some_of(&places)))
    }
}

/// The first few of many.
pub(super) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMOTIONS: &str = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise";
    const TRAITS: &str = "openness,conscientiousness,extraversion,agreeableness,non-neuroticism";

    fn read(text: &str, columns: &Columns, tasks: Option<&[Task]>) -> (Table, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.csv");
        std::fs::write(&path, text).unwrap();
        read_as(&path, TableFormat { columns, tasks, emotions_as: EmotionsAs::Shares })
    }

    fn read_as(path: &Path, format: TableFormat<'_>) -> (Table, Vec<String>) {
        let mut problems = Vec::new();
        let table = read_table(path, format, &mut problems);
        (table, problems)
    }

    fn problems(text: &str) -> String {
        read(text, &Columns::default(), None).1.join("\n")
    }

    #[test]
    fn any_mix_of_label_columns_is_read() {
        let columns = Columns::default();
        let (table, problems) = read("\u{feff}video_name,text\na,\"Hi, you\"\n", &columns, None);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(table.clips[0].text.as_deref(), Some("Hi, you"));
        assert!(table.tasks.is_empty());

        let text = format!("text,{EMOTIONS},video_name\nHi,0,0,0,0,0.75,0.25,0,a\n");
        let (table, problems) = read(&text, &columns, None);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(table.clips[0].emotion, Some([0.0, 0.0, 0.0, 0.0, 0.75, 0.25, 0.0]));
        assert_eq!(table.clips[0].personality, None);

        let text =
            format!("video_name,text,{EMOTIONS},{TRAITS}\na,Hi,0,0,0,0,1,0,0,.1,.2,.3,.4,.5\n");
        let (table, problems) = read(&text, &columns, None);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(table.tasks, [Task::Emotion, Task::Personality]);
        assert_eq!(table.clips[0].personality, Some([0.1, 0.2, 0.3, 0.4, 0.5]));
        let (table, _) = read(&text, &columns, Some(&[Task::Personality]));
        assert_eq!((table.tasks, table.clips[0].emotion), (vec![Task::Personality], None));
    }

    #[test]
    fn rows_with_an_empty_cell_are_left_out() {
        let text = format!(
            "video_name,text,{TRAITS}\na,Hi,0,0,0,0,0\nb,,0,0,0,0,0\nc,Hi,0,,0,0,0\n\
             d,Hi,0,NaN,0,0,0\n,Hi,0,0,0,0,0\n"
        );
        let (table, problems) = read(&text, &Columns::default(), None);
        assert!(problems.is_empty(), "{problems:?}");
        let names: Vec<&str> = table.clips.iter().map(|clip| clip.name.as_str()).collect();
        assert_eq!((names, table.dropped), (vec!["a"], 4));
    }

    #[test]
    fn mistakes_are_named_with_their_lines() {
        let found = problems("name,text,Anger,extra\na,Hi,0,1\n");
        assert!(found.contains("lacks the columns: `video_name`, `Neutral` (raw"), "{found}");
        assert!(found.contains("`emotions_as = \"intensities\"`), `Disgust`, `Fear`"), "{found}");
        assert!(found.contains("columns.ignored"), "{found}");
        let found = problems(&format!(
            "video_name,text,{TRAITS}\na,x,0,0,0,0,1.5\na,x,0,0,0,high,0\n../b,x,0,0,0,0,-1\n"
        ));
        for part in [
            "trait labels out of range: line 2: 1.5 is not in 0 to 1, line 4: -1",
            "no numbers: line 3: \"high\"",
            "names twice: line 3: `a`",
            "no file can have: line 4",
        ] {
            assert!(found.contains(part), "{part} is not in {found}");
        }
        assert!(problems("video_name,text\na,\n").contains("holds no row: 1 were left out"));
        assert!(problems("video_name,text\na,b,c\n").contains("rows that cannot be read"));
        assert!(problems("").contains("lacks the columns"));
        for separated in ["video_name;text\na;Hi\n", "video_name\ttext\na\tHi\n"] {
            let found = problems(separated);
            assert!(found.contains("save it with commas") && !found.contains("lacks"), "{found}");
        }
    }

    #[test]
    fn labels_on_the_other_scale_are_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.csv");
        let columns = &Columns::default();
        let rows = format!("video_name,text,{EMOTIONS}\na,x,0,2,0,0,0,0,0\nb,x,0,0,0,0,0,0,0\n");
        std::fs::write(&path, rows).unwrap();
        let format = TableFormat { columns, tasks: None, emotions_as: EmotionsAs::Shares };
        let (_, problems) = read_as(&path, format);
        assert_eq!(problems.len(), 1, "{problems:?}");
        for part in ["emotions_as = \"intensities\"", "line 2: 2 is not", "line 3: the labels sum"]
        {
            assert!(problems[0].contains(part), "{part} is not in {problems:?}");
        }
        let format = TableFormat { emotions_as: EmotionsAs::Intensities, ..format };
        let (table, problems) = read_as(&path, format);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(table.clips[0].emotion.unwrap()[1], 1.0);
        assert_eq!(table.clips[1].emotion.unwrap()[0], 1.0);
        let rows = format!("video_name,text,{EMOTIONS}\na,x,0.5,0.5,0,0,0,0,0\n");
        std::fs::write(&path, rows).unwrap();
        let (_, problems) = read_as(&path, format);
        assert!(problems[0].contains("emotions_as = \"shares\""), "{problems:?}");
        // Raw tables of CMU-MOSEI have no column for Neutral; shares need all seven.
        let six = EMOTIONS.replace("Neutral,", "");
        std::fs::write(&path, format!("video_name,text,{six}\na,x,1,0,0,0,1,0\n")).unwrap();
        let (table, problems) = read_as(&path, format);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(table.clips[0].emotion, Some([0.0, 0.5, 0.0, 0.0, 0.0, 0.5, 0.0]));
        let (_, problems) =
            read_as(&path, TableFormat { emotions_as: EmotionsAs::Shares, ..format });
        assert!(problems[0].contains("lacks the columns: `Neutral`"), "{problems:?}");
    }

    #[test]
    fn lines_are_those_of_an_editor_whatever_ends_them() {
        for end in ["\n", "\r\n"] {
            let rows = ["a,x,0,0,0,0,0", "", "b,x,0,0,0,0,2", "c,x,0,0,0,0,3"].join(end);
            let found = problems(&format!("video_name,text,{TRAITS}{end}{rows}{end}"));
            assert!(found.contains("line 4: 2 is") && found.contains("line 5: 3 is"), "{found}");
        }
    }

    #[test]
    fn other_encodings_are_named_with_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.csv");
        let utf_16: Vec<u8> = std::iter::once(0xFEFFu16)
            .chain("video_name,text\na,Hi\n".encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        for bytes in [&b"video_name,text\na,caf\xE9\n"[..], &utf_16] {
            std::fs::write(&path, bytes).unwrap();
            let columns = &Columns::default();
            let format = TableFormat { columns, tasks: None, emotions_as: EmotionsAs::Shares };
            let (_, problems) = read_as(&path, format);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains("save it as UTF-8"), "{problems:?}");
        }
    }

    #[test]
    fn columns_can_have_other_names_and_be_ignored() {
        let columns = Columns {
            video_name: "clip".to_owned(),
            text: String::new(),
            ignored: vec!["index".to_owned()],
            ..Columns::default()
        };
        let (table, problems) = read("index,clip\n,a\n", &columns, None);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!((table.clips[0].name.as_str(), &table.clips[0].text), ("a", &None));
    }
}
