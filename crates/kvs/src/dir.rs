//! Directories in memory: the text of their blob, cut into chunks.
//!
//! A directory is kept as it is stored, not as a table of decoded entries: that takes a fifth of
//! the memory, a directory that was loaded is ready after one pass over it, and a new version is
//! the old text with the entries that changed put in between. Looking a name up is a binary search
//! for its chunk and a walk through that.
//!
//! Chunks are pieces of one buffer, the blob, which is in the cache anyway.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use spec::treeobj::{read_string, write_string};
use spec::{BlobRef, TreeObj};

use crate::Error;

/// About how many bytes a chunk has: few enough to walk through in about a microsecond, many
/// enough that a list of chunks is small beside what it lists.
const CHUNK_SIZE: usize = 2048;

const PREFIX: &[u8] = b"{\"data\":{";
const SUFFIX: &[u8] = b"},\"type\":\"dir\",\"ver\":1}";

/// A directory's entry.
#[derive(Clone, Debug)]
pub struct Entry {
    object: TreeObj,
    /// As it is in the directory; `None` if it is from none.
    json: Option<Bytes>,
}

impl Entry {
    /// An entry that is not in a directory's text.
    pub fn new(object: TreeObj) -> Entry {
        Entry { object, json: None }
    }

    /// The object.
    pub fn object(&self) -> &TreeObj {
        &self.object
    }

    /// The object, taken out.
    pub(crate) fn into_object(self) -> TreeObj {
        self.object
    }

    /// The object's JSON text.
    pub fn json(&self) -> Cow<'_, str> {
        match &self.json {
            // It was decoded, so it is text.
            Some(json) => String::from_utf8_lossy(json),
            None => Cow::Owned(self.object.encode()),
        }
    }
}

/// What to make of the names in a directory: entries to put there, `None` to remove one.
pub(crate) type Changes = BTreeMap<Rc<str>, Option<TreeObj>>;

/// A directory.
#[derive(Clone, Debug, Default)]
pub struct Dir {
    /// Entries in order, `"name":{...},"name":{...}`; none is empty.
    chunks: Vec<Bytes>,
}

impl Dir {
    /// Decodes a directory's blob; `None` if it is none. Entries are decoded when they are asked
    /// for.
    pub fn decode(blob: &Bytes) -> Option<Dir> {
        if let Some(chunks) = split(blob) {
            let chunks = chunks.into_iter().map(|range| blob.slice(range));
            return Some(Dir {
                chunks: chunks.collect(),
            });
        }
        // Not the canonical form. It may be a directory nevertheless.
        let Ok(TreeObj::Dir(map)) = TreeObj::decode(blob) else {
            return None;
        };
        let changes = map
            .into_iter()
            .map(|(name, object)| (Rc::from(name), Some(object)));
        Some(Dir::default().merge(&changes.collect()).1)
    }

    /// The directory's blob.
    pub fn encode(&self) -> Bytes {
        self.merge(&Changes::new()).0
    }

    /// The entry of that name. Errors: [`Error::Corrupt`].
    pub fn get(&self, name: &str) -> Result<Option<Entry>, Error> {
        let after = self
            .chunks
            .partition_point(|chunk| first(chunk).is_some_and(|raw| order(raw, name).is_le()));
        let Some(chunk) = after.checked_sub(1).and_then(|at| self.chunks.get(at)) else {
            return Ok(None);
        };
        for part in Parts::of(chunk) {
            match order(&chunk[part.name], name) {
                Ordering::Less => {}
                Ordering::Equal => {
                    let json = chunk.slice(part.value);
                    let object = TreeObj::decode(&json).map_err(|_| Error::Corrupt)?;
                    let json = Some(json);
                    return Ok(Some(Entry { object, json }));
                }
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// The directory with changes, and its blob.
    pub(crate) fn merge(&self, changes: &Changes) -> (Bytes, Dir) {
        let mut writer = Writer::new(self.size(), changes.len());
        let mut changes = changes.iter().peekable();
        for (at, chunk) in self.chunks.iter().enumerate() {
            let end = self.chunks.get(at + 1).and_then(|next| first(next));
            let is_here = |name: &str| end.is_none_or(|raw| order(raw, name).is_gt());
            if changes.peek().is_none_or(|(name, _)| !is_here(name)) {
                writer.copy(chunk);
                continue;
            }
            for part in Parts::of(chunk) {
                let raw = &chunk[part.name.clone()];
                while let Some((name, change)) =
                    changes.next_if(|(name, _)| order(raw, name).is_gt())
                {
                    writer.put(name, change.as_ref());
                }
                match changes.next_if(|(name, _)| order(raw, name).is_eq()) {
                    Some((name, change)) => writer.put(name, change.as_ref()),
                    None => writer.copy(&chunk[part.name.start..part.value.end]),
                }
            }
            while let Some((name, change)) = changes.next_if(|(name, _)| is_here(name)) {
                writer.put(name, change.as_ref());
            }
        }
        for (name, change) in changes {
            writer.put(name, change.as_ref());
        }
        writer.finish()
    }

    /// The bytes in all chunks.
    fn size(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len() + 1).sum()
    }
}

/// Where the parts of an entry are in its chunk.
struct Part {
    /// With its quotes.
    name: Range<usize>,
    value: Range<usize>,
}

/// Walks through the entries of a text as far as it is one of entries.
struct Parts<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Parts<'a> {
    fn of(text: &'a [u8]) -> Parts<'a> {
        Parts { text, at: 0 }
    }
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let at = match self.at {
            0 => 0,
            at if self.text.get(at) == Some(&b',') => at + 1,
            _ => return None,
        };
        let colon = skip_string(self.text, at)?;
        if self.text.get(colon) != Some(&b':') {
            return None;
        }
        let end = skip_object(self.text, colon + 1)?;
        self.at = end;
        Some(Part {
            name: at..colon,
            value: colon + 1..end,
        })
    }
}

/// The name a chunk begins with, with its quotes.
fn first(chunk: &[u8]) -> Option<&[u8]> {
    Some(&chunk[..skip_string(chunk, 0)?])
}

/// Where the JSON string that begins at `at` ends.
fn skip_string(text: &[u8], at: usize) -> Option<usize> {
    if text.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            0..b' ' => return None,
            _ => at += 1,
        }
    }
}

/// Where the compact JSON object that begins at `at` ends. What is in it is not looked at.
fn skip_object(text: &[u8], at: usize) -> Option<usize> {
    if text.get(at) != Some(&b'{') {
        return None;
    }
    let mut depth = 0_usize;
    let mut at = at;
    loop {
        match text.get(at)? {
            b'"' => {
                at = skip_string(text, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            0..=b' ' => return None,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// How the name in a text, with its quotes, compares to another.
fn order(raw: &[u8], name: &str) -> Ordering {
    plain(raw).map_or(Ordering::Less, |raw| (*raw).cmp(name.as_bytes()))
}

/// The name in a text. `None` if it is none.
fn plain(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !raw.contains(&b'\\') {
        return Some(Cow::Borrowed(raw.get(1..raw.len() - 1)?));
    }
    let name = read_string(std::str::from_utf8(raw).ok()?)?;
    Some(Cow::Owned(name.into_owned().into_bytes()))
}

/// Cuts the text of a directory into chunks; `None` if its form is not canonical.
fn split(blob: &[u8]) -> Option<Vec<Range<usize>>> {
    let text = blob.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    // Entries are slices of this, so that none can be cut inside a character.
    std::str::from_utf8(text).ok()?;
    let mut chunks: Vec<Range<usize>> = Vec::with_capacity(text.len() / CHUNK_SIZE + 1);
    let mut start = 0;
    let mut last: Option<Cow<'_, [u8]>> = None;
    let mut parts = Parts::of(text);
    for part in &mut parts {
        let name = plain(&text[part.name.clone()])?;
        if last.as_ref().is_some_and(|last| **last >= *name) {
            return None;
        }
        last = Some(name);
        if part.value.end - start > CHUNK_SIZE && part.name.start > start {
            chunks.push(start..part.name.start - 1);
            start = part.name.start;
        }
    }
    if parts.at != text.len() {
        return None;
    }
    if start < text.len() {
        chunks.push(start..text.len());
    }
    let shift = |range: Range<usize>| range.start + PREFIX.len()..range.end + PREFIX.len();
    Some(chunks.into_iter().map(shift).collect())
}

/// Writes a directory, entry by entry.
struct Writer {
    json: Vec<u8>,
    chunks: Vec<Range<usize>>,
    /// Where the chunk being written begins.
    start: usize,
    scratch: String,
}

impl Writer {
    fn new(size: usize, changes: usize) -> Writer {
        /// What an entry takes, about.
        const ENTRY_SIZE: usize = 96;
        let size = size + changes * ENTRY_SIZE + PREFIX.len() + SUFFIX.len();
        let mut json = Vec::with_capacity(size);
        json.extend_from_slice(PREFIX);
        Writer {
            json,
            chunks: Vec::with_capacity(size / CHUNK_SIZE + 1),
            start: PREFIX.len(),
            scratch: String::new(),
        }
    }

    /// Adds an entry, or several neighbours, as they are.
    fn copy(&mut self, text: &[u8]) {
        let size = self.json.len() - self.start;
        if size > 0 {
            if size + text.len() > CHUNK_SIZE {
                self.cut();
                self.start += 1;
            }
            self.json.push(b',');
        }
        self.json.extend_from_slice(text);
    }

    /// Adds an entry; none if it is removed.
    fn put(&mut self, name: &str, object: Option<&TreeObj>) {
        let Some(object) = object else { return };
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        write_string(&mut text, name);
        text.push(':');
        object.write(&mut text);
        self.copy(text.as_bytes());
        self.scratch = text;
    }

    fn cut(&mut self) {
        if self.json.len() > self.start {
            self.chunks.push(self.start..self.json.len());
            self.start = self.json.len();
        }
    }

    fn finish(mut self) -> (Bytes, Dir) {
        self.cut();
        self.json.extend_from_slice(SUFFIX);
        // The cache counts bytes, so none may be hidden.
        self.json.shrink_to_fit();
        let blob = Bytes::from(self.json);
        let chunks = self.chunks.into_iter().map(|range| blob.slice(range));
        let chunks = chunks.collect();
        (blob, Dir { chunks })
    }
}

/// An entry that refers to the directory in a blob.
pub(crate) fn dirref(blobref: BlobRef) -> Entry {
    Entry::new(TreeObj::DirRef(blobref))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn val(text: &str) -> TreeObj {
        TreeObj::Val(text.as_bytes().to_vec())
    }

    #[test]
    fn large_directories_are_written_as_small_ones() {
        let mut dir = Dir::default();
        let mut model = BTreeMap::new();
        let mut changes = Changes::new();
        for i in 0..6000_u32 {
            let number = i.wrapping_mul(2_654_435_761) % 900;
            // Some names are escaped, and not in the order of their escaped form.
            let name = match number % 7 {
                0 => format!("k\"{number}"),
                1 => format!("k\n{number}"),
                _ => format!("k{number}"),
            };
            let change = (i % 3 != 2).then(|| val(&i.to_string()));
            match &change {
                Some(object) => drop(model.insert(name.clone(), object.clone())),
                None => drop(model.remove(&name)),
            }
            changes.insert(name.into(), change);
            if i % 7 == 0 || i == 5999 {
                let (blob, next) = dir.merge(&std::mem::take(&mut changes));
                dir = next;
                assert_eq!(blob, TreeObj::Dir(model.clone()).encode());
                let decoded = Dir::decode(&blob).expect("a directory");
                assert_eq!(decoded.encode(), blob);
            }
        }
        for number in 0..900 {
            for name in [
                format!("k{number}"),
                format!("k\"{number}"),
                format!("k\n{number}"),
            ] {
                let found = dir.get(&name).expect("sound");
                let object = found.as_ref().map(Entry::object);
                assert_eq!(object, model.get(&name), "{name:?}");
            }
        }
        assert!(dir.chunks.len() > 5, "there are chunks to search in");
    }

    #[test]
    fn other_forms_are_read_as_well() {
        let canonical = r#"{"data":{"a":{"data":"MQ==","type":"val","ver":1},"b":{"data":"","type":"val","ver":1}},"type":"dir","ver":1}"#;
        for json in [
            canonical,
            r#"{"ver":1,"type":"dir","data":{"b":{"ver":1,"type":"val","data":""},"a":{"ver":1,"type":"val","data":"MQ=="}}}"#,
            r#"{"data":{"b":{"data":"","type":"val","ver":1},"a":{"data":"MQ==","type":"val","ver":1}},"type":"dir","ver":1}"#,
            r#"{"data":{"a": {"data":"MQ==","type":"val","ver":1},"b":{"data":"","type":"val","ver":1}},"type":"dir","ver":1}"#,
            r#"{"data":{"\u0061":{"data":"MQ==","type":"val","ver":1},"b":{"data":"","type":"val","ver":1}},"type":"dir","ver":1}"#,
        ] {
            let dir = Dir::decode(&json.as_bytes().to_vec().into()).expect(json);
            let entry = dir.get("a").expect("sound").expect("there");
            assert_eq!(entry.object(), &val("1"), "{json}");
            assert_eq!(dir.get("c").expect("sound").map(|_| ()), None);
        }
        let empty = Dir::decode(&Dir::default().encode()).expect("a directory");
        assert!(empty.chunks.is_empty());
    }

    #[test]
    fn damage_is_found_at_once_or_when_the_entry_is_asked_for() {
        for json in [
            "",
            "{}",
            r#"{"data":{,"type":"dir","ver":1}"#,
            r#"{"data":{"a"},"type":"dir","ver":1}"#,
            r#"{"data":{"a":1},"type":"dir","ver":1}"#,
            r#"{"data":{"a":{},},"type":"dir","ver":1}"#,
            r#"{"data":{"a":{"data":"}},"type":"dir","ver":1}"#,
            r#"{"data":"","type":"val","ver":1}"#,
        ] {
            let blob = json.as_bytes().to_vec().into();
            assert!(Dir::decode(&blob).is_none(), "{json}");
        }
        let json = r#"{"data":{"a":{"type":"dirref","ver":1,"data":[]}},"type":"dir","ver":1}"#;
        let dir = Dir::decode(&json.as_bytes().to_vec().into()).expect("in form");
        assert!(matches!(dir.get("a"), Err(Error::Corrupt)));
        let latin = b"{\"data\":{\"\xe9\":{}},\"type\":\"dir\",\"ver\":1}";
        assert!(Dir::decode(&latin.to_vec().into()).is_none());
    }
}
