//! Prolog and epilog: their tables, and what [`jobs::perilog`] wants done.

use jobs::Object;
use jobs::perilog::{Kind, Settings};
use module::Severity;
use proto::broker::{Monitor, StateMonitor};
use proto::resource::{Drain, ResourceDrain};
use regex_lite::Regex;
use rpc::{Dest, RpcError};
use serde_json::Value;
use spec::config::wrong_type;
use types::{Errno, IdSet, JobId, Rank, fsd};

use super::scripts::{self, Script};
use super::{Posted, State};

/// How long a prolog may take where nothing is said, in seconds.
const PROLOG_TIMEOUT: f64 = 1800.0;
/// How long either may take to end once told to, in seconds.
const KILL_TIMEOUT: f64 = 60.0;
/// The broker's state in which jobs are ended, and those after it.
const CLEANUP: i32 = 6;

/// The `[job-manager]` tables `prolog`, `epilog` and `perilog`. They mean something only to
/// `perilog.so`, and are read only where that is loaded.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    prolog: Option<Settings>,
    epilog: Option<Settings>,
    /// Lines that are not logged.
    ignore: Vec<Regex>,
}

impl Config {
    /// Reads the tables. Errors are texts for people.
    pub(super) fn parse(config: &Object) -> Result<Config, String> {
        let table = |name: &str| config.get("job-manager")?.get(name);
        let settings = |kind: Kind| {
            let name = kind.name();
            table(name)
                .map(|table| parse_settings(kind, table, config))
                .transpose()
                .map_err(|text| format!("[job-manager.{name}]: {text}"))
        };
        Ok(Config {
            prolog: settings(Kind::Prolog)?,
            epilog: settings(Kind::Epilog)?,
            ignore: table("perilog")
                .and_then(|table| table.get("log-ignore"))
                .map_or(Ok(Vec::new()), parse_ignored)
                .map_err(|text| {
                    format!("[job-manager.perilog]: error parsing log-ignore: {text}")
                })?,
        })
    }

    /// Whether a line of a command's output is not to be logged.
    pub(super) fn is_ignored(&self, line: &str) -> bool {
        self.ignore.iter().any(|pattern| pattern.is_match(line))
    }
}

fn parse_ignored(value: &Value) -> Result<Vec<Regex>, String> {
    let Value::Array(patterns) = value else {
        return Err("not an array".to_owned());
    };
    let compile = |pattern: &Value| {
        let pattern = pattern.as_str();
        let pattern = pattern.ok_or("all entries must be a string value")?;
        Regex::new(pattern).map_err(|_| format!("Failed to compile regex: {pattern}"))
    };
    patterns.iter().map(compile).collect()
}

fn parse_settings(kind: Kind, table: &Value, config: &Object) -> Result<Settings, String> {
    let name = kind.name();
    let Value::Object(table) = table else {
        return Err(wrong_type("object", table));
    };
    let is_prolog = kind == Kind::Prolog;
    let mut command = None;
    let mut settings = Settings {
        command: Vec::new(),
        per_rank: false,
        timeout: is_prolog.then_some(PROLOG_TIMEOUT),
        kill_timeout: KILL_TIMEOUT,
        cancel_on_exception: is_prolog,
    };
    let mut unknown = Vec::new();
    for (key, value) in table {
        let switch = || value.as_bool().ok_or(wrong_type("true or false", value));
        match key.as_str() {
            "command" => command = Some(parse_command(name, value)?),
            "timeout" => {
                let text = value.as_str().ok_or(wrong_type("string", value))?;
                let seconds = fsd::parse(text).ok().filter(|seconds| *seconds >= 0.0);
                let seconds = seconds.ok_or(format!("invalid {name} timeout"))?;
                settings.timeout = (seconds > 0.0 && seconds.is_finite()).then_some(seconds);
            }
            "kill-timeout" => {
                let seconds = value.as_f64().ok_or(wrong_type("real or integer", value))?;
                if seconds < 0.0 {
                    return Err(format!("invalid {name} kill-timeout"));
                }
                settings.kill_timeout = seconds;
            }
            "per-rank" => settings.per_rank = switch()?,
            "cancel-on-exception" => settings.cancel_on_exception = switch()?,
            // It concerns the unit that the command may start; that reads the table itself.
            "exit-on-first-error" => drop(switch()?),
            _ => unknown.push(key.as_str()),
        }
    }
    if !unknown.is_empty() {
        let (count, unknown) = (unknown.len(), unknown.join(", "));
        return Err(format!("{count} object item(s) left unpacked: {unknown}"));
    }
    let imp = || {
        let imp = config.get("exec")?.get("imp")?.as_str()?;
        Some(scripts::imp_command(imp, name))
    };
    settings.command = command
        .or_else(imp)
        .ok_or("no command specified and exec.imp not defined")?;
    Ok(settings)
}

fn parse_command(name: &str, value: &Value) -> Result<Vec<String>, String> {
    let Value::Array(words) = value else {
        return Err("command must be an array".to_owned());
    };
    let words = words.iter().map(|word| word.as_str().map(str::to_owned));
    let words: Option<Vec<String>> = words.collect();
    words
        .filter(|words| !words.is_empty())
        .ok_or(format!("malformed {name} command"))
}

impl State {
    /// Has the engine run what a configuration says. Errors are texts for people.
    pub(super) fn configure_perilog(&mut self, config: &Object) -> Result<(), String> {
        let parsed = Config::parse(config)?;
        let (prolog, epilog) = (parsed.prolog.clone(), parsed.epilog.clone());
        self.jobs.configure_perilog(&self.hostname, prolog, epilog);
        self.perilog = parsed;
        Ok(())
    }

    /// Follows the broker's state: when the instance ends, nothing more is begun.
    pub(super) fn watch_broker(&self) {
        let request = Monitor {
            last: Some(CLEANUP),
        };
        let mut states = self
            .handle
            .stream::<StateMonitor>(Dest::Rank(Rank::LEADER), &request);
        let posts = self.posts.clone();
        tokio::task::spawn_local(async move {
            while let Ok(Some(found)) = states.next().await {
                if found.state >= CLEANUP {
                    // The module may have ended before.
                    let _ended = posts.send(Posted::Cleanup);
                    return;
                }
            }
        });
    }

    pub(super) fn run_script(&mut self, script: &jobs::perilog::Script) {
        let all = script.resources.ranks();
        let id = script.id.f58();
        let command = scripts::command(&script.command, id, script.userid, &all);
        for rank in script.ranks.iter() {
            let nodes = script.resources.copy_ranks(&[rank].into_iter().collect());
            let host = match nodes.nodelist().iter().next() {
                Some(host) => host,
                None => self.hostname.clone(),
            };
            let kind = Script::Perilog(script.kind);
            self.start_script(script.id, kind, (rank, &host), command.clone());
        }
    }

    /// A command has ended, or was not run.
    pub(super) fn on_perilog_ended(
        &mut self,
        id: JobId,
        kind: Kind,
        rank: u32,
        result: &Result<i32, RpcError>,
    ) {
        let status = match result {
            Ok(status) => *status,
            // A broker that is gone is told of by who finds that out.
            Err(error) if error.errno == Errno::EHOSTUNREACH => 0,
            Err(error) if error.errno == Errno::EACCES => 126 << 8,
            Err(_) => 127 << 8,
        };
        self.with_jobs(|jobs, now, out| jobs.on_script_ended(now, id, kind, rank, status, out));
    }

    /// A command does not end. It is left alone.
    pub(super) fn on_overdue(&mut self, id: JobId, kind: Kind) {
        self.leave_script(id, Script::Perilog(kind));
        let (id, name) = (id.f58(), kind.name());
        let text = format!("{id}: timed out waiting for SIGTERM to terminate {name}");
        self.log(Severity::Err, text);
    }

    /// Takes ranks out of use before a job goes on.
    pub(super) fn drain(&self, id: JobId, kind: Kind, ranks: &IdSet, reason: String) {
        let request = Drain {
            targets: ranks.to_list(),
            reason: Some(reason),
            mode: Some("update".into()),
        };
        let call = self
            .handle
            .call::<ResourceDrain>(Dest::Rank(Rank::LEADER), &request);
        let (posts, host) = (self.posts.clone(), self.host.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = call.await {
                let text = format!("{}: drain: {error}", id.f58());
                host.log(Severity::Err, "job-manager", &text);
            }
            // The module may have ended.
            let _ended = posts.send(Posted::Drained(id, kind));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(config: &Value) -> Result<Config, String> {
        Config::parse(config.as_object().expect("an object"))
    }

    #[test]
    fn tables_have_defaults() {
        let config = parse(&json!({
            "exec": {"imp": "/imp"},
            "job-manager": {
                "prolog": {"per-rank": true},
                "epilog": {"command": ["a", "b"], "timeout": "1m", "exit-on-first-error": true},
                "perilog": {"log-ignore": ["^foo:.*"]},
            },
        }))
        .expect("valid");
        let prolog = config.prolog.as_ref().expect("configured");
        assert_eq!(prolog.command, ["/imp", "run", "prolog"]);
        assert_eq!(prolog.timeout, Some(1800.0));
        assert!(prolog.per_rank && prolog.cancel_on_exception);
        let epilog = config.epilog.as_ref().expect("configured");
        assert_eq!(epilog.command, ["a", "b"]);
        assert_eq!((epilog.timeout, epilog.kill_timeout), (Some(60.0), 60.0));
        assert!(!epilog.per_rank && !epilog.cancel_on_exception);
        assert!(config.is_ignored("foo: x") && !config.is_ignored("bar: foo: x"));
    }

    #[test]
    fn no_time_is_no_limit() {
        for timeout in ["0", "infinity"] {
            let table = json!({"prolog": {"command": ["a"], "timeout": timeout}});
            let config = parse(&json!({ "job-manager": table })).expect("valid");
            assert_eq!(
                config.prolog.expect("configured").timeout,
                None,
                "{timeout}"
            );
        }
    }

    #[test]
    fn tables_are_strict() {
        let imp = "no command specified and exec.imp not defined";
        let cases = [
            (
                json!({"prolog": {"command": "foo"}}),
                "prolog",
                "command must be an array",
            ),
            (
                json!({"prolog": {"command": [1]}}),
                "prolog",
                "malformed prolog command",
            ),
            (
                json!({"prolog": {"command": []}}),
                "prolog",
                "malformed prolog command",
            ),
            (json!({"prolog": {}}), "prolog", imp),
            (
                json!({"epilog": {"timeout": "5p"}}),
                "epilog",
                "invalid epilog timeout",
            ),
            (
                json!({"epilog": {"kill-timeout": -1}}),
                "epilog",
                "invalid epilog kill-timeout",
            ),
            (
                json!({"prolog": {"command": ["a"], "foo": 1}}),
                "prolog",
                "1 object item(s) left unpacked: foo",
            ),
            (
                json!({"prolog": 1}),
                "prolog",
                "Expected object, got integer",
            ),
            (
                json!({"perilog": {"log-ignore": "x"}}),
                "perilog",
                "error parsing log-ignore: not an array",
            ),
            (
                json!({"perilog": {"log-ignore": ["["]}}),
                "perilog",
                "error parsing log-ignore: Failed to compile regex: [",
            ),
        ];
        for (table, name, text) in cases {
            let error = parse(&json!({ "job-manager": table })).expect_err("invalid");
            assert_eq!(error, format!("[job-manager.{name}]: {text}"));
        }
    }
}
