//! Identifiers. Each is a type of its own, so that swapping two is a compile error.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

id! {
    /// A broker's number within its instance, from 0 (RFC 3). Rank 0 is the leader.
    Rank(u32)
}

id! {
    /// A POSIX user id (RFC 12).
    UserId(u32)
}

id! {
    /// The number that ties a response to its request (RFC 6). Zero never appears here: a message
    /// without a matchtag carries `None`.
    Matchtag(u32)
}

id! {
    /// A job id: a FLUID (RFC 19), unique within its instance and sortable by submission time.
    JobId(u64)
}

impl Rank {
    /// The leader of the instance.
    pub const LEADER: Rank = Rank(0);
}

impl UserId {
    /// "No user": what a fresh message carries before a channel stamps it (RFC 3).
    pub const UNKNOWN: UserId = UserId(u32::MAX);
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
