//! One broker's view of its neighbours: who is connected, in what health, and what follows.
//!
//! Inputs are `on_*` calls with the time since some fixed moment as `now`; what must be done comes
//! out as [`Effect`]s, in the order to do it. A broker's own status is a function of its
//! children's, and each change is told to the parent, so that the root's status describes the
//! whole tree.
//!
//! Life of a child: `Unknown` until its hello; then the status it reports; then `Offline` after a
//! goodbye or `Lost` otherwise. A lost child can return only as a new broker, with a new uuid.
//! There is no reconnection to a parent: losing it ends the broker.
//!
//! Children and the heartbeat are here; `hello` admits a child, `parent` is the side of the parent.

mod hello;
mod parent;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;
use types::{Errno, Rank, fsd};

use crate::status::{Control, Status, Version};
use crate::topology::{Subtree, Topology};

pub use hello::{Hello, HelloError};
use parent::Parent;

/// How bad a log line is (RFC 5424).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Critical.
    Crit,
    /// Error.
    Err,
    /// Debugging.
    Debug,
}

/// What the broker's glue must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Log a line.
    Log(Level, String),
    /// Send a control message to the parent.
    SendParent(Control),
    /// Send a control message to the peer with this uuid.
    SendChild(String, Control),
    /// Close the connection of the peer with this uuid, once what was sent is delivered.
    CloseChild(String),
    /// Close the connection to the parent.
    CloseParent,
    /// Fail the RPCs pending through this child with EHOSTUNREACH and no text.
    FailChildRpcs {
        /// The child.
        rank: Rank,
        /// The uuid it had.
        uuid: String,
    },
    /// Fail the RPCs pending through the parent with EHOSTUNREACH `overlay disconnect`.
    FailParentRpcs,
    /// All of this child's subtree has left: it leaves every group.
    SubtreeGone(Rank),
    /// A child changed: tell the followers of `overlay.monitor`.
    ChildChanged {
        /// The child.
        rank: Rank,
        /// Its status now.
        status: Status,
        /// Whether it is unresponsive.
        torpid: bool,
    },
    /// The answer to `overlay.health` changed: tell its followers.
    HealthChanged,
    /// The last connected child has left (`children-complete`).
    ChildrenGone,
    /// Post `parent-fail`: this broker must end.
    ParentFail,
}

/// Where effects are collected.
pub type Effects = Vec<Effect>;

/// What a broker knows from the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its own rank.
    pub rank: Rank,
    /// The tree.
    pub topology: Rc<Topology>,
    /// Its own version.
    pub version: Version,
    /// The host of the parent; empty on rank 0.
    pub parent_host: String,
    /// The hosts of the children, in the order of [`Topology::children`].
    pub child_hosts: Vec<String>,
    /// How long a child may keep silent before it sends a heartbeat.
    pub torpid_min: Duration,
    /// How long until its parent calls it unresponsive; zero for never.
    pub torpid_max: Duration,
}

/// Why a request about some rank cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RankError {
    /// `overlay.topology` for a rank too far away.
    #[error("requested rank is not this broker or its direct child")]
    NotHereOrChild,
    /// `overlay.disconnect-subtree` for a rank too far away.
    #[error("requested rank is not this broker's direct child")]
    NotChild,
    /// `overlay.disconnect-subtree` for a child that is not connected.
    #[error("rank {0} is already {1}")]
    NotConnected(Rank, Status),
}

impl RankError {
    /// The error number of the answer.
    pub fn errno(&self) -> Errno {
        match self {
            RankError::NotHereOrChild | RankError::NotChild => Errno::ENOENT,
            RankError::NotConnected(..) => Errno::EINVAL,
        }
    }
}

/// A child in [`Health`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildHealth {
    /// Its rank.
    pub rank: Rank,
    /// The status of its subtree.
    pub status: Status,
    /// How long it has been in that status.
    pub duration: Duration,
    /// Why it left, or was refused.
    pub error: Option<String>,
    /// Whether it is unresponsive.
    pub torpid: bool,
}

/// The answer to `overlay.health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// This broker.
    pub rank: Rank,
    /// The status of its subtree.
    pub status: Status,
    /// How long it has been in that status.
    pub duration: Duration,
    /// Its children, in rank order.
    pub children: Vec<ChildHealth>,
}

/// Where a message for some rank goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop<'a> {
    /// It is for this broker.
    Here,
    /// Up.
    Parent,
    /// Down, to the child with this rank and uuid.
    Child(Rank, &'a str),
    /// Nowhere: EHOSTUNREACH.
    Unreachable,
}

struct Child {
    rank: Rank,
    host: String,
    status: Status,
    since: Duration,
    error: Option<String>,
    /// Set while connected.
    uuid: Option<String>,
    last_heard: Duration,
    torpid: bool,
}

/// The state of one broker's neighbourhood.
pub struct Overlay {
    config: Config,
    children: Vec<Child>,
    /// Indices of connected children by uuid.
    by_uuid: BTreeMap<String, usize>,
    parent: Parent,
    status: Status,
    since: Duration,
    /// The last status the parent was told.
    told_parent: Option<Status>,
    closing: bool,
}

impl Overlay {
    /// The state of a broker that has just started.
    pub fn new(config: Config, now: Duration) -> Overlay {
        let ranks = config.topology.children(config.rank);
        let hosts = config
            .child_hosts
            .iter()
            .cloned()
            .chain(std::iter::repeat(String::new()));
        let children: Vec<Child> = ranks
            .iter()
            .zip(hosts)
            .map(|(&rank, host)| Child {
                rank,
                host,
                status: Status::Unknown,
                since: now,
                error: None,
                uuid: None,
                last_heard: now,
                torpid: false,
            })
            .collect();
        let has_parent = config.topology.parent(config.rank).is_some();
        Overlay {
            parent: if has_parent {
                Parent::Joining
            } else {
                Parent::None
            },
            status: subtree_status(&children),
            children,
            by_uuid: BTreeMap::new(),
            since: now,
            told_parent: None,
            closing: false,
            config,
        }
    }

    // Queries.

    /// The status of this broker's subtree.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The answer to `overlay.health`.
    pub fn health(&self, now: Duration) -> Health {
        let child = |child: &Child| ChildHealth {
            rank: child.rank,
            status: child.status,
            duration: now.saturating_sub(child.since),
            error: child.error.clone(),
            torpid: child.torpid,
        };
        Health {
            rank: self.config.rank,
            status: self.status,
            duration: now.saturating_sub(self.since),
            children: self.children.iter().map(child).collect(),
        }
    }

    /// The answer to `overlay.topology`.
    /// Errors: [`RankError::NotHereOrChild`].
    pub fn subtree(&self, rank: Rank) -> Result<Subtree, RankError> {
        let near = rank == self.config.rank || self.index(rank).is_some();
        let subtree = if near {
            self.config.topology.subtree(rank)
        } else {
            None
        };
        subtree.ok_or(RankError::NotHereOrChild)
    }

    /// The number of connected children.
    pub fn connected(&self) -> usize {
        self.by_uuid.len()
    }

    /// The connected child with this uuid.
    pub fn child_by_uuid(&self, uuid: &str) -> Option<Rank> {
        self.by_uuid.get(uuid).map(|i| self.children[*i].rank)
    }

    /// The uuids of connected children, for events.
    pub fn child_uuids(&self) -> impl Iterator<Item = &str> {
        self.children
            .iter()
            .filter_map(|child| child.uuid.as_deref())
    }

    /// The parent's uuid while connected to it.
    pub fn parent_uuid(&self) -> Option<&str> {
        match &self.parent {
            Parent::Connected { uuid, .. } => Some(uuid),
            _ => None,
        }
    }

    /// Where a message for `target` goes next.
    pub fn next_hop(&self, target: Rank) -> NextHop<'_> {
        if target == self.config.rank {
            return NextHop::Here;
        }
        if target.0 >= self.config.topology.size() {
            return NextHop::Unreachable;
        }
        match self.config.topology.child_toward(self.config.rank, target) {
            Some(rank) => {
                let child = self.index(rank).map(|i| &self.children[i]);
                match child.and_then(|child| child.uuid.as_deref()) {
                    Some(uuid) => NextHop::Child(rank, uuid),
                    None => NextHop::Unreachable,
                }
            }
            None if self.parent_uuid().is_some() => NextHop::Parent,
            None => NextHop::Unreachable,
        }
    }

    /// Changes the torpid limits (`config-reload`).
    pub fn set_torpid(&mut self, torpid_min: Duration, torpid_max: Duration) {
        self.config.torpid_min = torpid_min;
        self.config.torpid_max = torpid_max;
    }

    /// From now on refuse every hello: the broker has reached CLEANUP.
    pub fn refuse_hellos(&mut self) {
        self.closing = true;
    }

    // The side of the children.

    /// A message from someone who is not a connected child: send it away.
    pub fn on_stranger(&mut self, uuid: &str, out: &mut Effects) {
        out.push(Effect::SendChild(uuid.to_owned(), Control::Disconnect));
    }

    /// Any message from a child shows that it is alive. Call this before handling the message.
    pub fn on_child_message(&mut self, now: Duration, rank: Rank, out: &mut Effects) {
        let Some(index) = self.connected_index(rank) else {
            return;
        };
        let child = &mut self.children[index];
        child.last_heard = now;
        if child.torpid {
            child.torpid = false;
            let text = format!("broker on {} is responsive now", self.who(index));
            out.push(Effect::Log(Level::Err, text));
            self.child_changed(index, out);
        }
    }

    /// A control message from a child. Only a status that a live broker can have is heeded.
    pub fn on_child_control(
        &mut self,
        now: Duration,
        rank: Rank,
        control: Control,
        out: &mut Effects,
    ) {
        if let Control::Status(status) = control
            && status.is_connected()
            && let Some(index) = self.connected_index(rank)
        {
            self.set_child_status(now, index, status, out);
        }
    }

    /// A child leaves in good order (`overlay.goodbye`); answer it before it is closed.
    pub fn on_goodbye(&mut self, now: Duration, rank: Rank, out: &mut Effects) {
        if let Some(index) = self.connected_index(rank) {
            self.detach(now, index, Status::Offline, "administrative shutdown", out);
        }
    }

    /// A child's connection dropped, or sending to it failed. Nothing happens if it has left.
    pub fn on_child_lost(&mut self, now: Duration, rank: Rank, out: &mut Effects) {
        if let Some(index) = self.connected_index(rank) {
            self.log_loss(index, "failed", out);
            self.detach(now, index, Status::Lost, "lost connection", out);
        }
    }

    /// An administrator cuts a child off (`overlay.disconnect-subtree`).
    /// Errors: [`RankError`].
    pub fn disconnect_child(
        &mut self,
        now: Duration,
        rank: Rank,
        out: &mut Effects,
    ) -> Result<(), RankError> {
        let index = self.index(rank).ok_or(RankError::NotChild)?;
        let Some(uuid) = self.children[index].uuid.clone() else {
            return Err(RankError::NotConnected(rank, self.children[index].status));
        };
        self.log_loss(index, "disconnected by request", out);
        out.push(Effect::SendChild(uuid.clone(), Control::Disconnect));
        out.push(Effect::CloseChild(uuid));
        self.detach(now, index, Status::Lost, "administrative disconnect", out);
        Ok(())
    }

    /// The instance's heartbeat: say that we live, and look who does not.
    pub fn on_heartbeat(&mut self, now: Duration, out: &mut Effects) {
        if let Parent::Connected { last_sent, .. } = &mut self.parent
            && now.saturating_sub(*last_sent) >= self.config.torpid_min
        {
            *last_sent = now;
            out.push(Effect::SendParent(Control::Heartbeat));
        }
        if self.config.torpid_max.is_zero() {
            return;
        }
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            let silence = now.saturating_sub(child.last_heard);
            if child.uuid.is_some() && !child.torpid && silence >= self.config.torpid_max {
                child.torpid = true;
                let silence = fsd::format_compiled(silence.as_secs_f64(), 6);
                let who = self.who(index);
                let text = format!("broker on {who} has been unresponsive for {silence}");
                out.push(Effect::Log(Level::Err, text));
                self.child_changed(index, out);
            }
        }
    }

    // Plain work.

    fn index(&self, rank: Rank) -> Option<usize> {
        self.children
            .binary_search_by_key(&rank, |child| child.rank)
            .ok()
    }

    fn connected_index(&self, rank: Rank) -> Option<usize> {
        self.index(rank)
            .filter(|i| self.children[*i].uuid.is_some())
    }

    fn who(&self, index: usize) -> String {
        let child = &self.children[index];
        format!("{} (rank {})", child.host, child.rank)
    }

    fn log_loss(&self, index: usize, what: &str, out: &mut Effects) {
        let mut text = format!("{} {what}", self.who(index));
        let below = self.config.topology.descendants(self.children[index].rank);
        if below > 0 {
            text += &format!(" and severed contact with {below} other nodes");
        }
        out.push(Effect::Log(Level::Err, text));
    }

    /// Ends a child's connection.
    fn detach(
        &mut self,
        now: Duration,
        index: usize,
        status: Status,
        error: &str,
        out: &mut Effects,
    ) {
        let child = &mut self.children[index];
        let Some(uuid) = child.uuid.take() else {
            return;
        };
        let rank = child.rank;
        child.torpid = false;
        child.error = Some(error.to_owned());
        self.by_uuid.remove(&uuid);
        out.push(Effect::FailChildRpcs { rank, uuid });
        out.push(Effect::SubtreeGone(rank));
        self.set_child_status(now, index, status, out);
        if self.by_uuid.is_empty() {
            out.push(Effect::ChildrenGone);
        }
    }

    fn set_child_status(&mut self, now: Duration, index: usize, status: Status, out: &mut Effects) {
        let child = &mut self.children[index];
        if child.status == status {
            return;
        }
        child.status = status;
        child.since = now;
        self.child_changed(index, out);
        let status = subtree_status(&self.children);
        if status != self.status {
            self.status = status;
            self.since = now;
            self.tell_parent(now, out);
        }
        out.push(Effect::HealthChanged);
    }

    fn child_changed(&self, index: usize, out: &mut Effects) {
        let child = &self.children[index];
        let (rank, status, torpid) = (child.rank, child.status, child.torpid);
        out.push(Effect::ChildChanged {
            rank,
            status,
            torpid,
        });
    }
}

/// The status of a broker whose children are these.
fn subtree_status(children: &[Child]) -> Status {
    let mut status = Status::Full;
    for child in children {
        match child.status {
            Status::Lost | Status::Degraded => return Status::Degraded,
            Status::Offline | Status::Partial | Status::Unknown => status = Status::Partial,
            Status::Full => {}
        }
    }
    status
}

#[cfg(test)]
mod tests;
