//! The key-value store's engine (RFC 11): trees of directories held in blobs, look-ups, and
//! transactions.
//!
//! Pure: blobs come from a [`Cache`], and what is not in it is asked for by returning
//! [`Step::Blobs`]; the caller loads them and asks again. A transaction works on a private copy of
//! the directories it touches, so that asking again repeats nothing.
//!
//! Directories share their entries: a commit copies references along the path it writes, and no
//! entry is encoded twice.

mod cache;
mod dir;
mod error;
mod key;
mod lookup;
mod namespace;
mod queue;
#[cfg(test)]
mod tests;
mod txn;

pub use cache::{Cache, Usage};
pub use dir::{Dir, Entry};
pub use error::Error;
pub use key::{components, normalize};
pub use lookup::{Found, Query, Want, lookup};
pub use namespace::{Namespace, Namespaces};
pub use queue::{Batch, Pending, Queue};
pub use txn::{Applied, Change, NewBlob, Op, apply, check_guest};

use spec::BlobRef;

/// How far a look-up or a transaction came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// To its end.
    Done(T),
    /// It needs these blobs in the cache first.
    Blobs(Vec<BlobRef>),
    /// It needs the root of this namespace, which is unknown here.
    Namespace(String),
}
