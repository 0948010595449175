//! What `flux start --test-size` serves to test scripts: service `start`.

use serde::{Deserialize, Serialize};

use crate::{Empty, rpc};

/// One broker process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    /// Its process id, -1 if it does not run.
    pub pid: i32,
}

/// The broker processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// By rank.
    pub procs: Vec<Process>,
}

/// A signal for a broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kill {
    /// The broker.
    pub rank: u32,
    /// The signal.
    pub signum: i32,
}

/// Names a broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfRank {
    /// The broker.
    pub rank: u32,
}

/// How a broker ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exited {
    /// Its exit code, 128 and the signal's number if one killed it.
    pub exit_rc: i32,
}

rpc! {
    /// Lists the broker processes.
    StartStatus: "start", "status", Single, Owner, Empty => Status
}
rpc! {
    /// Signals a broker.
    StartKill: "start", "kill", Single, Owner, Kill => Empty
}
rpc! {
    /// Answered when a broker has ended.
    StartWait: "start", "wait", Single, Owner, OfRank => Exited
}
rpc! {
    /// Starts a broker again.
    StartRun: "start", "run", Single, Owner, OfRank => Empty
}
