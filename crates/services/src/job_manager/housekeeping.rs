//! Housekeeping (RFC 27): running the site's command where a job has ended.
//!
//! What is held and when it goes back is decided in [`jobs::housekeeping`]. Here the command is
//! started on each rank, its output goes to the log, and resources go to the scheduler. A scheduler
//! that is not there misses nothing: the next one is told what is still held.

use jobs::Object;
use jobs::housekeeping::{Action, Ended, Origin, Release};
use module::Severity;
use proto::job_manager::{HelloJob, HousekeepingKill};
use proto::sched::{Free, SchedFree};
use rpc::{Dest, RpcError};
use serde_json::{Map, Value, json};
use spec::ResourceSet;
use types::{Errno, IdSet, JobId, describe_signal, fsd};

use super::scripts::{self, Script};
use super::{State, now};

/// The `[job-manager.housekeeping]` table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Config {
    command: Vec<String>,
    release: Release,
    /// Whether a key was used that means nothing any more.
    deprecated: bool,
}

impl Config {
    /// Reads the table. Errors are texts for people.
    pub(super) fn parse(table: &Value, config: &Object) -> Result<Config, String> {
        const TABLE: &str = "job-manager.housekeeping";
        let Some(table) = table.as_object() else {
            return Err(format!("{TABLE}: Expected object"));
        };
        let mut parsed = Config::default();
        let mut command = None;
        let mut unknown = Vec::new();
        for (key, value) in table {
            match key.as_str() {
                "command" => {
                    let words: Option<Vec<String>> = value.as_array().and_then(|words| {
                        let words = words.iter().map(|word| word.as_str().map(str::to_owned));
                        words.collect()
                    });
                    let words = words.filter(|words| !words.is_empty());
                    command = Some(words.ok_or("error creating housekeeping command")?);
                }
                "release-after" => {
                    let text = value.as_str();
                    let text = text.ok_or(format!("{TABLE}: {key}: Expected string"))?;
                    let seconds = fsd::parse(text)
                        .map_err(|_| format!("{TABLE}.release-after FSD parse error"))?;
                    parsed.release = Release::After(seconds);
                }
                // Both concern the unit that the command may start; it reads the table itself.
                "exit-on-first-error" if value.is_boolean() => {}
                "use-systemd-unit" if value.is_boolean() => parsed.deprecated = true,
                "exit-on-first-error" | "use-systemd-unit" => {
                    return Err(format!("{TABLE}: {key}: Expected true or false"));
                }
                _ => unknown.push(key.as_str()),
            }
        }
        if !unknown.is_empty() {
            let (count, unknown) = (unknown.len(), unknown.join(", "));
            return Err(format!(
                "{TABLE}: {count} object item(s) left unpacked: {unknown}"
            ));
        }
        let imp = || {
            let imp = config.get("exec")?.get("imp")?.as_str()?;
            Some(scripts::imp_command(imp, "housekeeping"))
        };
        parsed.command = command
            .or_else(imp)
            .ok_or(format!("{TABLE} implies IMP but exec.imp is undefined"))?;
        Ok(parsed)
    }

    /// What `stats-get` says of it.
    fn to_value(&self) -> Value {
        let release: Value = match self.release {
            Release::Together => (-1).into(),
            Release::After(seconds) => seconds.into(),
        };
        json!({"release-after": release, "command": self.command.join(" ")})
    }

    /// What to tell whoever configured it.
    pub(super) fn warning(&self) -> Option<&'static str> {
        let text = "job-manager.housekeeping.use-systemd-unit is deprecated and ignored";
        self.deprecated.then_some(text)
    }
}

impl State {
    /// Says what is configured.
    pub(super) fn tell_housekeeping(&self) {
        let Some(config) = &self.config.housekeeping else {
            return self.log(Severity::Debug, "housekeeping is not configured");
        };
        self.log(Severity::Debug, "housekeeping is configured");
        if let Some(warning) = config.warning() {
            self.log(Severity::Err, warning);
        }
    }

    /// A job lets go of its resources: begins housekeeping if that is configured.
    pub(super) fn release(&mut self, origin: Origin, resources: Object) {
        let Some(config) = self.config.housekeeping.clone() else {
            return self.free(origin.id, resources, true);
        };
        let value = Value::Object(resources);
        let set = match ResourceSet::from_value(&value) {
            Ok(set) => set,
            Err(error) => {
                // The scheduler gave it; it shall see what it makes of it.
                let text = format!("housekeeping: {}: {error}", origin.id.f58());
                self.log(Severity::Err, text);
                if let Value::Object(resources) = value {
                    self.free(origin.id, resources, true);
                }
                return;
            }
        };
        let id = origin.id.0.to_string();
        let command = scripts::command(&config.command, id, origin.userid, &set.ranks());
        for (rank, node) in set.nodes() {
            let host = node.hostname.as_deref().unwrap_or_default();
            self.start_script(
                origin.id,
                Script::Housekeeping,
                (rank, host),
                command.clone(),
            );
        }
        let text = format!("housekeeping: {} started", origin.id.f58());
        self.log(Severity::Debug, text);
        self.housekeeping.begin(now(), origin, set, config.release);
    }

    /// Gives resources back to the scheduler.
    pub(super) fn free(&self, id: JobId, resources: Object, last: bool) {
        let request = Free {
            id,
            resources,
            last,
        };
        self.handle.notify::<SchedFree>(Dest::Any, &request);
    }

    /// The command has ended on a rank, or was not run.
    pub(super) fn on_housekeeping_ended(
        &mut self,
        id: JobId,
        rank: u32,
        result: &Result<i32, RpcError>,
    ) {
        let ended = match result {
            // What could not be run was told of already.
            Ok(0) | Err(_) => Ended::Well,
            Ok(status) => match status & 0x7f {
                0 => Ended::Failed,
                signal => Ended::Signaled(signal),
            },
        };
        let actions = self.housekeeping.on_ended(now(), id, rank, ended);
        self.keep_house(actions);
    }

    /// Gives back what is due.
    pub(super) fn on_housekeeping_time(&mut self) {
        let actions = self.housekeeping.on_time(now());
        self.keep_house(actions);
    }

    /// Signals commands. Errors: `EPROTO` bad ranks.
    pub(super) fn kill_housekeeping(&mut self, kill: &HousekeepingKill) -> Result<(), RpcError> {
        let ranks: Option<IdSet> = match kill.ranks.as_deref().map(str::parse) {
            None => None,
            Some(Ok(ranks)) => Some(ranks),
            Some(Err(error)) => {
                let text = format!("invalid ranks: {error}");
                return Err(RpcError::new(Errno::EPROTO, text));
            }
        };
        let engine = &self.housekeeping;
        let actions = engine.kill(kill.jobid, ranks.as_ref(), kill.signum);
        self.keep_house(actions);
        Ok(())
    }

    /// What a scheduler that starts is told of resources held here.
    pub(super) fn housekeeping_hello(&mut self, partial: bool) -> Vec<HelloJob> {
        let actions = self.housekeeping.on_hello(partial, libc::SIGTERM);
        self.keep_house(actions);
        let held = self.housekeeping.allocations().map(|held| HelloJob {
            id: held.origin.id,
            priority: held.origin.priority,
            userid: held.origin.userid,
            t_submit: held.origin.t_submit,
            free: (!held.released.is_empty()).then(|| held.released.to_string()),
        });
        held.collect()
    }

    /// What `stats-get` says of it.
    pub(super) fn housekeeping_stats(&self) -> Value {
        let running: Map<String, Value> = self
            .housekeeping
            .allocations()
            .map(|held| {
                let value = json!({
                    "t_start": held.t_start,
                    "pending": held.pending.to_string(),
                    "allocated": held.resources.ranks().to_string(),
                });
                (held.origin.id.to_string(), value)
            })
            .collect();
        let config = self.config.housekeeping.as_ref();
        json!({
            "running": running,
            "config": config.map_or_else(|| json!({}), Config::to_value),
        })
    }

    fn keep_house(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Free {
                    id,
                    resources,
                    last,
                } => {
                    self.allocated = None;
                    if let Value::Object(resources) = resources.to_value() {
                        self.free(id, resources, last);
                    }
                }
                Action::Failed {
                    id,
                    resources,
                    ended,
                } => {
                    let how = match ended {
                        Some(Ended::Signaled(signal)) => describe_signal(signal),
                        Some(_) => "nonzero exit code".to_owned(),
                        None => "multiple failure modes".to_owned(),
                    };
                    let place = place(&resources);
                    self.log(Severity::Err, format!("{place} {}: {how}", id.f58()));
                }
                Action::Kill { id, ranks, signum } => {
                    self.signal_script(id, Script::Housekeeping, &ranks, signum);
                }
                Action::Complete(id) => {
                    let text = format!("housekeeping: {} complete", id.f58());
                    self.log(Severity::Debug, text);
                }
                Action::Abandoned { id, resources } => {
                    self.allocated = None;
                    let text = format!(
                        "{} from {} will be terminated because scheduler does not support restart \
                         with partially released resources",
                        place(&resources),
                        id.f58()
                    );
                    self.log(Severity::Err, text);
                }
            }
        }
    }
}

/// Where something happened, as the log says it.
fn place(resources: &ResourceSet) -> String {
    let (hosts, ranks) = (resources.nodelist(), resources.ranks());
    format!("housekeeping: {hosts} (rank {ranks})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_strict() {
        let check = |text: &str, expect: Result<(&[&str], Release), &str>| {
            let config: Value = serde_json::from_str(text).expect("JSON");
            let config = config.as_object().cloned().expect("an object");
            let parsed = Config::parse(&config["housekeeping"], &config);
            let parsed = parsed.map(|parsed| (parsed.command, parsed.release));
            let expect = expect
                .map(|(words, release)| (words.iter().map(ToString::to_string).collect(), release))
                .map_err(str::to_owned);
            assert_eq!(parsed, expect, "{text}");
        };
        check(
            r#"{"housekeeping": {"command": ["a", "b"]}}"#,
            Ok((&["a", "b"], Release::Together)),
        );
        check(
            r#"{"housekeeping": {"release-after": "1m"}, "exec": {"imp": "/imp"}}"#,
            Ok((&["/imp", "run", "housekeeping"], Release::After(60.0))),
        );
        check(
            r#"{"housekeeping": {}}"#,
            Err("job-manager.housekeeping implies IMP but exec.imp is undefined"),
        );
        check(
            r#"{"housekeeping": {"xyz": 42}}"#,
            Err("job-manager.housekeeping: 1 object item(s) left unpacked: xyz"),
        );
        check(
            r#"{"housekeeping": {"command": ["a"], "release-after": "foo"}}"#,
            Err("job-manager.housekeeping.release-after FSD parse error"),
        );
        check(
            r#"{"housekeeping": {"command": 3}}"#,
            Err("error creating housekeeping command"),
        );
    }
}
