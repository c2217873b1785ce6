//! Configurations by dotted keys: overlaid on defaults, with every mistake named at once.

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use toml::{Table, Value};

/// Key of the tag in a table that stands for one of several kinds of things.
const KIND: &str = "kind";

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

/// Puts `over` on top of `table`. A table of another `kind` takes the place of the whole table.
pub fn overlay(table: &mut Table, over: &Table) {
    for (key, value) in over {
        match (table.get_mut(key), value) {
            (Some(Value::Table(old)), Value::Table(new)) if is_of_the_kind(old, new) => {
                overlay(old, new);
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

/// What `given` says on top of the defaults; what it gets wrong is left out and named.
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
    /// What was understood so far, defaults and all.
    table: Table,
    config: T,
    problems: Vec<String>,
}

impl<T: Serialize + DeserializeOwned> Reader<T> {
    fn take(&mut self, key: &str, value: &Value) {
        let mut candidate = self.table.clone();
        overlay(&mut candidate, &table_of(key, value.clone()));
        let why = match read(&candidate) {
            Ok(config) => {
                (self.table, self.config) = (candidate, config);
                return;
            }
            Err(why) => why,
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
            self.problems.push(format!("`{key}`: {why}"));
        }
    }
}

/// A configuration that says all that the table says.
fn read<T: Serialize + DeserializeOwned>(table: &Table) -> Result<T, String> {
    let config: T = table.clone().try_into().map_err(|error: toml::de::Error| {
        error.message().lines().next().unwrap_or_default().to_owned()
    })?;
    let understood = Table::try_from(&config).map_err(|error| error.to_string())?;
    match unknown_key(table, &understood) {
        None => Ok(config),
        Some(_) => Err("there is no such key".to_owned()),
    }
}

fn unknown_key<'a>(given: &'a Table, known: &Table) -> Option<&'a String> {
    given.iter().find_map(|(key, value)| match (value, known.get(key)) {
        (_, None) => Some(key),
        (Value::Table(given), Some(Value::Table(known))) => unknown_key(given, known),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Outer {
        size: u32,
        name: String,
        inner: Inner,
        way: Way,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        rate: f64,
        most: Option<u32>,
        steps: usize,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
    enum Way {
        Slow { by: f64 },
        Fast { times: f64 },
    }

    impl Default for Outer {
        fn default() -> Self {
            Self {
                size: 1,
                name: "a".to_owned(),
                inner: Inner { rate: 0.1, most: None, steps: 9 },
                way: Way::Slow { by: 0.5 },
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
        let expected =
            Outer { size: 1, name: "two words".to_owned(), inner, way: Way::Slow { by: 1.0 } };
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
    fn what_is_no_assignment_is_refused() {
        for text in ["a", "=1", "a..b=1"] {
            assert!(parse_assignment(text).is_err(), "{text}");
        }
        let value = |text: &str| parse_assignment(text).unwrap().1;
        assert_eq!(value("a=1\nb=2"), Value::String("1\nb=2".to_owned()));
        assert_eq!(value("a=[1, 2]"), Value::Array(vec![1.into(), 2.into()]));
    }
}
