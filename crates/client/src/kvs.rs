//! The key-value store as programs use it: look-ups and transactions.

use proto::kvs::{self, Commit, Committed, KvsCommit, KvsLookup, Lookup, Op};
use rpc::{Dest, Handle, RpcError};
use serde_json::value::RawValue;
use spec::TreeObj;
use types::Errno;

/// The namespace a program uses: `FLUX_KVS_NAMESPACE`, or else the primary one.
pub fn default_namespace() -> String {
    match std::env::var("FLUX_KVS_NAMESPACE") {
        Ok(name) if !name.is_empty() => name,
        _ => kvs::PRIMARY.to_owned(),
    }
}

/// A transaction.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    ops: Vec<Op>,
}

impl Txn {
    /// An empty one.
    pub fn new() -> Txn {
        Txn::default()
    }

    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn op(&mut self, key: &str, flags: i32, dirent: String) {
        // Tree objects encode to JSON by construction.
        let Ok(dirent) = RawValue::from_string(dirent) else {
            return debug_assert!(false, "tree object is not JSON");
        };
        self.ops.push(Op {
            key: key.to_owned(),
            flags,
            dirent,
        });
    }

    /// Stores a value.
    pub fn put(&mut self, key: &str, value: &[u8]) {
        self.op(key, 0, TreeObj::encode_val(value));
    }

    /// Adds to a value.
    pub fn append(&mut self, key: &str, value: &[u8]) {
        let dirent = TreeObj::encode_val(value);
        self.op(key, kvs::flags::APPEND, dirent);
    }

    /// Stores a tree object.
    pub fn put_treeobj(&mut self, key: &str, object: &TreeObj) {
        self.op(key, 0, object.encode());
    }

    /// Stores an empty directory.
    pub fn mkdir(&mut self, key: &str) {
        self.op(key, 0, TreeObj::empty_dir().encode());
    }

    /// Stores a link.
    pub fn symlink(&mut self, key: &str, namespace: Option<&str>, target: &str) {
        let link = TreeObj::Symlink {
            namespace: namespace.map(str::to_owned),
            target: target.to_owned(),
        };
        self.op(key, 0, link.encode());
    }

    /// Removes a key.
    pub fn unlink(&mut self, key: &str) {
        self.op(key, 0, "null".to_owned());
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// Those of [`KvsCommit`].
    pub async fn commit(
        self,
        handle: &Handle,
        namespace: &str,
        flags: i32,
    ) -> Result<Committed, RpcError> {
        let request = Commit {
            ops: self.ops,
            namespace: namespace.to_owned(),
            flags,
        };
        handle.call::<KvsCommit>(Dest::Any, &request).await
    }
}

/// Reads the tree object of a key.
///
/// # Errors
///
/// Those of [`KvsLookup`]; `EPROTO` if the answer is no tree object.
pub async fn lookup(
    handle: &Handle,
    namespace: &str,
    key: &str,
    flags: i32,
) -> Result<TreeObj, RpcError> {
    let request = Lookup {
        key: key.to_owned(),
        flags,
        namespace: Some(namespace.to_owned()),
        rootdir: None,
        rootseq: None,
    };
    let found = handle.call::<KvsLookup>(Dest::Any, &request).await?;
    treeobj(&found.val)
}

/// Reads a value.
///
/// # Errors
///
/// As [`lookup`], and `EISDIR` or `EINVAL` if the key holds no value.
pub async fn get(handle: &Handle, namespace: &str, key: &str) -> Result<Vec<u8>, RpcError> {
    match lookup(handle, namespace, key, 0).await? {
        TreeObj::Val(bytes) => Ok(bytes),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// Reads the tree object in an answer.
///
/// # Errors
///
/// `EPROTO` if it is none.
pub fn treeobj(value: &RawValue) -> Result<TreeObj, RpcError> {
    TreeObj::decode(value.get().as_bytes())
        .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))
}
