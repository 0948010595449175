//! What a configuration says of resources: `resource.path` or `resource.config`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spec::ResourceSet;
use types::Errno;

use crate::config::{from_toml, merge_into};
use crate::fail::Fail;

/// Reads a configuration: a file, or all `*.toml` files of a directory.
pub(super) fn read(path: &str) -> Result<ResourceSet, Fail> {
    let meta = std::fs::metadata(path).map_err(|error| Fail::of(path, Errno::from_io(&error)))?;
    let mut files: Vec<PathBuf> = vec![path.into()];
    if meta.is_dir() {
        let entries =
            std::fs::read_dir(path).map_err(|error| Fail::of(path, Errno::from_io(&error)))?;
        files = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|file| file.extension().is_some_and(|ext| ext == "toml"))
            .collect();
        files.sort();
    }
    let mut config = json!({});
    for file in &files {
        let text = text_of(file)?;
        let piece = if file.extension().is_some_and(|ext| ext == "json") {
            serde_json::from_str(&text).map_err(|error| error.to_string())
        } else {
            from_toml(&text)
        };
        merge_into(
            &mut config,
            piece.map_err(|error| Fail::of(file.display(), error))?,
        );
    }
    resources(&config["resource"])
}

fn text_of(path: &Path) -> Result<String, Fail> {
    std::fs::read_to_string(path).map_err(|error| Fail::of(path.display(), Errno::from_io(&error)))
}

/// The resources a table `[resource]` names.
fn resources(table: &Value) -> Result<ResourceSet, Fail> {
    let bad = |text: &dyn std::fmt::Display| Fail::new(format!("Config file error: {text}"));
    let text = |key: &str| match &table[key] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_str())),
        _ => Err(bad(&format_args!("resource.{key} must be a string"))),
    };
    let mut set = match (&table["config"], text("path")?) {
        (Value::Null, None) => {
            return Err(bad(&"resource.config or resource.path must be defined"));
        }
        (Value::Null, Some(path)) => ResourceSet::decode(text_of(Path::new(path))?.as_bytes())
            .map_err(|error| Fail::of(path, error))?,
        (array, _) => ResourceSet::from_config(array).map_err(|error| bad(&error))?,
    };
    if let Some(path) = text("scheduling")? {
        let fail = |reason: &dyn std::fmt::Display| {
            Fail::new(format!("resource.scheduling: {path}: {reason}"))
        };
        let text = text_of(Path::new(path)).map_err(|error| fail(&error.text))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| fail(&error))?;
        if !value.is_object() && !value.is_array() {
            return Err(fail(&"'[' or '{' expected near line 1"));
        }
        set.scheduling = Some(value);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_name_no_resources_are_refused() {
        let check = |text: &str, expect: &str| {
            let config = from_toml(text).expect("TOML");
            let failure = resources(&config).expect_err("it is bad");
            assert_eq!(failure.text, format!("Config file error: {expect}"));
        };
        check("", "resource.config or resource.path must be defined");
        check("path = 1", "resource.path must be a string");
        check(
            "[[config]]\nhosts='a'",
            "resource.config: a assigned no resources",
        );
    }
}
