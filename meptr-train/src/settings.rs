//! Configurations by dotted keys: overlaid on defaults, with every mistake named at once.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

pub use toml::{Table, Value};

/// Key of the tag in a table that stands for one of several kinds of things.
pub(crate) const KIND: &str = "kind";

/// Reads `KEY=VALUE`, where the value is written as in TOML; text needs no quotes.
///
/// # Errors
/// When there is no `=`, or no key before it.
pub fn parse_assignment(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("give KEY=VALUE")?;
    let (key, value) = (key.trim(), value.trim());
    if key.split('.').any(str::is_empty) {
        return Err(format!("`{key}` is no key; give KEY=VALUE, for example seed=2"));
    }
    let parsed = toml::from_str::<Table>(&format!("value = {value}"));
    let parsed = parsed.ok().filter(|table| table.len() == 1).and_then(|mut t| t.remove("value"));
    Ok((key.to_owned(), parsed.unwrap_or_else(|| Value::String(value.to_owned()))))
}

/// A table that holds one value, at a dotted key.
pub fn table_of(key: &str, value: Value) -> Table {
    let mut names = key.rsplit('.');
    let last = names.next().unwrap_or(key);
    let inner = Table::from_iter([(last.to_owned(), value)]);
    names.fold(inner, |table, name| Table::from_iter([(name.to_owned(), Value::Table(table))]))
}

/// The value at a dotted key.
pub fn look_up<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut names = key.split('.');
    let first = table.get(names.next()?)?;
    names.try_fold(first, |value, name| value.as_table()?.get(name))
}

/// Puts `over` on top of `table`. A table of another `kind` takes the place of the whole table, and
/// so does the name of a kind; what comes on top of a name belongs to that kind.
pub fn overlay(table: &mut Table, over: &Table) {
    for (key, value) in over {
        match (table.get_mut(key), value) {
            (Some(Value::Table(old)), Value::Table(new)) if is_of_the_kind(old, new) => {
                overlay(old, new);
            }
            (Some(old @ Value::String(_)), Value::Table(new)) if !new.contains_key(KIND) => {
                *old = as_table(old.clone());
                old.as_table_mut().into_iter().for_each(|old| overlay(old, new));
            }
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

fn is_of_the_kind(old: &Table, new: &Table) -> bool {
    new.get(KIND).is_none_or(|kind| old.get(KIND) == Some(kind))
}

/// The table that the bare name of a kind stands for; other values stay.
pub(crate) fn as_table(value: Value) -> Value {
    match value {
        Value::String(_) => Value::Table(Table::from_iter([(KIND.to_owned(), value)])),
        value => value,
    }
}

/// One of several kinds of things: by its name alone, or as a table.
pub(crate) fn by_name<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    match as_table(Value::deserialize(deserializer)?) {
        Value::Table(table) => {
            table.try_into().map_err(|error: toml::de::Error| D::Error::custom(error.message()))
        }
        _ => Err(D::Error::custom("give a name, or a table with a `kind`")),
    }
}

/// [`by_name`] for what may be left out.
pub(crate) fn by_name_if_any<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    by_name(deserializer).map(Some)
}

/// A configuration as JSON, with numbers of 32 bits as people write them: 0.4 and not
/// 0.4000000059604645.
pub(crate) fn to_json(config: &impl Serialize) -> serde_json::Value {
    let text = serde_json::to_string(config).expect("a configuration is plain data");
    serde_json::from_str(&text).expect("it was written just now")
}

/// A configuration as a table, with numbers as in [`to_json`]; what is none is left out.
pub(crate) fn to_table(config: &impl Serialize) -> Table {
    fn without_none(value: serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Object(fields) => {
                let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
                fields.map(|(name, value)| (name, without_none(value))).collect()
            }
            value => value,
        }
    }
    Table::try_from(without_none(to_json(config))).expect("a configuration is plain data")
}

/// Reads a configuration given on top of the defaults; values that are wrong are left out and
/// named.
pub fn understand<T: Default + Serialize + DeserializeOwned>(given: &Table) -> (T, Vec<String>) {
    let mut reader = Reader::<T> {
        table: Table::try_from(T::default()).unwrap_or_default(),
        config: T::default(),
        problems: Vec::new(),
    };
    for (key, value) in given {
        reader.take(key, value);
    }
    (reader.config, reader.problems)
}

struct Reader<T> {
    /// Configuration read so far, defaults and all.
    table: Table,
    config: T,
    problems: Vec<String>,
}

impl<T: Serialize + DeserializeOwned> Reader<T> {
    fn take(&mut self, key: &str, value: &Value) {
        let mut candidate = self.table.clone();
        overlay(&mut candidate, &table_of(key, value.clone()));
        let wrong = match read(&candidate) {
            Ok(config) => {
                (self.table, self.config) = (candidate, config);
                return;
            }
            Err(wrong) => wrong,
        };
        // Something in a table is wrong: what exactly shows when its values come one by one.
        let before = self.problems.len();
        let is_known = look_up(&self.table, key).is_some_and(Value::is_table);
        if let Value::Table(table) = value
            && is_known
            && !table.contains_key(KIND)
        {
            table.iter().for_each(|(name, value)| self.take(&format!("{key}.{name}"), value));
        }
        if self.problems.len() == before {
            self.problems.extend(match wrong {
                Wrong::Keys(problems) => problems,
                Wrong::Value(error) => {
                    let error = error.to_string(); // a line with the reason, one with the place
                    let mut lines = error.lines();
                    let why = lines.next().unwrap_or_default();
                    let place = lines.find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'));
                    let place = place.filter(|place| place.starts_with(key)).unwrap_or(key);
                    vec![format!("`{place}`: {why}")]
                }
            });
        }
    }
}

/// Why a table says no configuration.
enum Wrong {
    /// A value cannot be that of its key.
    Value(toml::de::Error),
    /// Problems with keys, by their names.
    Keys(Vec<String>),
}

/// A configuration that says all that the table says.
fn read<T: Serialize + DeserializeOwned>(table: &Table) -> Result<T, Wrong> {
    let config: T = table.clone().try_into().map_err(Wrong::Value)?;
    let understood = Table::try_from(&config).unwrap_or_default();
    let mut problems = Vec::new();
    find_not_understood(table, &understood, "", &mut problems);
    match problems.is_empty() {
        true => Ok(config),
        false => Err(Wrong::Keys(problems)),
    }
}

fn find_not_understood(given: &Table, known: &Table, place: &str, problems: &mut Vec<String>) {
    for (key, value) in given {
        match (value, known.get(key)) {
            (_, None) => problems.push(format!("`{place}{key}`: there is no such key")),
            (Value::Table(given), Some(Value::Table(known))) => {
                find_not_understood(given, known, &format!("{place}{key}."), problems);
            }
            (Value::Array(_), Some(Value::Table(_))) => {
                problems.push(format!("`{place}{key}`: it is a table of settings, not a list"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Outer {
        size: u32,
        name: String,
        inner: Inner,
        #[serde(deserialize_with = "by_name")]
        way: Way,
        spare: Option<Inner>,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Inner {
        rate: f64,
        most: Option<u32>,
        steps: usize,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
    enum Way {
        Slow {
            #[serde(default = "half")]
            by: f64,
        },
        Fast {
            #[serde(default = "one")]
            times: f64,
        },
    }

    fn half() -> f64 {
        0.5
    }

    fn one() -> f64 {
        1.0
    }

    impl Default for Outer {
        fn default() -> Self {
            Self {
                size: 1,
                name: "a".to_owned(),
                inner: Inner { rate: 0.1, most: None, steps: 9 },
                way: Way::Slow { by: 0.5 },
                spare: None,
            }
        }
    }

    fn given(assignments: &[&str]) -> Table {
        let mut table = Table::new();
        for one in assignments {
            let (key, value) = parse_assignment(one).unwrap();
            overlay(&mut table, &table_of(&key, value));
        }
        table
    }

    #[test]
    fn what_is_not_given_stays_as_the_whole_has_it() {
        let table = given(&["inner.rate = 2.5", "name=two words", "way.by=1.0", "inner.most=3"]);
        let (found, problems) = understand::<Outer>(&table);
        assert!(problems.is_empty(), "{problems:?}");
        let inner = Inner { rate: 2.5, most: Some(3), steps: 9 };
        let expected = Outer {
            name: "two words".to_owned(),
            inner,
            way: Way::Slow { by: 1.0 },
            ..Outer::default()
        };
        assert_eq!(found, expected);
        let (found, _) = understand::<Outer>(&given(&["way = { kind = 'fast', times = 2.0 }"]));
        assert_eq!(found.way, Way::Fast { times: 2.0 });
    }

    #[test]
    fn five_mistakes_are_named_at_once_and_the_rest_is_taken() {
        let table = given(&[
            "size=-1",
            "inner.rate=fast",
            "inner.raet=1.0",
            "inner.steps=7",
            "colour=red",
            "way={ kind = 'fast', tmies = 2.0 }",
        ]);
        let (found, problems) = understand::<Outer>(&table);
        assert_eq!(problems.len(), 5, "{problems:#?}");
        for key in ["`size`", "`inner.rate`", "`inner.raet`", "`colour`", "`way`"] {
            assert!(problems.iter().any(|one| one.starts_with(key)), "{key}: {problems:#?}");
        }
        assert_eq!((found.size, found.inner.steps), (1, 7));
    }

    #[test]
    fn mistakes_in_what_has_no_default_are_named_by_their_own_keys() {
        let problems = |text: &str| understand::<Outer>(&given(&[text])).1;
        for (text, expected) in [
            ("spare.raet=1.0", "`spare.raet`: there is no such key"),
            ("spare.steps=many", "`spare.steps`: invalid type: string \"many\""),
            ("inner=[]", "`inner`: it is a table of settings, not a list"),
        ] {
            let found = problems(text);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{text}: {found:?}");
        }
        let both = problems("spare={ raet = 1.0, stpes = 2 }");
        assert_eq!(both.len(), 2, "{both:?}");
    }

    #[test]
    fn a_kind_goes_by_its_name_alone() {
        let found = |assignments: &[&str]| {
            let (found, problems) = understand::<Outer>(&given(assignments));
            assert!(problems.is_empty(), "{assignments:?}: {problems:?}");
            found.way
        };
        assert_eq!(found(&["way=fast"]), Way::Fast { times: 1.0 });
        assert_eq!(found(&["way=fast", "way.times=2.0"]), Way::Fast { times: 2.0 });
        assert_eq!(
            found(&["way={ kind = 'fast', times = 2.0 }", "way=slow"]),
            Way::Slow { by: 0.5 }
        );
        for (text, expected) in [
            ("way=fsat", "`way`: unknown variant `fsat`, expected `slow` or `fast`"),
            ("way=3", "`way`: give a name, or a table with a `kind`"),
        ] {
            assert_eq!(understand::<Outer>(&given(&[text])).1, [expected]);
        }
    }

    #[test]
    fn numbers_are_written_as_people_write_them() {
        let table = to_table(&(BTreeMap::from([("a", Some(0.4f32)), ("b", None)])));
        assert_eq!(table, toml::from_str("a = 0.4").unwrap());
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        for text in ["a", "=1", "a..b=1"] {
            assert!(parse_assignment(text).is_err(), "{text}");
        }
        let value = |text: &str| parse_assignment(text).unwrap().1;
        assert_eq!(value("a=1\nb=2"), Value::String("1\nb=2".to_owned()));
        assert_eq!(value("a=[1, 2]"), Value::Array(vec![1.into(), 2.into()]));
    }
}
