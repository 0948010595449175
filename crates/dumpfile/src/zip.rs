//! zip, through the library of that name.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use jiff::civil;
use jiff::tz::TimeZone;
use nix::sys::memfd::{MFdFlags, memfd_create};
use zip::extra_fields::ExtraField;
use zip::read::ZipFile;
use zip::result::ZipError;
use zip::write::{FullFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::compression::Sink;
use crate::reader::Found;
use crate::{Kind, Stamp};

/// The first bytes: of an entry, or of the end of an archive without any.
const MAGICS: &[&[u8]] = &[b"PK\x03\x04", b"PK\x05\x06"];

/// Data of this size and more has a header with larger numbers.
const LARGE: usize = u32::MAX as usize;

/// Whether an archive of this beginning is zip.
pub(crate) fn is_zip(head: &[u8]) -> bool {
    MAGICS.iter().any(|magic| head.starts_with(magic))
}

/// A zip archive to read.
pub(crate) struct Archive {
    inner: ZipArchive<BufReader<File>>,
    next: usize,
}

impl Archive {
    /// What an archive holds is told at its end, so an input that cannot go there is kept in memory.
    pub(crate) fn new(mut input: impl Read) -> io::Result<Archive> {
        let mut memory = File::from(memfd_create("flux-zip", MFdFlags::MFD_CLOEXEC)?);
        io::copy(&mut input, &mut memory)?;
        memory.seek(SeekFrom::Start(0))?;
        Archive::of_file(memory)
    }

    pub(crate) fn of_file(file: File) -> io::Result<Archive> {
        Ok(Archive {
            inner: ZipArchive::new(BufReader::new(file)).map_err(from_zip)?,
            next: 0,
        })
    }

    pub(crate) fn next_entry(&mut self) -> io::Result<Option<Found<'_>>> {
        if self.next == self.inner.len() {
            return Ok(None);
        }
        let file = self.inner.by_index(self.next).map_err(from_zip)?;
        self.next += 1;
        let kind = if file.is_symlink() {
            Kind::Symlink
        } else if file.is_file() {
            Kind::File
        } else {
            Kind::Other
        };
        Ok(Some(Found {
            name: file.name_raw().to_owned(),
            kind,
            target: None,
            size: file.size(),
            time: time(&file),
            data: Box::new(file),
        }))
    }
}

/// When a file was last changed. What there is without an extension is a time of the clock on the
/// wall; of none it is the epoch.
fn time<R: Read>(file: &ZipFile<'_, R>) -> u64 {
    let extended = file.extra_data_fields().find_map(|field| match field {
        ExtraField::ExtendedTimestamp(times) => times.mod_time(),
        _ => None,
    });
    if let Some(seconds) = extended {
        return seconds.into();
    }
    let wall = file.last_modified().and_then(|time| {
        let part = |number: u8| i8::try_from(number).ok();
        let year = i16::try_from(time.year()).ok()?;
        let (month, day) = (part(time.month())?, part(time.day())?);
        let (hour, minute, second) = (
            part(time.hour())?,
            part(time.minute())?,
            part(time.second())?,
        );
        let time = civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
        time.to_zoned(TimeZone::system()).ok()
    });
    let seconds = wall.map_or(0, |time| time.timestamp().as_second());
    seconds.max(0).unsigned_abs()
}

fn from_zip(error: ZipError) -> io::Error {
    match error {
        ZipError::Io(error) => error,
        other => crate::damaged(other.to_string()),
    }
}

/// A zip archive to write.
pub(crate) struct Writer {
    inner: ZipWriter<StreamWriter<Sink>>,
    stamp: Stamp,
}

impl Writer {
    pub(crate) fn new(sink: Sink, stamp: Stamp) -> Writer {
        Writer {
            inner: ZipWriter::new_stream(sink),
            stamp,
        }
    }

    fn options(&self, length: usize) -> io::Result<FullFileOptions<'static, 'static>> {
        // Times of after 2106 do not fit.
        let time = u32::try_from(self.stamp.time).unwrap_or(u32::MAX);
        FullFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .unix_permissions(crate::writer::PERMISSIONS)
            .large_file(length >= LARGE)
            .with_extended_timestamp(Some(time), None, None)
            .map_err(from_zip)
    }

    pub(crate) fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let options = self.options(bytes.len())?;
        self.inner.start_file(name, options).map_err(from_zip)?;
        self.inner.write_all(bytes)
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        let options = self.options(target.len())?;
        self.inner
            .add_symlink(name, target, options)
            .map_err(from_zip)
    }

    /// Writes what tells what the archive holds.
    pub(crate) fn finish(self) -> io::Result<Sink> {
        let output = self.inner.finish().map_err(from_zip)?;
        Ok(output.into_inner())
    }
}
