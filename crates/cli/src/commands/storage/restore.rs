//! `flux restore`: an archive as the tree, or as a part of it.

use std::collections::{BTreeMap, VecDeque};

use client::Client;
use client::kvs::Txn;
use dumpfile::{Kind, Reader};
use proto::content::{
    BackingCheckpointPut, Checkpoint, ContentCheckpointPut, ContentFlush, PutCheckpoint,
};
use proto::kvs::PRIMARY;
use proto::{Empty, Raw};
use rpc::{Call, Dest};
use spec::{BlobRef, HashKind, TreeObj};
use types::Errno;

use super::tree::{self, Blobs, LEADER};
use super::{maxreqs, shows, status};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{err, timefmt};

const PROG: &str = "flux-restore";
/// Stores under way unless `--maxreqs` says otherwise.
const STORES_MAX: usize = 256;
/// Values of this size and more become blobs of their own. Part of what a restored tree's
/// blobrefs are, so it cannot change.
const BLOB_MIN: usize = 72;

static RESTORE: Parser = Parser {
    name: "flux restore",
    usage: "[OPTIONS] INFILE",
    about: "Restore KVS snapshot from a portable archive format",
    family: Family::G,
    opts: &[
        flag('v', "verbose", "List keys on stderr as they are restored"),
        flag('q', "quiet", "Don't show periodic progress updates"),
        flag('\0', "checkpoint", "Restore to checkpoint"),
        arg('\0', "key", "KEY", "Restore to KVS key"),
        flag('\0', "no-cache", "Bypass the broker content cache"),
        arg(
            '\0',
            "size-limit",
            "SIZE",
            "Do not restore blobs greater than SIZE bytes",
        ),
        arg(
            '\0',
            "maxreqs",
            "N",
            "Max concurrent content store requests (default 256)",
        ),
        flag(
            '\0',
            "sd-notify",
            "Send status updates to systemd via flux-broker(1)",
        ),
        // The broker does this before it empties the store.
        flag('\0', "check", "Read the archive without restoring anything").hidden(),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match RESTORE.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [path] = args.words.as_slice() else {
        return RESTORE.wrong_words();
    };
    if args.has("check") {
        let checked = dumpfile::check(path).map(|()| 0);
        return fail::report(PROG, checked.map_err(Fail::from));
    }
    fail::run(PROG, async {
        let limit = args.size("size-limit", None)?;
        let stores_max = maxreqs(&args, STORES_MAX)?;
        if !args.has("checkpoint") && !args.has("key") {
            return Err(Fail::new(
                "Please specify a restore target with --checkpoint or --key",
            ));
        }
        let client = fail::connect_builtin().await?;
        if args.has("checkpoint") {
            tree::refuse_live(
                &client,
                "please unload kvs module before using --checkpoint",
            )
            .await?;
        }
        let hash = client.attr("content.hash").await?;
        let mut restore = Restore {
            client: &client,
            blobs: Blobs::new(&client, args.has("no-cache")),
            hash: HashKind::from_name(&hash).ok_or(Errno::EINVAL)?,
            stores: VecDeque::new(),
            stores_max,
            size_limit: limit.filter(|limit| *limit > 0).unwrap_or(u64::MAX),
            keys: 0,
            blob_count: 0,
            newest: 0,
            verbose: args.has("verbose"),
            progress: !args.has("verbose") && !args.has("quiet"),
            notify: args.has("sd-notify"),
        };
        let mut root = Dir::new();
        restore.archive(path, &mut root).await?;
        let root = restore.directory(root).await?;
        restore.settle(0).await?;
        restore.show();
        if restore.progress {
            status("\n");
        }
        restore.publish(&args, root).await?;
        // What is in the caches reaches the disk sooner or later anyway.
        let call = client.handle().call::<ContentFlush>(LEADER, &Empty {});
        if let Err(error) = call.await {
            err!("{PROG}: error flushing content cache: {error}");
        }
        Ok(0)
    })
}

type Dir = BTreeMap<String, Node>;

/// An entry of a directory that is not complete yet.
enum Node {
    Leaf(TreeObj),
    Dir(Dir),
}

/// Puts an entry into the tree. A later entry replaces an earlier one.
fn insert(dir: &mut Dir, path: &str, object: TreeObj) {
    let mut parts = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".");
    let Some(mut name) = parts.next() else { return };
    let mut dir = dir;
    for next in parts {
        let node = dir
            .entry(name.to_owned())
            .and_modify(|node| {
                if matches!(node, Node::Leaf(_)) {
                    *node = Node::Dir(Dir::new());
                }
            })
            .or_insert_with(|| Node::Dir(Dir::new()));
        let Node::Dir(inner) = node else { return };
        dir = inner;
        name = next;
    }
    dir.insert(name.to_owned(), Node::Leaf(object));
}

struct Restore<'a> {
    client: &'a Client,
    blobs: Blobs<'a>,
    hash: HashKind,
    stores: VecDeque<Call<Raw>>,
    stores_max: usize,
    size_limit: u64,
    keys: u64,
    blob_count: u64,
    newest: u64,
    verbose: bool,
    progress: bool,
    notify: bool,
}

impl Restore<'_> {
    async fn archive(&mut self, path: &str, root: &mut Dir) -> Result<(), Fail> {
        let mut reader = Reader::open(path)?;
        let mut entries = reader.entries()?;
        while let Some(mut entry) = entries.next_entry()? {
            let name = entry.name.clone();
            match entry.kind {
                Kind::Symlink => {
                    let target = entry.target.clone();
                    let shown = format!("{name} -> {target}");
                    let (namespace, target) = match target.split_once("::") {
                        Some((namespace, target)) => {
                            (Some(namespace.to_owned()), target.to_owned())
                        }
                        None => (None, target),
                    };
                    insert(root, &name, TreeObj::Symlink { namespace, target });
                    self.count(&shown);
                }
                Kind::File => {
                    let size = entry.size;
                    if size > self.size_limit {
                        let back = if self.progress { "\r" } else { "" };
                        status(&format!(
                            "{back}{name} size {size} exceeds {} limit, skipping\n",
                            self.size_limit
                        ));
                        continue;
                    }
                    let bytes = entry.bytes()?;
                    let object = if bytes.len() < BLOB_MIN {
                        TreeObj::Val(bytes)
                    } else {
                        TreeObj::ValRef(vec![self.store(bytes).await?])
                    };
                    insert(root, &name, object);
                    self.count(&name);
                }
                Kind::Other => continue,
            }
            self.newest = self.newest.max(entry.time);
        }
        reader.finish()?;
        Ok(())
    }

    /// Stores the directories below, then this one.
    async fn directory(&mut self, dir: Dir) -> Result<BlobRef, Fail> {
        let mut entries = BTreeMap::new();
        for (name, node) in dir {
            let object = match node {
                Node::Leaf(object) => object,
                Node::Dir(inner) => TreeObj::DirRef(Box::pin(self.directory(inner)).await?),
            };
            entries.insert(name, object);
        }
        self.store(TreeObj::Dir(entries).encode().into_bytes())
            .await
    }

    async fn store(&mut self, bytes: Vec<u8>) -> Result<BlobRef, Fail> {
        let blobref = BlobRef::hash(self.hash, &bytes);
        self.settle(self.stores_max - 1).await?;
        self.stores.push_back(self.blobs.store(bytes));
        self.client.drained().await;
        self.blob_count += 1;
        Ok(blobref)
    }

    /// Waits until at most so many stores are under way.
    async fn settle(&mut self, left: usize) -> Result<(), Fail> {
        while self.stores.len() > left
            && let Some(call) = self.stores.pop_front()
        {
            call.await
                .map_err(|error| Fail::of("error storing blob", error))?;
        }
        Ok(())
    }

    async fn publish(&self, args: &Args, root: BlobRef) -> Result<(), Fail> {
        let short: String = root.to_string().chars().take(13).collect();
        let quiet = args.has("quiet");
        if args.has("checkpoint") {
            if !quiet {
                err!("{PROG}: writing snapshot {short} to checkpoint for next KVS start");
            }
            let checkpoint = Checkpoint {
                version: 1,
                rootref: root.to_string(),
                sequence: Some(0),
                timestamp: Some(if self.newest == 0 {
                    timefmt::now()
                } else {
                    self.newest as f64
                }),
            };
            let value =
                serde_json::to_value(checkpoint).map_err(|error| Fail::new(error.to_string()))?;
            let request = PutCheckpoint { value };
            let handle = self.client.handle();
            let call = if args.has("no-cache") {
                handle.call::<BackingCheckpointPut>(LEADER, &request)
            } else {
                handle.call::<ContentCheckpointPut>(Dest::Any, &request)
            };
            call.await
                .map_err(|error| Fail::of("error updating checkpoint", error))?;
        }
        if let Some(key) = args.get("key") {
            if !quiet {
                err!("{PROG}: writing snapshot {short} to KVS key '{key}'");
            }
            let mut txn = Txn::new();
            txn.put_treeobj(key, &TreeObj::DirRef(root));
            txn.commit(self.client.handle(), PRIMARY, 0)
                .await
                .map_err(|error| Fail::of(format!("error updating {key}"), error))?;
        }
        Ok(())
    }

    fn count(&mut self, shown: &str) {
        self.keys += 1;
        if self.verbose {
            err!("{shown}");
        }
        if shows(self.keys) {
            self.show();
        }
    }

    fn show(&self) {
        let (keys, blobs) = (self.keys, self.blob_count);
        if self.progress {
            status(&format!("\r{PROG}: restored {keys} keys ({blobs} blobs)"));
        }
        if self.notify {
            super::notify(
                self.client,
                &format!("flux-restore(1) has restored {keys} keys"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_directories() {
        let mut root = Dir::new();
        insert(&mut root, "./a//b", TreeObj::Val(b"1".to_vec()));
        insert(&mut root, "a/c", TreeObj::Val(b"2".to_vec()));
        insert(&mut root, "a/c/d", TreeObj::Val(b"3".to_vec()));
        insert(&mut root, "/", TreeObj::Val(Vec::new()));
        let Some(Node::Dir(a)) = root.get("a") else {
            panic!("a is a directory")
        };
        assert!(matches!(a.get("b"), Some(Node::Leaf(TreeObj::Val(value))) if value == b"1"));
        assert!(matches!(a.get("c"), Some(Node::Dir(c)) if c.contains_key("d")));
        assert_eq!(root.len(), 1);
    }
}
