//! Blobs by their digest (RFC 10): services `content` and `content-backing`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Empty, Raw, rpc};
use bytes::Bytes;

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
    /// Lists the digests that begin with a byte, ascending, one after another, each followed by
    /// [`ROW_SIZE`] bytes by which [`BackingLoadMany`] finds the blob. Not every backing store can,
    /// and the reference's cannot.
    BackingDigests: "content-backing", "digests", Single, Owner, Raw => Raw
}
rpc! {
    /// Reads many blobs, each named by what follows its digest in the answer to
    /// [`BackingDigests`]: a [`BlobList`] in the same order. Blobs may have been removed and others
    /// put in their place meanwhile: who asks has to hash what comes.
    BackingLoadMany: "content-backing", "load-many", Single, Owner, Raw => Raw
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

/// What names a blob beside its digest.
pub const ROW_SIZE: usize = 8;

/// Marks a blob that is not in a [`BlobList`].
const LEFT_OUT: u32 = u32::MAX;

/// Many blobs in one payload: each as its length (four bytes, the lowest first) and its bytes.
///
/// A blob may be left out: it is missing, damaged, or would make the payload too large. Asking for
/// it alone tells which.
#[derive(Debug, Default)]
pub struct BlobList(Vec<u8>);

impl BlobList {
    /// Adds a blob, or leaves it out.
    pub fn push(&mut self, blob: Option<&[u8]>) {
        let known = blob.and_then(|blob| Some((u32::try_from(blob.len()).ok()?, blob)));
        match known.filter(|(len, _)| *len != LEFT_OUT) {
            Some((len, blob)) => {
                self.0.extend_from_slice(&len.to_le_bytes());
                self.0.extend_from_slice(blob);
            }
            None => self.0.extend_from_slice(&LEFT_OUT.to_le_bytes()),
        }
    }

    /// The bytes so far.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The payload.
    pub fn finish(self) -> Bytes {
        self.0.into()
    }

    /// Reads a payload; `None` if it is not one.
    pub fn decode(payload: &Bytes) -> Option<Vec<Option<Bytes>>> {
        let mut blobs = Vec::new();
        let mut at = 0;
        while at < payload.len() {
            let len = payload.get(at..at + 4)?;
            let len = u32::from_le_bytes(len.try_into().ok()?);
            at += 4;
            if len == LEFT_OUT {
                blobs.push(None);
                continue;
            }
            let end = at.checked_add(usize::try_from(len).ok()?)?;
            if end > payload.len() {
                return None;
            }
            blobs.push(Some(payload.slice(at..end)));
            at = end;
        }
        Some(blobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_lists_come_back() {
        let large = vec![7; 70_000];
        let blobs: [Option<&[u8]>; 4] = [Some(b"a"), None, Some(b""), Some(&large)];
        let mut list = BlobList::default();
        for blob in blobs {
            list.push(blob);
        }
        let payload = list.finish();
        let read = BlobList::decode(&payload).expect("a list");
        assert!(read.iter().map(Option::as_deref).eq(blobs));
        assert_eq!(BlobList::decode(&payload.slice(..payload.len() - 1)), None);
        assert_eq!(BlobList::decode(&Bytes::from_static(&[1, 0, 0])), None);
    }
}
