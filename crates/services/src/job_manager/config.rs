//! The `[job-manager]` table.

use jobs::policy::Policy;
use serde_json::{Map, Value};
use spec::config::wrong_type;
use types::fsd;

use super::{housekeeping, jobtap};

/// What is configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Config {
    /// Policy and queues.
    pub(super) policy: Policy,
    /// Seconds after which inactive jobs are forgotten.
    pub(super) age_limit: Option<f64>,
    /// How many inactive jobs are kept.
    pub(super) num_limit: Option<usize>,
    /// Whether queues are stopped when the instance restarts.
    pub(super) stop_queues: bool,
    /// Whether guests see their own jobs only.
    pub(super) private: bool,
    /// Plugins to remove and load when the module starts.
    pub(super) plugins: Vec<proto::job_manager::Jobtap>,
    /// What runs on nodes after jobs.
    pub(super) housekeeping: Option<housekeeping::Config>,
    /// All of it, for plugins that have tables of their own.
    pub(super) tables: Map<String, Value>,
}

impl Config {
    /// Reads a configuration. Errors are texts for people.
    pub(super) fn parse(config: &Map<String, Value>) -> Result<Config, String> {
        let mut parsed = Config {
            policy: Policy::parse(config)?,
            tables: config.clone(),
            ..Config::default()
        };
        parsed.private = config
            .get("access")
            .and_then(|access| access.get("private-mode")?.as_bool())
            .unwrap_or(false);
        let table = match config.get("job-manager") {
            None => return Ok(parsed),
            Some(Value::Object(table)) => table,
            Some(other) => return Err(format!("job-manager: {}", wrong_type("object", other))),
        };
        for (key, value) in table {
            match key.as_str() {
                "inactive-age-limit" => {
                    let seconds = value.as_str().and_then(|text| fsd::parse(text).ok());
                    let invalid = "job-manager.inactive-age-limit: invalid FSD";
                    parsed.age_limit = Some(seconds.ok_or(invalid)?);
                }
                "inactive-num-limit" => {
                    let number = value.as_i64().filter(|number| *number >= -1);
                    let invalid = "job-manager.inactive-num-limit: must be >= 0";
                    // -1 is no limit.
                    parsed.num_limit = usize::try_from(number.ok_or(invalid)?).ok();
                }
                "stop-queues-on-restart" => {
                    parsed.stop_queues = value.as_bool().ok_or_else(|| {
                        format!("job-manager.{key}: {}", wrong_type("true or false", value))
                    })?;
                }
                "plugins" => parsed.plugins = jobtap::parse_config(value)?,
                "housekeeping" => {
                    parsed.housekeeping = Some(housekeeping::Config::parse(value, config)?);
                }
                _ => {}
            }
        }
        Ok(parsed)
    }
}
