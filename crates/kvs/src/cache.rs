//! Blobs in memory, directories decoded.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use spec::BlobRef;

use crate::{Dir, Error};

struct Slot {
    bytes: Bytes,
    /// Decoded when first walked through.
    dir: Option<Rc<Dir>>,
    /// The cache's time at the last use.
    used: Duration,
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

/// The blobs a rank has at hand. It has no bound but age: see [`Cache::expire`].
#[derive(Default)]
pub struct Cache {
    slots: HashMap<BlobRef, Slot>,
    now: Duration,
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
        self.slots.contains_key(blobref)
    }

    /// A blob's bytes.
    pub fn blob(&mut self, blobref: &BlobRef) -> Option<&Bytes> {
        let slot = self.slots.get_mut(blobref)?;
        slot.used = self.now;
        Some(&slot.bytes)
    }

    /// The directory in a blob; `None` if the blob is not here. Errors: [`Error::Corrupt`].
    pub fn dir(&mut self, blobref: &BlobRef) -> Result<Option<Rc<Dir>>, Error> {
        let Some(slot) = self.slots.get_mut(blobref) else {
            return Ok(None);
        };
        slot.used = self.now;
        if slot.dir.is_none() {
            let dir = Dir::decode(&slot.bytes).ok_or(Error::Corrupt)?;
            slot.dir = Some(Rc::new(dir));
        }
        Ok(slot.dir.clone())
    }

    /// Adds a blob, and the directory in it where that is known already.
    pub fn insert(&mut self, blobref: BlobRef, bytes: Bytes, dir: Option<Rc<Dir>>) {
        let used = self.now;
        self.slots.insert(blobref, Slot { bytes, dir, used });
    }

    /// Stamps a blob as used.
    pub fn touch(&mut self, blobref: &BlobRef) {
        if let Some(slot) = self.slots.get_mut(blobref) {
            slot.used = self.now;
        }
    }

    /// Drops what has not been used for `idle`.
    pub fn expire(&mut self, idle: Duration) {
        let now = self.now;
        self.slots
            .retain(|_, slot| now.saturating_sub(slot.used) <= idle);
    }

    /// How much is here.
    pub fn usage(&self) -> Usage {
        let sizes = || self.slots.values().map(|slot| slot.bytes.len());
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
