//! The key-value store: services `kvs` and `kvs-watch`.
//!
//! Tree objects (RFC 11) travel as JSON text here, so that whoever only passes them on need not
//! take them apart; `spec::treeobj` knows their form.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::log::Cancel;
use crate::{Empty, rpc};

/// The namespace every instance has.
pub const PRIMARY: &str = "primary";

/// Bits of [`Lookup::flags`] and [`Op::flags`].
pub mod flags {
    /// The entries of a directory, one level deep.
    pub const READDIR: i32 = 1;
    /// A symbolic link itself.
    pub const READLINK: i32 = 2;
    /// A response for every change.
    pub const WATCH: i32 = 4;
    /// Wait for a key that does not exist yet.
    pub const WAITCREATE: i32 = 8;
    /// The tree object as it is stored.
    pub const TREEOBJ: i32 = 16;
    /// Commit: add to the value.
    pub const APPEND: i32 = 32;
    /// Watch: look at every commit of the namespace.
    pub const WATCH_FULL: i32 = 64;
    /// Watch: leave out values equal to the one before.
    pub const WATCH_UNIQ: i32 = 128;
    /// Watch: only what was added to the value.
    pub const WATCH_APPEND: i32 = 256;
    /// One response for every blob of the value.
    pub const STREAM: i32 = 512;
    /// Watch: a response without payload when all there was has been sent.
    pub const WATCH_INITIAL_SENTINEL: i32 = 1024;
    /// With [`WATCH_APPEND`] or [`STREAM`]: responses are the blobs themselves, not tree objects, and empty ones
    /// are left out. For services beside the KVS, which read much; no bit of the protocol.
    pub const WATCH_BLOBS: i32 = 1 << 24;
}

/// Bits of [`Commit::flags`].
pub mod commit_flags {
    /// Never merge with another transaction.
    pub const NO_MERGE: i32 = 1;
    /// Write a checkpoint before answering.
    pub const SYNC: i32 = 4;
}

/// Names a namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// The namespace.
    pub namespace: String,
}

/// A namespace's root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Root {
    /// Whose it is; a 32-bit user id that clients carry as a signed number.
    pub owner: i64,
    /// How many commits it has seen.
    pub rootseq: i64,
    /// The root directory's blobref.
    pub rootref: String,
    /// Reserved.
    #[serde(default)]
    pub flags: i32,
    /// The namespace.
    #[serde(default)]
    pub namespace: String,
}

rpc! {
    /// Reads a namespace's root. Errors: `ENOTSUP` unknown namespace, `EPERM`.
    KvsGetroot: "kvs", "getroot", Single, User, Namespace => Root
}

/// A lookup. It needs a namespace or a root directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lookup {
    /// The key.
    pub key: String,
    /// See [`flags`].
    pub flags: i32,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Under this root, a `dirref`, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootdir: Option<Value>,
    /// The sequence number of `rootdir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootseq: Option<i64>,
}

/// What a key holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// A tree object.
    pub val: Box<RawValue>,
}

/// What a key holds and where that was seen; `errno` instead of a value where there is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoundPlus {
    /// A tree object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<Box<RawValue>>,
    /// `ENOENT` if the key is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// The root's sequence number.
    pub rootseq: i64,
    /// The root's blobref.
    pub rootref: String,
}

rpc! {
    /// Reads a key. Errors: `ENOENT`, `EISDIR`, `ENOTDIR`, `EINVAL`, `ELOOP`, `ENOTSUP` unknown
    /// namespace, `EPERM`.
    KvsLookup: "kvs", "lookup", Single, User, Lookup => Found
}
rpc! {
    /// As `lookup`, telling which root was used; a missing key is no error.
    KvsLookupPlus: "kvs", "lookup-plus", Single, User, Lookup => FoundPlus
}

/// One operation of a transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    /// The key.
    pub key: String,
    /// 0 or [`flags::APPEND`].
    pub flags: i32,
    /// The tree object to store; `null` unlinks.
    pub dirent: Box<RawValue>,
}

/// A transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// The operations, in order.
    pub ops: Vec<Op>,
    /// Where.
    pub namespace: String,
    /// See [`commit_flags`].
    pub flags: i32,
}

/// A root after a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Committed {
    /// The root directory's blobref.
    pub rootref: String,
    /// Its sequence number.
    pub rootseq: i64,
}

rpc! {
    /// Applies a transaction. Errors: `EINVAL`, `EPROTO` malformed operation, `EISDIR`,
    /// `EOPNOTSUPP`, `EFBIG`, `ENOTSUP` unknown namespace, `EPERM`.
    KvsCommit: "kvs", "commit", Single, User, Commit => Committed
}

/// A transaction on its way to the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayCommit {
    /// The operations, in order.
    pub ops: Vec<Op>,
    /// The transaction's name.
    pub name: String,
    /// Where.
    pub namespace: String,
    /// See [`commit_flags`].
    pub flags: i32,
}

rpc! {
    /// Passes a transaction on to rank 0; the answer is an event.
    KvsRelayCommit: "kvs", "relaycommit", NoResponse, Owner, RelayCommit => Empty
}

/// Waits for a version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WaitVersion {
    /// The sequence number.
    pub rootseq: i64,
    /// Where.
    pub namespace: String,
}

rpc! {
    /// Answered when the namespace is at least at a sequence number.
    KvsWaitVersion: "kvs", "wait-version", Single, User, WaitVersion => Committed
}

/// A new namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NamespaceCreate {
    /// Its name.
    pub namespace: String,
    /// Its first root's blobref.
    pub rootref: String,
    /// Whose it is; -1 for the instance owner's.
    pub owner: i64,
    /// Reserved.
    #[serde(default)]
    pub flags: i32,
}

/// A namespace in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NamespaceInfo {
    /// Its name.
    pub namespace: String,
    /// Whose it is.
    pub owner: i64,
    /// Reserved.
    pub flags: i32,
}

/// The namespaces a rank knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Namespaces {
    /// The namespaces.
    pub namespaces: Vec<NamespaceInfo>,
}

rpc! {
    /// Creates a namespace; rank 0 only. Errors: `EEXIST`.
    KvsNamespaceCreate: "kvs", "namespace-create", Single, Owner, NamespaceCreate => Empty
}
rpc! {
    /// Removes a namespace; rank 0 only. Errors: `ENOTSUP` the primary one.
    KvsNamespaceRemove: "kvs", "namespace-remove", Single, Owner, Namespace => Empty
}
rpc! {
    /// Lists the namespaces the local rank knows.
    KvsNamespaceList: "kvs", "namespace-list", Single, Owner, Empty => Namespaces
}
rpc! {
    /// Holds back new roots. A test aid.
    KvsSetrootPause: "kvs", "setroot-pause", Single, User, Namespace => Empty
}
rpc! {
    /// Ends that.
    KvsSetrootUnpause: "kvs", "setroot-unpause", Single, User, Namespace => Empty
}
rpc! {
    /// Reads the counters.
    KvsStats: "kvs", "stats-get", Single, User, Empty => Map<String, Value>
}

rpc! {
    /// Follows a key, waits for it, or reads its blobs one by one.
    KvsWatchLookup: "kvs-watch", "lookup", SingleOrStream, User, Lookup => Found
}
rpc! {
    /// Ends a followed lookup.
    KvsWatchCancel: "kvs-watch", "cancel", NoResponse, User, Cancel => Empty
}
rpc! {
    /// Reads the counters.
    KvsWatchStats: "kvs-watch", "stats-get", Single, User, Empty => Map<String, Value>
}

/// The payload of the event `kvs.namespace-NAME-setroot`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setroot {
    /// The namespace.
    pub namespace: String,
    /// The new root's sequence number.
    pub rootseq: i64,
    /// The new root's blobref.
    pub rootref: String,
    /// Whose it is.
    pub owner: i64,
    /// The transactions that made it.
    pub names: Vec<String>,
    /// The keys they touched, normalised, each with `null`.
    pub keys: Map<String, Value>,
}

/// The payload of the event `kvs.namespace-NAME-error`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommitFailed {
    /// The namespace.
    pub namespace: String,
    /// The transactions that failed.
    pub names: Vec<String>,
    /// Why.
    pub errnum: i32,
}

/// The payload of the event `kvs.namespace-NAME-created`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NamespaceCreated {
    /// The namespace.
    pub namespace: String,
    /// Its sequence number, 0.
    pub rootseq: i64,
    /// Its root's blobref.
    pub rootref: String,
    /// Whose it is.
    pub owner: i64,
}

/// What the topics of the events of namespaces begin with.
pub const EVENTS: &str = "kvs.namespace";

/// The topic of an event of a namespace: `setroot`, `error`, `created` or `removed`.
pub fn event_topic(namespace: &str, event: &str) -> String {
    format!("{EVENTS}-{namespace}-{event}")
}
