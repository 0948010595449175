//! The `[exec]` table and the module's arguments, which share names.

use std::time::Duration;

use serde_json::{Map, Value, json};
use types::fsd;

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
    /// The time between steps of ending a job.
    pub(super) kill_timeout: Duration,
    /// The first signal to end a job.
    pub(super) term_signal: i32,
    /// Those after it.
    pub(super) kill_signal: i32,
    /// How many attempts are made.
    pub(super) max_kill_count: u32,
    /// A late start beyond this part of the duration moves the end.
    pub(super) max_start_delay_percent: f64,
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
            kill_timeout: Duration::from_secs(5),
            term_signal: 15,
            kill_signal: 9,
            max_kill_count: 8,
            max_start_delay_percent: 25.0,
            allow_guests: false,
        }
    }
}

fn signal(value: &Value) -> Option<i32> {
    let text = match value {
        Value::String(text) => text.to_ascii_uppercase(),
        other => return other.as_i64().map(|number| number as i32),
    };
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

fn timeout(value: &Value) -> Option<Option<Duration>> {
    match value.as_str() {
        Some("none") => Some(None),
        Some(text) => {
            let limit = fsd::parse_duration(text).ok()?;
            Some(limit.filter(|limit| !limit.is_zero()))
        }
        None => None,
    }
}

impl Config {
    /// Reads a configuration, then arguments. Errors are texts for people.
    pub(super) fn parse(config: &Map<String, Value>, args: &[String]) -> Result<Config, String> {
        let mut parsed = Config::default();
        if let Some(table) = config.get("exec") {
            let table = table.as_object().ok_or("[exec] is not a table")?;
            for (key, value) in table {
                parsed.set(key, value)?;
            }
            let guests = config
                .get("exec")
                .and_then(|exec| exec.get("testexec")?.get("allow-guests")?.as_bool());
            parsed.allow_guests = guests.unwrap_or(false);
        }
        for arg in args {
            let (key, value) = arg.split_once('=').unwrap_or((arg, "true"));
            parsed.set(key, &Value::from(value))?;
        }
        Ok(parsed)
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let wrong = || format!("error reading config value exec.{key}: invalid value {value}");
        let text = || value.as_str().map(str::to_owned).ok_or_else(wrong);
        let bare = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        match key {
            "imp" => self.imp = Some(text()?),
            "service" => self.service = text()?,
            "job-shell" => self.job_shell = Some(text()?),
            "method" => match text()?.as_str() {
                "bulk-exec" => {}
                "bgexec" => return Err("exec.method 'bgexec' is not supported".to_owned()),
                other => return Err(format!("unknown exec.method '{other}'")),
            },
            "barrier-timeout" => self.barrier_timeout = timeout(value).ok_or_else(wrong)?,
            "shell-exit-timeout" => self.shell_exit_timeout = timeout(value).ok_or_else(wrong)?,
            "kill-timeout" => {
                let limit = timeout(value).flatten();
                self.kill_timeout = limit.ok_or_else(|| format!("invalid kill-timeout: {bare}"))?;
            }
            "term-signal" => {
                let number = signal(value);
                self.term_signal = number.ok_or_else(|| format!("invalid term-signal: {bare}"))?;
            }
            "kill-signal" => {
                let number = signal(value);
                self.kill_signal = number.ok_or_else(|| format!("invalid kill-signal: {bare}"))?;
            }
            "max-kill-count" => {
                let count = value.as_u64().or_else(|| bare.parse().ok());
                let count = count.and_then(|count| u32::try_from(count).ok());
                self.max_kill_count = count.ok_or_else(wrong)?;
            }
            "max-start-delay-percent" => {
                let percent = value.as_f64().or_else(|| bare.parse().ok());
                self.max_start_delay_percent = percent.ok_or_else(wrong)?;
            }
            "max-kill-timeout"
            | "testexec"
            | "sdexec-stop-timer-sec"
            | "sdexec-stop-timer-signal"
            | "sdexec-constrain-resources" => {}
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
            other => return Err(format!("exec: unknown key or option '{other}'")),
        }
        Ok(())
    }

    /// The settings as `stats-get` shows them.
    pub(super) fn stats(&self) -> Map<String, Value> {
        let seconds = |limit: Option<Duration>| limit.map_or(0.0, |limit| limit.as_secs_f64());
        let stats = json!({
            "method": "bulk-exec",
            "kill-timeout": self.kill_timeout.as_secs_f64(),
            "max-kill-timeout": 640.0,
            "max-kill-count": self.max_kill_count,
            "term-signal": signal_name(self.term_signal),
            "kill-signal": signal_name(self.kill_signal),
            "bulk-exec": {"config": {
                "default_cwd": "/tmp",
                "default_job_shell": self.job_shell,
                "flux_imp_path": self.imp,
                "exec_service": self.service,
                "default_barrier_timeout": seconds(self.barrier_timeout),
                "shell_exit_timeout": seconds(self.shell_exit_timeout),
            }},
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
