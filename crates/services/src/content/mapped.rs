//! Files whose pieces can be loaded as blobs without having been stored (RFC 37 archives).
//!
//! Pieces are read with `pread`, not through a mapping of memory: a file that is cut short while it
//! is mapped would kill the broker, whereas a read just comes out short. What was read is hashed
//! again each time, so a changed file gives an error and never other data.
//!
//! One thread does the reading and hashing, since a piece may be as large as a message. It starts
//! with the first file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use proto::content::MmapAdd;
use rpc::RpcError;
use serde_json::{Value, json};
use spec::{BlobRef, HashKind};
use types::Errno;
use types::extent::Extents;
use wire::MESSAGE_LENGTH_MAX;

use crate::errands::Errands;

/// A piece of a file.
#[derive(Clone, Debug)]
struct Piece {
    file: Arc<File>,
    offset: u64,
    length: usize,
}

/// A file cut into pieces.
#[derive(Debug)]
pub(super) struct Scanned {
    path: String,
    tag: String,
    pieces: Vec<(BlobRef, Piece)>,
}

/// The pieces of one file, as the table of all pieces refers to them.
#[derive(Debug)]
struct Region {
    path: String,
    blobrefs: Vec<BlobRef>,
    file: Arc<File>,
}

/// The mapped files.
#[derive(Default)]
pub(super) struct Mapped {
    /// Where each blob can be read; several files may have the same piece.
    pieces: HashMap<BlobRef, Vec<Piece>>,
    tags: BTreeMap<String, Vec<Region>>,
    errands: Option<Errands>,
}

impl Mapped {
    /// Whether a blob is a piece of a mapped file.
    pub(super) fn has(&self, blobref: &BlobRef) -> bool {
        self.pieces.contains_key(blobref)
    }

    /// Looks for the pieces of a file.
    ///
    /// # Errors
    ///
    /// The file cannot be mapped; or there is no thread to be had.
    pub(super) fn scan(
        &mut self,
        request: MmapAdd,
        hash: HashKind,
    ) -> Result<impl Future<Output = Result<Scanned, RpcError>> + use<>, RpcError> {
        Ok(self.errands()?.run(move || scan(&request, hash)))
    }

    /// Makes the pieces of a file loadable.
    pub(super) fn add(&mut self, scanned: Scanned) {
        let Scanned { path, tag, pieces } = scanned;
        let Some((_, Piece { file, .. })) = pieces.first() else {
            return;
        };
        let file = file.clone();
        let mut blobrefs = Vec::with_capacity(pieces.len());
        for (blobref, piece) in pieces {
            self.pieces.entry(blobref).or_default().push(piece);
            blobrefs.push(blobref);
        }
        self.tags.entry(tag).or_default().push(Region {
            path,
            blobrefs,
            file,
        });
    }

    /// Takes back the files of a tag. Pieces other files have too can still be loaded.
    pub(super) fn remove(&mut self, tag: &str) {
        for region in self.tags.remove(tag).unwrap_or_default() {
            for blobref in &region.blobrefs {
                if let Some(pieces) = self.pieces.get_mut(blobref) {
                    pieces.retain(|piece| !Arc::ptr_eq(&piece.file, &region.file));
                    if pieces.is_empty() {
                        self.pieces.remove(blobref);
                    }
                }
            }
        }
    }

    /// Reads a blob.
    ///
    /// # Errors
    ///
    /// `EINVAL` no file has it any more; or there is no thread to be had.
    pub(super) fn load(
        &mut self,
        blobref: BlobRef,
    ) -> Result<impl Future<Output = Result<Bytes, RpcError>> + use<>, RpcError> {
        let pieces = self.pieces.get(&blobref).cloned().unwrap_or_default();
        Ok(self.errands()?.run(move || read(&pieces, blobref)))
    }

    fn errands(&mut self) -> Result<&Errands, RpcError> {
        let errands = match self.errands.take() {
            Some(errands) => errands,
            None => Errands::start("content-mapped")?,
        };
        Ok(self.errands.insert(errands))
    }

    /// What statistics show.
    pub(super) fn stats(&self) -> Value {
        let paths = |regions: &Vec<Region>| -> Value {
            regions.iter().map(|region| region.path.as_str()).collect()
        };
        let tags: serde_json::Map<String, Value> = self
            .tags
            .iter()
            .map(|(tag, regions)| (tag.clone(), paths(regions)))
            .collect();
        json!({"tags": tags, "blobs": self.pieces.len()})
    }
}

/// Cuts a file into pieces and hashes each. Holes make no pieces.
fn scan(request: &MmapAdd, hash: HashKind) -> Result<Scanned, RpcError> {
    let path = &request.path;
    let refuse = |errno, text: String| RpcError::new(errno, text);
    if !path.starts_with('/') {
        let text = "path must be fully qualified";
        return Err(refuse(Errno::EINVAL, text.to_owned()));
    }
    let failed = |error: std::io::Error| {
        let errno = Errno::from_io(&error);
        RpcError::new(errno, format!("{path}: {errno}"))
    };
    let unsuitable = || refuse(Errno::EINVAL, format!("{path}: not suitable for mapping"));
    // A pipe or device is refused before it is opened, which might wait.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(unsuitable());
    }
    let file = Arc::new(File::open(path).map_err(failed)?);
    let size = file.metadata().map_err(failed)?.len();
    let chunk_size = match u64::try_from(request.chunksize) {
        Ok(0) => u64::MAX,
        Ok(chunk_size) => chunk_size,
        Err(_) => {
            let text = format!("invalid chunksize {}", request.chunksize);
            return Err(refuse(Errno::EINVAL, text));
        }
    };
    let mut pieces = Vec::new();
    for piece in Extents::new(&file, size, chunk_size) {
        let (start, length) = piece.map_err(failed)?;
        let length = usize::try_from(length)
            .ok()
            // Leave room for the rest of the message.
            .filter(|length| *length < MESSAGE_LENGTH_MAX - 4096)
            .ok_or_else(|| refuse(Errno::EFBIG, format!("{path}: too large for one blob")))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, start).map_err(failed)?;
        let piece = Piece {
            file: file.clone(),
            offset: start,
            length,
        };
        pieces.push((BlobRef::hash(hash, &bytes), piece));
    }
    if pieces.is_empty() {
        return Err(unsuitable());
    }
    Ok(Scanned {
        path: path.clone(),
        tag: request.tag.clone(),
        pieces,
    })
}

/// Reads a blob from whichever of the files still has it.
fn read(pieces: &[Piece], blobref: BlobRef) -> Result<Bytes, RpcError> {
    for piece in pieces {
        let mut bytes = vec![0; piece.length];
        let is_whole = piece.file.read_exact_at(&mut bytes, piece.offset).is_ok();
        if is_whole && BlobRef::hash(blobref.kind(), &bytes) == blobref {
            return Ok(bytes.into());
        }
    }
    let text = "mapped file content has changed";
    Err(RpcError::new(Errno::EINVAL, text))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A file that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, bytes: &[u8]) -> Scratch {
            let name = format!("flux-mapped-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, bytes).expect("temporary file");
            Scratch(path)
        }

        fn request(&self, chunksize: i64, tag: &str) -> MmapAdd {
            MmapAdd {
                path: self.0.to_str().expect("UTF-8").to_owned(),
                chunksize,
                tag: tag.to_owned(),
            }
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).expect("own file");
        }
    }

    fn blobref(bytes: &[u8]) -> BlobRef {
        BlobRef::hash(HashKind::Sha1, bytes)
    }

    fn load(mapped: &Mapped, bytes: &[u8]) -> Result<Bytes, RpcError> {
        let blobref = blobref(bytes);
        read(&mapped.pieces[&blobref], blobref)
    }

    #[test]
    fn pieces_are_loaded_while_any_file_has_them() {
        let one = Scratch::new("one", b"aaabbbcc");
        let two = Scratch::new("two", b"bbb");
        let mut mapped = Mapped::default();
        for request in [one.request(3, "1"), two.request(0, "2")] {
            mapped.add(scan(&request, HashKind::Sha1).expect("file"));
        }
        for piece in [&b"aaa"[..], b"bbb", b"cc"] {
            assert_eq!(load(&mapped, piece).as_deref(), Ok(piece));
        }
        assert_eq!(mapped.stats()["blobs"], 3);
        mapped.remove("1");
        mapped.remove("unknown");
        assert!(!mapped.has(&blobref(b"aaa")));
        assert_eq!(load(&mapped, b"bbb").as_deref(), Ok(&b"bbb"[..]));
        let path = two.0.to_str().expect("UTF-8");
        assert_eq!(
            mapped.stats(),
            json!({"tags": {"2": [path]}, "blobs": 1}),
            "only the other file is left"
        );
    }

    #[test]
    fn a_changed_file_gives_errors_and_never_other_data() {
        let file = Scratch::new("changed", b"aaabbb");
        let mut mapped = Mapped::default();
        mapped.add(scan(&file.request(3, "1"), HashKind::Sha1).expect("file"));
        let changed = Err(RpcError::new(
            Errno::EINVAL,
            "mapped file content has changed",
        ));
        let write = |bytes: &[u8]| {
            let file = File::options().write(true).open(&file.0).expect("file");
            file.write_all_at(bytes, 3).expect("written");
            file
        };
        let handle = write(b"x");
        assert_eq!(load(&mapped, b"aaa").as_deref(), Ok(&b"aaa"[..]));
        assert_eq!(load(&mapped, b"bbb"), changed);
        write(b"b");
        assert_eq!(load(&mapped, b"bbb").as_deref(), Ok(&b"bbb"[..]));
        handle.set_len(4).expect("cut short");
        assert_eq!(load(&mapped, b"bbb"), changed);
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let empty = Scratch::new("empty", b"");
        let path = empty.0.display();
        let relative = MmapAdd {
            path: "a".to_owned(),
            ..empty.request(0, "")
        };
        let missing = MmapAdd {
            path: format!("{path}.no"),
            ..empty.request(0, "")
        };
        let directory = MmapAdd {
            path: "/".to_owned(),
            ..empty.request(0, "")
        };
        for (request, expect) in [
            (relative, "path must be fully qualified".to_owned()),
            (
                empty.request(0, ""),
                format!("{path}: not suitable for mapping"),
            ),
            (directory, "/: not suitable for mapping".to_owned()),
            (missing, format!("{path}.no: No such file or directory")),
        ] {
            let error = scan(&request, HashKind::Sha1).expect_err("refused");
            assert_eq!(error.to_string(), expect);
        }
        let sparse = Scratch::new("sparse", b"");
        let file = File::options().write(true).open(&sparse.0).expect("file");
        file.set_len(1 << 20).expect("made longer");
        let error = scan(&sparse.request(0, ""), HashKind::Sha1).expect_err("refused");
        assert_eq!(error.errno, Errno::EINVAL);
    }
}
