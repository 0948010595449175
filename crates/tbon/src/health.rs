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

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;
use types::{Errno, Rank, fsd};

use crate::status::{Control, Status, Version};
use crate::topology::{Subtree, Topology};

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

/// The first message of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its rank.
    pub rank: Rank,
    /// Its version.
    pub version: Version,
    /// The uuid of its broker process.
    pub uuid: String,
    /// The status of its subtree.
    pub status: Status,
    /// Its host name, if it says.
    pub hostname: Option<String>,
}

/// Why a hello was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// The sender is not the instance owner.
    #[error("not the instance owner")]
    NotOwner,
    /// The status is none that a live broker can have.
    #[error("malformed hello")]
    Malformed,
    /// Another host is configured for that rank.
    #[error("{configured} is configured as rank {rank}: mismatched config?")]
    HostMismatch {
        /// The rank it claims.
        rank: Rank,
        /// The host configured for it.
        configured: String,
    },
    /// The tree has it elsewhere.
    #[error("rank {rank} is not a child of rank {parent}: mismatched config?")]
    NotChild {
        /// The rank it claims.
        rank: Rank,
        /// Us.
        parent: Rank,
    },
    /// Major or minor versions differ.
    #[error("client ({client}) version mismatched with server ({server})")]
    VersionMismatch {
        /// The child's.
        client: Version,
        /// Ours.
        server: Version,
    },
    /// We are shutting down. There is no answer: the peer was told to disconnect.
    #[error("shutting down")]
    Closing,
}

impl HelloError {
    /// The error number of the answer; `None` when nothing is answered.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            HelloError::NotOwner => Some(Errno::EPERM),
            HelloError::Malformed => Some(Errno::EPROTO),
            HelloError::HostMismatch { .. }
            | HelloError::NotChild { .. }
            | HelloError::VersionMismatch { .. } => Some(Errno::EINVAL),
            HelloError::Closing => None,
        }
    }

    /// The text of the answer.
    pub fn response_text(&self) -> Option<String> {
        match self {
            HelloError::NotChild { .. } | HelloError::VersionMismatch { .. } => {
                Some(self.to_string())
            }
            _ => None,
        }
    }
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

enum Parent {
    /// Rank 0 has none.
    None,
    /// Hello was not answered yet.
    Joining,
    Connected {
        uuid: String,
        /// When we last sent anything.
        last_sent: Duration,
    },
    /// Left, lost or refused.
    Gone,
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

    /// Judges a hello. On success the child is connected, and the answer is our uuid.
    /// Errors: [`HelloError`], with what to answer; what to log is among the effects.
    pub fn on_hello(
        &mut self,
        now: Duration,
        hello: &Hello,
        is_owner: bool,
        out: &mut Effects,
    ) -> Result<(), HelloError> {
        if self.closing {
            self.on_stranger(&hello.uuid, out);
            return Err(HelloError::Closing);
        }
        match self.check_hello(hello, is_owner) {
            Ok(index) => {
                self.accept(now, index, hello, out);
                Ok(())
            }
            Err(error) => {
                self.reject(hello, &error, out);
                Err(error)
            }
        }
    }

    fn check_hello(&self, hello: &Hello, is_owner: bool) -> Result<usize, HelloError> {
        if !is_owner {
            return Err(HelloError::NotOwner);
        }
        if !hello.status.is_connected() {
            return Err(HelloError::Malformed);
        }
        let (rank, parent) = (hello.rank, self.config.rank);
        let index = self
            .index(rank)
            .ok_or(HelloError::NotChild { rank, parent })?;
        let configured = &self.children[index].host;
        if hello
            .hostname
            .as_ref()
            .is_some_and(|name| !configured.is_empty() && name != configured)
        {
            return Err(HelloError::HostMismatch {
                rank,
                configured: configured.clone(),
            });
        }
        if !hello.version.fits(self.config.version) {
            let (client, server) = (hello.version, self.config.version);
            return Err(HelloError::VersionMismatch { client, server });
        }
        // A uuid in use by another child would make the two indistinguishable.
        if self.by_uuid.get(&hello.uuid).is_some_and(|i| *i != index) {
            return Err(HelloError::Malformed);
        }
        Ok(index)
    }

    fn accept(&mut self, now: Duration, index: usize, hello: &Hello, out: &mut Effects) {
        let rank = hello.rank;
        let crashed = self.children[index].uuid.is_some();
        let again = crashed || self.children[index].status == Status::Lost;
        if crashed {
            let text = format!(
                "{} reconnected after crash, dropping old connection state",
                self.who(index)
            );
            out.push(Effect::Log(Level::Err, text));
            self.detach(now, index, Status::Lost, "lost connection", out);
        }
        let host = hello
            .hostname
            .as_ref()
            .unwrap_or(&self.children[index].host);
        let text = format!(
            "accepting connection from {host} (rank {rank}) status {}",
            hello.status
        );
        out.push(Effect::Log(
            if again { Level::Err } else { Level::Debug },
            text,
        ));
        self.by_uuid.insert(hello.uuid.clone(), index);
        let child = &mut self.children[index];
        child.uuid = Some(hello.uuid.clone());
        child.error = None;
        child.last_heard = now;
        self.set_child_status(now, index, hello.status, out);
    }

    fn reject(&mut self, hello: &Hello, error: &HelloError, out: &mut Effects) {
        if *error == HelloError::NotOwner {
            return;
        }
        let index = self.index(hello.rank);
        if matches!(error, HelloError::VersionMismatch { .. })
            && let Some(index) = index
        {
            self.children[index].error = Some(error.to_string());
            out.push(Effect::HealthChanged);
        }
        let configured = index.map(|i| self.children[i].host.as_str());
        let host = hello
            .hostname
            .as_deref()
            .or(configured)
            .unwrap_or("unknown host");
        let text = format!(
            "rejecting connection from {host} (rank {}): {error}",
            hello.rank
        );
        out.push(Effect::Log(Level::Err, text));
    }

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

    // The side of the parent.

    /// The hello to send to the parent.
    pub fn hello(&mut self, uuid: &str, hostname: Option<String>) -> Hello {
        self.told_parent = Some(self.status);
        Hello {
            rank: self.config.rank,
            version: self.config.version,
            uuid: uuid.to_owned(),
            status: self.status,
            hostname,
        }
    }

    /// The parent answered hello with its uuid or an error's text.
    pub fn on_hello_response(
        &mut self,
        now: Duration,
        response: Result<&str, &str>,
        out: &mut Effects,
    ) {
        if !matches!(self.parent, Parent::Joining) {
            return;
        }
        match response {
            Ok(uuid) => {
                let rank = self
                    .config
                    .topology
                    .parent(self.config.rank)
                    .unwrap_or(Rank::LEADER);
                out.push(Effect::Log(
                    Level::Debug,
                    format!("hello parent {rank} {uuid}"),
                ));
                self.parent = Parent::Connected {
                    uuid: uuid.to_owned(),
                    last_sent: now,
                };
                self.tell_parent(now, out);
            }
            Err(text) => {
                out.push(Effect::Log(Level::Err, format!("overlay.hello: {text}")));
                self.leave_parent(out);
                out.push(Effect::ParentFail);
            }
        }
    }

    /// Something was sent to the parent: no heartbeat is due for a while. Messages among our own
    /// effects are counted already.
    pub fn on_sent_to_parent(&mut self, now: Duration) {
        if let Parent::Connected { last_sent, .. } = &mut self.parent {
            *last_sent = now;
        }
    }

    /// A control message from the parent.
    pub fn on_parent_control(&mut self, control: Control, out: &mut Effects) {
        let attached = matches!(self.parent, Parent::Joining | Parent::Connected { .. });
        if control == Control::Disconnect && attached {
            let rank = self
                .config
                .topology
                .parent(self.config.rank)
                .unwrap_or(Rank::LEADER);
            let host = &self.config.parent_host;
            let text = format!("{host} (rank {rank}) sent disconnect control message");
            out.push(Effect::Log(Level::Crit, text));
            out.push(Effect::CloseParent);
            self.leave_parent(out);
            out.push(Effect::ParentFail);
        }
    }

    /// The connection to the parent dropped. Nothing happens if we have left it.
    pub fn on_parent_lost(&mut self, out: &mut Effects) {
        if matches!(self.parent, Parent::Joining | Parent::Connected { .. }) {
            self.leave_parent(out);
            out.push(Effect::ParentFail);
        }
    }

    /// The parent answered our goodbye: losing it is no failure any more.
    pub fn on_goodbye_response(&mut self, out: &mut Effects) {
        if matches!(self.parent, Parent::Connected { .. }) {
            self.leave_parent(out);
        }
    }

    /// Cut the connection to the parent (`overlay.disconnect-parent`).
    pub fn disconnect_parent(&mut self, reason: &str, out: &mut Effects) {
        if matches!(self.parent, Parent::Joining | Parent::Connected { .. }) {
            out.push(Effect::Log(Level::Crit, format!("disconnecting: {reason}")));
            out.push(Effect::CloseParent);
            self.leave_parent(out);
            out.push(Effect::ParentFail);
        }
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

    fn tell_parent(&mut self, now: Duration, out: &mut Effects) {
        if let Parent::Connected { last_sent, .. } = &mut self.parent
            && self.told_parent != Some(self.status)
        {
            *last_sent = now;
            self.told_parent = Some(self.status);
            out.push(Effect::SendParent(Control::Status(self.status)));
        }
    }

    fn leave_parent(&mut self, out: &mut Effects) {
        self.parent = Parent::Gone;
        out.push(Effect::FailParentRpcs);
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
