//! Roles and credentials of message senders (RFC 12).

use std::ops::BitOr;

use crate::UserId;

/// A set of roles (RFC 12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RoleMask(pub u32);

impl RoleMask {
    /// No role: the state of a message before its channel stamps it.
    pub const NONE: RoleMask = RoleMask(0);
    /// The instance owner.
    pub const OWNER: RoleMask = RoleMask(1);
    /// A guest: any authenticated user.
    pub const USER: RoleMask = RoleMask(2);
    /// The message entered the instance on this very rank.
    pub const LOCAL: RoleMask = RoleMask(4);
    /// A guest listed as administrator.
    pub const ADMIN: RoleMask = RoleMask(8);
    /// Every role.
    pub const ALL: RoleMask = RoleMask(u32::MAX);

    /// Whether any role is in both sets.
    pub fn intersects(self, other: RoleMask) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether every role of `other` is in this set.
    pub fn contains(self, other: RoleMask) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set without the roles of `other`.
    pub fn without(self, other: RoleMask) -> RoleMask {
        RoleMask(self.0 & !other.0)
    }
}

impl BitOr for RoleMask {
    type Output = RoleMask;

    fn bitor(self, other: RoleMask) -> RoleMask {
        RoleMask(self.0 | other.0)
    }
}

/// Who sent a message: a user and the roles the instance grants them (RFC 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cred {
    /// The sender's user id.
    pub userid: UserId,
    /// The sender's roles.
    pub rolemask: RoleMask,
}

impl Cred {
    /// The credentials of a fresh message: unknown user, no role.
    pub const UNKNOWN: Cred = Cred {
        userid: UserId::UNKNOWN,
        rolemask: RoleMask::NONE,
    };

    /// Whether the sender is the instance owner.
    pub fn is_owner(self) -> bool {
        self.rolemask.intersects(RoleMask::OWNER)
    }

    /// Whether the sender may act on something that belongs to `userid`: the instance owner
    /// always, a guest on what is theirs.
    pub fn may_act_for(self, userid: UserId) -> bool {
        self.is_owner() || (self.rolemask.intersects(RoleMask::USER) && self.userid == userid)
    }
}
