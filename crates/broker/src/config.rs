//! The configuration: TOML tables as one JSON object.
//!
//! A directory stands for all its `*.toml` files in sorted order, merged; a file ending in `.json`
//! is JSON, any other TOML.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use spec::config::from_toml;
pub(crate) use spec::config::{Config, merge};
use types::Errno;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{}: {errno}", path.display())]
    Read { path: PathBuf, errno: Errno },
    #[error("{}: {message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("--conf: {0}")]
    Argument(String),
}

/// Reads a configuration file, or every file of a directory.
pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
    let read = |error: std::io::Error| ConfigError::Read {
        path: path.to_owned(),
        errno: Errno::from_io(&error),
    };
    if !fs::metadata(path).map_err(read)?.is_dir() {
        return load_file(path);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(read)? {
        let file = entry.map_err(read)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(file);
        }
    }
    files.sort();
    let mut config = Config::new();
    for file in files {
        merge(&mut config, load_file(&file)?);
    }
    Ok(config)
}

fn load_file(path: &Path) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| ConfigError::Read {
        path: path.to_owned(),
        errno: Errno::from_io(&error),
    })?;
    let parsed = if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        parse_json(&text)
    } else {
        from_toml(&text)
    };
    parsed.map_err(|message| ConfigError::Parse {
        path: path.to_owned(),
        message,
    })
}

/// Reads a `--conf` argument: inline TOML or JSON, `KEY=VALUE`, or a file.
pub(crate) fn load_argument(argument: &str) -> Result<Config, ConfigError> {
    let bad = |message: String| ConfigError::Argument(message);
    if argument.trim_start().starts_with('{') {
        return parse_json(argument).map_err(bad);
    }
    if argument.contains('\n') {
        return from_toml(argument).map_err(bad);
    }
    if let Some((key, value)) = argument.split_once('=') {
        return assignment(key, value).map_err(bad);
    }
    load(Path::new(argument))
}

/// `KEY=VALUE` with a dotted key; the value is JSON if it parses as such, else a string.
fn assignment(key: &str, value: &str) -> Result<Config, String> {
    let mut value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    for part in key.rsplit('.') {
        if part.is_empty() {
            return Err(format!("{key}: empty key"));
        }
        value = Value::Object(Map::from_iter([(part.to_owned(), value)]));
    }
    match value {
        Value::Object(config) => Ok(config),
        _ => Err(format!("{key}: empty key")),
    }
}

fn parse_json(text: &str) -> Result<Config, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(config)) => Ok(config),
        Ok(_) => Err("not a JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(argument: &str, expect: &str) {
        let config = load_argument(argument)
            .map(Value::Object)
            .map_err(|e| e.to_string());
        let shown = match config {
            Ok(config) => config.to_string(),
            Err(error) => error,
        };
        assert!(shown.starts_with(expect), "{argument:?} gives {shown}");
    }

    #[test]
    fn conf_arguments_take_four_forms() {
        check("a.b=1", "{\"a\":{\"b\":1}}");
        check("a=word", "{\"a\":\"word\"}");
        check("{\"a\":true}", "{\"a\":true}");
        check("[a]\nb = 1.5\n", "{\"a\":{\"b\":1.5}}");
        check("/nonexistent.toml", "/nonexistent.toml: No such file");
        check(
            "[a\nb",
            "--conf: unclosed table, expected `]` (at line 1, column 3)",
        );
        check(".=1", "--conf: .: empty key");
    }
}
