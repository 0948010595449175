//! Directories in memory: sorted entries, shared between versions.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use spec::treeobj::write_string;
use spec::{BlobRef, TreeObj};

/// Bytes a directory may grow by from one version to the next without its text moving: an entry.
/// More would be wasted in each of the many small directories of jobs.
const ENCODE_SLACK: usize = 128;

/// A directory's entry: a tree object, encoded at most once.
#[derive(Debug)]
pub struct Entry {
    object: TreeObj,
    json: OnceCell<Box<str>>,
}

impl Entry {
    /// An entry.
    pub fn new(object: TreeObj) -> Rc<Entry> {
        Rc::new(Entry {
            object,
            json: OnceCell::new(),
        })
    }

    /// The object.
    pub fn object(&self) -> &TreeObj {
        &self.object
    }

    /// Its canonical form.
    pub fn json(&self) -> &str {
        self.json
            .get_or_init(|| self.object.encode().into_boxed_str())
    }
}

/// The most entries of a chunk: few enough that writing one anew costs little, many enough that
/// copying a directory's list of chunks costs little.
const CHUNK_MAX: usize = 64;

/// Neighbouring entries, and how they look in the blob once somebody asked.
#[derive(Clone, Debug, Default)]
struct Chunk {
    entries: Vec<(Rc<str>, Rc<Entry>)>,
    json: OnceCell<Rc<str>>,
}

impl Chunk {
    fn new(entries: Vec<(Rc<str>, Rc<Entry>)>) -> Rc<Chunk> {
        Rc::new(Chunk {
            entries,
            json: OnceCell::new(),
        })
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|(other, _)| (**other).cmp(name))
    }

    fn json(&self) -> &str {
        self.json.get_or_init(|| {
            let mut json = String::new();
            for (i, (name, entry)) in self.entries.iter().enumerate() {
                if i > 0 {
                    json.push(',');
                }
                write_string(&mut json, name);
                json.push(':');
                json.push_str(entry.json());
            }
            json.into()
        })
    }
}

/// A directory. Cloning copies references to chunks only, and a change copies one chunk, so that
/// versions of a large directory share nearly everything, their encoded form included.
#[derive(Clone, Debug, Default)]
pub struct Dir {
    /// None is empty.
    chunks: Vec<Rc<Chunk>>,
    /// The size of the blob it came from, or was last made into; the next is about as large.
    size_hint: Cell<usize>,
}

impl Dir {
    /// A directory with these entries.
    pub fn from_map(map: BTreeMap<String, TreeObj>) -> Dir {
        let mut dir = Dir::default();
        let mut entries = map
            .into_iter()
            .map(|(name, object)| (Rc::from(name), Entry::new(object)))
            .peekable();
        while entries.peek().is_some() {
            let chunk = entries.by_ref().take(CHUNK_MAX).collect();
            dir.chunks.push(Chunk::new(chunk));
        }
        dir
    }

    /// Decodes a directory's blob; `None` if it is none.
    pub fn decode(blob: &[u8]) -> Option<Dir> {
        match TreeObj::decode(blob) {
            Ok(TreeObj::Dir(map)) => {
                let dir = Dir::from_map(map);
                dir.size_hint.set(blob.len());
                Some(dir)
            }
            _ => None,
        }
    }

    /// The directory's blob.
    pub fn encode(&self) -> Bytes {
        let mut json = String::with_capacity(self.size_hint.get() + ENCODE_SLACK);
        json.push_str("{\"data\":{");
        for (i, chunk) in self.chunks.iter().enumerate() {
            if i > 0 {
                json.push(',');
            }
            json.push_str(chunk.json());
        }
        json.push_str("},\"type\":\"dir\",\"ver\":1}");
        self.size_hint.set(json.len());
        json.into_bytes().into()
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.entries.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The entry of that name.
    pub fn get(&self, name: &str) -> Option<&Rc<Entry>> {
        let chunk = self.chunks.get(self.chunk(name))?;
        let at = chunk.position(name).ok()?;
        Some(&chunk.entries[at].1)
    }

    /// Names and entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rc<Entry>)> {
        let entries = self.chunks.iter().flat_map(|chunk| &chunk.entries);
        entries.map(|(name, entry)| (&**name, entry))
    }

    /// Adds or replaces an entry.
    pub(crate) fn set(&mut self, name: &str, entry: Rc<Entry>) {
        let index = self.chunk(name);
        let Some(chunk) = self.chunks.get_mut(index) else {
            self.chunks.push(Chunk::new(vec![(Rc::from(name), entry)]));
            return;
        };
        let chunk = Rc::make_mut(chunk);
        chunk.json = OnceCell::new();
        match chunk.position(name) {
            Ok(at) => chunk.entries[at].1 = entry,
            Err(at) => chunk.entries.insert(at, (Rc::from(name), entry)),
        }
        if chunk.entries.len() > CHUNK_MAX {
            let rest = chunk.entries.split_off(CHUNK_MAX / 2);
            self.chunks.insert(index + 1, Chunk::new(rest));
        }
    }

    /// Removes an entry; whether there was one.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let index = self.chunk(name);
        let Some(chunk) = self.chunks.get_mut(index) else {
            return false;
        };
        let Ok(at) = chunk.position(name) else {
            return false;
        };
        let chunk = Rc::make_mut(chunk);
        chunk.json = OnceCell::new();
        chunk.entries.remove(at);
        if chunk.entries.is_empty() {
            self.chunks.remove(index);
        }
        true
    }

    /// The chunk a name is in or belongs to: the last that does not begin after it, or the first.
    fn chunk(&self, name: &str) -> usize {
        let after = self.chunks.partition_point(|chunk| {
            chunk
                .entries
                .first()
                .is_some_and(|(first, _)| **first <= *name)
        });
        after.saturating_sub(1)
    }
}

/// An entry that refers to the directory in a blob.
pub(crate) fn dirref(blobref: BlobRef) -> Rc<Entry> {
    Entry::new(TreeObj::DirRef(blobref))
}
