//! Transactions: taken in on any rank, applied on the leader.

use ::kvs::{Batch, Change, Op, Pending, Step};
use module::Host;
use proto::Rpc;
use proto::content::{ContentCheckpointPut, ContentStore};
use proto::kvs::{
    self, Commit, CommitFailed, Committed, KvsCommit, KvsRelayCommit, PRIMARY, RelayCommit,
    Setroot, commit_flags, event_topic,
};
use rpc::{Dest, Handle, Request, RpcError};
use serde_json::Map;
use spec::{BlobRef, TreeObj};
use tokio::time::Instant;
use types::{Cred, Errno, Rank};
use wire::{Flags, Topic};

use super::state::{Active, Done, Kvs, Origin, Parked};
use crate::content::inlet::{self, Blobs, Inlet};

fn store_topic() -> Topic {
    ContentStore::topic_of(ContentStore::SERVICE).into()
}

/// Hands blobs to `content` now; the future tells when it has all of them.
fn store_all(
    handle: &Handle,
    host: &dyn Host,
    blobs: Blobs,
) -> impl Future<Output = Result<(), RpcError>> + use<> {
    let (stored, calls) = match host.exchange().get::<Inlet<inlet::Cache>>() {
        Some(inlet) => (Some(inlet.store(blobs)), Vec::new()),
        None => {
            let here = Dest::Rank(handle.rank());
            let call = |(_, blob)| handle.call_raw(store_topic(), here, blob);
            (None, blobs.into_iter().map(call).collect())
        }
    };
    async move {
        let mut result = Ok(());
        // All are waited for: none may still be on its way when the batch is retried.
        for call in calls {
            result = result.and(call.await.map(drop));
        }
        match stored {
            Some(stored) => stored.await.into_iter().collect(),
            None => result,
        }
    }
}

/// Takes an operation apart. Errors: `EPROTO` appending something else than a value, `EINVAL` no
/// tree object, `EPERM` not for guests.
fn op(op: &kvs::Op, cred: Cred) -> Result<Op, RpcError> {
    let json = op.dirent.get();
    let change = if json == "null" {
        Change::Unlink
    } else {
        let object = TreeObj::decode(json.as_bytes()).map_err(|_| Errno::EINVAL)?;
        if !cred.is_owner() {
            ::kvs::check_guest(&object).map_err(|kind| {
                RpcError::new(
                    Errno::EPERM,
                    format!("guests may not commit {kind} objects"),
                )
            })?;
        }
        match object {
            TreeObj::Val(value) if op.flags & kvs::flags::APPEND != 0 => Change::Append(value),
            _ if op.flags & kvs::flags::APPEND != 0 => return Err(Errno::EPROTO.into()),
            object => Change::Put(object),
        }
    };
    Ok(Op::new(&op.key, change))
}

fn ops(list: &[kvs::Op], cred: Cred) -> Result<Vec<Op>, RpcError> {
    list.iter().map(|item| op(item, cred)).collect()
}

impl Kvs {
    pub(super) fn commit(&mut self, request: Request<KvsCommit>, commit: Commit) {
        match self.access(&commit.namespace, request.cred(), request.message()) {
            None => return,
            Some(Err(error)) => return request.fail(error),
            Some(Ok(_)) => {}
        }
        let ops = match ops(&commit.ops, request.cred()) {
            Ok(ops) => ops,
            Err(error) => return request.fail(error),
        };
        let id = self.next_id();
        let name = format!("transaction_req.{}.{id}", self.handle.rank());
        if self.leader {
            let origin = Origin::Local(name, Box::new(request));
            return self.enqueue(&commit.namespace, origin, ops, commit.flags);
        }
        let relayed = RelayCommit {
            ops: commit.ops,
            name: name.clone(),
            namespace: commit.namespace.clone(),
            flags: commit.flags,
        };
        self.handle.notify::<KvsRelayCommit>(Rank::LEADER, &relayed);
        self.commits.insert(name, (commit.namespace, request));
    }

    pub(super) fn relaycommit(&mut self, relayed: RelayCommit) {
        let owner = Cred {
            userid: types::UserId::UNKNOWN,
            rolemask: types::RoleMask::OWNER,
        };
        let known = self
            .spaces
            .get(&relayed.namespace)
            .is_some_and(|space| !space.namespace.removed);
        let ops = match ops(&relayed.ops, owner) {
            Ok(ops) if known => Ok(ops),
            Ok(_) => Err(Errno::ENOTSUP),
            Err(error) => Err(error.errno),
        };
        match ops {
            Ok(ops) => {
                let origin = Origin::Remote(relayed.name);
                self.enqueue(&relayed.namespace, origin, ops, relayed.flags);
            }
            Err(errno) => self.publish_failure(&relayed.namespace, vec![relayed.name], errno),
        }
    }

    fn enqueue(&mut self, namespace: &str, origin: Origin, ops: Vec<Op>, flags: i32) {
        self.opcount.push(ops.len() as f64);
        let Some(space) = self.spaces.get_mut(namespace) else {
            return;
        };
        space.queue.push(Pending {
            origin,
            ops,
            mergeable: flags & commit_flags::NO_MERGE == 0,
            sync: flags & commit_flags::SYNC != 0,
        });
        self.mark_ready(namespace);
    }

    fn mark_ready(&mut self, namespace: &str) {
        if !self.ready.iter().any(|name| name == namespace) {
            self.ready.push(namespace.to_owned());
        }
    }

    /// Queues a checkpoint, if there is anything new.
    pub(super) fn checkpoint(&mut self) {
        self.checkpoint_at = self.checkpoint_period.map(|period| Instant::now() + period);
        let changed = self
            .spaces
            .get(PRIMARY)
            .is_some_and(|space| space.namespace.seq != self.checkpoint_seq);
        if self.leader
            && changed
            && let Some(space) = self.spaces.get_mut(PRIMARY)
        {
            space.queue.push(Pending {
                origin: Origin::Checkpoint,
                ops: Vec::new(),
                mergeable: false,
                sync: true,
            });
            self.mark_ready(PRIMARY);
        }
    }

    /// Begins the next batch of every namespace that has none under way.
    pub(super) fn process(&mut self) {
        for namespace in std::mem::take(&mut self.ready) {
            let Some(space) = self.spaces.get_mut(&namespace) else {
                continue;
            };
            if space.active.is_some() {
                // It comes back here when that is done.
                continue;
            }
            let Some(batch) = space.queue.next_batch(self.merge) else {
                continue;
            };
            space.active = Some(Active {
                batch,
                applied: None,
            });
            self.try_apply(&namespace);
        }
    }

    /// Applies the active batch of a namespace, as far as the cache allows.
    pub(super) fn try_apply(&mut self, name: &str) {
        let Some(space) = self.spaces.get_mut(name) else {
            return;
        };
        let Some(active) = &mut space.active else {
            return;
        };
        if space.namespace.removed {
            return self.on_failed(name, Errno::ENOTSUP);
        }
        if active.batch.sync() && !Kvs::is_primary(name) {
            return self.on_failed(name, ::kvs::Error::NoCheckpoint.errno());
        }
        let step = ::kvs::apply(
            &mut self.cache,
            self.hash,
            name,
            space.namespace.root,
            active.batch.ops(),
        );
        match step {
            Ok(Step::Blobs(missing)) => self.park(missing, Parked::Commit(name.to_owned())),
            Ok(Step::Namespace(_)) => self.on_failed(name, Errno::ENOTSUP),
            Err(error) => self.on_failed(name, error.errno()),
            Ok(Step::Done(applied)) => {
                let sync = active.batch.sync();
                let members = &active.batch.members;
                // A checkpoint alone records the present version, others the one they make.
                let is_plain = members
                    .iter()
                    .all(|member| matches!(member.origin, Origin::Checkpoint));
                let seq = space.namespace.seq + i64::from(!is_plain);
                let blobs = applied.blobs.iter();
                let blobs: Blobs = blobs
                    .map(|blob| (blob.blobref, blob.bytes.clone()))
                    .collect();
                let root = applied.root;
                space.noop_stores += applied.refresh.len() as u64;
                active.applied = Some(applied);
                if blobs.is_empty() && !sync {
                    return self.on_stored(name, Ok(()));
                }
                self.store(name.to_owned(), blobs, sync.then_some((root, seq)));
            }
        }
    }

    /// Stores blobs, then writes a checkpoint if there is to be one.
    fn store(&self, namespace: String, blobs: Blobs, checkpoint: Option<(BlobRef, i64)>) {
        let here = Dest::Rank(self.handle.rank());
        let stored = store_all(&self.handle, &*self.host, blobs);
        let (handle, done) = (self.handle.clone(), self.done.clone());
        tokio::task::spawn_local(async move {
            let mut result = stored.await;
            if let (Ok(()), Some((root, seq))) = (&result, checkpoint) {
                let put = super::checkpoint_of(root, seq);
                let call = handle.call::<ContentCheckpointPut>(here, &put);
                result = call.await.map(drop);
            }
            let _ended = done.send(Done::Stored(namespace, result));
        });
    }

    pub(super) fn on_stored(&mut self, name: &str, result: Result<(), RpcError>) {
        if let Err(error) = result {
            return self.on_failed(name, error.errno);
        }
        let Some(space) = self.spaces.get_mut(name) else {
            return;
        };
        let Some(Active {
            batch,
            applied: Some(applied),
        }) = space.active.take()
        else {
            return;
        };
        if space.namespace.removed {
            self.fail_batch(name, batch, Errno::ENOTSUP);
            return self.next_after(name);
        }
        for blob in applied.blobs {
            self.cache.insert(blob.blobref, blob.bytes, blob.dir);
        }
        self.cache.replace(applied.replaced);
        if !applied.refresh.is_empty() {
            // Nothing waits for these, and that one fails does no harm.
            drop(store_all(&self.handle, &*self.host, applied.refresh));
        }
        self.finish_batch(name, batch, applied.root);
        self.next_after(name);
    }

    /// Moves the root on, tells everybody, and answers.
    fn finish_batch(&mut self, name: &str, batch: Batch<Origin>, root: BlobRef) {
        let Some(space) = self.spaces.get_mut(name) else {
            return;
        };
        let sync = batch.sync();
        let mut names = Vec::with_capacity(batch.members.len());
        let mut answers = Vec::new();
        let mut keys = Map::new();
        for member in batch.members {
            for op in &member.ops {
                keys.insert(op.key().to_owned(), serde_json::Value::Null);
            }
            match member.origin {
                Origin::Local(name, request) => {
                    names.push(name);
                    answers.push(request);
                }
                Origin::Remote(name) => names.push(name),
                Origin::Checkpoint => {}
            }
        }
        if names.is_empty() {
            self.checkpoint_seq = space.namespace.seq;
            return;
        }
        space.namespace.root = root;
        space.namespace.seq += 1;
        if sync {
            self.checkpoint_seq = space.namespace.seq;
        }
        let committed = Committed {
            rootref: root.to_string(),
            rootseq: space.namespace.seq,
        };
        let setroot = Setroot {
            namespace: name.to_owned(),
            rootseq: committed.rootseq,
            rootref: committed.rootref.clone(),
            owner: super::read::signed(space.namespace.owner),
            names,
            keys,
        };
        let topic = event_topic(name, "setroot");
        self.handle.publish(topic, Flags::PRIVATE, &setroot);
        for request in answers {
            request.reply(&committed);
        }
        self.check_versions(name);
    }

    /// What follows a batch.
    fn next_after(&mut self, name: &str) {
        self.drop_if_unused(name);
        if self
            .spaces
            .get(name)
            .is_some_and(|space| !space.queue.is_empty())
        {
            self.mark_ready(name);
        }
    }

    /// The active batch failed. The members of a merged one get a chance each.
    pub(super) fn on_failed(&mut self, name: &str, errno: Errno) {
        let Some(space) = self.spaces.get_mut(name) else {
            return;
        };
        let Some(active) = space.active.take() else {
            return;
        };
        let is_merged = active.batch.members.len() > 1;
        if is_merged && !matches!(errno, Errno::ENOMEM | Errno::ENOTSUP) {
            space.queue.retry_singly(active.batch);
        } else {
            self.fail_batch(name, active.batch, errno);
        }
        self.next_after(name);
    }

    pub(super) fn fail_batch(&mut self, name: &str, batch: Batch<Origin>, errno: Errno) {
        let mut names = Vec::new();
        for member in batch.members {
            match member.origin {
                Origin::Local(name, request) => {
                    names.push(name);
                    request.fail(errno);
                }
                Origin::Remote(name) => names.push(name),
                Origin::Checkpoint => {
                    let text = format!("checkpoint failed: {errno}");
                    self.host.log(module::Severity::Err, "kvs", &text);
                }
            }
        }
        if !names.is_empty() {
            self.publish_failure(name, names, errno);
        }
    }

    fn publish_failure(&self, namespace: &str, names: Vec<String>, errno: Errno) {
        let failed = CommitFailed {
            namespace: namespace.to_owned(),
            names,
            errnum: errno.0,
        };
        let topic = event_topic(namespace, "error");
        self.handle.publish(topic, Flags::PRIVATE, &failed);
    }
}
