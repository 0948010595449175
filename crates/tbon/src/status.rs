//! The words for the health of a subtree, and the control messages that carry them.

use std::fmt;

/// The health of a broker and everything below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Not heard of yet.
    #[default]
    Unknown,
    /// All of the subtree is there.
    Full,
    /// Some of the subtree has not joined, or has left in good order.
    Partial,
    /// Some of the subtree was lost.
    Degraded,
    /// The connection was lost, or cut by an administrator.
    Lost,
    /// Left in good order.
    Offline,
}

use Status::*;

impl Status {
    /// The number on the wire.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// The status with this number.
    pub fn from_number(number: i32) -> Option<Status> {
        [Unknown, Full, Partial, Degraded, Lost, Offline]
            .into_iter()
            .find(|status| status.number() == number)
    }

    /// The word users see.
    pub fn name(self) -> &'static str {
        match self {
            Unknown => "unknown",
            Full => "full",
            Partial => "partial",
            Degraded => "degraded",
            Lost => "lost",
            Offline => "offline",
        }
    }

    /// Whether a peer in this status is connected.
    pub fn is_connected(self) -> bool {
        matches!(self, Full | Partial | Degraded)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A message of type control (RFC 3): between neighbours only, never routed or answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// "I am alive", from a child that had nothing else to say.
    Heartbeat,
    /// The new status of the sending child's subtree.
    Status(Status),
    /// "Go away", from a parent.
    Disconnect,
}

impl Control {
    /// The two auxiliary numbers on the wire: type and status.
    pub fn numbers(self) -> (i32, i32) {
        match self {
            Control::Heartbeat => (0, 0),
            Control::Status(status) => (1, status.number()),
            Control::Disconnect => (2, 0),
        }
    }

    /// The control message with these numbers; `None` for unknown ones, which are ignored.
    pub fn from_numbers(kind: i32, status: i32) -> Option<Control> {
        match kind {
            0 => Some(Control::Heartbeat),
            1 => Status::from_number(status).map(Control::Status),
            2 => Some(Control::Disconnect),
            _ => None,
        }
    }
}

/// The version of a broker, as peers compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Incompatible changes.
    pub major: u32,
    /// Changes that may be incompatible between brokers.
    pub minor: u32,
    /// Changes that are not.
    pub patch: u32,
}

impl Version {
    /// The form in a hello: `MAJOR * 65536 + MINOR * 256 + PATCH`.
    pub fn number(self) -> u32 {
        (self.major << 16) | (self.minor << 8) | self.patch
    }

    /// Takes such a number apart.
    pub fn from_number(number: u32) -> Version {
        Version {
            major: number >> 16,
            minor: number >> 8 & 0xFF,
            patch: number & 0xFF,
        }
    }

    /// Whether brokers of these versions may be in one instance.
    pub fn fits(self, other: Version) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for number in 0..6 {
            assert_eq!(Status::from_number(number).unwrap().number(), number);
        }
        assert_eq!(Status::from_number(6), None);
        for control in [
            Control::Heartbeat,
            Control::Status(Degraded),
            Control::Disconnect,
        ] {
            let (kind, status) = control.numbers();
            assert_eq!(Control::from_numbers(kind, status), Some(control));
        }
        assert_eq!(Control::from_numbers(3, 0), None);
        assert_eq!(Control::from_numbers(1, 99), None);
        let version = Version {
            major: 0,
            minor: 88,
            patch: 2,
        };
        assert_eq!(version.number(), 88 * 256 + 2);
        assert_eq!(Version::from_number(version.number()), version);
    }
}
