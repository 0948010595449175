//! The side of the parent: joining it, telling it our status, and leaving it.
//!
//! A broker joins its parent once. Whatever ends the connection, other than an answered goodbye,
//! ends the broker.

use std::time::Duration;

use types::Rank;

use super::{Effect, Effects, Hello, Level, Overlay};
use crate::status::Control;

pub(super) enum Parent {
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

impl Overlay {
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

    pub(super) fn tell_parent(&mut self, now: Duration, out: &mut Effects) {
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
