//! Reading the stored tree: roots, and blobs from the cache or the backing store.

use std::borrow::Cow;
use std::collections::BTreeMap;

use client::Client;
use proto::content::{
    BackingCheckpointGet, BackingLoad, BackingStore, Checkpoint, ContentCheckpointGet, ContentLoad,
    ContentStore,
};
use proto::kvs::{KvsGetroot, Namespace, PRIMARY, Root};
use proto::{Empty, Raw};
use rpc::{Call, Dest, RpcError};
use serde_json::value::RawValue;
use spec::{BlobRef, TreeObj};
use types::{Errno, Rank};

use crate::fail::Fail;

/// Where the stores are.
pub(super) const LEADER: Dest = Dest::Rank(Rank::LEADER);

/// The content service, with or without its caches.
pub(super) struct Blobs<'a> {
    client: &'a Client,
    bypass: bool,
}

impl Blobs<'_> {
    /// With `bypass` the backing store is asked, past the caches.
    pub(super) fn new(client: &Client, bypass: bool) -> Blobs<'_> {
        Blobs { client, bypass }
    }

    /// Starts to load a blob.
    pub(super) fn load(&self, blobref: &BlobRef) -> Call<Raw> {
        let digest = Raw(blobref.digest().to_vec().into());
        let handle = self.client.handle();
        if self.bypass {
            handle.call::<BackingLoad>(LEADER, &digest)
        } else {
            handle.call::<ContentLoad>(Dest::Any, &digest)
        }
    }

    /// Starts to store a blob.
    pub(super) fn store(&self, blob: Vec<u8>) -> Call<Raw> {
        let blob = Raw(blob.into());
        let handle = self.client.handle();
        if self.bypass {
            handle.call::<BackingStore>(LEADER, &blob)
        } else {
            handle.call::<ContentStore>(Dest::Any, &blob)
        }
    }

    /// The checkpoints, the newest first.
    pub(super) async fn checkpoints(&self) -> Result<Vec<Checkpoint>, Fail> {
        let handle = self.client.handle();
        let call = if self.bypass {
            handle.call::<BackingCheckpointGet>(LEADER, &Empty {})
        } else {
            handle.call::<ContentCheckpointGet>(Dest::Any, &Empty {})
        };
        let found = match call.await {
            Ok(found) => found,
            Err(error) if error.errno == Errno::ENOENT => return Ok(Vec::new()),
            Err(error) => return Err(Fail::of("error fetching checkpoints", error)),
        };
        let list = match found.value {
            serde_json::Value::Array(list) => list,
            one => vec![one],
        };
        list.into_iter()
            .map(|value| {
                serde_json::from_value(value)
                    .map_err(|error| Fail::of("error parsing checkpoint", error))
            })
            .collect()
    }
}

/// The blobref in a checkpoint or root.
pub(super) fn rootref(text: &str) -> Result<BlobRef, Fail> {
    text.parse()
        .map_err(|_| Fail::new(format!("invalid root reference '{text}'")))
}

/// The live root of the primary namespace.
pub(super) async fn live_root(client: &Client, dest: Dest) -> Result<Root, RpcError> {
    let request = Namespace {
        namespace: PRIMARY.to_owned(),
    };
    client.handle().call::<KvsGetroot>(dest, &request).await
}

/// Refuses if the key-value store runs: its root would not follow.
pub(super) async fn refuse_live(client: &Client, text: &str) -> Result<(), Fail> {
    match live_root(client, LEADER).await {
        Err(error) if error.errno == Errno::ENOSYS => Ok(()),
        _ => Err(Fail::new(text)),
    }
}

/// Reads the directory in a blob.
///
/// # Errors
///
/// `EINVAL` for anything else.
pub(super) fn directory(blob: &[u8]) -> Result<BTreeMap<String, TreeObj>, Errno> {
    match TreeObj::decode(blob) {
        Ok(TreeObj::Dir(entries)) => Ok(entries),
        Ok(_) => Err(Errno::EINVAL),
        Err(error) => Err(error.errno()),
    }
}

/// The entries of the directory in a blob as far as they refer to blobs or are directories; what is
/// inline besides is there by name, as an empty value.
///
/// # Errors
///
/// `EINVAL` for anything but a directory.
pub(super) fn references(blob: &[u8]) -> Result<Vec<(String, TreeObj)>, Errno> {
    #[derive(serde::Deserialize)]
    struct Dir<'a> {
        #[serde(borrow)]
        data: BTreeMap<Cow<'a, str>, &'a RawValue>,
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
        ver: i64,
    }
    // Values are most of a directory's text, and the end of one tells what it is.
    const VALUE: &str = ",\"type\":\"val\",\"ver\":1}";
    let dir: Dir<'_> = serde_json::from_slice(blob).map_err(|_| Errno::EINVAL)?;
    if dir.kind != "dir" || dir.ver != 1 {
        return Err(Errno::EINVAL);
    }
    let object = |raw: &RawValue| match raw.get().ends_with(VALUE) {
        true => Ok(TreeObj::Val(Vec::new())),
        false => TreeObj::decode(raw.get().as_bytes()).map_err(|error| error.errno()),
    };
    dir.data
        .into_iter()
        .map(|(name, raw)| Ok((name.into_owned(), object(raw)?)))
        .collect()
}

/// A key below another.
pub(super) fn join(key: &str, name: &str) -> String {
    if key.is_empty() {
        name.to_owned()
    } else {
        format!("{key}.{name}")
    }
}
