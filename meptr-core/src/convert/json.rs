//! Configurations within checkpoints, as JSON.

use serde_json::{Map, Number, Value as Json};

use super::error::{CheckpointError, Result};
use super::pickle::{Id, Pickle, Value};

const MAX_DEPTH: usize = 32;
/// Values count one each, texts their length. Shared values count as often as they are used.
const MAX_SIZE: usize = 1 << 20;

/// A value as JSON. What JSON does not know (tensors, infinities, objects) becomes null.
pub(super) fn to_json(pickle: &Pickle, id: Id) -> Result<Json> {
    let mut size = 0;
    convert(pickle, id, 0, &mut size)
}

fn convert(pickle: &Pickle, id: Id, depth: usize, size: &mut usize) -> Result<Json> {
    let value = pickle.get(id);
    spend(size, if let Value::Text(text) = value { text.len() } else { 1 })?;
    if depth > MAX_DEPTH {
        return Err(too_large());
    }
    Ok(match value {
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Number::from_i128(*value).map_or(Json::Null, Json::Number),
        Value::Float(value) => Number::from_f64(*value).map_or(Json::Null, Json::Number),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) | Value::Tuple(items) => items
            .iter()
            .map(|item| convert(pickle, *item, depth + 1, size))
            .collect::<Result<Vec<_>>>()?
            .into(),
        Value::Dict(items) => {
            let mut object = Map::new();
            for (key, value) in items {
                if let Some(key) = key_text(pickle.get(*key)) {
                    spend(size, key.len())?;
                    object.insert(key, convert(pickle, *value, depth + 1, size)?);
                }
            }
            object.into()
        }
        Value::Object { class, state: Some(state) } if is_namespace(class) => {
            convert(pickle, *state, depth + 1, size)?
        }
        _ => Json::Null,
    })
}

/// Python's keys of other types have no counterpart; such items are left out.
fn key_text(key: &Value) -> Option<String> {
    match key {
        Value::Text(text) => Some(text.chars().take(MAX_SIZE).collect()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

fn is_namespace(class: &str) -> bool {
    class.ends_with("Namespace")
}

fn spend(size: &mut usize, more: usize) -> Result<()> {
    *size += more;
    if *size > MAX_SIZE { Err(too_large()) } else { Ok(()) }
}

fn too_large() -> CheckpointError {
    CheckpointError::limit("a configuration that is too large or too deep")
}
