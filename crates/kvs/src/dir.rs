//! Directories in memory: sorted entries, shared between versions.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use spec::treeobj::write_string;
use spec::{BlobRef, TreeObj};

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
}

impl Dir {
    /// A directory with these entries.
    pub fn from_map(map: BTreeMap<String, TreeObj>) -> Dir {
        let entries = map.into_iter();
        Dir {
            entries: entries
                .map(|(name, object)| (Rc::from(name), Entry::new(object)))
                .collect(),
        }
    }

    /// Decodes a directory's blob; `None` if it is none.
    pub fn decode(blob: &[u8]) -> Option<Dir> {
        match TreeObj::decode(blob) {
            Ok(TreeObj::Dir(map)) => Some(Dir::from_map(map)),
            _ => None,
        }
    }

    /// The directory's blob.
    pub fn encode(&self) -> Bytes {
        let size: usize = self
            .entries
            .iter()
            .map(|(name, entry)| name.len() + entry.json().len() + 4)
            .sum();
        let mut json = String::with_capacity(size + 32);
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
