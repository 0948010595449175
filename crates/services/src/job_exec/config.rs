//! The `[exec]` table and the module's arguments, which share names.

use std::time::Duration;

use serde_json::{Map, Value, json};
use spec::config::wrong_type;
use types::fsd;

use super::ending::Limits;

/// What is configured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Config {
    /// The setuid helper; its presence means several users.
    pub(super) imp: Option<String>,
    /// The service that starts processes.
    pub(super) service: String,
    /// The job shell, if it is not the built-in one.
    pub(super) job_shell: Option<String>,
    /// How long shells may be apart at the first barrier.
    pub(super) barrier_timeout: Option<Duration>,
    /// How long shells may outlive the first.
    pub(super) shell_exit_timeout: Option<Duration>,
    /// How the end of a job is forced.
    pub(super) ending: Limits,
    /// The first signal to end a job.
    pub(super) term_signal: i32,
    /// Those after it.
    pub(super) kill_signal: i32,
    /// A late start beyond this part of the duration moves the end.
    pub(super) max_start_delay_percent: f64,
    /// Seconds after which systemd ends a unit, if not those of the end of a job.
    pub(super) stop_timer: Option<i64>,
    /// The signal by which it does.
    pub(super) stop_signal: i64,
    /// Whether systemd confines a unit to the job's resources.
    pub(super) constrain: bool,
    /// Whether guests may run mock jobs.
    pub(super) allow_guests: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            imp: None,
            service: "rexec".into(),
            job_shell: None,
            barrier_timeout: Some(Duration::from_secs(1800)),
            shell_exit_timeout: Some(Duration::from_secs(30)),
            ending: Limits {
                pause: Duration::from_secs(5),
                shell_kills: 8,
                time: None,
            },
            term_signal: 15,
            kill_signal: 9,
            max_start_delay_percent: 25.0,
            stop_timer: None,
            stop_signal: 10,
            constrain: false,
            allow_guests: false,
        }
    }
}

fn signal(text: &str) -> Option<i32> {
    let text = text.to_ascii_uppercase();
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let name = match text.starts_with("SIG") {
        true => text,
        false => format!("SIG{text}"),
    };
    name.parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

/// A time limit; `Some(None)` for none.
fn timeout(text: &str) -> Option<Option<Duration>> {
    if text == "none" {
        return Some(None);
    }
    let limit = fsd::parse_duration(text).ok()?;
    Some(limit.filter(|limit| !limit.is_zero()))
}

/// The value of a key of the table that is a string.
fn string(value: &Value) -> Result<&str, String> {
    let wrong = || {
        format!(
            "Error reading [exec] table: {}",
            wrong_type("string", value)
        )
    };
    value.as_str().ok_or_else(wrong)
}

impl Config {
    /// Reads a configuration, then arguments. Errors are texts for people.
    pub(super) fn parse(config: &Map<String, Value>, args: &[String]) -> Result<Config, String> {
        let mut parsed = Config::default();
        if let Some(table) = config.get("exec") {
            let table = table.as_object().ok_or("[exec] is not a table")?;
            for (key, value) in table {
                // Keys without a meaning are passed over, as other versions may know them.
                let _known = parsed.set(key, value)?;
            }
            let guests = config
                .get("exec")
                .and_then(|exec| exec.get("testexec")?.get("allow-guests")?.as_bool());
            parsed.allow_guests = guests.unwrap_or(false);
        }
        for arg in args {
            let (key, value) = arg.split_once('=').unwrap_or((arg, "true"));
            let number = match key {
                "max-kill-count" | "max-start-delay-percent" => value.parse().ok(),
                _ => None,
            };
            let value = number.map_or_else(|| Value::from(value), Value::Number);
            if !parsed.set(key, &value)? {
                return Err(format!("exec: unknown option '{key}'"));
            }
        }
        Ok(parsed)
    }

    /// Takes a setting over. Whether it is known.
    fn set(&mut self, key: &str, value: &Value) -> Result<bool, String> {
        let text = || {
            let wrong = wrong_type("string", value);
            let text = value.as_str();
            text.ok_or_else(|| format!("error reading config value exec.{key}: {wrong}"))
        };
        let wrong = |kind| format!("Error reading [exec] table: {}", wrong_type(kind, value));
        let invalid = |text: &str| format!("invalid {key}: {text}");
        match key {
            "imp" => self.imp = Some(text()?.to_owned()),
            "service" => text()?.clone_into(&mut self.service),
            "job-shell" => self.job_shell = Some(text()?.to_owned()),
            "method" => match text()? {
                "bulk-exec" => {}
                "bgexec" => return Err("exec.method 'bgexec' is not supported".to_owned()),
                other => return Err(format!("unknown exec.method '{other}'")),
            },
            "barrier-timeout" => {
                let text = text()?;
                let limit = timeout(text);
                self.barrier_timeout = limit.ok_or_else(|| {
                    format!("invalid duration '{text}' specified for exec.barrier-timeout")
                })?;
            }
            "shell-exit-timeout" => {
                let text = string(value)?;
                self.shell_exit_timeout = timeout(text).ok_or_else(|| invalid(text))?;
            }
            "kill-timeout" => {
                let text = string(value)?;
                self.ending.pause = timeout(text).flatten().ok_or_else(|| invalid(text))?;
            }
            "max-kill-timeout" => {
                let text = string(value)?;
                let limit = timeout(text).flatten().ok_or_else(|| invalid(text))?;
                self.ending.time = Some(limit);
            }
            "term-signal" => {
                let text = string(value)?;
                self.term_signal = signal(text).ok_or_else(|| invalid(text))?;
            }
            "kill-signal" => {
                let text = string(value)?;
                self.kill_signal = signal(text).ok_or_else(|| invalid(text))?;
            }
            "max-kill-count" => {
                let count = value.as_i64().ok_or_else(|| wrong("integer"))?;
                let valid = u32::try_from(count).ok().filter(|count| *count > 0);
                self.ending.shell_kills =
                    valid.ok_or_else(|| format!("invalid max-kill-count={count}"))?;
            }
            "max-start-delay-percent" => {
                let percent = value.as_f64().ok_or_else(|| wrong("real or integer"))?;
                self.max_start_delay_percent = percent;
            }
            "sdexec-stop-timer-sec" => {
                self.stop_timer = Some(value.as_i64().ok_or_else(|| wrong("integer"))?);
            }
            "sdexec-stop-timer-signal" => {
                self.stop_signal = value.as_i64().ok_or_else(|| wrong("integer"))?;
            }
            "sdexec-constrain-resources" => {
                self.constrain = value.as_bool().ok_or_else(|| wrong("true or false"))?;
            }
            "testexec" => {}
            "sdexec-properties" => {
                let table = value
                    .as_object()
                    .ok_or("exec.sdexec-properties is not a table")?;
                for (name, value) in table {
                    if !value.is_string() {
                        return Err(format!("exec.sdexec-properties.{name} is not a string"));
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The settings as `stats-get` shows them, with what it says of jobs.
    pub(super) fn stats(&self, jobs: Map<String, Value>) -> Map<String, Value> {
        let seconds = |limit: Option<Duration>| limit.map_or(0.0, |limit| limit.as_secs_f64());
        let total = self.ending.total();
        let shell = self.job_shell.clone();
        let shell = shell.unwrap_or_else(|| crate::rexec::shell::command().join(" "));
        let mut config = Map::new();
        config.insert("default_cwd".into(), "/tmp".into());
        config.insert("default_job_shell".into(), shell.into());
        if let Some(imp) = &self.imp {
            config.insert("flux_imp_path".into(), imp.as_str().into());
        }
        let rest = json!({
            "exec_service": self.service,
            "default_barrier_timeout": seconds(self.barrier_timeout),
            "shell_exit_timeout": seconds(self.shell_exit_timeout),
            "sdexec_stop_timer_sec": self.stop_timer.unwrap_or(total.ceil() as i64),
            "sdexec_stop_timer_signal": self.stop_signal,
            "sdexec_constrain_resources": i32::from(self.constrain),
        });
        if let Value::Object(rest) = rest {
            config.extend(rest);
        }
        let stats = json!({
            "method": "bulk-exec",
            "kill-timeout": self.ending.pause.as_secs_f64(),
            "term-signal": signal_name(self.term_signal),
            "kill-signal": signal_name(self.kill_signal),
            "max-kill-count": self.ending.shell_kills,
            "max-kill-timeout": self.ending.time.map_or(-1.0, |time| time.as_secs_f64()),
            "effective-max-kill-timeout": total,
            "jobs": jobs,
            "config": config,
        });
        match stats {
            Value::Object(stats) => stats,
            _ => Map::new(),
        }
    }
}

pub(super) fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(table: &Value, args: &[&str]) -> Result<Config, String> {
        let config = json!({ "exec": table });
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        Config::parse(config.as_object().expect("an object"), &args)
    }

    #[test]
    fn arguments_outweigh_the_table() {
        let table = json!({"kill-timeout": "1s", "max-kill-count": 3, "unheard-of": 1});
        let config = parse(&table, &["max-kill-count=20", "term-signal=URG"]).expect("valid");
        assert_eq!(config.ending.pause, Duration::from_secs(1));
        assert_eq!(
            (config.ending.shell_kills, config.term_signal),
            (20, libc::SIGURG)
        );
        let error = parse(&json!({}), &["unheard-of=1"]).expect_err("invalid");
        assert_eq!(error, "exec: unknown option 'unheard-of'");
    }

    #[test]
    fn systemd_waits_as_long_as_we_do() {
        let timer = |table: &Value| {
            let stats = parse(table, &[]).expect("valid").stats(Map::new());
            stats["config"]["sdexec_stop_timer_sec"].as_i64()
        };
        assert_eq!(timer(&json!({})), Some(640));
        assert_eq!(timer(&json!({"max-kill-timeout": "0.5"})), Some(1));
        let both = json!({"max-kill-timeout": "5m", "sdexec-stop-timer-sec": 3});
        assert_eq!(timer(&both), Some(3));
    }

    #[test]
    fn values_are_checked() {
        let cases = [
            (
                json!({"max-kill-timeout": 100}),
                "Error reading [exec] table: Expected string, got integer",
            ),
            (
                json!({"max-kill-timeout": "0"}),
                "invalid max-kill-timeout: 0",
            ),
            (json!({"max-kill-count": -1}), "invalid max-kill-count=-1"),
            (json!({"kill-timeout": "0s"}), "invalid kill-timeout: 0s"),
            (
                json!({"barrier-timeout": "55p"}),
                "invalid duration '55p' specified for exec.barrier-timeout",
            ),
            (json!({"term-signal": "foo"}), "invalid term-signal: foo"),
            (
                json!({"service": 1}),
                "error reading config value exec.service: Expected string, got integer",
            ),
            (json!({"method": "x"}), "unknown exec.method 'x'"),
        ];
        for (table, text) in cases {
            assert_eq!(parse(&table, &[]).expect_err("invalid"), text, "{table}");
        }
    }
}
