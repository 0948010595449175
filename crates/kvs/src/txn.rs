//! Transactions: operations applied to a private copy of the tree.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use spec::{BlobRef, HashKind, TreeObj};

use crate::dir::Changes;
use crate::lookup::LINKS_MAX;
use crate::{Cache, Dir, Error, Step, components, normalize};

/// Values longer than this go to blobs of their own: their base64 text exceeds 72 characters, the
/// size clients reserve for a blobref.
const INLINE_SIZE_MAX: usize = 54;

/// Deeper keys are refused, so that nobody can make the store run out of stack.
const DEPTH_MAX: usize = 512;

/// What to do with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Put an object in its place.
    Put(TreeObj),
    /// Add to its value.
    Append(Vec<u8>),
    /// Remove it.
    Unlink,
}

/// An operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    key: String,
    change: Change,
}

impl Op {
    /// An operation.
    pub fn new(key: &str, change: Change) -> Op {
        Op {
            key: normalize(key).into_owned(),
            change,
        }
    }

    /// The key, normalised.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// A blob a transaction made.
#[derive(Clone, Debug)]
pub struct NewBlob {
    /// Its address.
    pub blobref: BlobRef,
    /// Its content.
    pub bytes: Bytes,
    /// The directory it holds, if it does.
    pub dir: Option<Rc<Dir>>,
}

/// A transaction's outcome.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The new root.
    pub root: BlobRef,
    /// What must be stored before the root counts.
    pub blobs: Vec<NewBlob>,
    /// What is stored already and should be stored again, for its age in the backing store.
    pub refresh: Vec<(BlobRef, Bytes)>,
    /// Directories that have newer versions now; hardly anybody asks for them again.
    pub replaced: Vec<BlobRef>,
}

/// What guests may commit: values, removals and empty directories. Errors: the name of what they
/// may not.
pub fn check_guest(object: &TreeObj) -> Result<(), &'static str> {
    match object {
        TreeObj::Val(_) => Ok(()),
        TreeObj::Dir(entries) if entries.is_empty() => Ok(()),
        TreeObj::Dir(_) => Err("non-empty dir"),
        other => Err(other.type_name()),
    }
}

/// Applies operations, in order, to the tree under `root` of the namespace `namespace`.
///
/// Errors: those of transactions in [`Error`].
pub fn apply<'a>(
    cache: &mut Cache,
    hash: HashKind,
    namespace: &str,
    root: BlobRef,
    ops: impl IntoIterator<Item = &'a Op>,
) -> Result<Step<Applied>, Error> {
    let mut txn = Txn {
        cache,
        hash,
        namespace,
        missing: Vec::new(),
        blobs: BTreeMap::new(),
        replaced: Vec::new(),
    };
    let mut tree: Option<WorkDir> = None;
    for op in ops {
        if op.key == "." || op.key.is_empty() {
            return Err(Error::BadKey);
        }
        if tree.is_none() {
            tree = txn.open(root)?;
        }
        match &mut tree {
            Some(tree) => txn.apply(tree, op)?,
            None => break,
        }
    }
    if !txn.missing.is_empty() {
        return Ok(Step::Blobs(txn.missing));
    }
    let root = match tree {
        Some(tree) => txn.finish(tree, Some(root)).0,
        None => root,
    };
    let (refresh, blobs) = txn
        .blobs
        .into_values()
        .partition::<Vec<_>, _>(|blob| txn.cache.contains(&blob.blobref));
    Ok(Step::Done(Applied {
        root,
        blobs,
        refresh: refresh
            .into_iter()
            .map(|blob| (blob.blobref, blob.bytes))
            .collect(),
        replaced: txn.replaced,
    }))
}

/// A directory being changed.
#[derive(Default)]
struct WorkDir {
    dir: Rc<Dir>,
    /// The blob it came from; `None` for a new one.
    base: Option<BlobRef>,
    /// Subdirectories being changed; they hide what is at their names.
    open: BTreeMap<Rc<str>, WorkDir>,
    /// What hides entries of `dir`.
    changes: Changes,
    changed: bool,
}

/// Where a walk along a path ended.
enum Walk<'t> {
    /// In the directory that holds the last name.
    Parent(&'t mut WorkDir),
    /// Nowhere: there is nothing to remove, or a blob is missing.
    Nowhere,
    /// At a link; go on from the root with this path.
    Link(Vec<String>),
}

struct Txn<'c> {
    cache: &'c mut Cache,
    hash: HashKind,
    namespace: &'c str,
    missing: Vec<BlobRef>,
    blobs: BTreeMap<BlobRef, NewBlob>,
    replaced: Vec<BlobRef>,
}

impl Txn<'_> {
    /// The directory in a blob, to be changed; `None` if the blob is missing.
    fn open(&mut self, blobref: BlobRef) -> Result<Option<WorkDir>, Error> {
        let Some(dir) = self.cache.dir(&blobref)? else {
            if !self.missing.contains(&blobref) {
                self.missing.push(blobref);
            }
            return Ok(None);
        };
        Ok(Some(WorkDir {
            dir,
            base: Some(blobref),
            ..WorkDir::default()
        }))
    }

    fn store(&mut self, bytes: Bytes, dir: Option<Rc<Dir>>) -> BlobRef {
        let blobref = BlobRef::hash(self.hash, &bytes);
        let blob = NewBlob {
            blobref,
            bytes,
            dir,
        };
        self.blobs.insert(blobref, blob);
        blobref
    }

    fn apply(&mut self, tree: &mut WorkDir, op: &Op) -> Result<(), Error> {
        let mut path: Vec<String> = components(&op.key).map(str::to_owned).collect();
        let create = op.change != Change::Unlink;
        for _ in 0..=LINKS_MAX {
            if path.len() > DEPTH_MAX {
                return Err(Error::BadKey);
            }
            // A link to the root, followed by nothing.
            let Some(last) = path.last().cloned() else {
                return Err(Error::BadKey);
            };
            match self.walk(tree, &path, create)? {
                Walk::Link(next) => path = next,
                Walk::Nowhere => return Ok(()),
                Walk::Parent(parent) => return self.change(parent, &last, &op.change),
            }
        }
        Err(Error::Loop)
    }

    /// Walks to the directory that holds the last name of `path`, making directories of what is
    /// in the way if `create`.
    fn walk<'t>(
        &mut self,
        tree: &'t mut WorkDir,
        path: &[String],
        create: bool,
    ) -> Result<Walk<'t>, Error> {
        let mut here = tree;
        for (depth, name) in path[..path.len() - 1].iter().enumerate() {
            if !here.open.contains_key(name.as_str()) {
                let object = here.object(name)?;
                let child = match object.as_deref() {
                    Some(TreeObj::DirRef(blobref)) => match self.open(*blobref)? {
                        Some(child) => child,
                        None => return Ok(Walk::Nowhere),
                    },
                    Some(TreeObj::Dir(map)) => WorkDir {
                        changes: map
                            .iter()
                            .map(|(name, object)| (Rc::from(&**name), Some(object.clone())))
                            .collect(),
                        ..WorkDir::default()
                    },
                    Some(TreeObj::Symlink { namespace, target }) => {
                        if namespace
                            .as_ref()
                            .is_some_and(|other| other != self.namespace)
                        {
                            return Err(Error::BadKey);
                        }
                        let rest = path[depth + 1..].iter().map(String::as_str);
                        let next = components(target).chain(rest).map(str::to_owned);
                        return Ok(Walk::Link(next.collect()));
                    }
                    _ if create => WorkDir::default(),
                    _ => return Ok(Walk::Nowhere),
                };
                here.open.insert(Rc::from(name.as_str()), child);
            }
            here = match here.open.get_mut(name.as_str()) {
                Some(child) => child,
                None => return Ok(Walk::Nowhere),
            };
        }
        Ok(Walk::Parent(here))
    }

    fn change(&mut self, parent: &mut WorkDir, name: &str, change: &Change) -> Result<(), Error> {
        match change {
            Change::Unlink => {
                let opened = parent.open.remove(name).is_some();
                if opened || parent.object(name)?.is_some() {
                    parent.changes.insert(Rc::from(name), None);
                    parent.changed = true;
                }
            }
            Change::Put(object) => parent.put(name, object.clone()),
            Change::Append(bytes) => self.append(parent, name, bytes)?,
        }
        Ok(())
    }

    fn append(&mut self, parent: &mut WorkDir, name: &str, bytes: &[u8]) -> Result<(), Error> {
        if parent.open.contains_key(name) {
            return Err(Error::IsDirectory);
        }
        let object = parent.object(name)?;
        let mut blobrefs = match object.as_deref() {
            None => {
                parent.put(name, TreeObj::Val(bytes.to_vec()));
                return Ok(());
            }
            Some(TreeObj::Val(old)) => vec![self.store(Bytes::copy_from_slice(old), None)],
            Some(TreeObj::ValRef(blobrefs)) => {
                let mut grown = Vec::with_capacity(blobrefs.len() + 1);
                grown.extend_from_slice(blobrefs);
                grown
            }
            Some(TreeObj::Dir(_) | TreeObj::DirRef(_)) => return Err(Error::IsDirectory),
            Some(TreeObj::Symlink { .. }) => return Err(Error::AppendToLink),
        };
        blobrefs.push(self.store(Bytes::copy_from_slice(bytes), None));
        parent.put(name, TreeObj::ValRef(blobrefs));
        Ok(())
    }

    /// Turns a changed directory into blobs, subdirectories first. Returns its address and whether
    /// it is another than `base`.
    fn finish(&mut self, mut work: WorkDir, base: Option<BlobRef>) -> (BlobRef, bool) {
        for (name, child) in std::mem::take(&mut work.open) {
            let base = child.base;
            let (blobref, changed) = self.finish(child, base);
            if changed {
                work.changes.insert(name, Some(TreeObj::DirRef(blobref)));
                work.changed = true;
            }
        }
        if let (Some(base), false) = (base, work.changed) {
            return (base, false);
        }
        for change in work.changes.values_mut() {
            if let Some(TreeObj::Val(value)) = change
                && value.len() > INLINE_SIZE_MAX
            {
                let blobref = self.store(std::mem::take(value).into(), None);
                *change = Some(TreeObj::ValRef(vec![blobref]));
            }
        }
        let (bytes, dir) = work.dir.merge(&work.changes);
        let blobref = self.store(bytes, Some(Rc::new(dir)));
        if let Some(base) = base.filter(|base| *base != blobref) {
            self.replaced.push(base);
        }
        (blobref, true)
    }
}

impl WorkDir {
    /// What is at a name, subdirectories being changed apart. Errors: [`Error::Corrupt`].
    fn object(&self, name: &str) -> Result<Option<Cow<'_, TreeObj>>, Error> {
        if let Some(change) = self.changes.get(name) {
            return Ok(change.as_ref().map(Cow::Borrowed));
        }
        let entry = self.dir.get(name)?;
        Ok(entry.map(|entry| Cow::Owned(entry.into_object())))
    }

    fn put(&mut self, name: &str, object: TreeObj) {
        self.changed = true;
        self.open.remove(name);
        let name: Rc<str> = Rc::from(name);
        match object {
            // Directories are stored as blobs of their own, whatever the client sent.
            TreeObj::Dir(entries) => {
                let mut child = WorkDir {
                    changed: true,
                    ..WorkDir::default()
                };
                for (name, object) in entries {
                    child.put(&name, object);
                }
                self.open.insert(name, child);
            }
            object => {
                self.changes.insert(name, Some(object));
            }
        }
    }
}
