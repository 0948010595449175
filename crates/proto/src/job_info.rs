//! Job data and eventlogs (RFC 41): service `job-info`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::JobId;

use crate::log::Cancel;
use crate::{Empty, rpc};

/// Bits of [`Lookup::flags`].
pub mod lookup_flags {
    /// Values are JSON, not text.
    pub const JSON_DECODE: i32 = 1;
    /// Updates are applied to R and jobspec.
    pub const CURRENT: i32 = 2;
}

/// Bits of [`EventlogWatch::flags`].
pub mod watch_flags {
    /// Wait for an eventlog that does not exist yet.
    pub const WAITCREATE: i32 = 1;
    /// A response without payload when all there was has been sent.
    pub const INITIAL_SENTINEL: i32 = 2;
}

/// Asks for a job's data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lookup {
    /// The job.
    pub id: JobId,
    /// Keys below the job's directory.
    pub keys: Vec<String>,
    /// See [`lookup_flags`].
    pub flags: i32,
}

rpc! {
    /// Reads a job's data: `id` and every key asked for. Errors: `ENOENT`, `EPERM`, `EPROTO`.
    JobInfoLookup: "job-info", "lookup", Single, User, Lookup => Map<String, Value>
}

/// Follows an eventlog.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventlogWatch {
    /// The job.
    pub id: JobId,
    /// The key below the job's directory; `guest.` in front for the guest's.
    pub path: String,
    /// See [`watch_flags`].
    pub flags: i32,
    /// Older clients' way to say `guest.`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guest: bool,
    /// A response may carry several lines. Our own: services that do not know it send one each.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub batch: bool,
}

/// What an eventlog says next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event<'a> {
    /// The line, newline included (RFC 18); several, if [`EventlogWatch::batch`] allows it.
    pub event: Cow<'a, str>,
}

rpc! {
    /// Follows an eventlog. Errors: `ENOENT`, `EPERM`, `EPROTO`.
    JobInfoEventlogWatch: "job-info", "eventlog-watch", Stream, User,
    EventlogWatch => Event<'static>
}
rpc! {
    /// Ends a followed eventlog.
    JobInfoEventlogWatchCancel: "job-info", "eventlog-watch-cancel", NoResponse, User,
    Cancel => Empty
}

/// Names a job's R or jobspec.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Update {
    /// The job.
    pub id: JobId,
    /// `R` or `jobspec`.
    pub key: String,
    /// 0.
    pub flags: i32,
}

rpc! {
    /// Reads R or jobspec now and after each change: an object with that key.
    JobInfoUpdateWatch: "job-info", "update-watch", Stream, User, Update => Map<String, Value>
}
rpc! {
    /// Ends that.
    JobInfoUpdateWatchCancel: "job-info", "update-watch-cancel", NoResponse, User, Cancel => Empty
}
rpc! {
    /// Reads R with its updates. Older clients use it.
    JobInfoUpdateLookup: "job-info", "update-lookup", Single, User, Update => Map<String, Value>
}
rpc! {
    /// Reads the counters.
    JobInfoStats: "job-info", "stats-get", Single, Owner, Empty => Map<String, Value>
}
