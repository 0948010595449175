//! Commands that run by time or event: service `cron`.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Empty, rpc};

/// An entry to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Create {
    /// What triggers it: `interval`, `event` or `datetime`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is called.
    pub name: String,
    /// What it runs, as a shell has it.
    pub command: String,
    /// When: an [`Interval`], [`Topic`] or [`Datetime`] by `kind`.
    pub args: Map<String, Value>,
    /// The command's environment; the broker's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environ: Option<Map<String, Value>>,
    /// Its working directory; the broker's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// After how many runs to stop; 0 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<i64>,
    /// Where to run it; on the leader if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// How many runs to remember; 1 if absent.
    #[serde(
        default,
        rename = "task-history-count",
        skip_serializing_if = "Option::is_none"
    )]
    pub task_history_count: Option<u32>,
    /// After how many failures to stop; 0 for never.
    #[serde(
        default,
        rename = "stop-on-failure",
        skip_serializing_if = "Option::is_none"
    )]
    pub stop_on_failure: Option<u32>,
    /// After how many seconds to terminate the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
}

/// When an entry of type `interval` runs. Seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// How often; 0 for once.
    pub interval: f64,
    /// When first, if not after the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<f64>,
}

/// When an entry of type `event` runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Topic {
    /// The events' topic.
    pub topic: String,
    /// Only with every how many of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u32>,
    /// With which of them first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u32>,
    /// How many seconds are between two runs at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_interval: Option<f64>,
}

/// A field of a [`Datetime`] in a request: as in crontab(5), or a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FieldText {
    /// A number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl fmt::Display for FieldText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldText::Number(number) => number.fmt(f),
            FieldText::Text(text) => f.write_str(text),
        }
    }
}

/// When an entry of type `datetime` runs. Fields that are absent match always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datetime<T> {
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<T>,
    /// Minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minute: Option<T>,
    /// Hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hour: Option<T>,
    /// Days of the month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mday: Option<T>,
    /// Months, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<T>,
    /// Years since 1900.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub year: Option<T>,
    /// Days of the week, from 0 for Sunday.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekday: Option<T>,
}

/// An entry. Times are seconds since the epoch, 0 for never.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1.
    pub id: u64,
    /// Where it runs.
    pub rank: u32,
    /// What it is called.
    pub name: String,
    /// What it runs.
    pub command: String,
    /// After how many runs it stops; 0 for never.
    pub repeat: i64,
    /// Whether nothing triggers it.
    pub stopped: bool,
    /// What triggers it.
    #[serde(rename = "type")]
    pub kind: String,
    /// After how many seconds the command is terminated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// What happened so far.
    pub stats: Stats,
    /// When it runs.
    pub typedata: TypeData,
    /// Its runs, the last first.
    pub tasks: Vec<Task>,
}

/// What happened to an entry so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// When it was made.
    pub ctime: f64,
    /// When it was started last.
    pub starttime: f64,
    /// When its command was run last.
    pub lastrun: f64,
    /// Runs since it was started.
    pub count: i64,
    /// Failed ones since it was started.
    pub failcount: i64,
    /// Runs since it was made.
    pub total: i64,
    /// Those that went well.
    pub success: i64,
    /// Those that failed.
    pub failure: i64,
    /// Those that had to wait for the sync event.
    pub deferred: i64,
}

/// When an entry runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TypeData {
    /// Type `interval`.
    Interval {
        /// How often, in seconds.
        interval: f64,
        /// When first, in seconds.
        after: f64,
        /// When next.
        next_wakeup: f64,
    },
    /// Type `event`.
    Event {
        /// The topic.
        topic: String,
        /// With every how many of the events; 0 for all.
        nth: u32,
        /// With which of them first.
        after: u32,
        /// How many there were since the entry was started.
        counter: u64,
        /// How many seconds are between two runs at least.
        min_interval: f64,
    },
    /// Type `datetime`.
    Datetime {
        /// When next; 0 for never.
        next_wakeup: f64,
        /// The fields, as idsets.
        #[serde(flatten)]
        fields: Datetime<String>,
    },
}

/// A run of an entry's command. Times are seconds since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Where.
    pub rank: u32,
    /// The process; 0 if there is none.
    pub pid: i32,
    /// How it ended, as of `wait(2)`.
    pub status: i32,
    /// `Deferred`, `Running`, `Timeout`, `Exited`, `Failed` or `Rexec Failure`.
    pub state: String,
    /// When it was triggered.
    #[serde(rename = "create-time")]
    pub create_time: f64,
    /// Why it was not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rexec_errno: Option<i32>,
    /// Whether it took too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timedout: Option<bool>,
    /// Its exit code, or 128 and the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// When the process was asked for.
    #[serde(
        default,
        rename = "start-time",
        skip_serializing_if = "Option::is_none"
    )]
    pub start_time: Option<f64>,
    /// Since when it ran.
    #[serde(
        default,
        rename = "running-time",
        skip_serializing_if = "Option::is_none"
    )]
    pub running_time: Option<f64>,
    /// When it ended.
    #[serde(default, rename = "end-time", skip_serializing_if = "Option::is_none")]
    pub end_time: Option<f64>,
}

/// The types of entries.
pub mod kind {
    /// With an [`Interval`](super::Interval).
    pub const INTERVAL: &str = "interval";
    /// With a [`Topic`](super::Topic).
    pub const EVENT: &str = "event";
    /// With a [`Datetime`](super::Datetime).
    pub const DATETIME: &str = "datetime";
}

/// The states of a [`Task`].
pub mod task_state {
    /// Waits for the sync event.
    pub const DEFERRED: &str = "Deferred";
    /// Runs.
    pub const RUNNING: &str = "Running";
    /// Took too long.
    pub const TIMEOUT: &str = "Timeout";
    /// Went well.
    pub const EXITED: &str = "Exited";
    /// Did not.
    pub const FAILED: &str = "Failed";
    /// Was not run.
    pub const REXEC_FAILURE: &str = "Rexec Failure";
}

/// Names an entry.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Id {
    /// Its number.
    pub id: u64,
}

/// An entry to remove.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Delete {
    /// Its number.
    pub id: u64,
    /// Whether to terminate its command if that runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kill: bool,
}

/// The entries there are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct List {
    /// The entries.
    pub entries: Vec<Entry>,
}

/// How to change what runs wait for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sync {
    /// The event they wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Whether they wait for none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable: bool,
    /// How many seconds after the event they need not wait for the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_epsilon: Option<f64>,
}

/// What runs wait for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SyncState {
    /// An event.
    Event {
        /// Its topic.
        sync_event: String,
        /// How many seconds after it they need not wait for the next.
        sync_epsilon: f64,
    },
    /// Nothing.
    Disabled {
        /// Always true.
        sync_disabled: bool,
    },
}

rpc! {
    /// Makes an entry and starts it. Errors: `ENOSYS` unknown type, `EINVAL` bad fields, `EPROTO`.
    CronCreate: "cron", "create", Single, Owner, Create => Entry
}
rpc! {
    /// Removes an entry, once its command has ended. Errors: `ENOENT` no such entry.
    CronDelete: "cron", "delete", Single, Owner, Delete => Entry
}
rpc! {
    /// Starts a stopped entry. Errors: `ENOENT` no such entry, `EINVAL` not stopped.
    CronStart: "cron", "start", Single, Owner, Id => Entry
}
rpc! {
    /// Stops an entry; its command goes on. Errors: `ENOENT` no such entry, `EINVAL` stopped.
    CronStop: "cron", "stop", Single, Owner, Id => Entry
}
rpc! {
    /// Lists the entries.
    CronList: "cron", "list", Single, Owner, Empty => List
}
rpc! {
    /// Tells what runs wait for, having changed it if asked to.
    CronSync: "cron", "sync", Single, Owner, Sync => SyncState
}
