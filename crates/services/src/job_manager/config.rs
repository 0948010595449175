//! The `[job-manager]` table.

use jobs::policy::Policy;
use serde_json::{Map, Value};
use types::fsd;

use super::housekeeping;

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
    /// What runs on nodes after jobs.
    pub(super) housekeeping: Option<housekeeping::Config>,
}

impl Config {
    /// Reads a configuration. Errors are texts for people.
    pub(super) fn parse(config: &Map<String, Value>) -> Result<Config, String> {
        let mut parsed = Config {
            policy: Policy::parse(config)?,
            ..Config::default()
        };
        parsed.private = config
            .get("access")
            .and_then(|access| access.get("private-mode")?.as_bool())
            .unwrap_or(false);
        let Some(table) = config.get("job-manager").and_then(Value::as_object) else {
            return Ok(parsed);
        };
        for (key, value) in table {
            match key.as_str() {
                "inactive-age-limit" => {
                    let seconds = value.as_str().and_then(|text| fsd::parse(text).ok());
                    let invalid = "job-manager.inactive-age-limit: invalid FSD";
                    parsed.age_limit = Some(seconds.ok_or(invalid)?);
                }
                "inactive-num-limit" => {
                    let number = value
                        .as_u64()
                        .and_then(|number| usize::try_from(number).ok());
                    let invalid = "job-manager.inactive-num-limit: must be >= 0";
                    parsed.num_limit = Some(number.ok_or(invalid)?);
                }
                "stop-queues-on-restart" => {
                    let invalid = "job-manager.stop-queues-on-restart: must be true or false";
                    parsed.stop_queues = value.as_bool().ok_or(invalid)?;
                }
                "plugins" if !value.is_array() => {
                    return Err("[job-manager.plugins] config must be an array".to_owned());
                }
                "plugins" if value.as_array().is_some_and(Vec::is_empty) => {}
                "housekeeping" => {
                    parsed.housekeeping = Some(housekeeping::Config::parse(value, config)?);
                }
                "plugins" | "prolog" | "epilog" | "perilog" => {
                    return Err(format!(
                        "job-manager.{key} is not supported by this version"
                    ));
                }
                _ => {}
            }
        }
        Ok(parsed)
    }
}
