//! Formats with names: a command's own and those of configuration files.

use serde_json::Value as Json;

use crate::config::{from_toml, merge_into, xdg_dirs};
use crate::outln;

/// A format a command has built in: name, description, format.
pub(crate) type Named = (&'static str, &'static str, &'static str);

/// Why there is no format to go on with.
pub(crate) enum NoFormat {
    /// All was said; this is the exit status.
    Done(i32),
    /// What is wrong.
    Error(String),
}

struct Known {
    name: String,
    description: String,
    format: String,
}

/// Finds the format an option means: literal text, or a name. `command` is `flux-jobs` and so on,
/// `section` the part of its configuration, `variable` what may replace the default.
pub(crate) fn choose(
    command: &str,
    section: Option<&str>,
    variable: &str,
    builtin: &[Named],
    option: Option<&str>,
) -> Result<String, NoFormat> {
    let mut wanted = option.unwrap_or("default").to_owned();
    if wanted == "default"
        && let Ok(value) = std::env::var(variable)
        && !value.is_empty()
    {
        wanted = value;
    }
    if wanted.contains('{') {
        return Ok(wanted);
    }
    let mut known: Vec<Known> = builtin
        .iter()
        .map(|(name, description, format)| Known {
            name: (*name).to_owned(),
            description: (*description).to_owned(),
            format: (*format).to_owned(),
        })
        .collect();
    // A builtin name needs no files.
    if let Some(found) = known.iter().find(|known| known.name == wanted) {
        return Ok(found.format.clone());
    }
    configured(command, section, builtin, &mut known).map_err(NoFormat::Error)?;
    if wanted == "help" {
        outln!();
        outln!("Configured {command} output formats:");
        outln!();
        for known in &known {
            outln!("  {:<12} {}", known.name, known.description);
        }
        return Err(NoFormat::Done(0));
    }
    let (get, name) = match wanted.strip_prefix("get-config=") {
        Some(name) => (true, name),
        None => (false, wanted.as_str()),
    };
    let Some(found) = known.iter().find(|known| known.name == name) else {
        return Err(NoFormat::Error(format!(
            "--format: No such format {name} (Did you mean '{{{name}}}'?)"
        )));
    };
    if get {
        let table = match section {
            Some(section) => format!("{section}.formats.{name}"),
            None => format!("formats.{name}"),
        };
        outln!("[{table}]");
        outln!("description = \"{}\"", found.description);
        outln!("format = \"{}\"", found.format);
        return Err(NoFormat::Done(0));
    }
    Ok(found.format.clone())
}

/// Adds the formats of configuration files, later ones prevailing.
fn configured(
    command: &str,
    section: Option<&str>,
    builtin: &[Named],
    known: &mut Vec<Known>,
) -> Result<(), String> {
    let merged = files(command, |value| check(value, command, section, builtin))?;
    let root = match section {
        Some(section) => &merged[section],
        None => &merged,
    };
    for (name, entry) in root["formats"].as_object().into_iter().flatten() {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        known.push(Known {
            name: name.clone(),
            description: text("description"),
            format: text("format"),
        });
    }
    Ok(())
}

/// The configuration files of a command, merged, later ones prevailing. Errors name the file.
pub(crate) fn files(
    command: &str,
    check: impl Fn(&Json) -> Result<(), String>,
) -> Result<Json, String> {
    let mut merged = Json::Null;
    for dir in xdg_dirs().iter().rev() {
        for ext in ["json", "yaml", "toml"] {
            let path = format!("{dir}/flux/{command}.{ext}");
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            let value = match ext {
                "toml" => from_toml(&text),
                // What follows the first line shows the place in a picture.
                "yaml" => serde_saphyr::from_str(&text).map_err(|error| {
                    let text = error.to_string();
                    text.lines().next().unwrap_or_default().to_owned()
                }),
                _ => serde_json::from_str(&text).map_err(|error| error.to_string()),
            };
            let value = value.map_err(|error| format!("{path}: {error}"))?;
            check(&value).map_err(|error| format!("{path}: {error}"))?;
            merge_into(&mut merged, value);
        }
    }
    Ok(merged)
}

/// The tables a command's files may have.
fn tables(command: &str) -> &'static [&'static str] {
    match command {
        "flux-resource" => &["list", "status", "drain"],
        "flux-queue" => &["list"],
        _ => &["formats"],
    }
}

fn check(
    config: &Json,
    command: &str,
    section: Option<&str>,
    builtin: &[Named],
) -> Result<(), String> {
    for key in config
        .as_object()
        .into_iter()
        .flat_map(|table| table.keys())
    {
        if !tables(command).contains(&key.as_str()) {
            return Err(format!("invalid key {key}"));
        }
    }
    let root = match section {
        Some(section) => &config[section],
        None => config,
    };
    let formats = match &root["formats"] {
        Json::Null => return Ok(()),
        Json::Object(formats) => formats,
        _ => return Err("the 'formats' key must be a mapping".to_owned()),
    };
    for (name, entry) in formats {
        if builtin.iter().any(|(known, ..)| known == name) {
            return Err(format!("override of builtin format '{name}' not permitted"));
        }
        let entry = entry
            .as_object()
            .ok_or_else(|| format!("'formats.{name}' must be a mapping"))?;
        let format = entry
            .get("format")
            .ok_or_else(|| format!("formats.{name}: required key 'format' missing"))?;
        if !format.is_string() {
            return Err(format!("formats.{name}: 'format' key must be a string"));
        }
    }
    Ok(())
}
