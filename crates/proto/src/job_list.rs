//! Listing jobs (RFC 43): service `job-list`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::JobId;

use crate::{Empty, rpc};

/// A job's attributes by name.
pub type Job = Map<String, Value>;

/// Which jobs, and what of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct List {
    /// At most this many; 0 for all.
    pub max_entries: i64,
    /// Attribute names, or `all`.
    pub attrs: Vec<String>,
    /// Only jobs that became inactive after this time, seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<f64>,
    /// An RFC 31 constraint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Value>,
    /// Older form: a user, -1 for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userid: Option<i64>,
    /// Older form: state bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub states: Option<i32>,
    /// Older form: result bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<i32>,
    /// Older form: a job name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Older form: a queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
}

/// Jobs; in a stream one a response.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Jobs {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// 1 in the first response of a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
}

rpc! {
    /// Lists jobs: pending, running, inactive. Errors: `EPROTO`, `EINVAL`.
    JobListList: "job-list", "list", SingleOrStream, User, List => Jobs
}

/// Which job, and what of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListId {
    /// The job.
    pub id: JobId,
    /// Attribute names, or `all`.
    pub attrs: Vec<String>,
    /// Wait until the job reaches this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<i32>,
}

/// One job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OneJob {
    /// The job.
    pub job: Job,
}

rpc! {
    /// Reads one job. Errors: `ENOENT`.
    JobListId: "job-list", "list-id", Single, User, ListId => OneJob
}

/// Attribute names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attrs {
    /// The names, `all` included.
    pub attrs: Vec<String>,
}

rpc! {
    /// Lists attribute names.
    JobListAttrs: "job-list", "list-attrs", Single, User, Empty => Attrs
}

/// How many jobs are in each state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StateCounts {
    /// Wait for a dependency.
    pub depend: i64,
    /// Wait for a priority.
    pub priority: i64,
    /// Wait for resources.
    pub sched: i64,
    /// Run.
    pub run: i64,
    /// End.
    pub cleanup: i64,
    /// Ended.
    pub inactive: i64,
    /// All of these.
    pub total: i64,
}

/// Job counts of the instance or one queue.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// By state.
    pub job_states: StateCounts,
    /// Ended well.
    pub successful: i64,
    /// Ended badly, whichever way.
    pub failed: i64,
    /// Of these, canceled.
    pub canceled: i64,
    /// Of these, out of time.
    pub timeout: i64,
    /// Ended and forgotten.
    pub inactive_purged: i64,
    /// The queue's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Job counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JobStats {
    /// Of the instance.
    #[serde(flatten)]
    pub all: Counts,
    /// Of each queue.
    #[serde(default)]
    pub queues: Vec<Counts>,
}

rpc! {
    /// Counts jobs; as a stream, after every change.
    JobListJobStats: "job-list", "job-stats", SingleOrStream, User, Empty => JobStats
}
rpc! {
    /// Stops taking in events. A test aid.
    JobListPause: "job-list", "job-state-pause", Single, User, Empty => Empty
}
rpc! {
    /// Ends that.
    JobListUnpause: "job-list", "job-state-unpause", Single, User, Empty => Empty
}
rpc! {
    /// Reads the counters.
    JobListStats: "job-list", "stats-get", Single, User, Empty => Map<String, Value>
}
