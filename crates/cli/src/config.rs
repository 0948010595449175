//! Configuration given in pieces.

use serde_json::{Map, Value, json};
use types::Errno;

use crate::fail::Fail;
use crate::submit::set_path;

/// Merges `b` into `a`, tables by key.
pub(crate) fn merge_into(a: &mut Value, b: Value) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in b {
                merge_into(a.entry(key).or_insert(Value::Null), value);
            }
        }
        (a, b) => *a = b,
    }
}

/// TOML text as JSON.
pub(crate) fn from_toml(text: &str) -> Result<Value, String> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| error.to_string())?;
    serde_json::to_value(table).map_err(|error| error.to_string())
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
    let fail = |reason: &dyn std::fmt::Display| Fail::new(format!("--conf={item}: {reason}"));
    if item.contains('\n') || item.starts_with('{') {
        return serde_json::from_str(item)
            .or_else(|_| from_toml(item))
            .map_err(|error| fail(&error));
    }
    if let Some((key, value)) = item.split_once('=') {
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        let mut table = Map::new();
        set_path(&mut table, key, value);
        return Ok(table.into());
    }
    let path = if item.ends_with(".toml") || item.ends_with(".json") {
        item.to_owned()
    } else {
        named(item).ok_or_else(|| fail(&"config not found"))?
    };
    let text = std::fs::read_to_string(&path).map_err(|error| fail(&Errno::from_io(&error)))?;
    if path.ends_with(".json") {
        serde_json::from_str(&text).map_err(|error| fail(&error))
    } else {
        from_toml(&text).map_err(|error| fail(&error))
    }
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
