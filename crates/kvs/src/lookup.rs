//! Look-ups: from a root along a key to what is there.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use spec::{BlobRef, TreeObj};
use types::Cred;

use crate::dir::dirref;
use crate::{Cache, Dir, Entry, Error, Namespaces, Step, components};

/// The levels of symbolic links a look-up or a transaction follows.
pub(crate) const LINKS_MAX: u32 = 10;

/// Values above this do not fit the counters of C programs.
const VALUE_SIZE_MAX: usize = i32::MAX as usize;

/// What of a key is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The value, its pieces joined.
    Value,
    /// The directory's entries, one level deep.
    Directory,
    /// The symbolic link itself.
    Link,
    /// The tree object as it is stored.
    Object,
}

/// What to look up.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The root to start from.
    pub root: BlobRef,
    /// Whether the request brought `root` along, so that it may be anything.
    pub foreign_root: bool,
    /// The key.
    pub key: &'a str,
    /// What of it.
    pub want: Want,
    /// Who asks, for links into other namespaces.
    pub cred: Cred,
}

/// What was found.
#[derive(Clone, Debug)]
pub enum Found {
    /// An entry as it is.
    Entry(Entry),
    /// A directory's blob, which is its tree object.
    Directory(Bytes),
    /// A value joined from several blobs, or from one.
    Value(Vec<u8>),
}

impl Found {
    /// The tree object as JSON.
    pub fn json(&self) -> String {
        match self {
            Found::Entry(entry) => entry.json().into_owned(),
            // Only blobs that were decoded get here, so this is text.
            Found::Directory(blob) => String::from_utf8_lossy(blob).into_owned(),
            Found::Value(value) => TreeObj::encode_val(value),
        }
    }

    /// The tree object.
    pub fn object(&self) -> TreeObj {
        match self {
            Found::Entry(entry) => entry.object().clone(),
            Found::Directory(blob) => TreeObj::decode(blob).unwrap_or(TreeObj::empty_dir()),
            Found::Value(value) => TreeObj::Val(value.clone()),
        }
    }
}

/// Looks a key up. Errors: those of look-ups in [`Error`].
pub fn lookup(
    cache: &mut Cache,
    namespaces: &impl Namespaces,
    query: Query<'_>,
) -> Result<Step<Found>, Error> {
    let mut root = query.root;
    let mut foreign_root = query.foreign_root;
    let mut names: VecDeque<Rc<str>> = components(query.key).map(Rc::from).collect();
    // The root's name is a dot; no name at all is nobody's.
    if query.key.is_empty() {
        return Err(Error::NoEntry);
    }
    if names.is_empty() && query.want == Want::Link {
        return Err(Error::IsDirectory);
    }
    let mut here = dirref(root);
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        let entry = match here.object() {
            TreeObj::DirRef(blobref) => match open(cache, blobref, &root, foreign_root)? {
                Some(dir) => dir.get(&name)?,
                None => return Ok(Step::Blobs(vec![*blobref])),
            },
            TreeObj::Dir(map) => map.get(&*name).cloned().map(Entry::new),
            _ => return Err(Error::NoEntry),
        };
        let entry = entry.ok_or(Error::NoEntry)?;
        let follow = !names.is_empty() || matches!(query.want, Want::Value | Want::Directory);
        let TreeObj::Symlink { namespace, target } = entry.object() else {
            here = entry;
            continue;
        };
        if !follow {
            here = entry;
            continue;
        }
        if target.is_empty() {
            return Err(Error::NoEntry);
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Error::Loop);
        }
        if let Some(name) = namespace {
            let Some(namespace) = namespaces.namespace(name) else {
                return Ok(Step::Namespace(name.clone()));
            };
            namespace.check(query.cred)?;
            root = namespace.root;
            foreign_root = false;
        }
        for name in components(target).rev() {
            names.push_front(Rc::from(name));
        }
        here = dirref(root);
    }
    finish(cache, query.want, here, &root, foreign_root)
}

/// The directory in a blob. What a request brought along as a root may be anything; elsewhere a
/// blob that is no directory is damage.
fn open(
    cache: &mut Cache,
    blobref: &BlobRef,
    root: &BlobRef,
    foreign_root: bool,
) -> Result<Option<Rc<Dir>>, Error> {
    cache.dir(blobref).map_err(|error| {
        if foreign_root && blobref == root {
            Error::BadRoot
        } else {
            error
        }
    })
}

fn finish(
    cache: &mut Cache,
    want: Want,
    entry: Entry,
    root: &BlobRef,
    foreign_root: bool,
) -> Result<Step<Found>, Error> {
    let object = entry.object();
    let found = match (want, object) {
        (Want::Object, _) | (Want::Link, TreeObj::Symlink { .. }) => Found::Entry(entry),
        (Want::Link, _) => return Err(Error::NotLink),
        (Want::Directory, TreeObj::DirRef(blobref)) => {
            if open(cache, blobref, root, foreign_root)?.is_none() {
                return Ok(Step::Blobs(vec![*blobref]));
            }
            Found::Directory(cache.blob(blobref).cloned().unwrap_or_default())
        }
        (Want::Directory, TreeObj::Dir(_)) => Found::Entry(entry),
        (Want::Directory, _) => return Err(Error::NotDirectory),
        (Want::Value, TreeObj::Val(_)) => Found::Entry(entry),
        (Want::Value, TreeObj::ValRef(blobrefs)) => return join(cache, blobrefs),
        (Want::Value, _) => return Err(Error::IsDirectory),
    };
    Ok(Step::Done(found))
}

fn join(cache: &mut Cache, blobrefs: &[BlobRef]) -> Result<Step<Found>, Error> {
    let mut missing = Vec::new();
    let mut size = 0_usize;
    for blobref in blobrefs {
        match cache.blob(blobref) {
            Some(blob) => size += blob.len(),
            None if missing.contains(blobref) => {}
            None => missing.push(*blobref),
        }
    }
    if !missing.is_empty() {
        return Ok(Step::Blobs(missing));
    }
    if size > VALUE_SIZE_MAX {
        return Err(Error::Overflow);
    }
    let mut value = Vec::with_capacity(size);
    for blobref in blobrefs {
        value.extend_from_slice(cache.blob(blobref).map_or(&[][..], |blob| blob));
    }
    Ok(Step::Done(Found::Value(value)))
}
