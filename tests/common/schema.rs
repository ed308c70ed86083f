//! As much of JSON Schema as the schemas at hand use, so that no validator has to be built for them.
//!
//! A keyword that is not known here is a panic, never a pass.

use serde_json::{Map, Value};

/// Keywords that say nothing about validity.
const SILENT: [&str; 9] =
    ["$schema", "id", "$id", "title", "description", "default", "definitions", "$defs", "format"];

/// Where `value` breaks `schema`, one line each.
pub fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    check(schema, schema, value, "", &mut lines);
    lines
}

fn check(root: &Value, schema: &Value, value: &Value, place: &str, lines: &mut Vec<String>) {
    let Value::Object(keywords) = schema else {
        if schema == &Value::Bool(false) {
            lines.push(format!("{place}: nothing is allowed here"));
        }
        return;
    };
    for (keyword, argument) in keywords {
        let holds = match keyword.as_str() {
            "$ref" => {
                let pointer =
                    argument.as_str().and_then(|text| text.strip_prefix('#')).expect("a local reference");
                let target =
                    root.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is not in the schema"));
                check(root, target, value, place, lines);
                true
            }
            "type" => any(argument, |name| has_type(value, name.as_str().expect("a type"))),
            "enum" => any(argument, |allowed| allowed == value),
            "const" => argument == value,
            "required" => value.as_object().is_none_or(|object| {
                any_missing(argument, object).is_none_or(|missing| {
                    lines.push(format!("{place}: lacks {missing}"));
                    true
                })
            }),
            "properties" | "additionalProperties" | "patternProperties" => true,
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, argument, item, &format!("{place}/{index}"), lines);
                }
                true
            }
            "minItems" => value.as_array().is_none_or(|items| items.len() as f64 >= number(argument)),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as f64 <= number(argument)),
            "uniqueItems" => value
                .as_array()
                .is_none_or(|items| (0..items.len()).all(|index| !items[..index].contains(&items[index]))),
            "minimum" => value.as_f64().is_none_or(|value| value >= number(argument)),
            "maximum" => value.as_f64().is_none_or(|value| value <= number(argument)),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 >= number(argument)),
            "anyOf" => any(argument, |schema| is_valid(root, schema, value)),
            "oneOf" => {
                let schemas = argument.as_array().expect("a list of schemas");
                schemas.iter().filter(|schema| is_valid(root, schema, value)).count() == 1
            }
            "allOf" => {
                argument
                    .as_array()
                    .into_iter()
                    .flatten()
                    .for_each(|part| check(root, part, value, place, lines));
                true
            }
            "not" => !is_valid(root, argument, value),
            // Patterns are of names that are not written (language codes, GUIDs).
            "pattern" => panic!("{place}: a pattern is not checked here: {argument}"),
            silent if SILENT.contains(&silent) => true,
            other => panic!("{place}: the keyword {other} is not known here"),
        };
        if !holds {
            lines.push(format!("{place}: {keyword} {argument} does not hold for {value}"));
        }
    }
    if let Value::Object(object) = value {
        members(root, keywords, object, place, lines);
    }
}

/// Every member by its own schema, or by that of additional ones.
fn members(
    root: &Value,
    keywords: &Map<String, Value>,
    object: &Map<String, Value>,
    place: &str,
    lines: &mut Vec<String>,
) {
    for (name, member) in object {
        let own = keywords.get("properties").and_then(|properties| properties.get(name));
        if let Some(schema) = own.or_else(|| keywords.get("additionalProperties")) {
            check(root, schema, member, &format!("{place}/{name}"), lines);
        }
    }
}

fn is_valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let mut lines = Vec::new();
    check(root, schema, value, "", &mut lines);
    lines.is_empty()
}

/// Whether one of a list holds, or the only one where it is no list.
fn any(argument: &Value, holds: impl Fn(&Value) -> bool) -> bool {
    argument.as_array().map_or_else(|| holds(argument), |list| list.iter().any(&holds))
}

fn any_missing(required: &Value, object: &Map<String, Value>) -> Option<String> {
    let names = required.as_array().into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).find(|name| !object.contains_key(name))
}

fn number(argument: &Value) -> f64 {
    argument.as_f64().expect("a number")
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("no type is called {other}"),
    }
}
