//! The numbers of an epoch by name, from its line in the log.

use std::collections::BTreeMap;

use meptr_core::PersonalityTrait;
use serde_json::Value;

/// Keys whose values are no curves.
const NO_CURVES: [&str; 8] =
    ["epoch", "time", "config", "budget", "first_losses", "rows", "confusion", "majority_share"];

/// Numbers by names such as `loss`, `dev/CORPUS/emotion/muar` or `grad_norm/pseudo/weights/emotion`.
pub(super) fn scalars(line: &Value) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    collect("", line, &mut found);
    found
}

fn collect(place: &str, value: &Value, found: &mut BTreeMap<String, f64>) {
    let below = |name: &str| match place {
        "" => name.to_owned(),
        _ => format!("{place}/{name}"),
    };
    match value {
        Value::Number(number) => {
            found.extend(number.as_f64().map(|number| (place.to_owned(), number)));
        }
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !is_no_curve(name)) {
                let has_names_below = name == "corpora" || name == "classes";
                let place = if has_names_below { place.to_owned() } else { below(name) };
                collect(&place, value, found);
            }
        }
        Value::Array(elements) => {
            for (number, element) in elements.iter().enumerate() {
                match (element, element.get("class").and_then(Value::as_str)) {
                    (_, Some(class)) => collect(&below(class), element, found),
                    (Value::Array(pair), _) => {
                        if let [Value::String(name), value] = pair.as_slice() {
                            collect(&below(name), value, found);
                        }
                    }
                    _ => collect(&below(name_of(number, elements.len())), element, found),
                }
            }
        }
        _ => {}
    }
}

fn is_no_curve(name: &str) -> bool {
    NO_CURVES.contains(&name)
}

/// Lists of two are of the tasks, lists of five of the traits.
fn name_of(number: usize, count: usize) -> &'static str {
    match count {
        PersonalityTrait::COUNT => PersonalityTrait::ALL[number].name(),
        _ => ["emotion", "personality"].get(number).copied().unwrap_or("other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_names_that_people_know() {
        let line = serde_json::json!({
            "stage": "stage3", "epoch": 4, "loss": 0.5, "is_best": true, "time": 3.0,
            "dev": {"corpora": [["mosei", {
                "emotion": {"muar": 0.6, "reference": {"muar": 0.7}, "rows": 3,
                    "strongest": {"accuracy": 0.3, "confusion": [[1, 2]], "majority_share": 0.2},
                    "classes": [
                    {"class": "anger", "f1": 0.2, "confusion": {"true_positive": 1}}]},
                "personality": null}]]},
            "train": {"personality": {"ccc": null, "trait_acc": [0.1, 0.2, 0.3, 0.4, 0.5]}},
            "grad_norm": {"pseudo": {"budget": 0.8, "weights": [0.3, 0.5]}},
        });
        let found = scalars(&line);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "dev/mosei/emotion/anger/f1",
                "dev/mosei/emotion/muar",
                "dev/mosei/emotion/reference/muar",
                "dev/mosei/emotion/strongest/accuracy",
                "grad_norm/pseudo/weights/emotion",
                "grad_norm/pseudo/weights/personality",
                "loss",
                "train/personality/trait_acc/Agreeableness",
                "train/personality/trait_acc/Conscientiousness",
                "train/personality/trait_acc/Extraversion",
                "train/personality/trait_acc/Non-Neuroticism",
                "train/personality/trait_acc/Openness",
            ]
        );
        assert_eq!(found["grad_norm/pseudo/weights/personality"], 0.5);
    }
}
