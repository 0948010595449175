//! Admitting a child: its hello, what it is judged by, and the answer.

use std::time::Duration;

use thiserror::Error;
use types::{Errno, Rank};

use super::{Effect, Effects, Level, Overlay};
use crate::status::{Status, Version};

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

impl Overlay {
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
}
