//! Writing archives of whatever format.

use std::io::{self, BufWriter, Write};

use crate::compression::Sink;
use crate::{Container, Format, cpio, tarball, zip};

/// The permissions of all entries.
pub(crate) const PERMISSIONS: u32 = 0o644;

/// What is said of each entry besides its name and its data.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// When it was changed, in seconds since the epoch.
    pub time: u64,
    /// Whose it is.
    pub uid: u32,
    /// And whose group's.
    pub gid: u32,
}

/// An archive to write. Errors are of the operating system, or say what an entry does not fit.
pub struct Writer(Inner);

enum Inner {
    Tar(tarball::Writer),
    Cpio(cpio::Writer<Sink>),
    Zip(Box<zip::Writer>),
}

impl Writer {
    /// Begins an archive.
    ///
    /// # Errors
    ///
    /// The beginning cannot be written.
    pub fn new(format: Format, output: Box<dyn Write>, stamp: Stamp) -> io::Result<Writer> {
        let output = BufWriter::with_capacity(1 << 16, output);
        let sink = Sink::new(format.compression, output)?;
        Ok(Writer(match format.container {
            Container::Tar => Inner::Tar(tarball::Writer::new(sink, stamp)),
            Container::Cpio => Inner::Cpio(cpio::Writer::new(sink, stamp)),
            Container::Zip => Inner::Zip(Box::new(zip::Writer::new(sink, stamp))),
        }))
    }

    /// Adds a file.
    ///
    /// # Errors
    ///
    /// It cannot be written, or does not fit into the format.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Inner::Tar(tar) => tar.file(name, bytes),
            Inner::Cpio(cpio) => cpio.file(name, bytes),
            Inner::Zip(zip) => zip.file(name, bytes),
        }
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    ///
    /// As for files.
    pub fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        match &mut self.0 {
            Inner::Tar(tar) => tar.symlink(name, target),
            Inner::Cpio(cpio) => cpio.symlink(name, target),
            Inner::Zip(zip) => zip.symlink(name, target),
        }
    }

    /// Ends the archive.
    ///
    /// # Errors
    ///
    /// Not all could be written.
    pub fn finish(self) -> io::Result<()> {
        let sink = match self.0 {
            Inner::Tar(tar) => tar.finish(),
            Inner::Cpio(cpio) => cpio.finish(),
            Inner::Zip(zip) => zip.finish(),
        };
        sink?.finish()
    }
}
