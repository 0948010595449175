//! The blobs a rank holds, and which of them one level up does not have yet.
//!
//! Pure. Every blob that has to go up gets a number from a rising counter when it becomes dirty,
//! so that a flush waits for what was dirty when it was asked for, and not for what came since.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use spec::BlobRef;

/// The most bytes that are kept of clean blobs, however young.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Blobs that were stored here.
    pub(super) stored: u64,
    /// Blobs that were loaded here.
    pub(super) loaded: u64,
    /// All of them together, if they are old.
    pub(super) idle: u64,
}

impl Bounds {
    /// On the leader. What is stored under load comes faster than it grows old, nearly all of it
    /// superseded at once, and the KVS above and the system's cache below have it as well. What is
    /// loaded is often wanted by every rank, each somewhere else in the same files: the slower ones
    /// find here what the faster ones had read and checked, and catch up.
    pub(super) const LEADER: Bounds = Bounds {
        stored: 2 << 20,
        loaded: 32 << 20,
        idle: 2 << 20,
    };

    /// Elsewhere, where getting a blob again takes the way up the tree.
    pub(super) const FOLLOWER: Bounds = Bounds {
        stored: 4 << 20,
        loaded: 16 << 20,
        idle: u64::MAX,
    };
}

/// A blob held.
#[derive(Debug)]
struct Slot {
    bytes: Bytes,
    /// Set while one level up does not have it.
    dirty: Option<u64>,
    /// It comes from a mapped file and is on no backing store.
    ephemeral: bool,
    used: Duration,
}

/// What a flush has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Some blobs are still on their way.
    Waiting,
    /// Everything is up.
    Done,
    /// Something could not be stored.
    Failed,
}

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    bounds: Bounds,
    /// What was stored here, in the order of its last use.
    slots: LruCache<BlobRef, Slot>,
    /// What was loaded here, in the same order. All of it is clean.
    loaded: LruCache<BlobRef, Slot>,
    size: u64,
    /// Bytes dropped since somebody asked.
    dropped: u64,
    /// The part of `size` that is in `slots` and may go.
    clean_size: u64,
    /// The part of `size` that is in `loaded`.
    loaded_size: u64,
    last: u64,
    /// Dirty blobs to send, oldest first.
    queue: VecDeque<(u64, BlobRef)>,
    /// Numbers of the dirty blobs that are queued or on their way.
    outstanding: BTreeSet<u64>,
    /// Dirty blobs that could not be stored, until somebody tries again.
    failed: BTreeMap<u64, BlobRef>,
}

impl Cache {
    /// An empty cache that keeps so much of clean blobs.
    pub(super) fn new(bounds: Bounds) -> Cache {
        Cache {
            bounds,
            slots: LruCache::unbounded(),
            loaded: LruCache::unbounded(),
            size: 0,
            clean_size: 0,
            loaded_size: 0,
            dropped: 0,
            last: 0,
            queue: VecDeque::new(),
            outstanding: BTreeSet::new(),
            failed: BTreeMap::new(),
        }
    }

    /// A blob that is loaded, and whether it is ephemeral.
    pub(super) fn get(&mut self, now: Duration, blobref: &BlobRef) -> Option<(Bytes, bool)> {
        if let Some(slot) = self.slots.get_mut(blobref) {
            slot.used = now;
            let found = (slot.bytes.clone(), slot.ephemeral);
            if slot.dirty.is_none() {
                self.move_to_loaded(blobref);
            }
            return Some(found);
        }
        let slot = self.loaded.get_mut(blobref)?;
        slot.used = now;
        Some((slot.bytes.clone(), slot.ephemeral))
    }

    /// A clean blob that was stored here is loaded as well.
    fn move_to_loaded(&mut self, blobref: &BlobRef) {
        if let Some(slot) = self.slots.pop(blobref) {
            self.clean_size -= slot.bytes.len() as u64;
            self.put_loaded(*blobref, slot);
        }
    }

    fn put_loaded(&mut self, blobref: BlobRef, slot: Slot) {
        self.loaded_size += slot.bytes.len() as u64;
        self.loaded.put(blobref, slot);
        self.drop_loaded(|cache, _| cache.loaded_size > cache.bounds.loaded);
    }

    /// Adds a blob that one level up has and somebody here loads.
    pub(super) fn add_clean(
        &mut self,
        now: Duration,
        blobref: BlobRef,
        bytes: Bytes,
        ephemeral: bool,
    ) {
        if self.slots.contains(&blobref) || self.loaded.contains(&blobref) {
            return;
        }
        self.size += bytes.len() as u64;
        let slot = Slot {
            bytes,
            dirty: None,
            ephemeral,
            used: now,
        };
        self.put_loaded(blobref, slot);
    }

    /// Adds a blob to be sent up. One that is here and clean is sent again; that renews its age
    /// in the backing store. Returns whether it was not on its way already.
    pub(super) fn add_dirty(&mut self, now: Duration, blobref: BlobRef, bytes: Bytes) -> bool {
        let size = bytes.len() as u64;
        if let Some(slot) = self.loaded.pop(&blobref) {
            self.loaded_size -= size;
            self.clean_size += size;
            self.slots.put(blobref, slot);
        }
        let slot = self.slots.get_or_insert_mut(blobref, || {
            self.size += size;
            self.clean_size += size;
            Slot {
                bytes,
                dirty: None,
                ephemeral: false,
                used: now,
            }
        });
        slot.used = now;
        slot.ephemeral = false;
        match slot.dirty {
            Some(number) if !self.failed.contains_key(&number) => false,
            Some(number) => {
                self.failed.remove(&number);
                self.enqueue(number, blobref);
                true
            }
            None => {
                self.last += 1;
                self.clean_size -= size;
                slot.dirty = Some(self.last);
                self.enqueue(self.last, blobref);
                true
            }
        }
    }

    fn enqueue(&mut self, number: u64, blobref: BlobRef) {
        self.outstanding.insert(number);
        self.queue.push_back((number, blobref));
    }

    /// Whether anything waits to be sent.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next blob to send.
    pub(super) fn next_queued(&mut self) -> Option<(BlobRef, Bytes)> {
        loop {
            let (_, blobref) = self.queue.pop_front()?;
            if let Some(slot) = self.slots.peek(&blobref) {
                return Some((blobref, slot.bytes.clone()));
            }
        }
    }

    /// One level up has a blob now.
    pub(super) fn on_stored(&mut self, blobref: &BlobRef) {
        if let Some(slot) = self.slots.peek_mut(blobref)
            && let Some(number) = slot.dirty.take()
        {
            self.outstanding.remove(&number);
            self.failed.remove(&number);
            self.clean_size += slot.bytes.len() as u64;
            self.drop_excess();
        }
    }

    /// One level up refused a blob. It stays dirty.
    pub(super) fn on_refused(&mut self, blobref: &BlobRef) {
        if let Some(number) = self.slots.peek(blobref).and_then(|slot| slot.dirty) {
            self.outstanding.remove(&number);
            self.failed.insert(number, *blobref);
        }
    }

    /// Sends again what was refused.
    pub(super) fn retry(&mut self) {
        for (number, blobref) in std::mem::take(&mut self.failed) {
            self.enqueue(number, blobref);
        }
    }

    /// Sends again the oldest blob that was refused, to see whether it is taken now.
    pub(super) fn retry_one(&mut self) -> Option<BlobRef> {
        let (number, blobref) = self.failed.pop_first()?;
        self.enqueue(number, blobref);
        Some(blobref)
    }

    /// Drops a blob, as when it could not be stored and nobody else knows it.
    pub(super) fn remove(&mut self, blobref: &BlobRef) {
        let (slot, was_loaded) = match self.loaded.pop(blobref) {
            Some(slot) => (Some(slot), true),
            None => (self.slots.pop(blobref), false),
        };
        let Some(slot) = slot else {
            return;
        };
        let size = slot.bytes.len() as u64;
        self.size -= size;
        self.dropped += size;
        match slot.dirty {
            Some(number) => {
                self.outstanding.remove(&number);
                self.failed.remove(&number);
            }
            None if was_loaded => self.loaded_size -= size,
            None => self.clean_size -= size,
        }
    }

    /// What a flush that starts now has to wait for.
    pub(super) fn mark(&self) -> u64 {
        self.last
    }

    /// How far the flush with that mark is.
    pub(super) fn flushed(&self, mark: u64) -> Flushed {
        if self.outstanding.first().is_some_and(|first| *first <= mark) {
            Flushed::Waiting
        } else if self
            .failed
            .keys()
            .next()
            .is_some_and(|first| *first <= mark)
        {
            Flushed::Failed
        } else {
            Flushed::Done
        }
    }

    /// Drops every clean blob.
    pub(super) fn drop_clean(&mut self) {
        self.drop_loaded(|_, _| true);
        self.drop_stored(|_, _| true);
    }

    /// Drops clean blobs that have been idle for `old`, until no more than `target` bytes are left:
    /// first those that were loaded, of either kind the least recently used first.
    pub(super) fn purge(&mut self, now: Duration, target: u64, old: Duration) {
        let target = target.min(self.bounds.idle);
        let goes = |cache: &Cache, slot: &Slot| {
            cache.size > target && now.saturating_sub(slot.used) >= old
        };
        self.drop_loaded(goes);
        self.drop_stored(goes);
    }

    /// Drops the least recently used clean blobs that were stored and are too many.
    fn drop_excess(&mut self) {
        self.drop_stored(|cache, _| cache.clean_size > cache.bounds.stored);
    }

    /// Drops blobs that were loaded, the least recently used first, as long as `goes` says so of
    /// the next.
    fn drop_loaded(&mut self, goes: impl Fn(&Cache, &Slot) -> bool) {
        while let Some((blobref, slot)) = self.loaded.peek_lru()
            && goes(self, slot)
        {
            let blobref = *blobref;
            self.remove(&blobref);
        }
    }

    /// Drops clean blobs that were stored, in the same way.
    /// Dirty ones on the way count as used, so that nobody meets them again soon.
    fn drop_stored(&mut self, goes: impl Fn(&Cache, &Slot) -> bool) {
        for _ in 0..self.slots.len() {
            let Some((blobref, slot)) = self.slots.peek_lru() else {
                break;
            };
            if !goes(self, slot) {
                break;
            }
            let blobref = *blobref;
            if slot.dirty.is_some() {
                self.slots.promote(&blobref);
            } else {
                self.remove(&blobref);
            }
        }
    }

    /// How many bytes have been dropped since this was last asked.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// How many blobs there are.
    pub(super) fn count(&self) -> usize {
        self.slots.len() + self.loaded.len()
    }

    /// How many of them are dirty.
    pub(super) fn dirty(&self) -> usize {
        self.outstanding.len() + self.failed.len()
    }

    /// The bytes in all.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use spec::HashKind;

    use super::*;

    fn blob(text: &str) -> (BlobRef, Bytes) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        (BlobRef::hash(HashKind::Sha1, &bytes), bytes)
    }

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn flushing_waits_for_what_was_dirty() {
        let mut cache = Cache::new(Bounds::FOLLOWER);
        let (a, a_bytes) = blob("a");
        let (b, b_bytes) = blob("b");
        assert!(cache.add_dirty(NOW, a, a_bytes.clone()));
        assert!(!cache.add_dirty(NOW, a, a_bytes.clone()), "queued once");
        let mark = cache.mark();
        cache.add_dirty(NOW, b, b_bytes);
        assert_eq!(cache.next_queued(), Some((a, a_bytes.clone())));
        assert_eq!(cache.flushed(mark), Flushed::Waiting);
        cache.on_stored(&a);
        assert_eq!(cache.flushed(mark), Flushed::Done);
        assert_eq!(cache.dirty(), 1);
        assert!(cache.add_dirty(NOW, a, a_bytes), "clean ones go again");
        assert_eq!((cache.count(), cache.dirty(), cache.size()), (2, 2, 2));
    }

    #[test]
    fn what_was_refused_goes_again() {
        let mut cache = Cache::new(Bounds::FOLLOWER);
        let (a, bytes) = blob("a");
        cache.add_dirty(NOW, a, bytes.clone());
        cache.next_queued();
        cache.on_refused(&a);
        assert_eq!(cache.flushed(cache.mark()), Flushed::Failed);
        assert!(!cache.has_queued());
        cache.retry();
        assert_eq!(cache.flushed(cache.mark()), Flushed::Waiting);
        assert_eq!(cache.next_queued(), Some((a, bytes)));
        cache.on_stored(&a);
        assert_eq!(cache.flushed(cache.mark()), Flushed::Done);
    }

    #[test]
    fn one_blob_tries_for_all_that_were_refused() {
        let mut cache = Cache::new(Bounds::FOLLOWER);
        let (a, a_bytes) = blob("a");
        let (b, b_bytes) = blob("b");
        for (blobref, bytes) in [(b, b_bytes), (a, a_bytes)] {
            cache.add_dirty(NOW, blobref, bytes);
            cache.next_queued();
            cache.on_refused(&blobref);
        }
        assert_eq!(cache.retry_one(), Some(b));
        assert_eq!(cache.next_queued().map(|(blobref, _)| blobref), Some(b));
        assert_eq!(cache.next_queued(), None);
        assert_eq!(cache.dirty(), 2, "both count while one is on its way");
    }

    #[test]
    fn what_is_loaded_and_what_is_stored_have_bounds_of_their_own() {
        let mut cache = Cache::new(Bounds {
            stored: 3,
            loaded: 5,
            idle: u64::MAX,
        });
        for text in ["a1", "a2", "a3"] {
            cache.add_clean(NOW, blob(text).0, blob(text).1, false);
        }
        assert_eq!((cache.count(), cache.size()), (2, 4), "a1 had to go");
        let mut store = |text| {
            let (blobref, bytes) = blob(text);
            cache.add_dirty(NOW, blobref, bytes);
            cache.on_stored(&blobref);
            (cache.count(), cache.size())
        };
        assert_eq!(store("b1"), (3, 6));
        assert_eq!(store("b2"), (3, 6), "b1 had to go");
        assert_eq!(store("a2"), (2, 4), "it counts as stored now, for b2");
        assert!(cache.get(NOW, &blob("a2").0).is_some());
        assert_eq!(cache.get(NOW, &blob("b2").0), None);
        let sizes = (cache.clean_size, cache.loaded_size, cache.size());
        assert_eq!(sizes, (0, 4, 4), "loading moved it back");
        cache.drop_clean();
        let sizes = (cache.clean_size, cache.loaded_size, cache.size());
        assert_eq!((cache.count(), sizes), (0, (0, 0, 0)));
    }

    #[test]
    fn dirty_blobs_are_never_dropped_and_old_ones_go_first() {
        let mut cache = Cache::new(Bounds::FOLLOWER);
        let (dirty, bytes) = blob("dirty");
        cache.add_dirty(Duration::ZERO, dirty, bytes);
        for (seconds, text) in [(1, "one"), (2, "two"), (99, "new")] {
            let (blobref, bytes) = blob(text);
            cache.add_clean(Duration::from_secs(seconds), blobref, bytes, false);
        }
        cache.purge(NOW, 11, Duration::from_secs(10));
        assert_eq!(cache.count(), 3, "the oldest sufficed");
        assert_eq!(cache.get(NOW, &blob("one").0), None);
        cache.purge(NOW, 0, Duration::from_secs(10));
        assert_eq!(cache.count(), 2, "the dirty and the new one stay");
        cache.drop_clean();
        assert_eq!((cache.count(), cache.size()), (1, 5));
    }
}
