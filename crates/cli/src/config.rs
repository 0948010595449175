//! Configuration given in pieces.

use serde_json::{Map, Value, json};
use types::Errno;

use crate::fail::Fail;

/// Merges `b` into `a`, tables by key.
pub(crate) fn merge_into(a: &mut Value, b: Value) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => spec::config::merge(a, b),
        (a, b) => *a = b,
    }
}

/// TOML text as JSON. Errors are one line that tells the place.
pub(crate) fn from_toml(text: &str) -> Result<Value, String> {
    spec::config::from_toml(text).map(Value::Object)
}

/// Merges the arguments of `--conf`: inline text, `KEY=VALUE`, files, or names of configurations.
pub(crate) fn merge<'a>(items: impl Iterator<Item = &'a str>) -> Result<Value, Fail> {
    let mut config = json!({});
    for item in items {
        let value = piece(item)?;
        merge_into(&mut config, value);
    }
    Ok(config)
}

fn piece(item: &str) -> Result<Value, Fail> {
    let fail = |reason: &dyn std::fmt::Display| Fail::new(format!("--conf: {reason}"));
    if item.contains('\n') || item.starts_with('{') {
        let json = item.trim_start().starts_with('{');
        let parsed = match json {
            true => serde_json::from_str(item).map_err(|error| error.to_string()),
            false => from_toml(item),
        };
        let text = "failed to parse multiline as TOML or JSON";
        return parsed.map_err(|why| fail(&format_args!("{text}: {why}")));
    }
    if let Some((key, value)) = item.split_once('=') {
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        let mut table = Map::new();
        spec::jobspec::set_path(&mut table, key, value).map_err(|error| fail(&error))?;
        return Ok(table.into());
    }
    let path = if item.ends_with(".toml") || item.ends_with(".json") {
        item.to_owned()
    } else {
        named(item).ok_or_else(|| fail(&format_args!("named config '{item}' not found")))?
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| fail(&format_args!("{path}: {}", Errno::from_io(&error))))?;
    let parsed = match path.ends_with(".json") {
        true => serde_json::from_str(&text).map_err(|error| error.to_string()),
        false => from_toml(&text),
    };
    parsed.map_err(|why| match path == item {
        true => fail(&format_args!("parse error: {path}: {why}")),
        false => Fail::new(format!("--conf={item}: {path}: {why}")),
    })
}

/// The directories of user and system configuration, the most important first.
pub(crate) fn xdg_dirs() -> Vec<String> {
    let var = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let home = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|home| format!("{home}/.config")));
    let system = var("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".to_owned());
    home.into_iter()
        .chain(system.split(':').map(str::to_owned))
        .collect()
}

fn named(name: &str) -> Option<String> {
    xdg_dirs().iter().find_map(|dir| {
        ["toml", "json"].iter().find_map(|ext| {
            let path = format!("{dir}/flux/config/{name}.{ext}");
            std::path::Path::new(&path).exists().then_some(path)
        })
    })
}
