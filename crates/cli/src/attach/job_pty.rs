//! The terminal of a job's first task, where the job has an interactive one.

use std::future::Future;
use std::pin::Pin;

use rpc::RpcError;

use crate::pty::{End, Pty};

type Pending<T> = Pin<Box<dyn Future<Output = T>>>;

/// How far a session has come with the job's terminal.
pub(super) enum JobPty {
    /// The shell has not said yet whether there is one.
    Unknown,
    /// There is none, or it is not to be had: standard input goes to the tasks the usual way.
    None,
    /// The shell has been asked for it.
    Asked(Pending<Result<Pty, RpcError>>),
    /// It is attached.
    Attached(Pending<End>),
    /// It has ended.
    Over,
}

/// What happened to it.
pub(super) enum Progress {
    /// The shell has answered.
    Answered(Result<Box<Pty>, RpcError>),
    /// It has been detached in some way.
    Ended(End),
}

impl JobPty {
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, JobPty::Unknown)
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, JobPty::None)
    }

    pub(super) fn is_asked(&self) -> bool {
        matches!(self, JobPty::Asked(_))
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(self, JobPty::Attached(_))
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self, JobPty::Over)
    }

    /// Whether the user sees, or has seen, the task's output on it.
    pub(super) fn shows_output(&self) -> bool {
        matches!(self, JobPty::Attached(_) | JobPty::Over)
    }

    /// What happens next. Cancel safe.
    pub(super) async fn next(&mut self) -> Progress {
        match self {
            JobPty::Asked(answer) => Progress::Answered(answer.await.map(Box::new)),
            JobPty::Attached(end) => Progress::Ended(end.await),
            JobPty::Unknown | JobPty::None | JobPty::Over => std::future::pending().await,
        }
    }
}
