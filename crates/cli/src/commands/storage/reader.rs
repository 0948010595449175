//! Reading tar archives, compressed or not ([`Compression`]), so that no damage goes unnoticed.
//!
//! An archive has an end marker, which is what a cut one lacks, and a compressed one a checksum
//! after that: both are looked for, although every entry could be read without them.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use tar::EntryType;

use super::compression::Compression;
use super::os_error;
use crate::fail::Fail;

/// Notices that a reader came to its end.
struct Watched {
    inner: Box<dyn Read>,
    ended: Rc<Cell<bool>>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            self.ended.set(true);
        }
        Ok(count)
    }
}

/// An archive.
pub(super) struct Reader {
    path: String,
    archive: tar::Archive<Watched>,
    ended: Rc<Cell<bool>>,
    compression: Compression,
}

impl Reader {
    /// Opens an archive; `-` is standard input. Its first bytes tell whether it is compressed.
    pub(super) fn open(path: &str) -> Result<Reader, Fail> {
        let mut file: Box<dyn Read> = if path == "-" {
            Box::new(io::stdin())
        } else {
            let file =
                File::open(path).map_err(|_| Fail::new(format!("Failed to open '{path}'")))?;
            Box::new(file)
        };
        let mut magic = Vec::new();
        file.by_ref()
            .take(Compression::MAGIC_LEN)
            .read_to_end(&mut magic)
            .map_err(|error| os_error(path, &error))?;
        let compression = Compression::of_magic(&magic);
        let whole = BufReader::with_capacity(1 << 16, io::Cursor::new(magic).chain(file));
        let inner = compression
            .decoder(whole)
            .map_err(|error| broken(path, &error))?;
        let ended = Rc::<Cell<bool>>::default();
        let watched = Watched {
            inner,
            ended: Rc::clone(&ended),
        };
        Ok(Reader {
            path: path.to_owned(),
            archive: tar::Archive::new(watched),
            ended,
            compression,
        })
    }

    /// The entries, in order.
    pub(super) fn entries(&mut self) -> Result<Entries<'_>, Fail> {
        let path = &self.path;
        let entries = self
            .archive
            .entries()
            .map_err(|error| os_error(format!("'{path}' is no tar archive"), &error))?;
        Ok(Entries {
            path,
            entries,
            doubtful: self.compression == Compression::None,
        })
    }

    /// Checks that the archive ends as it should, once every entry was read.
    pub(super) fn finish(self) -> Result<(), Fail> {
        let path = &self.path;
        if self.ended.get() {
            return Err(Fail::new(format!(
                "'{path}' is truncated: there is no end marker"
            )));
        }
        // The checksum of a compressed archive comes last.
        let mut rest = self.archive.into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(|error| broken(path, &error))?;
        Ok(())
    }
}

/// A failure to read on. What the decoders say is more than the error number of it.
fn broken(path: &str, error: &io::Error) -> Fail {
    Fail::of(format!("error reading '{path}'"), error)
}

/// The entries of an archive.
pub(super) struct Entries<'a> {
    path: &'a str,
    entries: tar::Entries<'a, Watched>,
    /// Whether this may be no archive at all: it is not compressed and had no entry yet.
    doubtful: bool,
}

impl<'a> Entries<'a> {
    /// The next one.
    pub(super) fn next(&mut self) -> Result<Option<Entry<'a>>, Fail> {
        let doubtful = std::mem::replace(&mut self.doubtful, false);
        match self.entries.next() {
            None => Ok(None),
            Some(Ok(entry)) => Ok(Some(Entry {
                path: self.path,
                entry,
            })),
            Some(Err(_)) if doubtful => {
                Err(Fail::new(format!("'{}' is no tar archive", self.path)))
            }
            Some(Err(error)) => Err(broken(self.path, &error)),
        }
    }
}

/// An entry of an archive.
pub(super) struct Entry<'a> {
    path: &'a str,
    entry: tar::Entry<'a, Watched>,
}

impl Entry<'_> {
    pub(super) fn name(&self) -> Result<String, Fail> {
        String::from_utf8(self.entry.path_bytes().into_owned())
            .map_err(|_| Fail::new(format!("'{}' has a name that is not UTF-8", self.path)))
    }

    pub(super) fn kind(&self) -> EntryType {
        self.entry.header().entry_type()
    }

    /// What a symbolic link names.
    pub(super) fn target(&self, name: &str) -> Result<String, Fail> {
        let target = self.entry.link_name_bytes().unwrap_or_default();
        String::from_utf8(target.into_owned())
            .map_err(|_| Fail::new(format!("{name}: target is not UTF-8")))
    }

    pub(super) fn size(&self) -> u64 {
        self.entry.size()
    }

    /// When it was last changed, in seconds since the epoch.
    pub(super) fn time(&self) -> Result<u64, Fail> {
        let time = self.entry.header().mtime();
        time.map_err(|error| broken(self.path, &error))
    }

    /// All of its data. Errors name the entry.
    pub(super) fn bytes(&mut self, name: &str) -> Result<Vec<u8>, Fail> {
        let mut bytes = Vec::new();
        let size = self.entry.size();
        self.entry
            .read_to_end(&mut bytes)
            .map_err(|error| Fail::of(format!("error reading {name} of '{}'", self.path), error))?;
        // The end of the file ends an entry too.
        if bytes.len() as u64 != size {
            return Err(Fail::new(format!("'{}' is truncated in {name}", self.path)));
        }
        Ok(bytes)
    }
}

/// Reads an archive from end to end.
pub(super) fn check(path: &str) -> Result<(), Fail> {
    let mut reader = Reader::open(path)?;
    let mut entries = reader.entries()?;
    while let Some(entry) = entries.next()? {
        entry.name()?;
        entry.time()?;
    }
    reader.finish()
}

#[cfg(test)]
mod tests {
    use std::io::{BufWriter, Write};

    use super::super::compression::Sink;
    use super::*;

    const COMPRESSIONS: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Zstd,
    ];

    /// An archive of two files.
    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, length) in [("a", 10), ("b", 2000)] {
            let mut header = tar::Header::new_ustar();
            header.set_size(length);
            header.set_cksum();
            let bytes = vec![b'x'; length as usize];
            builder
                .append_data(&mut header, name, bytes.as_slice())
                .expect("appended");
        }
        builder.into_inner().expect("written")
    }

    /// Checks archives that are only bytes.
    struct Checker(std::path::PathBuf);

    impl Checker {
        fn new(name: &str) -> Checker {
            let name = format!("flux-reader-{name}-{}", std::process::id());
            Checker(std::env::temp_dir().join(name))
        }

        fn check(&self, bytes: &[u8]) -> Result<(), Fail> {
            std::fs::write(&self.0, bytes).expect("temporary file");
            check(self.0.to_str().expect("UTF-8"))
        }

        fn compress(&self, compression: Compression, bytes: &[u8]) -> Vec<u8> {
            let file: Box<dyn Write> = Box::new(File::create(&self.0).expect("temporary file"));
            let sink = Sink::new(compression, BufWriter::new(file));
            let mut sink = sink.expect("started");
            sink.write_all(bytes).expect("written");
            sink.finish().expect("finished");
            std::fs::read(&self.0).expect("temporary file")
        }
    }

    impl Drop for Checker {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).expect("own file");
        }
    }

    #[test]
    fn cut_archives_are_noticed() {
        let checker = Checker::new("cut");
        for compression in COMPRESSIONS {
            let whole = checker.compress(compression, &archive());
            assert_eq!(Compression::of_magic(&whole), compression);
            assert_eq!(checker.check(&whole), Ok(()), "{compression:?}");
            let plain = compression == Compression::None;
            // The blocks after the end marker are only padding.
            let used = if plain { 512 * 7 } else { whole.len() };
            for length in (0..used).step_by(if plain { 64 } else { 1 }) {
                let cut = checker.check(&whole[..length]);
                assert!(cut.is_err(), "{compression:?} {length}");
            }
        }
    }

    #[test]
    fn flipped_bits_are_noticed() {
        let checker = Checker::new("flipped");
        for compression in &COMPRESSIONS[1..] {
            let whole = checker.compress(*compression, &archive());
            // The first ten bytes of gzip hold a name and time nobody checks.
            for at in 10..whole.len() {
                let mut flipped = whole.clone();
                flipped[at] ^= 0x10;
                if checker.check(&flipped).is_ok() {
                    // Some bits have no bearing on the data.
                    let mut bytes = Vec::new();
                    let decoder = compression.decoder(io::Cursor::new(flipped));
                    let mut decoder = decoder.expect("a decoder");
                    decoder.read_to_end(&mut bytes).expect("checked");
                    assert_eq!(bytes, archive(), "{compression:?} {at}");
                }
            }
        }
    }
}
