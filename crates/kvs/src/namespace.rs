//! Namespaces: named roots with an owner.

use std::collections::BTreeMap;

use spec::BlobRef;
use types::{Cred, UserId};

use crate::Error;

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Whose it is.
    pub owner: UserId,
    /// The root directory.
    pub root: BlobRef,
    /// The root's sequence number.
    pub seq: i64,
    /// Reserved; carried along.
    pub flags: i32,
    /// It goes as soon as nothing uses it any more.
    pub removed: bool,
}

impl Namespace {
    /// Lets the instance owner and the namespace's owner in. Errors: [`Error::NoNamespace`] if
    /// it is being removed, [`Error::Denied`].
    pub fn check(&self, cred: Cred) -> Result<(), Error> {
        if self.removed {
            Err(Error::NoNamespace)
        } else if !cred.may_act_for(self.owner) {
            Err(Error::Denied)
        } else {
            Ok(())
        }
    }
}

/// Where look-ups find the roots of namespaces.
pub trait Namespaces {
    /// The namespace; `None` if it is unknown here.
    fn namespace(&self, name: &str) -> Option<&Namespace>;
}

impl Namespaces for BTreeMap<String, Namespace> {
    fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.get(name)
    }
}
