//! File archives (RFC 37): file system objects as JSON.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};
use types::Errno;

use crate::BlobRef;

/// The bits of a mode that tell the type of a file, and the types there are.
const TYPE_MASK: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// A JSON document is no archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid archive: {0}")]
pub struct ArchiveError(String);

impl ArchiveError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// A part of a file that is a blob of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub size: u64,
    /// Its content.
    pub blobref: BlobRef,
}

/// What a file system object is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Link(String),
    /// A regular file without data of this size in bytes.
    Empty(u64),
    /// A regular file of these bytes; UTF-8 is stored as it is.
    Bytes(Vec<u8>),
    /// A regular file of a JSON value.
    Json(Value),
    /// A regular file of this size in bytes, with its data in blobs; the rest is zeros.
    Blobs(u64, Vec<Region>),
}

/// A file system object.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Its path, relative.
    pub path: String,
    /// Its type and permissions, as `st_mode`.
    pub mode: u32,
    /// Seconds since the epoch, if known.
    pub mtime: Option<i64>,
    /// Seconds since the epoch, if known.
    pub ctime: Option<i64>,
    /// What it holds.
    pub content: Content,
}

impl File {
    /// Its permissions.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Its size in bytes; 0 for what is no regular file.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Directory | Content::Link(_) => 0,
            Content::Empty(size) | Content::Blobs(size, _) => *size,
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Json(value) => value.to_string().len() as u64,
        }
    }

    /// The parts of it that are blobs of their own.
    pub fn regions(&self) -> &[Region] {
        match &self.content {
            Content::Blobs(_, regions) => regions,
            _ => &[],
        }
    }

    /// The RFC 37 object.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        object.insert("path".into(), self.path.as_str().into());
        match &self.content {
            Content::Directory => {}
            Content::Link(target) => {
                object.insert("data".into(), target.as_str().into());
            }
            Content::Empty(size) => {
                object.insert("size".into(), (*size).into());
            }
            Content::Bytes(bytes) => {
                let (encoding, data) = match std::str::from_utf8(bytes) {
                    // A text with NUL would be cut short by C readers.
                    Ok(text) if !bytes.contains(&0) => ("utf-8", text.to_owned()),
                    _ => ("base64", BASE64.encode(bytes)),
                };
                object.insert("encoding".into(), encoding.into());
                object.insert("data".into(), data.into());
                object.insert("size".into(), bytes.len().into());
            }
            Content::Json(value) => {
                object.insert("data".into(), value.clone());
            }
            Content::Blobs(size, regions) => {
                let regions = regions.iter().map(|region| {
                    let blobref = region.blobref.to_string();
                    Value::Array(vec![
                        region.offset.into(),
                        region.size.into(),
                        blobref.into(),
                    ])
                });
                object.insert("encoding".into(), "blobvec".into());
                object.insert("data".into(), regions.collect());
                object.insert("size".into(), (*size).into());
            }
        }
        for (name, time) in [("mtime", self.mtime), ("ctime", self.ctime)] {
            if let Some(time) = time {
                object.insert(name.into(), time.into());
            }
        }
        object.insert("mode".into(), self.mode.into());
        Value::Object(object)
    }

    /// Reads an object, under `path` if that comes from elsewhere.
    fn from_value(value: &Value, path: Option<&str>) -> Result<File, ArchiveError> {
        let path = path
            .or_else(|| value.get("path")?.as_str())
            .ok_or_else(|| ArchiveError("object without path".into()))?;
        let wrong = |what: &str| ArchiveError(format!("{path}: {what}"));
        let mode = value
            .get("mode")
            .and_then(Value::as_u64)
            .and_then(|mode| u32::try_from(mode).ok())
            .ok_or_else(|| wrong("bad mode"))?;
        let data = value.get("data");
        let size = match value.get("size") {
            None => None,
            Some(size) => Some(size.as_u64().ok_or_else(|| wrong("bad size"))?),
        };
        let text = || {
            data.and_then(Value::as_str)
                .ok_or_else(|| wrong("bad data"))
        };
        let encoding = value.get("encoding").map(|encoding| encoding.as_str());
        let content = match (mode & TYPE_MASK, encoding) {
            (DIRECTORY, _) => Content::Directory,
            (LINK, _) => Content::Link(text()?.to_owned()),
            (REGULAR, Some(Some("utf-8"))) => Content::Bytes(text()?.as_bytes().to_vec()),
            (REGULAR, Some(Some("base64"))) => {
                let bytes = BASE64.decode(text()?);
                Content::Bytes(bytes.map_err(|_| wrong("bad base64"))?)
            }
            (REGULAR, Some(Some("blobvec"))) => {
                let size = size.ok_or_else(|| wrong("no size"))?;
                let regions = data.and_then(Value::as_array);
                let regions = regions.ok_or_else(|| wrong("bad data"))?.iter();
                let regions = regions.map(|item| region(item, size));
                let regions: Option<Vec<Region>> = regions.collect();
                Content::Blobs(size, regions.ok_or_else(|| wrong("bad blobvec"))?)
            }
            (REGULAR, None) => match data {
                None => Content::Empty(size.unwrap_or(0)),
                Some(value) => Content::Json(value.clone()),
            },
            (REGULAR, Some(_)) => return Err(wrong("unknown encoding")),
            _ => return Err(wrong("unknown file type")),
        };
        Ok(File {
            path: path.to_owned(),
            mode,
            mtime: value.get("mtime").and_then(Value::as_i64),
            ctime: value.get("ctime").and_then(Value::as_i64),
            content,
        })
    }
}

/// The long form of listings: type, mode, size and path.
impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.content {
            Content::Directory => 'd',
            Content::Link(_) => 'l',
            _ => 'f',
        };
        let (mode, size, path) = (self.permissions(), self.size(), &self.path);
        write!(f, "{kind} 0{mode:o} {size:>8} {path}")
    }
}

fn region(item: &Value, file_size: u64) -> Option<Region> {
    let [offset, size, blobref] = item.as_array()?.as_slice() else {
        return None;
    };
    let (offset, size) = (offset.as_u64()?, size.as_u64()?);
    (offset.checked_add(size)? <= file_size).then_some(())?;
    Some(Region {
        offset,
        size,
        blobref: blobref.as_str()?.parse().ok()?,
    })
}

/// Reads an archive, an array or a dictionary of objects.
///
/// # Errors
///
/// What is wrong, with the object's path.
pub fn decode(archive: &Value) -> Result<Vec<File>, ArchiveError> {
    match archive {
        Value::Array(items) => items
            .iter()
            .map(|item| File::from_value(item, None))
            .collect(),
        Value::Object(items) => items
            .iter()
            .map(|(path, item)| File::from_value(item, Some(path)))
            .collect(),
        _ => Err(ArchiveError("neither array nor dictionary".into())),
    }
}

/// The blobs an archive refers to, in the order of its files.
pub fn blobrefs(files: &[File]) -> impl Iterator<Item = BlobRef> {
    let regions = files.iter().flat_map(File::regions);
    regions.map(|region| region.blobref)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HashKind;

    fn file(mode: u32, content: Content) -> File {
        File {
            path: "a/b".into(),
            mode,
            mtime: Some(5),
            ctime: None,
            content,
        }
    }

    #[test]
    fn objects_round_trip() {
        let blobref = BlobRef::hash(HashKind::Sha1, b"x");
        let region = Region {
            offset: 10,
            size: 20,
            blobref,
        };
        let files = vec![
            file(0o040_755, Content::Directory),
            file(0o120_777, Content::Link("target".into())),
            file(0o100_644, Content::Empty(7)),
            file(0o100_644, Content::Bytes("tëxt\n".into())),
            file(0o100_644, Content::Bytes(vec![0, 255])),
            file(0o100_644, Content::Json(serde_json::json!({"a": [1]}))),
            file(0o100_644, Content::Blobs(30, vec![region])),
        ];
        let array: Value = files.iter().map(File::to_value).collect();
        assert_eq!(decode(&array), Ok(files.clone()));
        assert_eq!(blobrefs(&files).collect::<Vec<_>>(), [blobref]);
        assert_eq!(files[3].to_string(), "f 0644        6 a/b");
    }

    #[test]
    fn writes_what_others_write() {
        let text = file(0o100_644, Content::Bytes(b"hi\n".to_vec())).to_value();
        assert_eq!(
            text.to_string(),
            r#"{"path":"a/b","encoding":"utf-8","data":"hi\n","size":3,"mtime":5,"mode":33188}"#
        );
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for text in [
            "5",
            "[5]",
            r#"[{"path":"a"}]"#,
            r#"[{"path":"a","mode":-1}]"#,
            r#"[{"path":"a","mode":4480}]"#,
            r#"[{"path":"a","mode":41471}]"#,
            r#"[{"path":"a","mode":33188,"encoding":"x","data":"","size":0}]"#,
            r#"[{"path":"a","mode":33188,"encoding":"base64","data":"*","size":1}]"#,
            r#"[{"path":"a","mode":33188,"encoding":"blobvec","data":[[0,9,"x"]],"size":9}]"#,
            r#"[{"path":"a","mode":33188,"encoding":"blobvec","size":9,"data":[[1,9,"sha1-1111111111111111111111111111111111111111"]]}]"#,
        ] {
            let value: Value = serde_json::from_str(text).expect("JSON");
            assert!(decode(&value).is_err(), "{text}");
        }
    }
}
