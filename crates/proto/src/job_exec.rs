//! Running jobs: service `job-exec` (RFC 32).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{JobId, UserId};

use crate::{Empty, rpc};

/// A job to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The job.
    pub id: JobId,
    /// Whose it is.
    pub userid: UserId,
    /// Its jobspec.
    pub jobspec: Map<String, Value>,
    /// Whether it ran before the exec service did.
    pub reattach: bool,
    /// Its resources.
    #[serde(rename = "R")]
    pub resources: Map<String, Value>,
}

/// What happened to a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartReply {
    /// The job.
    pub id: JobId,
    /// `start`, `reattached`, `release`, `finish` or `exception`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What belongs to the kind: nothing, `{ranks, final}`, `{status}` or `{severity, type, note}`.
    #[serde(default)]
    pub data: Value,
}

rpc! {
    /// Starts a job. Sent without matchtag; the answers are matched by topic and id.
    JobExecStart: "job-exec", "start", Stream, Owner, Start => StartReply
}

/// A job's new end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Expiration {
    /// The job.
    pub id: JobId,
    /// Seconds since the epoch, 0 for none.
    pub expiration: f64,
}

rpc! {
    /// Moves a running job's end.
    JobExecExpiration: "job-exec", "expiration", Single, Owner, Expiration => Empty
}

/// The shells a job cannot lose.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CriticalRanks {
    /// The job.
    pub id: JobId,
    /// Shell ranks (RFC 22).
    pub ranks: String,
}

rpc! {
    /// Sets the shells a job cannot lose; the job's owner only.
    JobExecCriticalRanks: "job-exec", "critical-ranks", Single, User, CriticalRanks => Empty
}

/// A shell that entered the start barrier.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShellBarrier {
    /// The job.
    pub id: JobId,
    /// The shell's broker rank.
    pub rank: u32,
}

rpc! {
    /// Answered when all shells of a job entered, though the request asks for no response.
    JobExecShellBarrier: "job-exec", "shell-barrier", NoResponse, User, ShellBarrier => Empty
}

/// Drives a mock job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Override {
    /// `start` or `finish`.
    pub event: String,
    /// The job.
    pub jobid: JobId,
    /// How it ends, as of `wait(2)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
}

rpc! {
    /// Starts or ends a mock job. Errors: `ENOENT`, `EPERM`, `EINVAL`.
    JobExecOverride: "job-exec", "override", Single, User, Override => Empty
}
rpc! {
    /// Reads settings and the state of every job.
    JobExecStats: "job-exec", "stats-get", Single, Owner, Empty => Map<String, Value>
}
