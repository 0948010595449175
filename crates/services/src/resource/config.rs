//! The `[resource]` table.

use serde_json::{Map, Value};
use spec::ResourceSet;
use spec::r::{Children, VerifyConfig, VerifyMode};
use types::{Hostlist, IdSet};

/// The table, read.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    /// The resources, where the configuration names them.
    pub(super) resources: Option<ResourceSet>,
    /// Ranks or hosts jobs shall not use.
    pub(super) exclude: Option<String>,
    /// Whether to skip comparing what is configured with what is there.
    pub(super) noverify: bool,
    /// How to compare, where the table says.
    pub(super) verify: Option<VerifyConfig>,
    /// Whether to count all of the host, whatever this process is bound to.
    pub(super) norestrict: bool,
    /// How many eventlog entries are kept in memory.
    pub(super) journal_max: usize,
}

const JOURNAL_MAX: usize = 100_000;

impl Config {
    /// Reads the table. Errors name the key.
    pub(super) fn parse(config: &Map<String, Value>) -> Result<Config, String> {
        let mut parsed = Config {
            journal_max: JOURNAL_MAX,
            ..Config::default()
        };
        let Some(table) = config.get("resource") else {
            return Ok(parsed);
        };
        let bad = |text: String| format!("error parsing [resource] configuration: {text}");
        let table = table.as_object().ok_or_else(|| bad("not a table".into()))?;
        let mut scheduling = None;
        for (key, value) in table {
            let flag = || {
                value
                    .as_bool()
                    .ok_or_else(|| bad(format!("{key}: not a boolean")))
            };
            let text = || {
                value
                    .as_str()
                    .ok_or_else(|| bad(format!("{key}: not a string")))
            };
            match key.as_str() {
                "path" => parsed.resources = Some(read_r(text()?)?),
                "scheduling" => scheduling = Some(text()?.to_owned()),
                "config" => parsed.resources = Some(parse_config(value)?),
                "exclude" => parsed.exclude = Some(text()?.to_owned()),
                "verify" => parsed.verify = Some(parse_verify(value).map_err(bad)?),
                "noverify" => parsed.noverify = flag()?,
                "norestrict" => parsed.norestrict = flag()?,
                "rediscover" | "no-update-watch" => drop(flag()?),
                "journal-max" => {
                    parsed.journal_max = value
                        .as_u64()
                        .filter(|max| *max > 0)
                        .ok_or_else(|| bad("journal-max must be > 0".into()))?
                        as usize;
                }
                "history" => {
                    types::fsd::parse(text()?).map_err(|_| bad("history: invalid FSD".into()))?;
                }
                other => return Err(bad(format!("unknown key {other}"))),
            }
        }
        if let Some(path) = scheduling {
            let Some(resources) = &mut parsed.resources else {
                return Err(bad(
                    "resource.scheduling requires resource.path or [resource.config]".into(),
                ));
            };
            let error = |text: String| bad(format!("error loading resource.scheduling: {text}"));
            let text = std::fs::read(&path).map_err(|e| error(format!("{path}: {e}")))?;
            let value = serde_json::from_slice(&text).map_err(|e| error(format!("{path}: {e}")))?;
            resources.scheduling = Some(value);
        }
        Ok(parsed)
    }
}

/// Reads a file that holds an RFC 20 object.
pub(super) fn read_r(path: &str) -> Result<ResourceSet, String> {
    let text = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    ResourceSet::decode(&text).map_err(|error| format!("{path}: {error}"))
}

fn parse_verify(value: &Value) -> Result<VerifyConfig, String> {
    let mode = |name: &str| VerifyMode::from_name(name);
    match value {
        Value::Bool(true) => Ok(VerifyConfig::STRICT),
        Value::Bool(false) => Ok(VerifyConfig::IGNORE),
        Value::Object(table) => {
            let mut config = VerifyConfig::STRICT;
            for (kind, value) in table {
                let name = value
                    .as_str()
                    .ok_or_else(|| format!("verify.{kind} mode must be a string"))?;
                let mode = mode(name)
                    .ok_or_else(|| format!("verify.{kind}: unknown verify mode '{name}'"))?;
                match kind.as_str() {
                    "default" => config.default = mode,
                    "hostname" => config.hostname = Some(mode),
                    "core" => config.core = Some(mode),
                    "gpu" => config.gpu = Some(mode),
                    _ => return Err(format!("verify: unsupported resource type: {kind}")),
                }
            }
            Ok(config)
        }
        _ => Err("verify must be a table or boolean".into()),
    }
}

/// Reads `[[resource.config]]`. Hosts get ranks in the order they first appear.
pub(super) fn parse_config(value: &Value) -> Result<ResourceSet, String> {
    let bad = |text: String| format!("error parsing [resource.config] array: {text}");
    let entries = value.as_array().ok_or_else(|| bad("not an array".into()))?;
    let mut ranks = Hostlist::new();
    let mut set = ResourceSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let entry = entry
            .as_object()
            .ok_or_else(|| bad(format!("config[{index}]: not a table")))?;
        if let Some(key) = entry
            .keys()
            .find(|key| !["hosts", "cores", "gpus", "properties"].contains(&key.as_str()))
        {
            return Err(bad(format!("config[{index}]: unknown key {key}")));
        }
        let ids = |key: &str| match entry.get(key) {
            None => Ok(IdSet::new()),
            Some(value) => value
                .as_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| {
                    let text = value.as_str().unwrap_or_default();
                    bad(format!("config[{index}]: invalid idset {key}='{text}'"))
                }),
        };
        let text = entry
            .get("hosts")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let hosts: Hostlist = text
            .parse()
            .map_err(|_| bad(format!("config[{index}]: invalid hostlist '{text}'")))?;
        if hosts.is_empty() {
            return Err(bad(format!("config[{index}]: empty hostlist specified")));
        }
        let children = Children::new(ids("cores")?, ids("gpus")?);
        let mut here = IdSet::new();
        for host in hosts.iter() {
            let rank = match ranks.find(&host) {
                Some(rank) => rank as u32,
                None => {
                    ranks.push(&host);
                    ranks.len() as u32 - 1
                }
            };
            set.insert(rank, Some(&host), &children);
            here.insert(rank);
        }
        add_properties(&mut set, entry, &here, index).map_err(bad)?;
    }
    if set.is_empty() {
        return Err(bad("no hosts configured".into()));
    }
    let empty: Vec<_> = set
        .nodes()
        .filter(|(_, node)| node.children.is_empty())
        .filter_map(|(_, node)| node.hostname.as_deref().map(str::to_owned))
        .collect();
    if !empty.is_empty() {
        let hosts: Hostlist = empty.iter().map(String::as_str).collect();
        return Err(format!("resource.config: {hosts} assigned no resources"));
    }
    Ok(set)
}

fn add_properties(
    set: &mut ResourceSet,
    entry: &Map<String, Value>,
    ranks: &IdSet,
    index: usize,
) -> Result<(), String> {
    let Some(value) = entry.get("properties") else {
        return Ok(());
    };
    let array = || format!("config[{index}]: properties must be an array");
    for value in value.as_array().ok_or_else(array)? {
        let name = value.as_str().ok_or_else(array)?;
        set.add_property(name, ranks)
            .map_err(|_| format!("config[{index}]: invalid property \"{name}\""))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expect: Result<&str, &str>) {
        let config = serde_json::from_str(json).expect("valid JSON");
        let got = Config::parse(&config).map(|config| match config.resources {
            Some(set) => format!("{} on {}", set, set.nodelist()),
            None => String::new(),
        });
        assert_eq!(got.as_deref().map_err(String::as_str), expect, "{json}");
    }

    #[test]
    fn hosts_may_recur_and_get_ranks_as_they_appear() {
        check("{}", Ok(""));
        check(
            r#"{"resource":{"config":[{"hosts":"b[0-1]","cores":"0-1"},{"hosts":"a,b1","gpus":"0","cores":"2"}]}}"#,
            Ok("rank0/core[0-1] rank1/core[0-2],gpu0 rank2/core2,gpu0 on b[0-1],a"),
        );
    }

    #[test]
    fn bad_tables_are_refused_by_name() {
        let config = "error parsing [resource.config] array: ";
        for (json, expect) in [
            (r#"{"config":[]}"#, format!("{config}no hosts configured")),
            (
                r#"{"config":[{"hosts":"a[1"}]}"#,
                format!("{config}config[0]: invalid hostlist 'a[1'"),
            ),
            (
                r#"{"config":[{"hosts":""}]}"#,
                format!("{config}config[0]: empty hostlist specified"),
            ),
            (
                r#"{"config":[{"hosts":"a","cores":"x"}]}"#,
                format!("{config}config[0]: invalid idset cores='x'"),
            ),
            (
                r#"{"config":[{"hosts":"a","cores":"0","properties":["a&b"]}]}"#,
                format!("{config}config[0]: invalid property \"a&b\""),
            ),
            (
                r#"{"config":[{"hosts":"a"}]}"#,
                "resource.config: a assigned no resources".into(),
            ),
            (
                r#"{"foo":1}"#,
                "error parsing [resource] configuration: unknown key foo".into(),
            ),
            (
                r#"{"verify":{"core":"x"}}"#,
                "error parsing [resource] configuration: verify.core: unknown verify mode 'x'"
                    .into(),
            ),
        ] {
            check(&format!(r#"{{"resource":{json}}}"#), Err(&expect));
        }
    }
}
