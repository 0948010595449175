//! The instance's resources (RFC 28, RFC 44): service `resource`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::IdSet;

use crate::log::Cancel;
use crate::{Empty, Raw, rpc};

/// A change for the scheduler. The first carries resources and all ranks that are up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AcquireUpdate {
    /// All resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Map<String, Value>>,
    /// Ranks that came up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<IdSet>,
    /// Ranks that went down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<IdSet>,
    /// Ranks that are gone for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrink: Option<IdSet>,
    /// The instance's new end, seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<f64>,
}

rpc! {
    /// Hands the resources to the scheduler and follows their state. Errors: `EBUSY`.
    ResourceAcquire: "resource", "acquire", Stream, Owner, Empty => AcquireUpdate
}
rpc! {
    /// Ends that.
    ResourceAcquireCancel: "resource", "acquire-cancel", NoResponse, Owner, Cancel => Empty
}
rpc! {
    /// Silences it, so that the scheduler does not see ranks leave at shutdown.
    ResourceAcquireMute: "resource", "acquire-mute", Single, Owner, Empty => Empty
}

/// Ranks to drain or undrain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drain {
    /// An idset or hostlist.
    pub targets: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `update`, `overwrite` or `force-overwrite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

rpc! {
    /// Takes ranks out of use. Errors: `EEXIST`, `EINVAL`.
    ResourceDrain: "resource", "drain", Single, Owner, Drain => Empty
}
rpc! {
    /// Puts ranks back into use. Errors: `EEXIST`, `EINVAL`.
    ResourceUndrain: "resource", "undrain", Single, Owner, Drain => Empty
}

/// The resources and where they came from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inventory {
    /// R (RFC 20).
    #[serde(rename = "R")]
    pub resources: Map<String, Value>,
    /// `configuration`, `kvs`, `job-info`, `dynamic-discovery` or `reload`.
    pub method: String,
}

rpc! {
    /// Reads the resources. Errors: `ENOENT` not known yet.
    ResourceGet: "resource", "get", Single, Owner, Empty => Inventory
}

/// New resources from files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reload {
    /// A file with R, or a directory with topologies.
    pub path: String,
    /// Whether it is such a directory.
    pub xml: bool,
    /// Whether ranks beyond the instance are accepted.
    pub force: bool,
}

rpc! {
    /// Replaces the resources; rank 0 only. Errors: `EINVAL`, `EBUSY`.
    ResourceReload: "resource", "reload", Single, Owner, Reload => Empty
}

/// The instance's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExpirationUpdate {
    /// Seconds since the epoch.
    pub expiration: f64,
}

rpc! {
    /// Moves the instance's end; rank 0 only.
    ResourceExpirationUpdate: "resource", "expiration-update", Single, Owner,
    ExpirationUpdate => Empty
}

/// A drained group of ranks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainInfo {
    /// When, seconds since the epoch.
    pub timestamp: f64,
    /// Why; empty if nobody said.
    #[serde(default)]
    pub reason: String,
}

/// The state of every rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// R (RFC 20).
    #[serde(rename = "R")]
    pub resources: Map<String, Value>,
    /// [`DrainInfo`] objects by idset.
    pub drain: Map<String, Value>,
    /// Ranks that are online.
    pub online: IdSet,
    /// Ranks that are not.
    pub offline: IdSet,
    /// Ranks excluded by configuration.
    pub exclude: IdSet,
    /// Ranks that are late.
    #[serde(default)]
    pub torpid: IdSet,
}

rpc! {
    /// Reads the state of every rank; rank 0 only.
    ResourceStatus: "resource", "status", Single, User, Empty => Status
}

/// The resources as jobs see them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SchedStatus {
    /// All of them; `null` where there are none.
    #[serde(default)]
    pub all: Value,
    /// Those that are down.
    #[serde(default)]
    pub down: Value,
    /// Those in use.
    #[serde(default)]
    pub allocated: Value,
}

rpc! {
    /// Reads the resources as jobs see them; rank 0 only.
    ResourceSchedStatus: "resource", "sched-status", Single, User, Empty => SchedStatus
}

/// Entries of the resource eventlog; none marks the end of what there was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JournalEvents {
    /// RFC 18 entries.
    pub events: Vec<Value>,
    /// The resources, beside a `resource-define`.
    #[serde(default, rename = "R", skip_serializing_if = "Option::is_none")]
    pub resources: Option<Map<String, Value>>,
}

rpc! {
    /// Follows the resource eventlog. Errors: `EPROTO` not a stream.
    ResourceJournal: "resource", "journal", SingleOrStream, Owner, Empty => JournalEvents
}
rpc! {
    /// Ends that.
    ResourceJournalCancel: "resource", "journal-cancel", NoResponse, Owner, Cancel => Empty
}

/// A number of ranks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WaitUp {
    /// The number.
    pub up: i64,
}

rpc! {
    /// Answered when exactly so many ranks are online; rank 0 only.
    ResourceMonitorWaitup: "resource", "monitor-waitup", Single, Owner, WaitUp => Empty
}

/// Ranks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ranks {
    /// An idset.
    pub ranks: String,
}

rpc! {
    /// Makes ranks seem down. A test aid.
    ResourceMonitorForceDown: "resource", "monitor-force-down", Single, Owner, Ranks => Empty
}

/// What a subtree found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TopoReduce {
    /// How many ranks it has.
    pub count: i64,
    /// Their resources.
    pub resource: Map<String, Value>,
}

rpc! {
    /// Passes discovered resources on to the parent.
    ResourceTopoReduce: "resource", "topo-reduce", NoResponse, Owner, TopoReduce => Empty
}
rpc! {
    /// Reads the rank's hwloc topology: XML text with a NUL.
    ResourceTopoGet: "resource", "topo-get", Single, User, Empty => Raw
}
