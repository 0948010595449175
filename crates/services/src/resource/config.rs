//! The `[resource]` table.

use serde_json::{Map, Value};
use spec::ResourceSet;
use spec::r::{ConfigError, VerifyConfig, VerifyMode};

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
    /// Whether to discover rather than take R from an enclosing instance.
    pub(super) rediscover: bool,
    /// Whether to follow the expiration of R in an enclosing instance.
    pub(super) update_watch: bool,
    /// How many eventlog entries are kept in memory.
    pub(super) journal_max: usize,
}

const JOURNAL_MAX: usize = 100_000;

impl Config {
    /// Reads the table. Errors name the key.
    pub(super) fn parse(config: &Map<String, Value>) -> Result<Config, String> {
        let mut parsed = Config {
            journal_max: JOURNAL_MAX,
            update_watch: true,
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
                "rediscover" => parsed.rediscover = flag()?,
                "no-update-watch" => parsed.update_watch = !flag()?,
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

/// How a rank compares what it has with its share of R.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verification {
    modes: Option<VerifyConfig>,
    /// Whether somebody asked for it, rather than it being the default.
    explicit: bool,
}

impl Verification {
    /// How to compare with R that was found by `method`; `None` not at all.
    pub(super) fn of(&self, method: &str) -> Option<VerifyConfig> {
        let applies = match method {
            "dynamic-discovery" => false,
            // What a job was given was checked by those who gave it.
            "job-info" => self.explicit,
            _ => true,
        };
        self.modes.filter(|_| applies)
    }
}

impl Config {
    /// What to verify. An instance that is being repaired runs on another host, maybe.
    pub(super) fn verification(&self, recovering: bool) -> Verification {
        Verification {
            modes: (!self.noverify && !recovering).then(|| self.verify.unwrap_or_default()),
            explicit: self.verify.is_some(),
        }
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

/// Reads `[[resource.config]]`.
fn parse_config(value: &Value) -> Result<ResourceSet, String> {
    ResourceSet::from_config(value).map_err(|error| match error {
        ConfigError::NoResources(_) => error.to_string(),
        _ => format!("error parsing [resource.config] array: {error}"),
    })
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
    fn resources_may_be_named() {
        check("{}", Ok(""));
        check(
            r#"{"resource":{"config":[{"hosts":"b[0-1]","cores":"0-1"}]}}"#,
            Ok("rank[0-1]/core[0-1] on b[0-1]"),
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
