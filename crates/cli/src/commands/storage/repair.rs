//! Mending a damaged tree: what can be saved goes to `lost+found`.

use std::collections::BTreeMap;

use client::Client;
use proto::Raw;
use proto::content::{BackingCheckpointPut, Checkpoint, PutCheckpoint};
use spec::{BlobRef, HashKind, TreeObj};
use types::Errno;

use super::tree::{self, Blobs, LEADER};
use crate::fail::Fail;
use crate::timefmt;

const LOST: &str = "lost+found";

/// What is wrong with a tree.
#[derive(Default)]
pub(super) struct Defects {
    /// Values by key, each with the pieces that are left.
    pub(super) values: BTreeMap<String, Vec<BlobRef>>,
    /// Directories that are missing.
    pub(super) dirs: Vec<String>,
    /// Directories of jobs to move as a whole.
    pub(super) jobs: Vec<String>,
}

/// Stores a tree without the defects and makes it the newest checkpoint.
pub(super) async fn repair(
    client: &Client,
    blobs: &Blobs<'_>,
    root: BlobRef,
    sequence: i64,
    defects: &Defects,
) -> Result<(), Fail> {
    let hash = client.attr("content.hash").await?;
    let tree = Tree {
        blobs,
        hash: HashKind::from_name(&hash).ok_or(Errno::EINVAL)?,
    };
    let mut work = tree.load(root).await?;
    for key in &defects.dirs {
        tree.take(&mut work, key).await?;
    }
    for (key, left) in &defects.values {
        tree.take(&mut work, key).await?;
        let object = match left.is_empty() {
            true => TreeObj::Val(Vec::new()),
            false => TreeObj::ValRef(left.clone()),
        };
        let lost = format!("{LOST}.{key}");
        tree.put(&mut work, &lost, Node::Object(object)).await?;
    }
    for job in &defects.jobs {
        let Some(node) = tree.take(&mut work, job).await? else {
            continue;
        };
        let Node::Dir(dir) = tree.open(node).await? else {
            continue;
        };
        // What was mended is there already and stays.
        for (name, node) in dir {
            let lost = format!("{LOST}.{job}.{name}");
            tree.merge(&mut work, &lost, node).await?;
        }
    }
    let root = tree.store(work).await?;
    let checkpoint = Checkpoint {
        version: 1,
        rootref: root.to_string(),
        sequence: Some(sequence),
        timestamp: Some(timefmt::now()),
    };
    let value = serde_json::to_value(checkpoint).map_err(|error| Fail::new(error.to_string()))?;
    let request = PutCheckpoint { value };
    let call = client
        .handle()
        .call::<BackingCheckpointPut>(LEADER, &request);
    call.await
        .map_err(|error| Fail::of("error updating checkpoint", error))?;
    Ok(())
}

type Dir = BTreeMap<String, Node>;

/// An entry, opened where it is being changed.
enum Node {
    Object(TreeObj),
    Dir(Dir),
}

struct Tree<'a> {
    blobs: &'a Blobs<'a>,
    hash: HashKind,
}

impl Tree<'_> {
    async fn load(&self, blobref: BlobRef) -> Result<Dir, Fail> {
        let Raw(blob) = self
            .blobs
            .load(&blobref)
            .await
            .map_err(|error| Fail::of("error loading directory", error))?;
        let entries = tree::directory(&blob)?;
        Ok(nodes(entries))
    }

    /// Opens a directory; anything else stays as it is.
    async fn open(&self, node: Node) -> Result<Node, Fail> {
        Ok(match node {
            Node::Object(TreeObj::DirRef(blobref)) => Node::Dir(self.load(blobref).await?),
            Node::Object(TreeObj::Dir(entries)) => Node::Dir(nodes(entries)),
            other => other,
        })
    }

    /// Walks to the directory that holds a key's last name, making what is missing on the way if
    /// `create`.
    async fn parent<'t, 'k>(
        &self,
        root: &'t mut Dir,
        key: &'k str,
        create: bool,
    ) -> Result<Option<(&'t mut Dir, &'k str)>, Fail> {
        let mut parts: Vec<&str> = key.split('.').collect();
        let Some(last) = parts.pop() else {
            return Ok(None);
        };
        let mut dir = root;
        for part in parts {
            let node = match dir.remove(part) {
                Some(node) => self.open(node).await?,
                None if create => Node::Dir(Dir::new()),
                None => return Ok(None),
            };
            let node = match node {
                // A value in the way of what is saved gives way.
                Node::Object(_) if create => Node::Dir(Dir::new()),
                node => node,
            };
            let Node::Dir(inner) = dir.entry(part.to_owned()).or_insert(node) else {
                return Ok(None);
            };
            dir = inner;
        }
        Ok(Some((dir, last)))
    }

    async fn take(&self, root: &mut Dir, key: &str) -> Result<Option<Node>, Fail> {
        let found = self.parent(root, key, false).await?;
        Ok(found.and_then(|(dir, name)| dir.remove(name)))
    }

    async fn put(&self, root: &mut Dir, key: &str, node: Node) -> Result<(), Fail> {
        if let Some((dir, name)) = self.parent(root, key, true).await? {
            dir.insert(name.to_owned(), node);
        }
        Ok(())
    }

    /// Puts a node where nothing is, and its entries where a directory is.
    async fn merge(&self, root: &mut Dir, key: &str, node: Node) -> Result<(), Fail> {
        let Some((dir, name)) = self.parent(root, key, true).await? else {
            return Ok(());
        };
        let Some(present) = dir.remove(name) else {
            dir.insert(name.to_owned(), node);
            return Ok(());
        };
        let merged = match (self.open(present).await?, self.open(node).await?) {
            (Node::Dir(present), Node::Dir(more)) => {
                dir.insert(name.to_owned(), Node::Dir(present));
                more
            }
            (present, _) => {
                dir.insert(name.to_owned(), present);
                return Ok(());
            }
        };
        for (name, node) in merged {
            Box::pin(self.merge(root, &format!("{key}.{name}"), node)).await?;
        }
        Ok(())
    }

    /// Stores what was opened, from below.
    async fn store(&self, dir: Dir) -> Result<BlobRef, Fail> {
        let mut entries = BTreeMap::new();
        for (name, node) in dir {
            let object = match node {
                Node::Object(object) => object,
                Node::Dir(dir) => TreeObj::DirRef(Box::pin(self.store(dir)).await?),
            };
            entries.insert(name, object);
        }
        let bytes = TreeObj::Dir(entries).encode().into_bytes();
        let blobref = BlobRef::hash(self.hash, &bytes);
        self.blobs
            .store(bytes)
            .await
            .map_err(|error| Fail::of("error storing directory", error))?;
        Ok(blobref)
    }
}

fn nodes(entries: BTreeMap<String, TreeObj>) -> Dir {
    let entries = entries.into_iter();
    entries
        .map(|(name, object)| (name, Node::Object(object)))
        .collect()
}
