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

/// A directory. Cloning copies references only.
#[derive(Clone, Debug, Default)]
pub struct Dir {
    entries: Vec<(Rc<str>, Rc<Entry>)>,
    /// The size of the blob it came from, or was last made into; the next is about as large.
    size_hint: Cell<usize>,
}

impl Dir {
    /// A directory with these entries.
    pub fn from_map(map: BTreeMap<String, TreeObj>) -> Dir {
        let entries = map.into_iter();
        Dir {
            entries: entries
                .map(|(name, object)| (Rc::from(name), Entry::new(object)))
                .collect(),
            size_hint: Cell::default(),
        }
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
        // Adding up the entries first would cost as much as writing them.
        let mut json = String::with_capacity(self.size_hint.get() + ENCODE_SLACK);
        json.push_str("{\"data\":{");
        for (i, (name, entry)) in self.entries.iter().enumerate() {
            if i > 0 {
                json.push(',');
            }
            write_string(&mut json, name);
            json.push(':');
            json.push_str(entry.json());
        }
        json.push_str("},\"type\":\"dir\",\"ver\":1}");
        self.size_hint.set(json.len());
        json.into_bytes().into()
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of that name.
    pub fn get(&self, name: &str) -> Option<&Rc<Entry>> {
        let at = self.position(name).ok()?;
        Some(&self.entries[at].1)
    }

    /// Names and entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rc<Entry>)> {
        self.entries.iter().map(|(name, entry)| (&**name, entry))
    }

    /// Adds or replaces an entry.
    pub(crate) fn set(&mut self, name: &str, entry: Rc<Entry>) {
        match self.position(name) {
            Ok(at) => self.entries[at].1 = entry,
            Err(at) => self.entries.insert(at, (Rc::from(name), entry)),
        }
    }

    /// Removes an entry; whether there was one.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        match self.position(name) {
            Ok(at) => {
                self.entries.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|(other, _)| (**other).cmp(name))
    }
}

/// An entry that refers to the directory in a blob.
pub(crate) fn dirref(blobref: BlobRef) -> Rc<Entry> {
    Entry::new(TreeObj::DirRef(blobref))
}
