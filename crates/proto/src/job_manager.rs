//! Job life cycle: service `job-manager`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{JobId, UserId};

use crate::log::Cancel;
use crate::{Empty, rpc};

/// Names a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfJob {
    /// The job.
    pub id: JobId,
}

/// A job on its way in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// Whose it is.
    pub userid: UserId,
    /// 0 to 31.
    pub urgency: i32,
    /// When it was submitted, seconds since the epoch.
    pub t_submit: f64,
    /// See `job_ingest::flags`.
    pub flags: i32,
    /// Its jobspec.
    pub jobspec: Map<String, Value>,
}

/// A batch of jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submit {
    /// The jobs.
    pub jobs: Vec<NewJob>,
}

/// The jobs of a batch that were refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubmitErrors {
    /// Job and reason.
    pub errors: Vec<(JobId, String)>,
}

rpc! {
    /// Takes a batch of jobs; answered once they are durable.
    JobManagerSubmit: "job-manager", "submit", Single, Owner, Submit => SubmitErrors
}

/// How many jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct List {
    /// At most this many, 0 for all.
    pub max_entries: i64,
}

/// Active jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Jobs {
    /// `id`, `userid`, `urgency`, `priority`, `t_submit`, `state` and, where they are,
    /// `annotations` and `dependencies` of each.
    pub jobs: Vec<Map<String, Value>>,
}

rpc! {
    /// Lists active jobs.
    JobManagerList: "job-manager", "list", Single, Owner, List => Jobs
}

/// What followers start from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Info {
    /// The highest id.
    pub max_jobid: JobId,
}

rpc! {
    /// Reads the highest id.
    JobManagerGetinfo: "job-manager", "getinfo", Single, User, Empty => Info
}
rpc! {
    /// Reads the counters.
    JobManagerStats: "job-manager", "stats-get", Single, User, Empty => Map<String, Value>
}

/// Asks for a job's attributes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetAttr {
    /// The job.
    pub id: JobId,
    /// `jobspec`, `R`, `eventlog`.
    pub attrs: Vec<String>,
}

rpc! {
    /// Reads attributes of an active job. Errors: `EINVAL`, `EPERM`, `ENOENT`.
    JobManagerGetattr: "job-manager", "getattr", Single, User, GetAttr => Map<String, Value>
}

/// An exception (RFC 21).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Raise {
    /// The job.
    pub id: JobId,
    /// 0 to 7, 0 is fatal.
    pub severity: i32,
    /// Its type, `cancel` for example.
    #[serde(rename = "type")]
    pub kind: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How the job shall seem to have ended, as of `wait(2)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_status: Option<i32>,
}

rpc! {
    /// Raises an exception. Errors: `EPROTO`, `ENOENT`, `EPERM`.
    JobManagerRaise: "job-manager", "raise", Single, User, Raise => Empty
}

/// An exception for many jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RaiseAll {
    /// Only count.
    pub dry_run: bool,
    /// Whose jobs, -1 for all.
    pub userid: i64,
    /// State bits.
    pub states: i32,
    /// 0 to 7, 0 is fatal.
    pub severity: i32,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counts {
    /// Jobs that matched.
    pub count: i64,
    /// Failures.
    #[serde(default)]
    pub errors: i64,
}

rpc! {
    /// Raises an exception on many jobs.
    JobManagerRaiseAll: "job-manager", "raiseall", Single, User, RaiseAll => Counts
}

/// A signal for a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kill {
    /// The job.
    pub id: JobId,
    /// The signal.
    pub signum: i32,
}

rpc! {
    /// Signals a job's tasks. Errors: `EINVAL`, `EPERM`.
    JobManagerKill: "job-manager", "kill", Single, User, Kill => Empty
}

/// A signal for many jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KillAll {
    /// Only count.
    pub dry_run: bool,
    /// Whose jobs, -1 for all.
    pub userid: i64,
    /// The signal.
    pub signum: i32,
}

rpc! {
    /// Signals the tasks of many jobs. Errors: `EPERM`.
    JobManagerKillAll: "job-manager", "killall", Single, User, KillAll => Counts
}

/// A new urgency.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Urgency {
    /// The job.
    pub id: JobId,
    /// 0 to 31.
    pub urgency: i32,
}

/// The urgency before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OldUrgency {
    /// 0 to 31.
    pub old_urgency: i32,
}

rpc! {
    /// Changes a pending job's urgency. Errors: `EINVAL`, `EPERM`.
    JobManagerUrgency: "job-manager", "urgency", Single, User, Urgency => OldUrgency
}

/// A note on a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memo {
    /// The job.
    pub id: JobId,
    /// Whether it is kept in memory only.
    #[serde(
        default,
        rename = "volatile",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub is_volatile: bool,
    /// Merged into the user annotations; `null` values delete.
    pub memo: Map<String, Value>,
}

rpc! {
    /// Notes something on a job. Errors: `ENOENT`, `EPERM`.
    JobManagerMemo: "job-manager", "memo", Single, User, Memo => Empty
}

/// Changes to a jobspec.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Update {
    /// The job.
    pub id: JobId,
    /// New values by dotted key.
    pub updates: Map<String, Value>,
}

rpc! {
    /// Changes a job's jobspec. Errors: `ENOENT`, `EINVAL`, `EPERM`.
    JobManagerUpdate: "job-manager", "update", Single, User, Update => Empty
}

/// Any waitable job, as [`Wait::id`].
pub const JOBID_ANY: i64 = -1;

/// Waits for a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wait {
    /// The job, or [`JOBID_ANY`].
    pub id: i64,
}

/// How a job ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Waited {
    /// The job.
    pub id: JobId,
    /// Whether it ended well.
    pub success: bool,
    /// Why not.
    #[serde(default)]
    pub errstr: String,
}

rpc! {
    /// Waits for a waitable job. Errors: `ECHILD`.
    JobManagerWait: "job-manager", "wait", Single, Owner, Wait => Waited
}
rpc! {
    /// Answered when no job is active.
    JobManagerDrain: "job-manager", "drain", Single, Owner, Empty => Empty
}

/// Jobs that still wait for resources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idle {
    /// The number.
    pub pending: i64,
}

rpc! {
    /// Answered when no job runs.
    JobManagerIdle: "job-manager", "idle", Single, Owner, Empty => Idle
}

/// Which events.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Journal {
    /// Inactive jobs too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// Inactive jobs the short way, if the one who asks is in the same broker and offers it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handover: bool,
    /// An object whose keys are the only names wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Value>,
    /// An object whose keys are the names not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<Value>,
}

/// Events of one job; id -1 without events marks the end of what there was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JournalEvents {
    /// The job, or -1.
    pub id: i64,
    /// RFC 18 entries.
    pub events: Vec<Value>,
    /// The jobspec, beside `submit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobspec: Option<Map<String, Value>>,
    /// The resources, beside `alloc`.
    #[serde(default, rename = "R", skip_serializing_if = "Option::is_none")]
    pub resources: Option<Map<String, Value>>,
}

rpc! {
    /// Follows the events of all jobs. Errors: `EPROTO`.
    JobManagerJournal: "job-manager", "events-journal", SingleOrStream, Owner,
    Journal => JournalEvents
}
rpc! {
    /// Ends that.
    JobManagerJournalCancel: "job-manager", "events-journal-cancel", NoResponse, Owner,
    Cancel => Empty
}

/// The queue of jobs that want resources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AllocQuery {
    /// Jobs not yet sent to the scheduler.
    pub queue_length: i64,
    /// Jobs the scheduler has.
    pub alloc_pending: i64,
    /// Jobs that have resources.
    pub running: i64,
}

rpc! {
    /// Counts the jobs that want resources.
    JobManagerAllocQuery: "job-manager", "alloc-query", Single, User, Empty => AllocQuery
}

/// Resources in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// R (RFC 20); `null` where there are none.
    pub allocated: Value,
}

rpc! {
    /// Reads the resources that jobs and housekeeping hold.
    JobManagerResourceStatus: "job-manager", "resource-status", Single, Owner,
    Empty => ResourceStatus
}

/// Which inactive jobs to forget.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Purge {
    /// Older than this many seconds, -1 for any age.
    pub age_limit: f64,
    /// Beyond this number, -1 for any number.
    pub num_limit: i64,
    /// At most this many at once, 1 to 100.
    pub batch: i64,
    /// Really do it.
    pub force: bool,
}

rpc! {
    /// Forgets inactive jobs. Errors: `EINVAL`.
    JobManagerPurge: "job-manager", "purge", Single, Owner, Purge => Counts
}

/// One inactive job to forget.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PurgeId {
    /// The job.
    pub id: JobId,
    /// Really do it.
    pub force: bool,
}

rpc! {
    /// Forgets an inactive job. Errors: `ENOENT`, `EINVAL`.
    JobManagerPurgeId: "job-manager", "purge-id", Single, Owner, PurgeId => Counts
}

/// Loads, removes or lists plugins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Jobtap {
    /// A plugin to load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<String>,
    /// Its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conf: Option<Map<String, Value>>,
    /// Plugins to remove first: a name, a glob or `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove: Option<String>,
    /// Only list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_only: Option<bool>,
}

/// Plugins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plugins {
    /// Their names.
    #[serde(default)]
    pub plugins: Vec<String>,
}

rpc! {
    /// Loads, removes or lists plugins.
    JobManagerJobtap: "job-manager", "jobtap", Single, Owner, Jobtap => Plugins
}

/// Names a plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plugin {
    /// Its name.
    pub name: String,
}

rpc! {
    /// Reads a plugin's data. Errors: `ENOENT`.
    JobManagerJobtapQuery: "job-manager", "jobtap-query", Single, Owner,
    Plugin => Map<String, Value>
}

/// Queues.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueNames {
    /// Their names.
    pub queues: Vec<String>,
}

rpc! {
    /// Lists the named queues.
    JobManagerQueueList: "job-manager", "queue-list", Single, User, Empty => QueueNames
}

/// Names a queue; none for the anonymous one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Queue {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A queue's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Whether it takes jobs.
    pub enable: bool,
    /// Whether its jobs are scheduled.
    pub start: bool,
    /// The queue whose resources it uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// What else stops it: `scheduler` or `parent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    /// Why it takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_reason: Option<String>,
    /// Why they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
}

rpc! {
    /// Reads a queue's state. Errors: `EINVAL`.
    JobManagerQueueStatus: "job-manager", "queue-status", Single, User, Queue => QueueStatus
}

/// Opens or closes queues for jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueEnable {
    /// The queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Open.
    pub enable: bool,
    /// Why it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Every queue.
    pub all: bool,
}

rpc! {
    /// Opens or closes queues for jobs. Errors: `EINVAL`.
    JobManagerQueueEnable: "job-manager", "queue-enable", Single, Owner, QueueEnable => Empty
}

/// Starts or stops queues.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueStart {
    /// The queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Start.
    pub start: bool,
    /// Why it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Every queue.
    pub all: bool,
    /// Whether a restart shall forget it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nocheckpoint: bool,
}

rpc! {
    /// Starts or stops scheduling. Errors: `EINVAL`.
    JobManagerQueueStart: "job-manager", "queue-start", Single, Owner, QueueStart => Empty
}

/// Signals housekeeping commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HousekeepingKill {
    /// The signal.
    pub signum: i32,
    /// Of this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobid: Option<JobId>,
    /// On these ranks (RFC 22).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<String>,
}

rpc! {
    /// Signals housekeeping commands.
    JobManagerHousekeepingKill: "job-manager", "housekeeping-kill", Single, Owner,
    HousekeepingKill => Empty
}

/// The exec service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecHello {
    /// Its name.
    pub service: String,
}

rpc! {
    /// Announces the exec service. Errors: `EINVAL` while a start is pending.
    JobManagerExecHello: "job-manager", "exec-hello", Single, Owner, ExecHello => Empty
}

/// The scheduler's first word.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SchedHello {
    /// Whether it takes jobs whose resources were given back in part.
    #[serde(
        default,
        rename = "partial-ok",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub partial_ok: bool,
}

/// A job that holds resources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HelloJob {
    /// The job.
    pub id: JobId,
    /// Its priority.
    pub priority: u32,
    /// Whose it is.
    pub userid: UserId,
    /// When it was submitted, seconds since the epoch.
    pub t_submit: f64,
    /// Ranks already given back (RFC 22).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<String>,
}

rpc! {
    /// Tells a new scheduler which jobs hold resources.
    JobManagerSchedHello: "job-manager", "sched-hello", Stream, Owner, SchedHello => HelloJob
}

/// How the scheduler wants its requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SchedReady {
    /// `limited` or `unlimited`.
    pub mode: String,
    /// How many at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
}

/// How many jobs wait.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SchedReadyReply {
    /// The number.
    pub count: i64,
}

rpc! {
    /// Opens the flow of requests to the scheduler. Errors: `EPROTO`.
    JobManagerSchedReady: "job-manager", "sched-ready", Single, Owner, SchedReady
    => SchedReadyReply
}

/// A slice of one's jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryGet {
    /// As Python writes it, the newest first: `[:3]`.
    pub slice: String,
}

/// Job ids.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    /// The newest first.
    pub jobs: Vec<JobId>,
}

rpc! {
    /// Reads the caller's last jobs. Errors: `EINVAL`.
    JobManagerHistoryGet: "job-manager", "history.get", Single, User, HistoryGet => History
}

/// An event to post.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PostEvent {
    /// The job.
    pub id: JobId,
    /// The event's name.
    pub name: String,
    /// Its context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Map<String, Value>>,
}

rpc! {
    /// Posts an event to a job. Errors: `ENOENT`.
    JobManagerPostEvent: "job-manager", "post-event.post", Single, Owner, PostEvent => Empty
}

/// The time events are gathered before a commit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchTimeout {
    /// Seconds.
    pub timeout: f64,
}

rpc! {
    /// Changes the time events are gathered before a commit.
    JobManagerSetBatchTimeout: "job-manager", "set-batch-timeout", Single, Owner,
    BatchTimeout => Empty
}

/// The event that tells of a new exception.
pub const JOB_EXCEPTION: &str = "job-exception";
/// The event that tells of forgotten jobs.
pub const JOB_PURGE_INACTIVE: &str = "job-purge-inactive";

/// The event that signals the tasks of a job.
pub fn shell_kill_topic(id: JobId) -> String {
    format!("shell-{}.kill", id.0)
}

/// The payload of the event `job-exception`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobException {
    /// The job.
    pub id: JobId,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// 0 to 7, 0 is fatal.
    pub severity: i32,
    /// How the job shall seem to have ended, as of `wait(2)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_status: Option<i32>,
}

/// The payload of the event `shell-ID.kill`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShellKill {
    /// The signal.
    pub signum: i32,
}

/// The payload of the event `job-purge-inactive`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobPurge {
    /// The jobs that are forgotten.
    pub jobs: Vec<JobId>,
}
