//! Blobs in memory, directories decoded.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use spec::BlobRef;

use crate::{Dir, Error};

/// The most bytes a cache holds once it has been trimmed. The directories of a million keys fit,
/// so that looking one up costs no load.
const SIZE_MAX: usize = 128 << 20;

/// The most bytes of directories that have newer versions. A commit replaces the directories on
/// its path, so under load these are nearly all there is; readers that are some commits behind
/// find them here, later ones load them.
const REPLACED_SIZE_MAX: usize = 2 << 20;

/// How many times longer than values directories may be idle: values are mostly read once, while
/// every key of a directory leads through it, and loading a large one takes ten times a look-up.
const DIR_PATIENCE: u32 = 30;

/// What an entry takes besides its blob, about.
const SLOT_SIZE: usize = 256;

struct Slot {
    bytes: Bytes,
    /// Decoded when first walked through.
    dir: Option<Rc<Dir>>,
    /// The cache's time at the last use.
    used: Duration,
}

impl Slot {
    fn size(&self) -> usize {
        self.bytes.len() + SLOT_SIZE
    }
}

/// How much a cache holds, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// How many blobs.
    pub count: usize,
    /// The bytes in the smallest.
    pub min: usize,
    /// The bytes in the largest.
    pub max: usize,
    /// The bytes in all.
    pub total: usize,
    /// The standard deviation of their sizes, in bytes.
    pub stddev: f64,
}

/// The blobs a rank has at hand. What is idle goes with [`Cache::expire`], what is too much with
/// [`Cache::trim`]; nothing goes while a look-up or a transaction gathers what it needs.
pub struct Cache {
    slots: LruCache<BlobRef, Slot>,
    size: usize,
    /// Bytes dropped since somebody asked.
    dropped: usize,
    now: Duration,
    /// Directories that have newer versions, oldest first.
    replaced: VecDeque<(BlobRef, usize)>,
    replaced_size: usize,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            slots: LruCache::unbounded(),
            size: 0,
            dropped: 0,
            now: Duration::ZERO,
            replaced: VecDeque::new(),
            replaced_size: 0,
        }
    }
}

impl Cache {
    /// An empty cache.
    pub fn new() -> Cache {
        Cache::default()
    }

    /// Sets the time, on any monotonic clock, that uses are stamped with from here on.
    pub fn advance(&mut self, now: Duration) {
        self.now = now;
    }

    /// Whether a blob is here.
    pub fn contains(&self, blobref: &BlobRef) -> bool {
        self.slots.contains(blobref)
    }

    fn slot(&mut self, blobref: &BlobRef) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(blobref)?;
        slot.used = self.now;
        Some(slot)
    }

    /// A blob's bytes.
    pub fn blob(&mut self, blobref: &BlobRef) -> Option<&Bytes> {
        Some(&self.slot(blobref)?.bytes)
    }

    /// The directory in a blob; `None` if the blob is not here. Errors: [`Error::Corrupt`].
    pub fn dir(&mut self, blobref: &BlobRef) -> Result<Option<Rc<Dir>>, Error> {
        let Some(slot) = self.slot(blobref) else {
            return Ok(None);
        };
        if slot.dir.is_none() {
            let dir = Dir::decode(&slot.bytes).ok_or(Error::Corrupt)?;
            slot.dir = Some(Rc::new(dir));
        }
        Ok(slot.dir.clone())
    }

    /// Adds a blob, and the directory in it where that is known already.
    pub fn insert(&mut self, blobref: BlobRef, bytes: Bytes, dir: Option<Rc<Dir>>) {
        let used = self.now;
        let slot = Slot { bytes, dir, used };
        self.size += slot.size();
        if let Some(old) = self.slots.put(blobref, slot) {
            self.size -= old.size();
        }
    }

    /// Stamps a blob as used.
    pub fn touch(&mut self, blobref: &BlobRef) {
        self.slot(blobref);
    }

    /// Takes note of directories that have newer versions, and drops older ones.
    pub fn replace(&mut self, blobrefs: Vec<BlobRef>) {
        for blobref in blobrefs {
            if let Some(slot) = self.slots.peek(&blobref) {
                let size = slot.size();
                self.replaced_size += size;
                self.replaced.push_back((blobref, size));
            }
        }
        while self.replaced_size > REPLACED_SIZE_MAX {
            let Some((oldest, size)) = self.replaced.pop_front() else {
                break;
            };
            self.replaced_size -= size;
            // It may have expired meanwhile.
            if let Some(slot) = self.slots.pop(&oldest) {
                self.on_dropped(&slot);
            }
        }
    }

    /// Drops what has not been used for `idle`; directories stay longer.
    pub fn expire(&mut self, idle: Duration) {
        let keep = |slot: &Slot| match slot.dir {
            Some(_) => idle * DIR_PATIENCE,
            None => idle,
        };
        let goes = |slot: &Slot| self.now.saturating_sub(slot.used) > keep(slot);
        let old = self.slots.iter().filter(|(_, slot)| goes(slot));
        let old: Vec<BlobRef> = old.map(|(blobref, _)| *blobref).collect();
        for blobref in old {
            if let Some(slot) = self.slots.pop(&blobref) {
                self.on_dropped(&slot);
            }
        }
    }

    /// Drops what was not used for longest until the rest is not too much.
    pub fn trim(&mut self) {
        while self.size > SIZE_MAX
            && let Some((_, slot)) = self.slots.pop_lru()
        {
            self.on_dropped(&slot);
        }
    }

    fn on_dropped(&mut self, slot: &Slot) {
        self.size -= slot.size();
        self.dropped += slot.size();
    }

    /// How many bytes have been dropped since this was last asked.
    pub fn take_dropped(&mut self) -> usize {
        std::mem::take(&mut self.dropped)
    }

    /// How much is here.
    pub fn usage(&self) -> Usage {
        let sizes = || self.slots.iter().map(|(_, slot)| slot.bytes.len());
        let count = self.slots.len();
        if count == 0 {
            return Usage::default();
        }
        let total: usize = sizes().sum();
        let mean = total as f64 / count as f64;
        let variance = sizes()
            .map(|size| (size as f64 - mean).powi(2))
            .sum::<f64>()
            / count as f64;
        Usage {
            count,
            min: sizes().min().unwrap_or(0),
            max: sizes().max().unwrap_or(0),
            total,
            stddev: variance.sqrt(),
        }
    }
}
