//! The module's state: namespaces, and requests that wait for something.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use ::kvs::{Batch, Cache, Namespace, Namespaces, Pending, Queue};
use bytes::Bytes;
use module::{Host, Severity};
use proto::config::ModuleConfigReload;
use proto::content::ContentLoad;
use proto::kvs::{
    KvsCommit, KvsGetroot, KvsLookup, KvsLookupPlus, KvsNamespaceCreate, KvsNamespaceList,
    KvsNamespaceRemove, KvsRelayCommit, KvsSetrootPause, KvsSetrootUnpause, KvsStats,
    KvsWaitVersion, PRIMARY, Root, Setroot,
};
use proto::overlay::HEARTBEAT_PULSE;
use proto::{Access, Empty, Rpc};
use rpc::{Dest, Handle, Request, Routes, RpcError};
use serde_json::{Map, Value, json};
use spec::{BlobRef, HashKind};
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::{Cred, Errno, UserId};
use wire::{Message, RouteId};

use super::read::Lookup;
use crate::memory::Freed;
use crate::tally::Tally;

/// Blobs idle for longer leave the cache.
const BLOB_IDLE: Duration = Duration::from_secs(10);

/// What a task of the module's own came to.
pub(super) enum Done {
    Loaded(BlobRef, Result<Bytes, RpcError>),
    /// The batch of a namespace is stored, and its checkpoint written.
    Stored(String, Result<(), RpcError>),
    Fetched(String, Result<Root, RpcError>),
}

/// Whose a transaction is.
pub(super) enum Origin {
    /// It entered here.
    Local(String, Box<Request<KvsCommit>>),
    /// It came from the rank that it names.
    Remote(String),
    /// It is there for the sake of a checkpoint only.
    Checkpoint,
}

/// A batch under way.
pub(super) struct Active {
    pub(super) batch: Batch<Origin>,
    /// What it came to; `None` while it waits for blobs to be loaded.
    pub(super) applied: Option<::kvs::Applied>,
}

/// A namespace as this rank has it.
pub(super) struct Space {
    pub(super) namespace: Namespace,
    /// Leader only.
    pub(super) queue: Queue<Origin>,
    pub(super) active: Option<Active>,
    /// Who waits for which version.
    pub(super) versions: Vec<(i64, Request<KvsWaitVersion>)>,
    /// Roots held back. A test aid.
    pub(super) paused: Option<Vec<Setroot>>,
    pub(super) noop_stores: u64,
    pub(super) updated: Instant,
}

impl Space {
    pub(super) fn new(owner: UserId, root: BlobRef, seq: i64) -> Space {
        Space {
            namespace: Namespace {
                owner,
                root,
                seq,
                flags: 0,
                removed: false,
            },
            queue: Queue::default(),
            active: None,
            versions: Vec::new(),
            paused: None,
            noop_stores: 0,
            updated: Instant::now(),
        }
    }
}

/// The namespaces this rank knows.
pub(super) type Spaces = BTreeMap<String, Space>;

/// How look-ups see them.
pub(super) struct View<'a>(pub(super) &'a Spaces);

impl Namespaces for View<'_> {
    fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.0.get(name).map(|space| &space.namespace)
    }
}

/// A namespace whose root is being asked for.
#[derive(Default)]
pub(super) struct Fetch {
    /// Requests that wait for it.
    pub(super) waiting: Vec<Message>,
    /// Roots that events told meanwhile; they may be newer than the answer.
    pub(super) early: Vec<Setroot>,
    /// It was removed meanwhile.
    pub(super) removed: bool,
}

/// What waits for blobs.
pub(super) enum Parked {
    Lookup(Box<Lookup>),
    /// The active batch of a namespace.
    Commit(String),
}

/// Someone who waits for blobs, and which are still missing.
pub(super) struct Waiter {
    pub(super) missing: Vec<BlobRef>,
    pub(super) needs: Vec<BlobRef>,
    pub(super) what: Parked,
}

/// The module's state.
pub(super) struct Kvs {
    pub(super) handle: Handle,
    pub(super) host: Rc<dyn Host>,
    pub(super) id: RouteId,
    pub(super) leader: bool,
    pub(super) hash: HashKind,
    pub(super) merge: bool,
    pub(super) checkpoint_period: Option<Duration>,
    pub(super) checkpoint_at: Option<Instant>,
    /// The sequence number in the newest checkpoint.
    pub(super) checkpoint_seq: i64,
    pub(super) started: Instant,
    pub(super) cache: Cache,
    pub(super) freed: Freed,
    pub(super) spaces: Spaces,
    pub(super) fetching: HashMap<String, Fetch>,
    /// Requests whose namespace has become known, to be handled again.
    pub(super) replays: Vec<Message>,
    /// Who waits for each blob under way.
    pub(super) loading: HashMap<BlobRef, Vec<u64>>,
    pub(super) parked: HashMap<u64, Waiter>,
    /// Transactions passed on to the leader, by name.
    pub(super) commits: HashMap<String, (String, Request<KvsCommit>)>,
    pub(super) last_id: u64,
    pub(super) faults: u64,
    pub(super) opcount: Tally,
    /// Namespaces that may have a batch to begin.
    pub(super) ready: Vec<String>,
    pub(super) done: mpsc::UnboundedSender<Done>,
}

pub(super) fn routes() -> Routes<Kvs> {
    Routes::new()
        .on::<KvsGetroot>(Kvs::getroot)
        .on::<KvsLookup>(|kvs: &mut Kvs, request, lookup| {
            kvs.start_lookup(Lookup::plain(request), lookup);
        })
        .on::<KvsLookupPlus>(|kvs, request, lookup| {
            kvs.start_lookup(Lookup::plus(request), lookup);
        })
        .on::<KvsCommit>(Kvs::commit)
        .on::<KvsRelayCommit>(|kvs, _, relayed| kvs.relaycommit(relayed))
        .on::<KvsWaitVersion>(Kvs::wait_version)
        .on::<KvsNamespaceCreate>(Kvs::namespace_create)
        .on::<KvsNamespaceRemove>(Kvs::namespace_remove)
        .on_raw::<KvsNamespaceList>(Kvs::namespace_list)
        .on::<KvsSetrootPause>(Kvs::setroot_pause)
        .on::<KvsSetrootUnpause>(Kvs::setroot_unpause)
        .on_raw::<KvsStats>(|kvs, request| request.reply(&kvs.stats()))
        .on::<ModuleConfigReload>(
            |kvs, request, config| match super::checkpoint_period(&config) {
                Ok(period) => {
                    kvs.checkpoint_period = period;
                    kvs.checkpoint_at = period.map(|period| Instant::now() + period);
                    request.reply(&Empty {});
                }
                Err(error) => request.fail(error),
            },
        )
        .on_message("disconnect", Access::Any, |kvs, _, message| {
            kvs.disconnect(&message);
        })
}

impl Kvs {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Checks a namespace for a request. `None` if the request has to wait for its root; it is
    /// then handled again.
    pub(super) fn access(
        &mut self,
        name: &str,
        cred: Cred,
        message: &Message,
    ) -> Option<Result<&mut Space, RpcError>> {
        if !self.spaces.contains_key(name) {
            if self.leader {
                return Some(Err(Errno::ENOTSUP.into()));
            }
            self.fetch(name, message.clone());
            return None;
        }
        let space = self.spaces.get_mut(name)?;
        Some(match space.namespace.check(cred) {
            Ok(()) => Ok(space),
            Err(error) => Err(error.errno().into()),
        })
    }

    /// Asks for a namespace's root one level up, on behalf of a request.
    pub(super) fn fetch(&mut self, name: &str, message: Message) {
        if let Some(fetch) = self.fetching.get_mut(name) {
            return fetch.waiting.push(message);
        }
        let fetch = Fetch {
            waiting: vec![message],
            ..Fetch::default()
        };
        self.fetching.insert(name.to_owned(), fetch);
        // First the events, then the root: no change can slip in between.
        self.host.subscribe(&self.id, &super::event_prefix(name));
        let request = proto::kvs::Namespace {
            namespace: name.to_owned(),
        };
        let call = self.handle.call::<KvsGetroot>(Dest::Upstream, &request);
        let (done, name) = (self.done.clone(), name.to_owned());
        tokio::task::spawn_local(async move {
            let _ended = done.send(Done::Fetched(name, call.await));
        });
    }

    /// Asks for blobs on behalf of a look-up or a commit.
    pub(super) fn park(&mut self, missing: Vec<BlobRef>, what: Parked) {
        let id = self.next_id();
        for blobref in &missing {
            if let Some(waiting) = self.loading.get_mut(blobref) {
                waiting.push(id);
                continue;
            }
            self.faults += 1;
            self.loading.insert(*blobref, vec![id]);
            let call = self.handle.call_raw(
                ContentLoad::topic_of(ContentLoad::SERVICE).into(),
                Dest::Rank(self.handle.rank()),
                Bytes::copy_from_slice(blobref.digest()),
            );
            let (done, blobref) = (self.done.clone(), *blobref);
            tokio::task::spawn_local(async move {
                let result = call
                    .await
                    .map(|message| message.payload.unwrap_or_default());
                let _ended = done.send(Done::Loaded(blobref, result));
            });
        }
        let waiter = Waiter {
            needs: missing.clone(),
            missing,
            what,
        };
        self.parked.insert(id, waiter);
    }

    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Loaded(blobref, result) => {
                self.on_loaded(blobref, result);
                self.trim();
            }
            Done::Stored(namespace, result) => {
                self.on_stored(&namespace, result);
                self.trim();
            }
            Done::Fetched(namespace, result) => self.on_fetched(namespace, result),
        }
    }

    fn on_loaded(&mut self, blobref: BlobRef, result: Result<Bytes, RpcError>) {
        let waiting = self.loading.remove(&blobref).unwrap_or_default();
        match result {
            Ok(bytes) => {
                self.cache.insert(blobref, bytes, None);
                for id in waiting {
                    let Some(waiter) = self.parked.get_mut(&id) else {
                        continue;
                    };
                    waiter.missing.retain(|other| *other != blobref);
                    if waiter.missing.is_empty()
                        && let Some(waiter) = self.parked.remove(&id)
                    {
                        self.resume(waiter.what);
                    }
                }
            }
            Err(error) => {
                for id in waiting {
                    if let Some(waiter) = self.parked.remove(&id) {
                        self.abandon(waiter.what, &error);
                    }
                }
            }
        }
    }

    fn resume(&mut self, what: Parked) {
        match what {
            Parked::Lookup(lookup) => self.continue_lookup(*lookup),
            Parked::Commit(namespace) => self.try_apply(&namespace),
        }
    }

    fn abandon(&mut self, what: Parked, error: &RpcError) {
        match what {
            Parked::Lookup(lookup) => lookup.fail(error.clone()),
            Parked::Commit(namespace) => self.on_failed(&namespace, error.errno),
        }
    }

    /// Keeps the cache small, unless somebody gathers blobs in it who may need them all.
    pub(super) fn trim(&mut self) {
        if self.parked.is_empty() {
            self.cache.trim();
        }
    }

    /// Housekeeping.
    pub(super) fn on_pulse(&mut self) {
        self.cache.advance(self.started.elapsed());
        for space in self.spaces.values() {
            self.cache.touch(&space.namespace.root);
        }
        for waiter in self.parked.values() {
            for blobref in &waiter.needs {
                self.cache.touch(blobref);
            }
        }
        self.cache.expire(BLOB_IDLE);
        self.trim();
        self.freed.add(self.cache.take_dropped() as u64);
        self.freed.give_back();
        if !self.leader {
            self.forget_idle();
        }
    }

    pub(super) fn on_event(&mut self, message: &Message) {
        let topic = message.topic_str();
        if topic == HEARTBEAT_PULSE {
            self.on_pulse();
        } else if !self.leader {
            self.on_namespace_event(message);
        }
    }

    /// Forgets the parked requests of a client that is gone.
    fn disconnect(&mut self, message: &Message) {
        for space in self.spaces.values_mut() {
            space
                .versions
                .retain(|(_, request)| !request.is_from_sender_of(message));
        }
        self.parked.retain(|_, waiter| match &waiter.what {
            Parked::Lookup(lookup) => !lookup.is_from_sender_of(message),
            Parked::Commit(_) => true,
        });
    }

    /// Every request that waits fails, because the module ends.
    pub(super) fn fail_all(&mut self) {
        let mut requests: Vec<Message> = Vec::new();
        for space in self.spaces.values_mut() {
            let active = space.active.take().map(|active| active.batch.members);
            let pending = active.into_iter().flatten().chain(space.queue.drain());
            for Pending { origin, .. } in pending {
                if let Origin::Local(_, request) = origin {
                    requests.push(request.message().clone());
                }
            }
            let versions = space.versions.drain(..);
            requests.extend(versions.map(|(_, request)| request.message().clone()));
        }
        for (_, waiter) in self.parked.drain() {
            if let Parked::Lookup(lookup) = waiter.what {
                requests.push(lookup.message().clone());
            }
        }
        let commits = self.commits.drain();
        requests.extend(commits.map(|(_, (_, request))| request.message().clone()));
        requests.append(&mut self.replays);
        requests.extend(self.fetching.drain().flat_map(|(_, fetch)| fetch.waiting));
        for request in requests {
            let text = format!("failing pending '{}' request", request.topic_str());
            self.host.log(Severity::Err, "kvs", &text);
            self.handle.respond_error(&request, &Errno::ENOSYS.into());
        }
    }

    fn pending_requests(&self) -> usize {
        let local = |pending: &Pending<Origin>| matches!(pending.origin, Origin::Local(..));
        let in_spaces: usize = self
            .spaces
            .values()
            .map(|space| {
                let members = space.active.iter().flat_map(|active| &active.batch.members);
                space.versions.len()
                    + members
                        .chain(space.queue.iter())
                        .filter(|p| local(p))
                        .count()
            })
            .sum();
        let lookups = self
            .parked
            .values()
            .filter(|waiter| matches!(waiter.what, Parked::Lookup(_)))
            .count();
        let fetching: usize = self
            .fetching
            .values()
            .map(|fetch| fetch.waiting.len())
            .sum();
        in_spaces + lookups + fetching + self.commits.len()
    }

    fn stats(&self) -> Map<String, Value> {
        let usage = self.cache.usage();
        let kib = |bytes: f64| bytes / 1024.0;
        let mean = if usage.count == 0 {
            0.0
        } else {
            usage.total as f64 / usage.count as f64
        };
        let dirty: usize = self
            .spaces
            .values()
            .filter_map(|space| space.active.as_ref()?.applied.as_ref())
            .map(|applied| applied.blobs.len())
            .sum();
        let cache = json!({
            "obj size total (MiB)": usage.total as f64 / 1_048_576.0,
            "obj size (KiB)": {
                "count": usage.count, "min": kib(usage.min as f64), "mean": kib(mean),
                "stddev": kib(usage.stddev), "max": kib(usage.max as f64),
            },
            "#obj dirty": dirty,
            "#obj incomplete": self.loading.len(),
            "#faults": self.faults,
        });
        let mut namespaces = Map::new();
        for (name, space) in &self.spaces {
            let active = usize::from(space.active.is_some());
            namespaces.insert(
                name.clone(),
                json!({
                    "#versionwaiters": space.versions.len(),
                    "#no-op stores": space.noop_stores,
                    "#transactions": space.queue.len() + active,
                    "#readytransactions": space.queue.len() + active,
                    "store revision": space.namespace.seq,
                }),
            );
        }
        let mut stats = Map::new();
        stats.insert("cache".into(), cache);
        stats.insert("namespace".into(), namespaces.into());
        let opcount = json!({"commit": self.opcount.to_json()});
        stats.insert("transaction-opcount".into(), opcount);
        stats.insert("pending_requests".into(), self.pending_requests().into());
        stats
    }

    /// Whether a namespace is the one that is checkpointed.
    pub(super) fn is_primary(name: &str) -> bool {
        name == PRIMARY
    }
}
