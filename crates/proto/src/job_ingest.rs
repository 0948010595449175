//! Job submission: service `job-ingest`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::JobId;

use crate::{Empty, rpc};

/// Bits of [`Submit::flags`].
pub mod flags {
    /// Allow debug events.
    pub const DEBUG: i32 = 2;
    /// Keep the job's result until it is waited for.
    pub const WAITABLE: i32 = 4;
    /// Skip the validator.
    pub const NOVALIDATE: i32 = 8;
}

/// A job to submit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submit {
    /// The signed jobspec (RFC 15).
    #[serde(rename = "J")]
    pub signed: String,
    /// 0 to 31, 16 by default.
    pub urgency: i32,
    /// See [`flags`].
    pub flags: i32,
}

/// A submitted job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submitted {
    /// Its id.
    pub id: JobId,
}

rpc! {
    /// Submits a job; answered once it is durable. Errors: `EINVAL`, `EPERM`, `EPROTO`.
    JobIngestSubmit: "job-ingest", "submit", Single, User, Submit => Submitted
}

/// The id clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clock {
    /// Milliseconds since its origin.
    pub timestamp: u64,
}

rpc! {
    /// Reads the id clock, which followers start theirs from.
    JobIngestGetinfo: "job-ingest", "getinfo", Single, Owner, Empty => Clock
}
rpc! {
    /// Reads the counters of the workers.
    JobIngestStats: "job-ingest", "stats-get", Single, User, Empty => Map<String, Value>
}
rpc! {
    /// Ends submission.
    JobIngestShutdown: "job-ingest", "shutdown", NoResponse, Owner, Empty => Empty
}
