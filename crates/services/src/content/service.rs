//! The module's state and its methods.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use module::{Host, Severity};
use proto::content::{
    Backing, BackingCheckpointGet, BackingCheckpointPut, BackingLoad, BackingStore,
    ContentCheckpointGet, ContentCheckpointPut, ContentDropcache, ContentFlush, ContentLoad,
    ContentMmapAdd, ContentMmapRemove, ContentRegisterBacking, ContentStats, ContentStore,
    ContentUnregisterBacking, MmapAdd, PutCheckpoint,
};
use proto::{Access, Empty, Raw, Rpc};
use rpc::{Dest, Handle, Request, Routes, RpcError};
use serde_json::{Map, Value};
use spec::{BlobRef, HashKind};
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::{Errno, Rank};
use wire::{Flags, Message, Topic};

use super::Config;
use super::cache::{Cache, Flushed};
use super::hasher::Hasher;
use super::inlet::{self, Delivery, Inlet};
use super::mapped::{Mapped, Scanned};
use crate::memory::Freed;
use crate::statsd::Statsd;

/// The attribute that names the backing store.
const BACKING_ATTR: &str = "content.backing-module";

/// A blob that was loaded, and whether it is ephemeral.
type Loaded = Result<(Bytes, bool), RpcError>;

/// What happened one level up, or in the thread that reads mapped files.
pub(super) enum Done {
    Loaded(BlobRef, Loaded),
    Stored(BlobRef, Result<(), RpcError>),
    Scanned(Request<ContentMmapAdd>, Result<Scanned, RpcError>),
    Hashed(Request<ContentStore>, Bytes, Result<BlobRef, RpcError>),
}

/// Larger blobs are hashed by a thread of the module's own: it takes half a millisecond from here
/// on, in which nobody else would be served.
const HASH_HERE_MAX: usize = 256 << 10;

/// Who waits for a flush.
pub(super) enum Waiter {
    Flush(Message),
    Checkpoint(Request<ContentCheckpointPut>, PutCheckpoint),
}

pub(super) struct Flush {
    mark: u64,
    waiter: Waiter,
}

/// The module's state.
pub(super) struct Content {
    pub(super) handle: Handle,
    pub(super) host: Rc<dyn Host>,
    pub(super) config: Config,
    pub(super) hash: HashKind,
    pub(super) leader: bool,
    pub(super) started: Instant,
    pub(super) cache: Cache,
    /// Blobs that are being hashed.
    pub(super) hasher: Hasher<Waiter>,
    /// Files that can be loaded from; leader only.
    pub(super) mapped: Mapped,
    pub(super) freed: Freed,
    /// Who waits for blobs from one level up.
    pub(super) loads: HashMap<BlobRef, Vec<Request<ContentLoad>>>,
    /// Who waits until the parent has a blob.
    pub(super) stores: HashMap<BlobRef, Vec<Request<ContentStore>>>,
    pub(super) flushes: Vec<Flush>,
    /// Whether there is a backing store; leader only.
    pub(super) backing: bool,
    /// The only name a backing store may have.
    pub(super) backing_name: Option<String>,
    pub(super) in_flight: usize,
    pub(super) last_error: Option<RpcError>,
    /// The refused blob that was sent again to see whether blobs are taken now.
    pub(super) probe: Option<BlobRef>,
    /// Why the backing store refuses blobs, if it does and that was logged.
    pub(super) failing: Option<Errno>,
    /// Who collects statistics.
    pub(super) statsd: Option<Statsd>,
    pub(super) done: mpsc::UnboundedSender<Done>,
}

pub(super) fn routes(leader: bool) -> Routes<Content> {
    let mut routes = Routes::new();
    if leader {
        routes = routes
            .on::<ContentMmapAdd>(Content::mmap_add)
            .on::<ContentMmapRemove>(|content: &mut Content, request, mapped| {
                content.mapped.remove(&mapped.tag);
                request.reply(&Empty {});
            });
    }
    routes
        .on::<ContentLoad>(
            |content: &mut Content, request, Raw(digest)| match BlobRef::from_digest(
                content.hash,
                &digest,
            ) {
                Ok(blobref) => content.load(request, blobref, digest),
                Err(_) => request.fail(Errno::EPROTO),
            },
        )
        .on::<ContentStore>(|content, request, Raw(blob)| content.store(request, blob))
        .on_raw::<ContentFlush>(|content, request| {
            content.flush(Waiter::Flush(request.message().clone()));
        })
        .on_raw::<ContentDropcache>(|content, request| {
            content.cache.drop_clean();
            request.reply(&Empty {});
        })
        .on_raw::<ContentStats>(|content, request| request.reply(&content.stats()))
        .on::<ContentRegisterBacking>(Content::register_backing)
        .on_raw::<ContentUnregisterBacking>(Content::unregister_backing)
        .on_raw::<ContentCheckpointGet>(Content::checkpoint_get)
        .on::<ContentCheckpointPut>(|content, request, put| {
            if content.leader && !content.backing {
                let text = "checkpoint put unavailable, no backing store";
                return request.fail(RpcError::new(Errno::ENOSYS, text));
            }
            content.flush(Waiter::Checkpoint(request, put));
        })
        .on_message("disconnect", Access::Any, |content, _, message| {
            content.disconnect(&message);
        })
}

/// A raw call's topic.
fn topic<R: Rpc>() -> Topic {
    R::topic_of(R::SERVICE).into()
}

/// Answers a load.
fn reply_blob(handle: &Handle, request: &Request<ContentLoad>, blob: &Bytes, ephemeral: bool) {
    if let Some(response) = request.message().response(None) {
        let flags = if ephemeral { Flags::USER1 } else { Flags::NONE };
        handle.send(response.with_payload(blob.clone()).with_flags(flags));
    }
}

/// Checks that one level up has a blob under the name it has here.
fn check_digest(blobref: &BlobRef, message: &Message) -> Result<(), RpcError> {
    let digest = message.payload.as_ref().map_or(&[][..], |digest| digest);
    if digest == blobref.digest() {
        return Ok(());
    }
    let text = format!("{blobref} was stored under another name");
    Err(RpcError::new(Errno::EIO, text))
}

impl Content {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// With each heartbeat a collector of statistics hears of us, if there is one.
    pub(super) fn on_pulse(&mut self) {
        self.refresh();
        if let Some(statsd) = &self.statsd {
            let count = self.cache.count();
            statsd.gauges(&[
                ("count", (count + self.loads.len()) as u64),
                ("valid", count as u64),
                ("dirty", self.cache.dirty() as u64),
                ("size", self.cache.size()),
                ("flush-batch-count", self.in_flight as u64),
            ]);
        }
    }

    /// What is done now and then: old blobs are dropped, and if some could not be stored, one of
    /// them tries again, as there may be room now.
    pub(super) fn refresh(&mut self) {
        self.purge();
        if self.leader && self.backing && self.in_flight == 0 {
            self.probe = self.cache.retry_one();
        }
    }

    fn purge(&mut self) {
        let now = self.now();
        let target = u64::from(self.config.purge_target_size);
        let old = Duration::from_secs(u64::from(self.config.purge_old_entry));
        self.cache.purge(now, target, old);
        self.freed.add(self.cache.take_dropped());
        self.freed.give_back();
    }

    fn load(&mut self, request: Request<ContentLoad>, blobref: BlobRef, digest: Bytes) {
        let now = self.now();
        if let Some((blob, ephemeral)) = self.cache.get(now, &blobref) {
            return reply_blob(&self.handle, &request, &blob, ephemeral);
        }
        if let Some(waiting) = self.loads.get_mut(&blobref) {
            return waiting.push(request);
        }
        if self.mapped.has(&blobref) {
            return self.load_mapped(request, blobref);
        }
        let call = match (self.leader, self.backing) {
            (true, false) => return request.fail(Errno::ENOENT),
            (true, true) => self
                .handle
                .call_raw(topic::<BackingLoad>(), Rank::LEADER, digest),
            (false, _) => self
                .handle
                .call_raw(topic::<ContentLoad>(), Dest::Upstream, digest),
        };
        self.loads.insert(blobref, vec![request]);
        let done = self.done.clone();
        tokio::task::spawn_local(async move {
            let result = call.await.map(|message| {
                let ephemeral = message.flags.contains(Flags::USER1);
                (message.payload.unwrap_or_default(), ephemeral)
            });
            // The module has ended if nobody takes this.
            let _ended = done.send(Done::Loaded(blobref, result));
        });
    }

    fn load_mapped(&mut self, request: Request<ContentLoad>, blobref: BlobRef) {
        let load = match self.mapped.load(blobref) {
            Ok(load) => load,
            Err(error) => return request.fail(error),
        };
        self.loads.insert(blobref, vec![request]);
        let done = self.done.clone();
        tokio::task::spawn_local(async move {
            let result = load.await.map(|blob| (blob, true));
            let _ended = done.send(Done::Loaded(blobref, result));
        });
    }

    fn mmap_add(&mut self, request: Request<ContentMmapAdd>, add: MmapAdd) {
        let scan = match self.mapped.scan(add, self.hash) {
            Ok(scan) => scan,
            Err(error) => return request.fail(error),
        };
        let done = self.done.clone();
        tokio::task::spawn_local(async move {
            let _ended = done.send(Done::Scanned(request, scan.await));
        });
    }

    fn store(&mut self, request: Request<ContentStore>, blob: Bytes) {
        if blob.len() as u64 > u64::from(self.config.blob_size_limit) {
            return request.fail(Errno::EFBIG);
        }
        if blob.len() <= HASH_HERE_MAX {
            let blobref = BlobRef::hash(self.hash, &blob);
            return self.store_hashed(request, blobref, blob);
        }
        match self.hasher.hash(self.hash, blob.clone()) {
            Ok(hashed) => {
                let done = self.done.clone();
                tokio::task::spawn_local(async move {
                    let _ended = done.send(Done::Hashed(request, blob, hashed.await));
                });
            }
            Err(error) => request.fail(error),
        }
    }

    fn store_hashed(&mut self, request: Request<ContentStore>, blobref: BlobRef, blob: Bytes) {
        self.add(blobref, blob);
        if self.leader {
            request.reply(&Raw(Bytes::copy_from_slice(blobref.digest())));
        } else {
            self.stores.entry(blobref).or_default().push(request);
        }
    }

    /// Takes a blob in, and answers who waits for it.
    fn add(&mut self, blobref: BlobRef, blob: Bytes) {
        let now = self.now();
        for load in self.loads.remove(&blobref).unwrap_or_default() {
            reply_blob(&self.handle, &load, &blob, false);
        }
        self.cache.add_dirty(now, blobref, blob);
    }

    /// Blobs came the short way.
    pub(super) fn on_delivery(&mut self, delivery: Delivery) {
        let limit = u64::from(self.config.blob_size_limit);
        let take = |(blobref, blob): (BlobRef, Bytes)| {
            if blob.len() as u64 > limit {
                return Err(Errno::EFBIG.into());
            }
            self.add(blobref, blob);
            Ok(())
        };
        let results = delivery.blobs.into_iter().map(take).collect();
        // Whoever refreshes blobs does not wait.
        let _nobody_waits = delivery.done.send(results);
    }

    /// Whether blobs can be sent up now.
    pub(super) fn has_work(&self) -> bool {
        self.cache.has_queued()
            && (!self.leader
                || self.backing && self.in_flight < self.config.flush_batch_limit as usize)
    }

    /// Sends dirty blobs up.
    pub(super) fn work(&mut self) {
        let mut blobs = Vec::new();
        while self.has_work() {
            let Some(blob) = self.cache.next_queued() else {
                break;
            };
            self.in_flight += 1;
            blobs.push(blob);
        }
        let done = self.done.clone();
        if let Some(backing) = self.host.exchange().get::<Inlet<inlet::Backing>>() {
            let blobrefs: Vec<BlobRef> = blobs.iter().map(|(blobref, _)| *blobref).collect();
            let stored = backing.store(blobs);
            tokio::task::spawn_local(async move {
                for (blobref, result) in blobrefs.into_iter().zip(stored.await) {
                    let _ended = done.send(Done::Stored(blobref, result));
                }
            });
            return;
        }
        let mut calls = Vec::with_capacity(blobs.len());
        for (blobref, blob) in blobs {
            let call = if self.leader {
                self.handle
                    .call_raw(topic::<BackingStore>(), Rank::LEADER, blob)
            } else {
                self.handle
                    .call_raw(topic::<ContentStore>(), Dest::Upstream, blob)
            };
            calls.push((blobref, call));
        }
        // Answers come in about the order of the requests, so one task waits for all of them.
        tokio::task::spawn_local(async move {
            for (blobref, call) in calls {
                let result = call
                    .await
                    .and_then(|message| check_digest(&blobref, &message));
                let _ended = done.send(Done::Stored(blobref, result));
            }
        });
    }

    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Loaded(blobref, result) => self.on_loaded(blobref, result),
            Done::Hashed(request, blob, result) => {
                match result {
                    Ok(blobref) => self.store_hashed(request, blobref, blob),
                    Err(error) => request.fail(error),
                }
                for waiter in self.hasher.on_done() {
                    self.start_flush(waiter);
                }
            }
            Done::Scanned(request, result) => {
                let added = result.map(|scanned| self.mapped.add(scanned));
                request.reply_result(&added.map(|()| Empty {}));
            }
            Done::Stored(blobref, result) => {
                self.in_flight -= 1;
                self.on_stored(blobref, result);
                self.check_flushes();
            }
        }
    }

    fn on_loaded(&mut self, blobref: BlobRef, result: Loaded) {
        let Some(waiting) = self.loads.remove(&blobref) else {
            return;
        };
        match result {
            Ok((blob, ephemeral)) => {
                let now = self.now();
                self.cache.add_clean(now, blobref, blob.clone(), ephemeral);
                for request in waiting {
                    reply_blob(&self.handle, &request, &blob, ephemeral);
                }
            }
            Err(mut error) => {
                // A backing store that is just going away has no blobs.
                if self.leader && error.errno == Errno::ENOSYS {
                    error = Errno::ENOENT.into();
                }
                for request in waiting {
                    request.fail(error.clone());
                }
            }
        }
    }

    fn on_stored(&mut self, blobref: BlobRef, result: Result<(), RpcError>) {
        let waiting = self.stores.remove(&blobref).unwrap_or_default();
        match result {
            Ok(()) => {
                self.cache.on_stored(&blobref);
                self.on_backing_works(blobref);
                for request in waiting {
                    request.reply(&Raw(Bytes::copy_from_slice(blobref.digest())));
                }
            }
            Err(error) if self.leader => {
                self.cache.on_refused(&blobref);
                if self.backing {
                    self.on_backing_fails(error.errno);
                } else {
                    self.cache.retry();
                }
                self.last_error = Some(error);
            }
            Err(error) => {
                self.cache.remove(&blobref);
                self.last_error = Some(error.clone());
                for request in waiting {
                    request.fail(error.clone());
                }
            }
        }
    }

    /// The backing store refuses blobs. One line says so until something changes: a full disk is
    /// no reason to fill the log as well.
    fn on_backing_fails(&mut self, errno: Errno) {
        if self.failing.replace(errno) != Some(errno) {
            let text = format!("content store: {errno}");
            self.host.log(Severity::Crit, "content", &text);
        }
    }

    /// The backing store took a blob. If that had been refused before, it can have the others: a
    /// blob that just happens to fit says nothing about them.
    fn on_backing_works(&mut self, blobref: BlobRef) {
        if self.probe != Some(blobref) {
            return;
        }
        self.probe = None;
        self.failing = None;
        self.host.log(
            Severity::Info,
            "content",
            "content store: blobs are stored again",
        );
        self.cache.retry();
    }

    fn flush(&mut self, waiter: Waiter) {
        // What came before it counts, although some is not in the cache yet.
        if self.hasher.is_busy() {
            return self.hasher.after_this(waiter);
        }
        self.start_flush(waiter);
    }

    fn start_flush(&mut self, waiter: Waiter) {
        if self.leader && !self.backing {
            return self.finish_flush(waiter, Err(Errno::ENOSYS.into()));
        }
        // Whoever asks may be told again why it fails.
        self.failing = None;
        self.cache.retry();
        let mark = self.cache.mark();
        self.flushes.push(Flush { mark, waiter });
        self.check_flushes();
    }

    fn check_flushes(&mut self) {
        let waits = |flush: &Flush| self.cache.flushed(flush.mark) == Flushed::Waiting;
        if self.flushes.iter().all(waits) {
            return;
        }
        for flush in std::mem::take(&mut self.flushes) {
            match self.cache.flushed(flush.mark) {
                Flushed::Waiting => self.flushes.push(flush),
                Flushed::Done => self.finish_flush(flush.waiter, Ok(())),
                Flushed::Failed => {
                    let error = self.last_error.clone().unwrap_or(Errno::EIO.into());
                    self.finish_flush(flush.waiter, Err(error));
                }
            }
        }
    }

    fn finish_flush(&self, waiter: Waiter, result: Result<(), RpcError>) {
        match (waiter, result) {
            (Waiter::Flush(request), result) => self
                .handle
                .respond_result(&request, &result.map(|()| Empty {})),
            (Waiter::Checkpoint(request, _), Err(error)) => {
                request.fail(RpcError::new(error.errno, "error flushing content"));
            }
            (Waiter::Checkpoint(request, put), Ok(())) => {
                let call = if self.leader {
                    self.handle.call::<BackingCheckpointPut>(Rank::LEADER, &put)
                } else {
                    self.handle
                        .call::<ContentCheckpointPut>(Dest::Upstream, &put)
                };
                tokio::task::spawn_local(async move { request.reply_result(&call.await) });
            }
        }
    }

    fn checkpoint_get(&mut self, request: Request<ContentCheckpointGet>) {
        let call = match (self.leader, self.backing) {
            (true, false) => {
                let text = "checkpoint get unavailable, no backing store";
                return request.fail(RpcError::new(Errno::ENOSYS, text));
            }
            (true, true) => self
                .handle
                .call::<BackingCheckpointGet>(Rank::LEADER, &Empty {}),
            (false, _) => self
                .handle
                .call::<ContentCheckpointGet>(Dest::Upstream, &Empty {}),
        };
        tokio::task::spawn_local(async move { request.reply_result(&call.await) });
    }

    fn register_backing(&mut self, request: Request<ContentRegisterBacking>, backing: Backing) {
        let refuse = |errno, text: &str| request.fail(RpcError::new(errno, text));
        if !self.leader {
            let text = "content backing store can only be registered on rank 0";
            return refuse(Errno::EINVAL, text);
        }
        if self.backing {
            return refuse(Errno::EBUSY, "content backing store is already active");
        }
        match &self.backing_name {
            Some(name) if *name != backing.name => {
                let text = "content backing store cannot be changed on the fly";
                return refuse(Errno::EINVAL, text);
            }
            Some(_) => {}
            None => {
                self.host.set_attr(BACKING_ATTR, &backing.name);
                self.backing_name = Some(backing.name);
            }
        }
        self.backing = true;
        self.cache.retry();
        request.reply(&Empty {});
    }

    fn unregister_backing(&mut self, request: Request<ContentUnregisterBacking>) {
        if !self.backing {
            let text = "content backing store is not active";
            return request.fail(RpcError::new(Errno::EINVAL, text));
        }
        self.backing = false;
        let dirty = self.cache.dirty();
        if dirty > 0 {
            let text = format!("{dirty} unflushables");
            self.host.log(Severity::Err, "content", &text);
        }
        for flush in std::mem::take(&mut self.flushes) {
            self.finish_flush(flush.waiter, Err(Errno::ENOSYS.into()));
        }
        request.reply(&Empty {});
    }

    /// Forgets who waits and is gone. What they started goes on: others may want it.
    fn disconnect(&mut self, message: &Message) {
        for waiting in self.loads.values_mut() {
            waiting.retain(|request| !request.is_from_sender_of(message));
        }
        for waiting in self.stores.values_mut() {
            waiting.retain(|request| !request.is_from_sender_of(message));
        }
    }

    fn stats(&self) -> Map<String, Value> {
        let count = self.cache.count();
        let mut stats = Map::new();
        stats.insert("count".into(), (count + self.loads.len()).into());
        stats.insert("valid".into(), count.into());
        stats.insert("dirty".into(), self.cache.dirty().into());
        stats.insert("size".into(), self.cache.size().into());
        stats.insert("flush-batch-count".into(), self.in_flight.into());
        let mmap = if self.leader {
            self.mapped.stats()
        } else {
            Value::Null
        };
        stats.insert("mmap".into(), mmap);
        stats
    }
}
