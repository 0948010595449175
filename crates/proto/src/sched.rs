//! The scheduler (RFC 27): services `sched` and `feasibility`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{JobId, UserId};

use crate::{Empty, rpc};

/// Kinds of [`AllocReply`].
pub mod alloc {
    /// Resources are allocated.
    pub const SUCCESS: i32 = 0;
    /// Annotations changed; more answers follow.
    pub const ANNOTATE: i32 = 1;
    /// The job can never run.
    pub const DENY: i32 = 2;
    /// The request was canceled.
    pub const CANCEL: i32 = 3;
}

/// A job that needs resources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Alloc {
    /// The job.
    pub id: JobId,
    /// Its priority.
    pub priority: u32,
    /// Whose it is.
    pub userid: UserId,
    /// When it was submitted, seconds since the epoch.
    pub t_submit: f64,
    /// Its jobspec.
    pub jobspec: Map<String, Value>,
}

/// The scheduler's word.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AllocReply {
    /// The job.
    pub id: JobId,
    /// See [`alloc`].
    #[serde(rename = "type")]
    pub kind: i32,
    /// Why it was denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What users see; `null` values delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Map<String, Value>>,
    /// The resources, on success.
    #[serde(default, rename = "R", skip_serializing_if = "Option::is_none")]
    pub resources: Option<Map<String, Value>>,
}

rpc! {
    /// Asks for resources. Sent without matchtag; answers are matched by topic and id.
    SchedAlloc: "sched", "alloc", SingleOrStream, Owner, Alloc => AllocReply
}

/// Resources given back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Free {
    /// The job.
    pub id: JobId,
    /// The resources.
    #[serde(rename = "R")]
    pub resources: Map<String, Value>,
    /// Whether they are the last of the job's.
    #[serde(default, rename = "final")]
    pub last: bool,
}

rpc! {
    /// Gives resources back.
    SchedFree: "sched", "free", NoResponse, Owner, Free => Empty
}

/// Names a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfJob {
    /// The job.
    pub id: JobId,
}

rpc! {
    /// Withdraws a request, which is then answered as canceled.
    SchedCancel: "sched", "cancel", NoResponse, Owner, OfJob => Empty
}

/// New priorities.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prioritize {
    /// Job and priority.
    pub jobs: Vec<(JobId, u32)>,
}

rpc! {
    /// Changes the priorities of pending requests.
    SchedPrioritize: "sched", "prioritize", NoResponse, Owner, Prioritize => Empty
}
rpc! {
    /// Moves a running job's end. An error refuses it.
    SchedExpiration: "sched", "expiration", Single, Owner, crate::job_exec::Expiration => Empty
}
rpc! {
    /// Reads the resources as the scheduler sees them. Older clients use it.
    SchedResourceStatus: "sched", "resource-status", Single, User, Empty
    => crate::resource::SchedStatus
}
rpc! {
    /// Reads the counters.
    SchedStats: "sched", "stats-get", Single, User, Empty => Map<String, Value>
}

/// A jobspec to check; other keys are of no matter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Feasibility {
    /// The jobspec.
    pub jobspec: Map<String, Value>,
}

rpc! {
    /// Checks whether a job could ever run. Errors: `EOVERFLOW`, `EINVAL`.
    FeasibilityCheck: "feasibility", "check", Single, Owner, Feasibility => Empty
}
