//! The blobs a rank holds, and which of them one level up does not have yet.
//!
//! Pure. Every blob that has to go up gets a number from a rising counter when it becomes dirty,
//! so that a flush waits for what was dirty when it was asked for, and not for what came since.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use spec::BlobRef;

/// The most bytes of clean blobs on the leader, however young. Under load they come faster than
/// they grow old, nearly all of them superseded at once, and the KVS above and the system's cache
/// below have them as well. A higher target for the old ones has no effect there.
pub(super) const LEADER_CLEAN_MAX: u64 = 4 << 20;

/// The same elsewhere, where getting a blob again takes the way up the tree.
pub(super) const FOLLOWER_CLEAN_MAX: u64 = 16 << 20;

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
    /// In the order of their last use.
    slots: LruCache<BlobRef, Slot>,
    size: u64,
    /// Bytes dropped since somebody asked.
    dropped: u64,
    /// The part of `size` that may go.
    clean_size: u64,
    clean_max: u64,
    last: u64,
    /// Dirty blobs to send, oldest first.
    queue: VecDeque<(u64, BlobRef)>,
    /// Numbers of the dirty blobs that are queued or on their way.
    outstanding: BTreeSet<u64>,
    /// Dirty blobs that could not be stored, until somebody tries again.
    failed: BTreeMap<u64, BlobRef>,
}

impl Cache {
    /// An empty cache that keeps so many bytes of clean blobs.
    pub(super) fn new(clean_max: u64) -> Cache {
        Cache {
            slots: LruCache::unbounded(),
            size: 0,
            clean_size: 0,
            clean_max,
            dropped: 0,
            last: 0,
            queue: VecDeque::new(),
            outstanding: BTreeSet::new(),
            failed: BTreeMap::new(),
        }
    }

    /// A blob, and whether it is ephemeral.
    pub(super) fn get(&mut self, now: Duration, blobref: &BlobRef) -> Option<(Bytes, bool)> {
        let slot = self.slots.get_mut(blobref)?;
        slot.used = now;
        Some((slot.bytes.clone(), slot.ephemeral))
    }

    /// Adds a blob that one level up has.
    pub(super) fn add_clean(
        &mut self,
        now: Duration,
        blobref: BlobRef,
        bytes: Bytes,
        ephemeral: bool,
    ) {
        if self.slots.contains(&blobref) {
            return;
        }
        let size = bytes.len() as u64;
        self.size += size;
        self.clean_size += size;
        let slot = Slot {
            bytes,
            dirty: None,
            ephemeral,
            used: now,
        };
        self.slots.put(blobref, slot);
        self.drop_excess();
    }

    /// Adds a blob to be sent up. One that is here and clean is sent again; that renews its age
    /// in the backing store. Returns whether it was not on its way already.
    pub(super) fn add_dirty(&mut self, now: Duration, blobref: BlobRef, bytes: Bytes) -> bool {
        let size = bytes.len() as u64;
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
        let Some(slot) = self.slots.pop(blobref) else {
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
        self.drop_while(|_, _| true);
    }

    /// Drops the least recently used clean blobs that have been idle for `old`, until no more than
    /// `target` bytes are left.
    pub(super) fn purge(&mut self, now: Duration, target: u64, old: Duration) {
        self.drop_while(|cache, slot| cache.size > target && now.saturating_sub(slot.used) >= old);
    }

    /// Drops the least recently used clean blobs above `clean_max`.
    fn drop_excess(&mut self) {
        self.drop_while(|cache, _| cache.clean_size > cache.clean_max);
    }

    /// Drops clean blobs, the least recently used first, as long as `goes` says so of the next.
    /// Dirty ones on the way count as used, so that nobody meets them again soon.
    fn drop_while(&mut self, goes: impl Fn(&Cache, &Slot) -> bool) {
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
        self.slots.len()
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
        let mut cache = Cache::new(FOLLOWER_CLEAN_MAX);
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
        let mut cache = Cache::new(FOLLOWER_CLEAN_MAX);
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
        let mut cache = Cache::new(FOLLOWER_CLEAN_MAX);
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
    fn dirty_blobs_are_never_dropped_and_old_ones_go_first() {
        let mut cache = Cache::new(FOLLOWER_CLEAN_MAX);
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
