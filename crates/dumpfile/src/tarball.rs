//! tar, through the library of that name, so that no cut goes unnoticed: an archive has an end
//! marker, which is looked for although every entry can be read without it.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{EntryType, Header};

use crate::compression::Sink;
use crate::reader::Found;
use crate::{Kind, Stamp};

/// The magic of the header of POSIX, and of GNU, and where it is.
const MAGIC: &[u8] = b"ustar";
const MAGIC_AT: usize = 257;

/// Whether an archive of this beginning is tar for certain. Older ones do not tell.
pub(crate) fn is_tar(head: &[u8]) -> bool {
    head.get(MAGIC_AT..)
        .is_some_and(|rest| rest.starts_with(MAGIC))
}

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

/// A tar archive to read.
pub(crate) struct Archive {
    inner: tar::Archive<Watched>,
    ended: Rc<Cell<bool>>,
}

impl Archive {
    pub(crate) fn new(input: Box<dyn Read>) -> Archive {
        let ended = Rc::<Cell<bool>>::default();
        let watched = Watched {
            inner: input,
            ended: Rc::clone(&ended),
        };
        Archive {
            inner: tar::Archive::new(watched),
            ended,
        }
    }

    pub(crate) fn entries(&mut self) -> io::Result<Entries<'_>> {
        Ok(Entries(self.inner.entries()?))
    }

    /// Reads what is behind the last entry.
    pub(crate) fn finish(self) -> io::Result<()> {
        if self.ended.get() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "there is no end marker",
            ));
        }
        // The checksum of a compressed archive comes last.
        io::copy(&mut self.inner.into_inner(), &mut io::sink())?;
        Ok(())
    }
}

pub(crate) struct Entries<'a>(tar::Entries<'a, Watched>);

impl<'a> Entries<'a> {
    pub(crate) fn next_entry(&mut self) -> io::Result<Option<Found<'a>>> {
        let Some(entry) = self.0.next().transpose()? else {
            return Ok(None);
        };
        let kind = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Symlink => Kind::Symlink,
            _ => Kind::Other,
        };
        let target = match kind {
            Kind::Symlink => entry.link_name_bytes().map(std::borrow::Cow::into_owned),
            _ => None,
        };
        Ok(Some(Found {
            name: entry.path_bytes().into_owned(),
            kind,
            target,
            size: entry.size(),
            time: entry.header().mtime()?,
            data: Box::new(entry),
        }))
    }
}

/// A pax archive to write: ustar headers, extended where a name does not fit.
pub(crate) struct Writer {
    builder: tar::Builder<Sink>,
    stamp: Stamp,
}

impl Writer {
    pub(crate) fn new(sink: Sink, stamp: Stamp) -> Writer {
        Writer {
            builder: tar::Builder::new(sink),
            stamp,
        }
    }

    pub(crate) fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(name, EntryType::Regular, None, bytes)
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, EntryType::Symlink, Some(target), b"")
    }

    fn entry(
        &mut self,
        name: &str,
        kind: EntryType,
        target: Option<&str>,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(crate::writer::PERMISSIONS);
        header.set_uid(self.stamp.uid.into());
        header.set_gid(self.stamp.gid.into());
        header.set_mtime(self.stamp.time);
        header.set_size(bytes.len() as u64);
        let mut extended: Vec<(&str, &[u8])> = Vec::new();
        // A name must come back byte for byte, so only the plainest goes into the header alone.
        let plain = name.is_ascii() && !name.split('/').any(|part| matches!(part, "" | "." | ".."));
        if !plain || header.set_path(name).is_err() {
            extended.push(("path", name.as_bytes()));
            shorten(&mut header.as_old_mut().name, name);
        }
        if let Some(target) = target {
            let field = &mut header.as_old_mut().linkname;
            if !target.is_ascii() || target.len() > field.len() {
                extended.push(("linkpath", target.as_bytes()));
            }
            shorten(field, target);
        }
        header.set_cksum();
        if !extended.is_empty() {
            self.builder.append_pax_extensions(extended)?;
        }
        self.builder.append(&header, bytes)
    }

    /// Writes the end marker.
    pub(crate) fn finish(self) -> io::Result<Sink> {
        self.builder.into_inner()
    }
}

fn shorten(field: &mut [u8], text: &str) {
    let length = field.len().min(text.len());
    field.fill(0);
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
}
