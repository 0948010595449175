//! Blobs by their digest (RFC 10): services `content` and `content-backing`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Empty, Raw, rpc};

rpc! {
    /// Reads a blob by its raw digest. Errors: `EPROTO` digest length, `ENOENT`.
    ContentLoad: "content", "load", Single, Owner, Raw => Raw
}
rpc! {
    /// Stores a blob and tells its raw digest. Errors: `EFBIG`.
    ContentStore: "content", "store", Single, Owner, Raw => Raw
}
rpc! {
    /// Answered when every blob is on the backing store. Errors: `ENOSYS` none, or its failure.
    ContentFlush: "content", "flush", Single, Owner, Empty => Empty
}
rpc! {
    /// Drops what the cache can get again.
    ContentDropcache: "content", "dropcache", Single, Owner, Empty => Empty
}
rpc! {
    /// Reads the counters.
    ContentStats: "content", "stats-get", Single, Owner, Empty => Map<String, Value>
}

/// A backing store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backing {
    /// Its module's name.
    pub name: String,
}

rpc! {
    /// Announces the backing store; rank 0 only. Errors: `EINVAL`, `EBUSY`.
    ContentRegisterBacking: "content", "register-backing", Single, Owner, Backing => Empty
}
rpc! {
    /// Takes that back.
    ContentUnregisterBacking: "content", "unregister-backing", Single, Owner, Empty => Empty
}

/// A root reference kept on the backing store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// 1; 0 in old stores.
    #[serde(default)]
    pub version: i32,
    /// The root directory's blobref.
    pub rootref: String,
    /// The root's sequence number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// Seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<f64>,
}

/// Checkpoints as read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checkpoints {
    /// The newest first; [`Checkpoint`] objects, or one such object from old versions.
    pub value: Value,
}

/// A checkpoint to write. Stores keep the object as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutCheckpoint {
    /// A [`Checkpoint`] object.
    pub value: Value,
}

rpc! {
    /// Reads the checkpoints. Errors: `ENOSYS` no backing store, `ENOENT` none.
    ContentCheckpointGet: "content", "checkpoint-get", Single, Owner, Empty => Checkpoints
}
rpc! {
    /// Flushes, then writes a checkpoint. Errors: `ENOSYS` no backing store.
    ContentCheckpointPut: "content", "checkpoint-put", Single, Owner, PutCheckpoint => Empty
}

/// A file whose pieces become loadable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MmapAdd {
    /// Its absolute path.
    pub path: String,
    /// Bytes a piece; 0 for one piece.
    pub chunksize: i64,
    /// What removes it.
    pub tag: String,
}

/// Names mapped files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tag {
    /// The tag.
    pub tag: String,
}

rpc! {
    /// Maps a file; rank 0 only. Errors: `EINVAL`, or why it cannot be opened.
    ContentMmapAdd: "content", "mmap-add", Single, Owner, MmapAdd => Empty
}
rpc! {
    /// Unmaps files.
    ContentMmapRemove: "content", "mmap-remove", Single, Owner, Tag => Empty
}

rpc! {
    /// Reads a blob by its raw digest. Errors: `EPROTO` digest length, `ENOENT`.
    BackingLoad: "content-backing", "load", Single, Owner, Raw => Raw
}
rpc! {
    /// Stores a blob and tells its raw digest.
    BackingStore: "content-backing", "store", Single, Owner, Raw => Raw
}
rpc! {
    /// Checks that a blob is there. Errors: `EPROTO` digest length, `ENOENT`.
    BackingValidate: "content-backing", "validate", Single, Owner, Raw => Empty
}
rpc! {
    /// Reads the checkpoints. Errors: `ENOENT` none.
    BackingCheckpointGet: "content-backing", "checkpoint-get", Single, Owner, Empty => Checkpoints
}
rpc! {
    /// Writes a checkpoint.
    BackingCheckpointPut: "content-backing", "checkpoint-put", Single, Owner,
    PutCheckpoint => Empty
}

/// Asks about a garbage collection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GcInfo {
    /// Blobs of earlier epochs are candidates.
    pub epoch: i64,
    /// Whether to count them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub get_count: bool,
}

/// Where a garbage collection stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GcState {
    /// The epoch of new blobs.
    pub current_epoch: i64,
    /// The highest row number.
    pub high_water: i64,
    /// How many candidates there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<i64>,
}

/// Blobs that are in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GcMark {
    /// The epoch they get at least.
    pub epoch: i64,
    /// Their blobrefs.
    pub hashes: Vec<String>,
}

/// How many blobs were marked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GcMarked {
    /// The number found.
    pub marked: i64,
}

/// Deletes rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GcSweep {
    /// Rows of earlier epochs go.
    pub epoch: i64,
    /// The last row number seen.
    pub cursor: i64,
    /// The last row number to look at.
    pub high_water: i64,
    /// At most this many.
    pub delete_cap: i64,
    /// Among this many.
    pub window: i64,
}

/// What was deleted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GcSwept {
    /// The number of rows.
    pub deleted: i64,
    /// Where to go on.
    pub cursor: i64,
}

rpc! {
    /// Reads where a garbage collection would stand.
    BackingGcInfo: "content-backing", "gc-info", Single, Owner, GcInfo => GcState
}
rpc! {
    /// Keeps blobs from being swept. Errors: `EINVAL` too many, `EPROTO`.
    BackingMark: "content-backing", "mark", Single, Owner, GcMark => GcMarked
}
rpc! {
    /// Deletes unmarked blobs. Errors: `EINVAL`.
    BackingSweep: "content-backing", "sweep", Single, Owner, GcSweep => GcSwept
}
