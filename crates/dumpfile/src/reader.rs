//! Reading archives of whatever format, so that no damage goes unnoticed.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};

use crate::compression::Compression;
use crate::{Error, cpio, tarball, zip};

/// How much of an archive tells its format: a header of tar.
const HEAD_LEN: u64 = 512;
/// The longest target of a link that is believed.
const TARGET_MAX: u64 = 1 << 20;

/// What an entry of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A symbolic link.
    Symlink,
    /// A directory, a device, another name of a file.
    Other,
}

/// An entry as a format has it.
pub(crate) struct Found<'a> {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    /// What a symbolic link names, where that is not the data.
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) size: u64,
    pub(crate) time: u64,
    pub(crate) data: Box<dyn Read + 'a>,
}

/// An archive to read.
pub struct Reader {
    path: String,
    inner: Inner,
    /// Whether nothing but the first entry can tell that this is an archive at all.
    doubtful: bool,
}

enum Inner {
    Tar(tarball::Archive),
    Cpio(cpio::Archive),
    Zip(Box<zip::Archive>),
}

impl Reader {
    /// Opens an archive; `-` is standard input. Its first bytes tell its format.
    ///
    /// # Errors
    ///
    /// It cannot be opened, or is damaged where it begins.
    pub fn open(path: &str) -> Result<Reader, Error> {
        let fail = |error| broken(path, &error);
        if path == "-" {
            return Reader::new(path, Box::new(io::stdin()));
        }
        let cannot = |_| Error::new(format!("Failed to open '{path}'"));
        let mut file = File::open(path).map_err(cannot)?;
        let is_plain = file.metadata().map_err(fail)?.is_file();
        if is_plain {
            let head = head(&mut file).map_err(fail)?;
            file.seek(SeekFrom::Start(0)).map_err(fail)?;
            if zip::is_zip(&head) && !tarball::is_tar(&head) {
                return Ok(Reader {
                    path: path.to_owned(),
                    inner: Inner::Zip(Box::new(zip::Archive::of_file(file).map_err(fail)?)),
                    doubtful: false,
                });
            }
        }
        Reader::new(path, Box::new(file))
    }

    /// Reads an archive that comes as a stream; errors call it by a name.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is damaged where it begins.
    pub fn new(path: &str, mut input: Box<dyn Read>) -> Result<Reader, Error> {
        let fail = |error| broken(path, &error);
        let magic = head(&mut input).map_err(fail)?;
        let compression = Compression::of_magic(&magic);
        let whole = BufReader::with_capacity(1 << 16, Cursor::new(magic).chain(input));
        let mut decoded = compression.decoder(whole).map_err(fail)?;
        let head = head(&mut decoded).map_err(fail)?;
        let (is_tar, is_cpio) = (tarball::is_tar(&head), cpio::is_cpio(&head));
        let is_zip = zip::is_zip(&head);
        let decoded = Box::new(Cursor::new(head).chain(decoded));
        let inner = if is_cpio && !is_tar {
            Inner::Cpio(cpio::Archive::new(decoded))
        } else if is_zip && !is_tar {
            Inner::Zip(Box::new(zip::Archive::new(decoded).map_err(fail)?))
        } else {
            Inner::Tar(tarball::Archive::new(decoded))
        };
        Ok(Reader {
            path: path.to_owned(),
            doubtful: compression == Compression::None && matches!(inner, Inner::Tar(_)),
            inner,
        })
    }

    /// The entries, in order.
    ///
    /// # Errors
    ///
    /// The archive cannot be read.
    pub fn entries(&mut self) -> Result<Entries<'_>, Error> {
        let path = &self.path;
        let inner = match &mut self.inner {
            Inner::Tar(tar) => {
                EntriesInner::Tar(tar.entries().map_err(|error| broken(path, &error))?)
            }
            Inner::Cpio(cpio) => EntriesInner::Cpio(cpio),
            Inner::Zip(zip) => EntriesInner::Zip(zip),
        };
        Ok(Entries {
            path,
            inner,
            doubtful: self.doubtful,
        })
    }

    /// Checks that the archive ends as it should, once every entry was read.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn finish(self) -> Result<(), Error> {
        let path = &self.path;
        let finished = match self.inner {
            Inner::Tar(tar) => tar.finish(),
            Inner::Cpio(cpio) => cpio.finish(),
            // What tells of the entries is the end.
            Inner::Zip(_) => Ok(()),
        };
        finished.map_err(|error| broken(path, &error))
    }
}

/// The first bytes.
fn head(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    input.take(HEAD_LEN).read_to_end(&mut head)?;
    Ok(head)
}

/// A failure to read on. What the decoders say is more than the error number of it.
fn broken(path: &str, error: &io::Error) -> Error {
    let cut = error.kind() == io::ErrorKind::UnexpectedEof;
    Error::new(match error.get_ref() {
        Some(told) if cut => format!("'{path}' is truncated: {told}"),
        None if cut => format!("'{path}' is truncated"),
        _ => format!("error reading '{path}': {error}"),
    })
}

/// The entries of an archive.
pub struct Entries<'a> {
    path: &'a str,
    inner: EntriesInner<'a>,
    /// Whether this may be no archive at all.
    doubtful: bool,
}

enum EntriesInner<'a> {
    Tar(tarball::Entries<'a>),
    Cpio(&'a mut cpio::Archive),
    Zip(&'a mut zip::Archive),
}

impl Entries<'_> {
    /// The next one.
    ///
    /// # Errors
    ///
    /// The archive is damaged, or the entry has a name that no key can have.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, Error> {
        let path = self.path;
        let doubtful = std::mem::replace(&mut self.doubtful, false);
        let found = match &mut self.inner {
            EntriesInner::Tar(tar) => tar.next_entry(),
            EntriesInner::Cpio(cpio) => cpio.next_entry(),
            EntriesInner::Zip(zip) => zip.next_entry(),
        };
        let found = match found {
            Err(_) if doubtful => {
                return Err(Error::new(format!(
                    "'{path}' is no archive of a known format"
                )));
            }
            found => found.map_err(|error| broken(path, &error))?,
        };
        let Some(mut found) = found else {
            return Ok(None);
        };
        let name = text(path, "a name", found.name)?;
        let target = match (found.kind, found.target) {
            (Kind::Symlink, Some(target)) => text(path, &name, target)?,
            (Kind::Symlink, None) => {
                let mut target = Vec::new();
                found
                    .data
                    .by_ref()
                    .take(TARGET_MAX)
                    .read_to_end(&mut target)
                    .map_err(|error| broken(path, &error))?;
                text(path, &name, target)?
            }
            _ => String::new(),
        };
        Ok(Some(Entry {
            path,
            name,
            kind: found.kind,
            target,
            size: found.size,
            time: found.time,
            data: found.data,
        }))
    }
}

fn text(path: &str, what: &str, bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|error| {
        let shown = error.as_bytes().escape_ascii();
        Error::new(format!("'{path}' has {what} that is not UTF-8: {shown}"))
    })
}

/// An entry of an archive.
pub struct Entry<'a> {
    path: &'a str,
    /// Its name, with `/` between directories.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What a symbolic link names.
    pub target: String,
    /// How long a file says it is.
    pub size: u64,
    /// When it was last changed, in seconds since the epoch.
    pub time: u64,
    data: Box<dyn Read + 'a>,
}

impl Entry<'_> {
    /// All of its data.
    ///
    /// # Errors
    ///
    /// It is damaged. Names the archive and the entry.
    pub fn bytes(&mut self) -> Result<Vec<u8>, Error> {
        // Grows with what there is, not by what the archive claims.
        let mut bytes = Vec::new();
        let result = self.data.read_to_end(&mut bytes);
        self.check_size(result)?;
        Ok(bytes)
    }

    /// Reads its data for the sake of the checksum.
    fn skip(&mut self) -> Result<(), Error> {
        if self.kind != Kind::File {
            return Ok(());
        }
        let result = io::copy(&mut self.data, &mut io::sink());
        self.check_size(result.map(|count| count as usize))
    }

    fn check_size(&self, read: io::Result<usize>) -> Result<(), Error> {
        let Entry { path, name, .. } = self;
        match read {
            Ok(count) if count as u64 == self.size => Ok(()),
            // The end of the file ends an entry too.
            Ok(_) => Err(Error::new(format!("'{path}' is truncated in {name}"))),
            Err(error) => Err(Error::new(format!(
                "error reading {name} of '{path}': {error}"
            ))),
        }
    }
}

/// Reads an archive from end to end.
///
/// # Errors
///
/// It cannot be read, or is damaged.
pub fn check(path: &str) -> Result<(), Error> {
    check_all(Reader::open(path)?)
}

fn check_all(mut reader: Reader) -> Result<(), Error> {
    let mut entries = reader.entries()?;
    while let Some(mut entry) = entries.next_entry()? {
        entry.skip()?;
    }
    reader.finish()
}

#[cfg(test)]
mod tests;
