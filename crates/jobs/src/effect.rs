//! What the engine wants done.

use std::rc::Rc;

use spec::Entry;
use types::{Errno, IdSet, JobId, UserId};

use crate::Object;
use crate::housekeeping::Origin;
use crate::perilog::{Kind, Script};

/// A request whose answer comes later; the caller knows which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Why a request is refused: an error number and the text that goes with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The number.
    pub errno: Errno,
    /// The text, which scripts match; empty for none.
    pub text: String,
}

impl Refusal {
    pub(crate) fn new(errno: Errno, text: impl Into<String>) -> Refusal {
        Refusal {
            errno,
            text: text.into(),
        }
    }
}

/// A late answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To a batch of new jobs: those refused, with the reason.
    Submitted(Vec<(JobId, String)>),
    /// To a drain.
    Drained,
    /// To a purge: how many jobs are forgotten.
    Purged(usize),
    /// To an idle: jobs that are pending.
    Idle(usize),
    /// To a wait: job, and the text of its failure, empty for success.
    Waited {
        /// The job.
        id: JobId,
        /// Whether it ended well.
        success: bool,
        /// Why not.
        error: String,
    },
}

/// What followers of the journal get along with an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Attachment {
    /// Nothing.
    None,
    /// The jobspec, with `submit`.
    Jobspec(Rc<Object>),
    /// The resources, with `alloc`.
    Resources(Rc<Object>),
}

/// Something to do for the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Tell followers of an event, and store it if `commit`.
    Event {
        /// The job.
        id: JobId,
        /// The event.
        entry: Entry,
        /// The event as a line of the eventlog (RFC 18).
        line: String,
        /// Whether it belongs in the stored eventlog.
        commit: bool,
        /// What followers get along with it.
        attachment: Attachment,
    },
    /// Ask the scheduler for resources.
    Alloc {
        /// The job.
        id: JobId,
        /// Its priority.
        priority: u32,
        /// Whose it is.
        userid: UserId,
        /// When it was submitted.
        t_submit: f64,
        /// Its jobspec.
        jobspec: Rc<Object>,
    },
    /// Withdraw that.
    CancelAlloc(JobId),
    /// Tell the scheduler new priorities.
    Prioritize(Vec<(JobId, u32)>),
    /// A job lets go of its resources: keep house, then give them back.
    Release {
        /// The job.
        origin: Origin,
        /// The resources.
        resources: Rc<Object>,
    },
    /// Give resources back at once: no job had them.
    Free {
        /// The job.
        id: JobId,
        /// The resources.
        resources: Rc<Object>,
    },
    /// Start a job's tasks.
    Start {
        /// The job.
        id: JobId,
        /// Whose it is.
        userid: UserId,
        /// Its jobspec.
        jobspec: Rc<Object>,
        /// Its resources.
        resources: Rc<Object>,
        /// Whether they ran before.
        reattach: bool,
    },
    /// Tell everybody of an exception.
    Excepted {
        /// The job.
        id: JobId,
        /// Its type.
        kind: String,
        /// 0 to 7, 0 is fatal.
        severity: i32,
        /// How the job shall seem to have ended.
        wait_status: Option<i32>,
    },
    /// Signal a job's tasks.
    Kill {
        /// The job.
        id: JobId,
        /// The signal.
        signum: i32,
    },
    /// Tell the exec service of a job's new end.
    Expiration {
        /// The job.
        id: JobId,
        /// Seconds since the epoch.
        expiration: f64,
    },
    /// Answer a request once the events before this are durable.
    Reply(Token, Reply),
    /// Store the resources a new job brought along, with its `submit` event.
    StoreResources {
        /// The job.
        id: JobId,
        /// The resources.
        resources: Object,
    },
    /// Start a prolog or epilog. Each end is to be told with [`crate::Jobs::on_script_ended`].
    RunScript(Box<Script>),
    /// Tell a prolog or epilog to end.
    KillScript {
        /// The job.
        id: JobId,
        /// What it is.
        kind: Kind,
        /// Where.
        ranks: IdSet,
    },
    /// Tell that a prolog or epilog did not end when it was told to.
    ScriptOverdue {
        /// The job.
        id: JobId,
        /// What it is.
        kind: Kind,
    },
    /// Drain ranks where a prolog or epilog failed, and say so with
    /// [`crate::Jobs::on_script_drained`].
    DrainRanks {
        /// The job.
        id: JobId,
        /// What failed.
        kind: Kind,
        /// Where.
        ranks: IdSet,
        /// Why.
        reason: String,
    },
    /// Forget these inactive jobs.
    Forget(Vec<JobId>),
    /// The states of queues changed: store them.
    Checkpoint,
}

/// Where effects gather.
pub type Effects = Vec<Effect>;
