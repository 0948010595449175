//! The tree of brokers: services `overlay`, `groups` and `heartbeat`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Empty, rpc};

/// What a broker tells its parent first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Its rank.
    pub rank: i64,
    /// Its version: `MAJOR * 65536 + MINOR * 256 + PATCH`.
    pub version: i64,
    /// Its id.
    pub uuid: String,
    /// The status of its subtree.
    pub status: i32,
    /// Its host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// The parent's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HelloReply {
    /// The parent's id.
    pub uuid: String,
}

rpc! {
    /// Joins the tree; the first message of a child.
    OverlayHello: "overlay", "hello", Single, Owner, Hello => HelloReply
}
rpc! {
    /// Leaves the tree; the last message of a child.
    OverlayGoodbye: "overlay", "goodbye", Single, Owner, Empty => Empty
}

/// A child in a health report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChildHealth {
    /// Its rank.
    pub rank: u32,
    /// The status of its subtree.
    pub status: String,
    /// Seconds in that status.
    pub duration: f64,
    /// Why it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The health of a subtree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// The broker that answers.
    pub rank: u32,
    /// The status of its subtree.
    pub status: String,
    /// Seconds in that status.
    pub duration: f64,
    /// Its children.
    pub children: Vec<ChildHealth>,
}

rpc! {
    /// Reads a subtree's health; as a stream, every change.
    OverlayHealth: "overlay", "health", SingleOrStream, User, Empty => Health
}

/// A rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfRank {
    /// The rank.
    pub rank: u32,
}

/// A subtree, without anything else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Topology {
    /// Its root.
    pub rank: u32,
    /// How many brokers it has, the root included.
    pub size: u32,
    /// The subtrees below.
    pub children: Vec<Topology>,
}

rpc! {
    /// Reads the shape of a subtree. Errors: `ENOENT` neither this broker nor its child.
    OverlayTopology: "overlay", "topology", Single, User, OfRank => Topology
}
rpc! {
    /// Cuts a direct child off. Errors: `ENOENT`, `EINVAL` already gone.
    OverlayDisconnectSubtree: "overlay", "disconnect-subtree", Single, Owner, OfRank => Empty
}

/// Why to leave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// The reason.
    pub reason: String,
}

rpc! {
    /// Cuts the parent off.
    OverlayDisconnectParent: "overlay", "disconnect-parent", NoResponse, Owner, Reason => Empty
}
rpc! {
    /// Reads the overlay's counters.
    OverlayStats: "overlay", "stats-get", Single, User, Empty => Map<String, Value>
}

/// Names a group of brokers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// The group.
    pub name: String,
}

/// A group's members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupMembers {
    /// An idset of ranks (RFC 22).
    pub members: String,
}

rpc! {
    /// Enters the local broker into a group. Errors: `EEXIST`, `EPROTO` not local.
    GroupsJoin: "groups", "join", Single, Owner, Group => Empty
}
rpc! {
    /// Takes it out. Errors: `ENOENT`, `EPROTO` not local.
    GroupsLeave: "groups", "leave", Single, Owner, Group => Empty
}
rpc! {
    /// Reads a group; as a stream, every change. Rank 0 only.
    GroupsGet: "groups", "get", SingleOrStream, User, Group => GroupMembers
}

/// Changes of group membership below a broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupsChange {
    /// By group, in order.
    pub update: Map<String, Value>,
}

rpc! {
    /// Passes changes on to the parent.
    GroupsUpdate: "groups", "update", NoResponse, Owner, GroupsChange => Empty
}

/// The heartbeat's event topic.
pub const HEARTBEAT_PULSE: &str = "heartbeat.pulse";
