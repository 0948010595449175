//! The configuration: what TOML files say, as one JSON object.

use serde_json::{Map, Value, json};

/// A whole configuration.
pub type Config = Map<String, Value>;

/// Parses TOML. JSON has no times: one stands as `{"iso-8601-ts": "2020-01-01T00:00:00Z"}`.
///
/// # Errors
///
/// What is wrong, and where, in one line.
pub fn from_toml(text: &str) -> Result<Config, String> {
    match text.parse() {
        Ok(table) => Ok(object(table)),
        Err(error) => Err(explain(text, &error)),
    }
}

fn explain(text: &str, error: &toml::de::Error) -> String {
    let why = error.message().replace('\n', ", ");
    let before = error.span().and_then(|span| text.get(..span.start));
    let Some(before) = before else { return why };
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[start..].chars().count() + 1;
    format!("{why} (at line {line}, column {column})")
}

fn object(table: toml::Table) -> Config {
    table
        .into_iter()
        .map(|(key, value)| (key, json_of(value)))
        .collect()
}

fn json_of(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Datetime(time) => json!({ "iso-8601-ts": time.to_string() }),
        toml::Value::Array(items) => items.into_iter().map(json_of).collect(),
        toml::Value::Table(table) => Value::Object(object(table)),
    }
}

/// Merges tables key by key; anything else is replaced.
pub fn merge(into: &mut Config, from: Config) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// What is said of a value of another type than `expected`.
pub fn wrong_type(expected: &str, value: &Value) -> String {
    let got = match value {
        Value::Null => "null",
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(number) if number.is_f64() => "real",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("Expected {expected}, got {got}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_objects() {
        let config = from_toml("a = 1\nt = 2020-01-01T00:00:00Z\n[b]\nc = [1.5, true]\n");
        assert_eq!(
            config.map(|config| Value::Object(config).to_string()),
            Ok(
                r#"{"a":1,"t":{"iso-8601-ts":"2020-01-01T00:00:00Z"},"b":{"c":[1.5,true]}}"#
                    .to_owned()
            )
        );
        let error = from_toml("[a\nb").expect_err("no TOML");
        assert!(error.ends_with("(at line 1, column 3)"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn tables_merge_and_values_replace() {
        let toml = |text: &str| from_toml(text).expect("TOML");
        let mut config = toml("a.b=1");
        merge(&mut config, toml("a.c=2"));
        merge(&mut config, toml("a.b=[3]"));
        assert_eq!(
            Value::Object(config).to_string(),
            "{\"a\":{\"b\":[3],\"c\":2}}"
        );
    }
}
