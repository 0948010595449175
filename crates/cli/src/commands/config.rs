//! `flux config`: reading and changing the instance's configuration.

use proto::Empty;
use proto::config::{Config, ConfigGet, ConfigLoad, ConfigReload};
use rpc::Dest;
use serde_json::Value;
use types::Errno;

use crate::config::{from_toml, merge_into};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{builtin, outln};

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
        let config = match args.get("config-path") {
            Some(path) => files(path)?,
            None => {
                let client = fail::connect_builtin().await?;
                let call = client.handle().call::<ConfigGet>(Dest::Any, &Empty {});
                let config = call.await.map_err(|error| Fail::of("config.get", error))?;
                Value::Object(config)
            }
        };
        let name = args.words.first().map_or("", String::as_str);
        let found = name
            .split('.')
            .filter(|key| !key.is_empty())
            .try_fold(&config, |value, key| value.get(key));
        let Some(value) = found else {
            return match args.get("default") {
                Some(default) => {
                    outln!("{default}");
                    Ok(0)
                }
                None if args.has("quiet") => Err(Fail::silent(1)),
                None => Err(Fail::new(format!("{name} is not set"))),
            };
        };
        let text = typed(value, args.get("type").unwrap_or("any"))?
            .ok_or_else(|| wrong_type(&args, name))?;
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

/// A value as text, `None` if it is of another type.
fn typed(value: &Value, kind: &str) -> Result<Option<String>, Fail> {
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
        "fsd-integer" => return Ok(seconds().map(|seconds| format!("{}", seconds as i64))),
        "fsd-real" => return Ok(seconds().map(|seconds| format!("{seconds:.6}"))),
        other => return Err(Fail::new(format!("Unknown type: {other}"))),
    };
    Ok(fits.then_some(plain))
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
    usage: "[NAME]",
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
    let result = match args.words.first() {
        Some(key) => match builtin::get(key) {
            Some(value) => {
                outln!("{value}");
                Ok(0)
            }
            None => Err(Fail::new(format!("{key} is invalid"))),
        },
        None => {
            for key in builtin::KEYS {
                outln!("{key}={}", builtin::get(key).unwrap_or_default());
            }
            Ok(0)
        }
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
    fail::run(PROG, async {
        let config = match args.words.first() {
            Some(path) => files(path)?,
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
        call.await?;
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
