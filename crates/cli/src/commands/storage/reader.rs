//! Reading tar archives, compressed or not, so that no damage goes unnoticed.
//!
//! An archive has an end marker, which is what a cut one lacks, and a compressed one a checksum
//! after that: both are looked for, although every entry could be read without them.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use tar::EntryType;

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
            .take(2)
            .read_to_end(&mut magic)
            .map_err(|error| os_error(path, &error))?;
        let gzip = magic == [0x1f, 0x8b];
        let whole = BufReader::with_capacity(1 << 16, io::Cursor::new(magic).chain(file));
        let inner: Box<dyn Read> = if gzip {
            Box::new(MultiGzDecoder::new(whole))
        } else {
            Box::new(whole)
        };
        let ended = Rc::<Cell<bool>>::default();
        let watched = Watched {
            inner,
            ended: Rc::clone(&ended),
        };
        Ok(Reader {
            path: path.to_owned(),
            archive: tar::Archive::new(watched),
            ended,
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
            first: true,
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
    first: bool,
}

impl<'a> Entries<'a> {
    /// The next one.
    pub(super) fn next(&mut self) -> Result<Option<Entry<'a>>, Fail> {
        let first = std::mem::replace(&mut self.first, false);
        match self.entries.next() {
            None => Ok(None),
            Some(Ok(entry)) => Ok(Some(Entry {
                path: self.path,
                entry,
            })),
            Some(Err(_)) if first => Err(Fail::new(format!("'{}' is no tar archive", self.path))),
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

    /// All of its data.
    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, Fail> {
        let mut bytes = Vec::new();
        let size = self.entry.size();
        self.entry
            .read_to_end(&mut bytes)
            .map_err(|error| broken(self.path, &error))?;
        // The end of the file ends an entry too.
        if bytes.len() as u64 != size {
            return Err(Fail::new(format!("'{}' is truncated", self.path)));
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
    use std::io::Write;

    use super::*;

    /// An archive of two files, compressed or not.
    fn archive(gzip: bool) -> Vec<u8> {
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
        let bytes = builder.into_inner().expect("written");
        if !gzip {
            return bytes;
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&bytes).expect("written");
        encoder.finish().expect("written")
    }

    #[test]
    fn no_damage_goes_unnoticed() {
        let name = format!("flux-reader-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let check_bytes = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("temporary file");
            check(path.to_str().expect("UTF-8"))
        };
        for gzip in [false, true] {
            let whole = archive(gzip);
            assert_eq!(check_bytes(&whole), Ok(()));
            // The blocks after the end marker are only padding.
            let used = if gzip { whole.len() } else { 512 * 7 };
            for length in (0..used).step_by(if gzip { 1 } else { 64 }) {
                assert!(check_bytes(&whole[..length]).is_err(), "{gzip} {length}");
            }
            if gzip {
                // The first ten bytes hold a name and time nobody checks.
                for at in 10..whole.len() {
                    let mut flipped = whole.clone();
                    flipped[at] ^= 0x10;
                    if check_bytes(&flipped).is_ok() {
                        // Some bits have no bearing on the data.
                        let mut bytes = Vec::new();
                        let mut decoder = MultiGzDecoder::new(flipped.as_slice());
                        decoder.read_to_end(&mut bytes).expect("checked");
                        assert_eq!(bytes, archive(false), "{at}");
                    }
                }
            }
        }
        std::fs::remove_file(&path).expect("own file");
    }
}
