//! A job as a row.

use std::cell::RefCell;
use std::collections::HashMap;

use nix::unistd::{Uid, User};
use proto::Empty;
use proto::job_list::{JobListJobStats, JobStats};
use proto::resource::{ResourceSchedStatus, SchedStatus};
use rpc::Dest;
use serde_json::{Map, Value as Json, json};
use spec::r::ResourceSet;
use types::fluid::Encoding;
use types::{JobId, Rank};

use crate::format::{Row, Value};
use crate::{signal, timefmt};

/// A job's attributes.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    info: Map<String, Json>,
    now: f64,
    instance: Option<Instance>,
}

/// What was asked of the instance a job is.
#[derive(Clone, Debug)]
struct Instance {
    stats: JobStats,
    resources: HashMap<&'static str, [usize; 3]>,
}

const STATES: [(i64, &str, &str, &str); 7] = [
    (1, "NEW", "N", "🎁"),
    (2, "DEPEND", "D", "🛑"),
    (4, "PRIORITY", "P", "🚦"),
    (8, "SCHED", "S", "📅"),
    (16, "RUN", "R", "🏃"),
    (32, "CLEANUP", "C", "🗑"),
    (64, "INACTIVE", "I", "💀"),
];

const RESULTS: [(i64, &str, &str, &str); 4] = [
    (1, "COMPLETED", "CD", "😀"),
    (2, "FAILED", "F", "💩"),
    (4, "CANCELED", "CA", "💥"),
    (8, "TIMEOUT", "TO", "⌛"),
];

const PENDING: i64 = 14;
const INACTIVE: i64 = 64;

thread_local! {
    static USERS: RefCell<HashMap<u32, String>> = RefCell::default();
}

/// A user's name, or the number if there is none.
pub(crate) fn username(uid: u32) -> String {
    USERS.with_borrow_mut(|users| {
        users
            .entry(uid)
            .or_insert_with(|| match User::from_uid(Uid::from_raw(uid)) {
                Ok(Some(user)) => user.name,
                _ => uid.to_string(),
            })
            .clone()
    })
}

impl Job {
    /// The state of jobs that run.
    pub(crate) const RUN: i64 = 16;

    /// A job from what the service tells of it.
    pub(crate) fn new(info: Map<String, Json>) -> Job {
        Job {
            info,
            now: timefmt::now(),
            instance: None,
        }
    }

    /// The job's id.
    pub(crate) fn id(&self) -> JobId {
        JobId(
            self.info
                .get("id")
                .and_then(Json::as_u64)
                .unwrap_or_default(),
        )
    }

    /// A number among what is told of it.
    pub(crate) fn int(&self, key: &str) -> Option<i64> {
        self.info.get(key)?.as_i64()
    }

    fn float(&self, key: &str) -> f64 {
        self.info
            .get(key)
            .and_then(Json::as_f64)
            .unwrap_or_default()
    }

    /// A text among what is told of it, empty if there is none.
    pub(crate) fn str(&self, key: &str) -> &str {
        self.info
            .get(key)
            .and_then(Json::as_str)
            .unwrap_or_default()
    }

    /// The job's owner.
    pub(crate) fn userid(&self) -> Option<i64> {
        self.int("userid")
    }

    fn state(&self) -> i64 {
        self.int("state").unwrap_or_default()
    }

    /// Whether it runs.
    pub(crate) fn is_running(&self) -> bool {
        self.state() == Job::RUN
    }

    /// Whether it has ended.
    pub(crate) fn is_inactive(&self) -> bool {
        self.state() == INACTIVE
    }

    fn result(&self) -> i64 {
        self.int("result").unwrap_or_default()
    }

    /// Where the instance is that the job is, if it is one.
    pub(crate) fn uri(&self) -> Option<String> {
        let uri = self.info.get("annotations")?.get("user")?.get("uri")?;
        uri.as_str().map(str::to_owned)
    }

    /// The colour of its line.
    pub(super) fn color(&self) -> Option<&'static str> {
        match self.result() {
            1 => Some("\x1b[01;32m"),
            2 | 8 => Some("\x1b[01;31m"),
            4 => Some("\x1b[37m"),
            _ if self.uri().is_some() => Some("\x1b[01;34m"),
            _ => None,
        }
    }

    /// The letter of its state.
    pub(crate) fn state_letter(&self) -> &'static str {
        self.state_text(|entry| entry.2)
    }

    fn state_text(
        &self,
        which: fn(&(i64, &'static str, &'static str, &'static str)) -> &'static str,
    ) -> &'static str {
        let state = self.state();
        STATES
            .iter()
            .find(|entry| entry.0 == state)
            .map_or("", which)
    }

    fn result_text(
        &self,
        which: fn(&(i64, &'static str, &'static str, &'static str)) -> &'static str,
    ) -> &'static str {
        let result = self.result();
        RESULTS
            .iter()
            .find(|entry| entry.0 == result)
            .map_or("", which)
    }

    fn status_text(
        &self,
        which: fn(&(i64, &'static str, &'static str, &'static str)) -> &'static str,
    ) -> &'static str {
        if self.state() & INACTIVE == 0 {
            self.state_text(which)
        } else {
            self.result_text(which)
        }
    }

    /// Seconds it ran so far.
    pub(crate) fn runtime(&self) -> f64 {
        let start = self.float("t_run");
        if start == 0.0 {
            return 0.0;
        }
        let end = self.float("t_cleanup");
        if end > 0.0 {
            end - start
        } else {
            self.now - start
        }
    }

    fn remaining(&self) -> f64 {
        let expiration = self.float("expiration");
        if self.state() != Job::RUN || expiration == 0.0 {
            return 0.0;
        }
        (expiration - self.now).max(0.0)
    }

    fn returncode(&self) -> Value {
        if self.state() != INACTIVE {
            return "".into();
        }
        match self.int("waitstatus") {
            Some(status) => match signal::killed_by(status as i32) {
                Some(signal) => Value::Int(-i64::from(signal)),
                None => Value::Int((status >> 8) & 0xff),
            },
            None => match self.result() {
                4 => Value::Int(-128),
                2 => Value::Int(1),
                _ => "".into(),
            },
        }
    }

    /// What the job waits for, as shown.
    fn dependencies(&self) -> Vec<String> {
        let list = self.info.get("dependencies").and_then(Json::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .map(|text| match text.strip_prefix("begin-time=") {
                Some(time) => begin_time(time).unwrap_or_else(|| text.to_owned()),
                None => text.to_owned(),
            })
            .collect()
    }

    fn annotation(&self, path: &str) -> Value {
        let mut value = match self.info.get("annotations") {
            Some(value) => value,
            None => return Value::Missing,
        };
        for name in path.split('.').filter(|name| !name.is_empty()) {
            match value.get(name) {
                Some(inner) => value = inner,
                None => return Value::Missing,
            }
        }
        match value {
            Json::Object(map) if map.is_empty() => Value::Missing,
            value => Value::from_json(value),
        }
    }

    fn contextual_info(&self) -> String {
        match self.state() {
            4 => "priority-wait".to_owned(),
            2 => format!("depends:{}", self.dependencies().join(",")),
            8 => {
                if let Some(eta) = self
                    .info
                    .get("annotations")
                    .and_then(|annotations| annotations["sched"]["t_estimate"].as_f64())
                {
                    let wait = eta - self.now;
                    return if wait <= 0.0 {
                        "eta:now".to_owned()
                    } else {
                        format!("eta:{}", types::fsd::format_scripted(wait))
                    };
                }
                if self.int("urgency") == Some(0) {
                    "held".to_owned()
                } else if self.int("priority") == Some(0) {
                    "priority-hold".to_owned()
                } else {
                    String::new()
                }
            }
            _ => self.str("nodelist").to_owned(),
        }
    }

    fn inactive_reason(&self) -> String {
        if self.state() != INACTIVE {
            return String::new();
        }
        let note = self.str("exception_note");
        match self.result() {
            4 if note.is_empty() => return "Canceled".to_owned(),
            4 => return format!("Canceled: {note}"),
            8 => return "Timeout".to_owned(),
            _ => {}
        }
        let occurred = self.info.get("exception_occurred") == Some(&json!(true));
        let kind = self.str("exception_type");
        if occurred && self.int("exception_severity") == Some(0) && kind != "exec" {
            return match note {
                "" => format!("Exception: type={kind}"),
                note => format!("Exception: type={kind} note={note}"),
            };
        }
        let Some(status) = self.int("waitstatus") else {
            return match note {
                "" => String::new(),
                note => format!("Exception: type={kind} note={note}"),
            };
        };
        match signal::exit_code(status as i32) {
            126 => "Command invoked cannot execute".to_owned(),
            127 => "command not found".to_owned(),
            128 => "Invalid argument to exit".to_owned(),
            code if code > 128 => signal::describe(code - 128),
            code => format!("Exit {code}"),
        }
    }

    /// Connects to the instance the job is; `None` if it is none or cannot be reached.
    pub(crate) async fn open_instance(&self) -> Option<client::Client> {
        let uri = self.uri().filter(|_| self.is_running())?;
        // The job says how it is reached from other hosts, which this may be none of.
        let uri = crate::resolve::nearest(&uri).ok()?;
        client::open(Some(&uri)).await.ok()
    }

    /// Asks the instance the job is. Instances that cannot be asked show nothing.
    pub(super) async fn query_instance(&mut self) {
        if let Some(client) = self.open_instance().await {
            self.ask_instance(&client).await;
        }
    }

    /// Asks the instance the job is, over a connection to it.
    pub(crate) async fn ask_instance(&mut self, client: &client::Client) {
        let stats = client
            .handle()
            .call::<JobListJobStats>(Dest::Any, &Empty {});
        let resources = client
            .handle()
            .call::<ResourceSchedStatus>(Dest::Rank(Rank::LEADER), &Empty {});
        let (Ok(stats), Ok(resources)) = (stats.await, resources.await) else {
            return;
        };
        self.instance = Some(Instance {
            stats,
            resources: counts(&resources),
        });
    }

    fn instance_field(&self, name: &str) -> Value {
        let Some(instance) = &self.instance else {
            return Value::Missing;
        };
        let all = &instance.stats.all;
        let states = &all.job_states;
        let failed = all.failed + all.canceled + all.timeout;
        let pending = states.depend + states.priority + states.sched;
        let running = states.run + states.cleanup;
        let share = |part: usize, whole: usize| {
            if whole == 0 {
                Value::Missing
            } else {
                Value::Float(part as f64 / whole as f64)
            }
        };
        let count = |set: &str| instance.resources.get(set).copied().unwrap_or_default();
        match name {
            "stats" => Value::Str(format!(
                "PD:{pending} R:{running} CD:{} F:{failed}",
                all.successful
            )),
            "stats.total" => Value::Int(states.total),
            "stats.pending" => Value::Int(pending),
            "stats.running" => Value::Int(running),
            "stats.successful" => Value::Int(all.successful),
            "stats.failed" => Value::Int(failed),
            "utilization" => share(count("allocated")[1], count("all")[1]),
            "gpu_utilization" => share(count("allocated")[2], count("all")[2]),
            "progress" => share(
                usize::try_from(states.inactive).unwrap_or_default(),
                usize::try_from(states.total).unwrap_or_default(),
            ),
            _ => {
                let Some((set, kind)) = name
                    .strip_prefix("resources.")
                    .and_then(|rest| rest.split_once('.'))
                else {
                    return Value::Missing;
                };
                let numbers = count(set);
                match kind {
                    "nnodes" => numbers[0].into(),
                    "ncores" => numbers[1].into(),
                    "ngpus" => numbers[2].into(),
                    _ => Value::Missing,
                }
            }
        }
    }

    /// The job as `--json` shows it.
    pub(super) fn to_json(&self) -> Json {
        let mut out = Map::new();
        let put_time = |key: &str, out: &mut Map<String, Json>| {
            if self.float(key) != 0.0 {
                out.insert(key.to_owned(), json!(self.float(key)));
            }
        };
        for key in [
            "t_depend",
            "t_priority",
            "t_sched",
            "t_run",
            "t_cleanup",
            "t_inactive",
        ] {
            put_time(key, &mut out);
        }
        let copy = |keys: &[&str], out: &mut Map<String, Json>| {
            for key in keys {
                if let Some(value) = self.info.get(*key).filter(|value| **value != json!("")) {
                    out.insert((*key).to_owned(), value.clone());
                }
            }
        };
        copy(&["duration"], &mut out);
        put_time("expiration", &mut out);
        copy(
            &[
                "name", "cwd", "queue", "project", "bank", "ntasks", "ncores", "nnodes",
                "priority", "ranks", "nodelist", "success",
            ],
            &mut out,
        );
        if self.info.contains_key("result") {
            out.insert("result".into(), self.result_text(|entry| entry.1).into());
        }
        copy(&["waitstatus"], &mut out);
        out.insert("id".into(), json!(self.id().0));
        put_time("t_submit", &mut out);
        if self.remaining() != 0.0 {
            out.insert("t_remaining".into(), json!(self.remaining()));
        }
        out.insert("state".into(), self.state_text(|entry| entry.1).into());
        if let Some(uid) = self.userid() {
            out.insert("username".into(), username(uid as u32).into());
        }
        copy(&["userid", "urgency"], &mut out);
        if self.runtime() != 0.0 {
            out.insert("runtime".into(), json!(self.runtime()));
        }
        out.insert("status".into(), self.status_text(|entry| entry.1).into());
        if let Value::Int(code) = self.returncode() {
            out.insert("returncode".into(), json!(code));
        }
        out.insert("dependencies".into(), json!(self.dependencies()));
        out.insert("jobid".into(), self.id().to_string().into());
        let mut annotations = self.info.get("annotations").cloned().unwrap_or(json!({}));
        if let Some(user) = annotations.get_mut("user").and_then(Json::as_object_mut) {
            user.remove("uri");
            if user.is_empty()
                && let Some(map) = annotations.as_object_mut()
            {
                map.remove("user");
            }
        }
        out.insert("annotations".into(), annotations);
        let occurred = self.info.get("exception_occurred") == Some(&json!(true));
        out.insert(
            "exception".into(),
            if occurred {
                json!({
                    "occurred": true,
                    "severity": self.int("exception_severity"),
                    "type": self.str("exception_type"),
                    "note": self.str("exception_note"),
                })
            } else {
                json!({ "occurred": false })
            },
        );
        if let Some(uri) = self.uri() {
            out.insert("uri".into(), uri.into());
        }
        out.into()
    }
}

/// Nodes, cores and GPUs of each set of resources.
fn counts(status: &SchedStatus) -> HashMap<&'static str, [usize; 3]> {
    let set = |value: &Json| ResourceSet::from_value(value).unwrap_or_default();
    let (all, down, allocated) = (set(&status.all), set(&status.down), set(&status.allocated));
    let up = all.difference(&down);
    let free = up.difference(&allocated);
    [
        ("all", all),
        ("down", down),
        ("allocated", allocated),
        ("up", up),
        ("free", free),
    ]
    .into_iter()
    .map(|(name, set)| (name, [set.nnodes(), set.count("core"), set.count("gpu")]))
    .collect()
}

/// `begin@HH:MM[:SS]` today, else with the day in front.
fn begin_time(text: &str) -> Option<String> {
    let seconds: f64 = text.parse().ok()?;
    let time = if timefmt::strftime("%S", seconds) == "00" {
        timefmt::strftime("%H:%M", seconds)
    } else {
        timefmt::strftime("%H:%M:%S", seconds)
    };
    let day = timefmt::strftime("%b%d", seconds);
    Some(
        if timefmt::strftime("%F", seconds) == timefmt::strftime("%F", timefmt::now()) {
            format!("begin@{time}")
        } else {
            format!("begin@{day}-{time}")
        },
    )
}

impl Row for Job {
    fn field(&self, name: &str) -> Result<Value, String> {
        let text = |text: &str| Ok(Value::Str(text.to_owned()));
        let id = |encoding| Ok(Value::Str(self.id().encode(encoding)));
        match name {
            "id" => Ok(Value::Id(self.id())),
            "id.dec" => Ok(Value::Int(i64::try_from(self.id().0).unwrap_or(i64::MAX))),
            "id.f58" => text(&self.id().to_string()),
            "id.f58plain" => id(Encoding::F58Plain),
            "id.hex" => id(Encoding::Hex),
            "id.dothex" => id(Encoding::DotHex),
            "id.kvs" => id(Encoding::Kvs),
            "id.words" => id(Encoding::Words),
            "id.emoji" => id(Encoding::Emoji),
            "username" => match self.userid() {
                Some(uid) => text(&username(uid as u32)),
                None => text(""),
            },
            "state" => text(self.state_text(|entry| entry.1)),
            "state_single" => text(self.state_text(|entry| entry.2)),
            "state_emoji" => text(self.state_text(|entry| entry.3)),
            "result" => text(self.result_text(|entry| entry.1)),
            "result_abbrev" => text(self.result_text(|entry| entry.2)),
            "result_emoji" if self.result() == 0 => text("\u{3000}"),
            "result_emoji" => text(self.result_text(|entry| entry.3)),
            "status" => text(self.status_text(|entry| entry.1)),
            "status_abbrev" => text(self.status_text(|entry| entry.2)),
            "status_emoji" => text(self.status_text(|entry| entry.3)),
            "runtime" => Ok(Value::Float(self.runtime())),
            "t_remaining" => Ok(Value::Float(self.remaining())),
            "returncode" => Ok(self.returncode()),
            "contextual_time" if self.state() & PENDING != 0 => {
                Ok(Value::Float(self.float("duration")))
            }
            "contextual_time" => Ok(Value::Float(self.runtime())),
            "contextual_info" => text(&self.contextual_info()),
            "inactive_reason" => text(&self.inactive_reason()),
            "dependencies" => text(&self.dependencies().join(",")),
            "exception.occurred" => Ok(match self.info.get("exception_occurred") {
                Some(value) => Value::from_json(value),
                None => "".into(),
            }),
            "annotations" => Ok(self.annotation("")),
            "uri" | "uri.local" => match self.uri() {
                Some(uri) => {
                    let local = (name == "uri.local").then_some(true);
                    let local = local.or(crate::resolve::Options::from_env().local);
                    let uri = crate::resolve::localized(&uri, local);
                    text(&uri.map_err(|failure| failure.text)?)
                }
                None if name == "uri" => Ok(Value::None),
                None => Err("'NoneType' object has no attribute 'local'".to_owned()),
            },
            _ => {
                if let Some(path) = name.strip_prefix("annotations.") {
                    return Ok(self.annotation(path));
                }
                if let Some(field) = name.strip_prefix("instance.") {
                    return Ok(self.instance_field(field));
                }
                if name.starts_with("sched") || name == "user" || name.starts_with("user.") {
                    return Ok(self.annotation(name));
                }
                let key = name.replace("exception.", "exception_");
                let is_time = key.starts_with("t_") || key == "duration" || key == "expiration";
                Ok(match self.info.get(&key) {
                    Some(value) if is_time => Value::Float(value.as_f64().unwrap_or_default()),
                    Some(value) => Value::from_json(value),
                    None if is_time => Value::Float(0.0),
                    None => "".into(),
                })
            }
        }
    }
}
