//! `flux config`: reading and changing the instance's configuration.

use client::Client;
use proto::Empty;
use proto::config::{Config, ConfigGet, ConfigLoad, ConfigReload};
use rpc::Dest;
use serde_json::Value;
use types::{Errno, installation};

use crate::config::{from_toml, merge_into};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::outln;

const PROG: &str = "flux-config";

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    super::dispatch_forms(
        "flux config",
        "Manage/query Flux configuration",
        &[
            ("get", GET.usage, get),
            ("builtin", BUILTIN.usage, show_builtin),
            ("load", LOAD.usage, load),
            ("reload", "[OPTIONS]", reload),
            ("set", SET.usage, set),
            ("unset", UNSET.usage, unset),
        ],
        words,
    )
}

static GET: Parser = Parser {
    name: "flux config get",
    usage: "[--type=TYPE] [NAME]",
    about: "Query broker configuration values",
    family: Family::G,
    opts: &[
        arg(
            'c',
            "config-path",
            "PATH",
            "Read this instead of asking the broker",
        ),
        arg(
            't',
            "type",
            "TYPE",
            "string, integer, real, boolean, object, array, any, fsd, fsd-integer or fsd-real",
        ),
        flag('q', "quiet", "Show nothing"),
        arg('d', "default", "VALUE", "Show this if there is none"),
    ],
};

fn get(words: &[String]) -> i32 {
    let args = match GET.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.len() > 1 {
        return GET.wrong_words();
    }
    fail::run(PROG, async {
        let kind = args.get("type").unwrap_or("any");
        if !TYPES.contains(&kind) {
            return Err(unknown_type(kind));
        }
        let config = match args.get("config-path") {
            Some(path) => files(path)?,
            None => Value::Object(current(&fail::connect_builtin().await?).await?),
        };
        let name = args.words.first().map_or("", String::as_str);
        if has_empty_key(name) && !name.is_empty() {
            return Err(Fail::of(name, Errno::EINVAL));
        }
        let Some(value) = find(&config, name) else {
            return match args.get("default") {
                Some(default) => {
                    outln!("{default}");
                    Ok(0)
                }
                None if args.has("quiet") => Err(Fail::silent(1)),
                None => Err(Fail::new(format!("{name} is not set"))),
            };
        };
        let text = typed(value, kind).ok_or_else(|| wrong_type(&args, name))?;
        if !args.has("quiet") {
            outln!("{text}");
        }
        Ok(0)
    })
}

fn wrong_type(args: &Args, name: &str) -> Fail {
    if args.has("quiet") {
        Fail::silent(1)
    } else {
        Fail::new(format!("{name} does not have the requested type"))
    }
}

/// What `--type` may be.
const TYPES: [&str; 10] = [
    "any",
    "string",
    "integer",
    "real",
    "boolean",
    "object",
    "array",
    "fsd",
    "fsd-integer",
    "fsd-real",
];

fn unknown_type(kind: &str) -> Fail {
    Fail::new(format!("Unknown type: {kind}"))
}

async fn current(client: &Client) -> Result<Config, Fail> {
    let call = client.handle().call::<ConfigGet>(Dest::Any, &Empty {});
    call.await.map_err(|error| Fail::of("config.get", error))
}

/// Whether a dotted name has nothing between two dots, or around one.
fn has_empty_key(name: &str) -> bool {
    name.split('.').any(str::is_empty)
}

/// The value of a dotted name, the whole configuration for the empty one.
fn find<'a>(config: &'a Value, name: &str) -> Option<&'a Value> {
    name.split('.')
        .filter(|key| !key.is_empty())
        .try_fold(config, |value, key| value.get(key))
}

/// A value as text, `None` if it is of another type.
fn typed(value: &Value, kind: &str) -> Option<String> {
    let seconds = || value.as_str().and_then(|text| types::fsd::parse(text).ok());
    let plain = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let fits = match kind {
        "any" => true,
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "real" => value.is_f64(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "fsd" => seconds().is_some(),
        "fsd-integer" => return seconds().map(|seconds| format!("{}", seconds as i64)),
        "fsd-real" => return seconds().map(|seconds| format!("{seconds:.6}")),
        _ => false,
    };
    fits.then_some(plain)
}

/// The configuration in a file or in every TOML file of a directory.
fn files(path: &str) -> Result<Value, Fail> {
    let path = match path {
        "system" => "/etc/flux/system/conf.d",
        "security" => "/etc/flux/security/conf.d",
        "imp" => "/etc/flux/imp/conf.d",
        path => path,
    };
    let io = |error: std::io::Error| Fail::of(path, Errno::from_io(&error));
    let meta = std::fs::metadata(path).map_err(io)?;
    let mut names = vec![path.to_owned()];
    if meta.is_dir() {
        names = std::fs::read_dir(path)
            .map_err(io)?
            .flatten()
            .map(|entry| entry.path().display().to_string())
            .filter(|name| name.ends_with(".toml"))
            .collect();
        names.sort();
    }
    let mut config = Value::Object(Config::new());
    for name in names {
        let text = std::fs::read_to_string(&name).map_err(io)?;
        let table = if name.ends_with(".json") {
            serde_json::from_str(&text).map_err(|error| Fail::of(&name, error))?
        } else {
            from_toml(&text).map_err(|error| Fail::of(&name, error))?
        };
        merge_into(&mut config, table);
    }
    Ok(config)
}

static BUILTIN: Parser = Parser {
    name: "flux config builtin",
    usage: "NAME",
    about: "Print compiled-in Flux configuration values",
    family: Family::G,
    opts: &[
        flag('\0', "intree", "Values for the build tree"),
        flag('\0', "installed", "Values for the installation"),
    ],
};

fn show_builtin(words: &[String]) -> i32 {
    let args = match BUILTIN.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [key] = args.words.as_slice() else {
        return BUILTIN.wrong_words();
    };
    let result = match installation::get(key) {
        Some(value) => {
            outln!("{value}");
            Ok(0)
        }
        None => Err(Fail::new(format!("{key} is invalid"))),
    };
    fail::report(PROG, result)
}

static LOAD: Parser = Parser {
    name: "flux config load",
    usage: "[PATH]",
    about: "Load configuration from standard input or a path",
    family: Family::G,
    opts: &[],
};

fn load(words: &[String]) -> i32 {
    let args = match LOAD.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.len() > 1 {
        return LOAD.wrong_words();
    }
    fail::run(PROG, async {
        let config = match args.words.first() {
            Some(path) => {
                files(path).map_err(|error| Fail::of("Error parsing config", error.text))?
            }
            None => {
                let text = std::io::read_to_string(std::io::stdin())
                    .map_err(|error| Fail::of("stdin", Errno::from_io(&error)))?;
                match serde_json::from_str(&text) {
                    Ok(value) => value,
                    Err(_) => from_toml(&text).map_err(Fail::new)?,
                }
            }
        };
        let Value::Object(config) = config else {
            return Err(Fail::new("configuration is not a table"));
        };
        let client = fail::connect_builtin().await?;
        let call = client.handle().call::<ConfigLoad>(Dest::Any, &config);
        call.await.map_err(|error| Fail::of("load", error))?;
        Ok(0)
    })
}

static RELOAD: Parser = Parser {
    name: "flux config reload",
    usage: "[OPTIONS]",
    about: "Reload broker configuration from files",
    family: Family::G,
    opts: &[flag(
        '\0',
        "follower-noop",
        "Do nothing on other ranks than 0",
    )],
};

fn reload(words: &[String]) -> i32 {
    let args = match RELOAD.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return RELOAD.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        if args.has("follower-noop") && client.rank().await?.0 > 0 {
            return Ok(0);
        }
        let call = client.handle().call::<ConfigReload>(Dest::Any, &Empty {});
        call.await.map_err(|error| Fail::of("reload", error))?;
        Ok(0)
    })
}

static SET: Parser = Parser {
    name: "flux config set",
    usage: "[--type=TYPE] NAME VALUE",
    about: "Change a value of the current configuration",
    family: Family::G,
    opts: &[arg(
        't',
        "type",
        "TYPE",
        "string, integer, real, boolean, object, array or fsd",
    )],
};

fn set(words: &[String]) -> i32 {
    let args = match SET.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [name, text] = args.words.as_slice() else {
        return SET.wrong_words();
    };
    change(name, |config| {
        let old = find(config, name).filter(|_| !has_empty_key(name));
        let kind = match (args.get("type"), old) {
            (Some(kind), _) => kind,
            (None, Some(old)) => kind_of(old),
            (None, None) => return Err(Fail::new("Type is unknown, please specify --type")),
        };
        let value = parse(kind, text)?;
        let failed = || {
            Fail::new(format!(
                "Error setting {name} in config object: {}",
                Errno::EINVAL
            ))
        };
        let (table, key) = parent(config, name, true).ok_or_else(failed)?;
        table.insert(key.to_owned(), value);
        Ok(())
    })
}

static UNSET: Parser = Parser {
    name: "flux config unset",
    usage: "NAME",
    about: "Take a value out of the current configuration",
    family: Family::G,
    opts: &[],
};

fn unset(words: &[String]) -> i32 {
    let args = match UNSET.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [name] = args.words.as_slice() else {
        return UNSET.wrong_words();
    };
    change(name, |config| {
        if has_empty_key(name) {
            let errno = Errno::EINVAL;
            return Err(Fail::new(format!(
                "Error deleting {name} from config object: {errno}"
            )));
        }
        if let Some((table, key)) = parent(config, name, false) {
            table.shift_remove(key);
        }
        Ok(())
    })
}

/// Changes the current configuration.
fn change(name: &str, edit: impl FnOnce(&mut Value) -> Result<(), Fail>) -> i32 {
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        let mut config = Value::Object(current(&client).await?);
        edit(&mut config)?;
        let Value::Object(config) = config else {
            return Err(Fail::of(name, Errno::EINVAL));
        };
        let call = client.handle().call::<ConfigLoad>(Dest::Any, &config);
        call.await
            .map_err(|error| Fail::of("Error updating config object", error))?;
        Ok(0)
    })
}

/// The table that holds a dotted name's last key, and that key. `None` if a key is empty or a
/// value is in the way; missing tables are made if asked for.
fn parent<'c, 'n>(
    config: &'c mut Value,
    name: &'n str,
    make: bool,
) -> Option<(&'c mut Config, &'n str)> {
    if has_empty_key(name) {
        return None;
    }
    let (path, key) = match name.rsplit_once('.') {
        Some((path, key)) => (Some(path), key),
        None => (None, name),
    };
    let mut table = config.as_object_mut()?;
    for part in path.into_iter().flat_map(|path| path.split('.')) {
        if make && !table.contains_key(part) {
            table.insert(part.to_owned(), Value::Object(Config::new()));
        }
        table = table.get_mut(part)?.as_object_mut()?;
    }
    Some((table, key))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Number(number) if number.is_f64() => "real",
        Value::Number(_) => "integer",
        Value::Bool(_) => "boolean",
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) | Value::Null => "string",
    }
}

/// A value of a type from text.
fn parse(kind: &str, text: &str) -> Result<Value, Fail> {
    let json = || serde_json::from_str::<Value>(text).ok();
    let (what, value) = match kind {
        // Quotes are not needed; where there are some, they are JSON's.
        "string" if text.starts_with('"') => {
            return json()
                .filter(Value::is_string)
                .ok_or_else(|| Fail::new("Error parsing string"));
        }
        "string" => return Ok(text.into()),
        "integer" => (
            "integer value",
            text.trim().parse::<i64>().ok().map(Value::from),
        ),
        "real" => (
            "real value",
            text.trim().parse::<f64>().ok().map(Value::from),
        ),
        "boolean" => ("boolean value", text.parse::<bool>().ok().map(Value::from)),
        "object" => ("json object", json().filter(Value::is_object)),
        "array" => ("json array", json().filter(Value::is_array)),
        "fsd" => {
            let duration = types::fsd::parse(text).ok();
            ("Flux Standard Duration", duration.map(|_| text.into()))
        }
        kind if TYPES.contains(&kind) => {
            return Err(Fail::new(format!(
                "Invalid type for the set subcommand: {kind}"
            )));
        }
        kind => return Err(unknown_type(kind)),
    };
    value.ok_or_else(|| Fail::new(format!("Error parsing {what}: '{text}'")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_of_the_type_asked_for() {
        for (kind, text, expect) in [
            ("string", "5", Ok(json!("5"))),
            ("string", "x\"y", Ok(json!("x\"y"))),
            ("string", "\"x\"", Ok(json!("x"))),
            ("string", "\"x", Err("Error parsing string")),
            ("integer", "5", Ok(json!(5))),
            ("integer", "1.5", Err("Error parsing integer value: '1.5'")),
            ("real", "1", Ok(json!(1.0))),
            ("boolean", "true", Ok(json!(true))),
            ("boolean", "x", Err("Error parsing boolean value: 'x'")),
            ("array", "[1]", Ok(json!([1]))),
            ("array", "{}", Err("Error parsing json array: '{}'")),
            ("object", "[]", Err("Error parsing json object: '[]'")),
            ("fsd", "5m", Ok(json!("5m"))),
            ("fsd", "x", Err("Error parsing Flux Standard Duration: 'x'")),
            ("any", "1", Err("Invalid type for the set subcommand: any")),
            ("foo", "1", Err("Unknown type: foo")),
        ] {
            let parsed = parse(kind, text).map_err(|fail| fail.text);
            assert_eq!(parsed, expect.map_err(str::to_owned), "{kind} {text}");
        }
    }

    #[test]
    fn a_dotted_name_leads_to_a_table() {
        let mut config = json!({"a": {"b": 1}});
        let key = |config: &mut Value, name, make| {
            parent(config, name, make).map(|(table, key)| (table.len(), key.to_owned()))
        };
        assert_eq!(key(&mut config, "a.b", false), Some((1, "b".to_owned())));
        assert_eq!(key(&mut config, "x.y", false), None);
        for name in ["", ".", "a..b", "a.b.c"] {
            assert_eq!(key(&mut config, name, true), None, "{name}");
        }
        assert_eq!(key(&mut config, "x.y", true), Some((0, "y".to_owned())));
        assert_eq!(config, json!({"a": {"b": 1}, "x": {}}));
    }
}
