//! Small helpers over the KVS RPCs that several modules use.

use proto::kvs::{Commit, KvsCommit, KvsLookup, Lookup, Op, PRIMARY, flags};
use rpc::{Dest, Handle, RpcError};
use serde_json::value::RawValue;
use spec::TreeObj;
use types::Errno;

/// An operation that replaces a key's value.
pub(crate) fn put(key: impl Into<String>, value: &[u8]) -> Op {
    Op {
        key: key.into(),
        flags: 0,
        dirent: TreeObj::Val(value.to_vec()).to_raw(),
    }
}

/// An operation that adds to a key's value.
pub(crate) fn append(key: impl Into<String>, value: &[u8]) -> Op {
    Op {
        flags: flags::APPEND,
        ..put(key, value)
    }
}

/// An operation that stores a tree object.
pub(crate) fn object(key: impl Into<String>, object: &TreeObj) -> Op {
    Op {
        key: key.into(),
        flags: 0,
        dirent: object.to_raw(),
    }
}

/// An operation that removes a key.
pub(crate) fn unlink(key: impl Into<String>) -> Op {
    Op {
        key: key.into(),
        flags: 0,
        dirent: RawValue::NULL.to_owned(),
    }
}

/// Commits operations to the primary namespace.
pub(crate) async fn commit(handle: &Handle, ops: Vec<Op>, flags: i32) -> Result<(), RpcError> {
    let commit = Commit {
        ops,
        namespace: PRIMARY.into(),
        flags,
    };
    handle.call::<KvsCommit>(Dest::Any, &commit).await.map(drop)
}

/// Reads a key of the primary namespace; `None` if there is none.
pub(crate) async fn get(handle: &Handle, key: &str) -> Result<Option<Vec<u8>>, RpcError> {
    let lookup = Lookup {
        key: key.into(),
        flags: 0,
        namespace: Some(PRIMARY.into()),
        rootdir: None,
        rootseq: None,
    };
    match handle.call::<KvsLookup>(Dest::Any, &lookup).await {
        Ok(found) => value_of(&found.val).map(Some),
        Err(error) if error.errno == Errno::ENOENT => Ok(None),
        Err(error) => Err(error),
    }
}

/// The bytes of a value object.
pub(crate) fn value_of(object: &RawValue) -> Result<Vec<u8>, RpcError> {
    match TreeObj::decode(object.get().as_bytes()) {
        Ok(TreeObj::Val(bytes)) => Ok(bytes),
        Ok(_) | Err(_) => Err(RpcError::new(Errno::EPROTO, "lookup answer is not a value")),
    }
}
