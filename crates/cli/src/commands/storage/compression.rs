//! The compressions an archive may have: told by its first bytes when it is read, by the suffix of
//! its name when it is written.
//!
//! Whatever format has a checksum of its data for an option is written with it, so that damage is
//! found when the archive is read.

use std::io::{self, BufRead, BufWriter, Read, Write};

use bzip2::bufread::MultiBzDecoder;
use bzip2::write::BzEncoder;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use lzma_rust2::{XzOptions, XzReader, XzWriter};

use crate::fail::Fail;

/// What reading an xz archive may take of memory. The format's own highest level takes 65 MiB.
const XZ_MEMORY_MAX_KIB: u32 = 256 << 10;
/// The level of lzma that is xz's own default.
const XZ_LEVEL: u32 = 6;

/// A compression of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// The first bytes of each.
const MAGICS: &[(&[u8], Compression)] = &[
    (&[0x1f, 0x8b], Compression::Gzip),
    (b"BZh", Compression::Bzip2),
    (b"\xfd7zXZ\0", Compression::Xz),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
];

/// The suffixes of each.
const SUFFIXES: &[(&str, Compression)] = &[
    (".tar", Compression::None),
    (".tgz", Compression::Gzip),
    (".tar.gz", Compression::Gzip),
    (".tar.bz2", Compression::Bzip2),
    (".tar.xz", Compression::Xz),
    (".tar.zst", Compression::Zstd),
];

/// Suffixes of archives that other programs can write.
const UNSUPPORTED: &[&str] = &[".7z", ".zip", ".jar", ".cpio", ".iso", ".a", ".ar"];

impl Compression {
    /// How many first bytes tell it.
    pub(super) const MAGIC_LEN: u64 = 6;

    /// The compression that bytes with this beginning have.
    pub(super) fn of_magic(magic: &[u8]) -> Compression {
        let found = MAGICS.iter().find(|(known, _)| magic.starts_with(known));
        found.map_or(Compression::None, |(_, compression)| *compression)
    }

    /// The compression a file's name asks for; `-` is plain tar.
    pub(super) fn of_name(path: &str) -> Result<Compression, Fail> {
        if path == "-" {
            return Ok(Compression::None);
        }
        let found = SUFFIXES.iter().find(|(suffix, _)| path.ends_with(suffix));
        if let Some((_, compression)) = found {
            return Ok(*compression);
        }
        if UNSUPPORTED.iter().any(|suffix| path.ends_with(suffix)) {
            let known: Vec<&str> = SUFFIXES.iter().map(|(suffix, _)| *suffix).collect();
            return Err(Fail::new(format!(
                "'{path}': this archive format is not supported, use one of {}",
                known.join(", ")
            )));
        }
        Err(Fail::new(format!("No such format '{path}'")))
    }

    /// Reads compressed bytes.
    pub(super) fn decoder(self, input: impl BufRead + 'static) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
            Compression::Bzip2 => Box::new(MultiBzDecoder::new(input)),
            Compression::Xz => Box::new(XzReader::new_mem_limit(input, true, XZ_MEMORY_MAX_KIB)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(input)?),
        })
    }
}

type File = BufWriter<Box<dyn Write>>;

/// Where an archive is written to.
pub(super) enum Sink {
    None(File),
    Gzip(GzEncoder<File>),
    Bzip2(BzEncoder<File>),
    Xz(Box<XzWriter<File>>),
    Zstd(zstd::Encoder<'static, File>),
}

impl Sink {
    /// Compresses to a file.
    pub(super) fn new(compression: Compression, file: File) -> io::Result<Sink> {
        Ok(match compression {
            Compression::None => Sink::None(file),
            Compression::Gzip => Sink::Gzip(GzEncoder::new(file, flate2::Compression::default())),
            Compression::Bzip2 => Sink::Bzip2(BzEncoder::new(file, bzip2::Compression::default())),
            Compression::Xz => {
                let options = XzOptions::with_preset(XZ_LEVEL);
                Sink::Xz(Box::new(XzWriter::new(file, options)?))
            }
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL)?;
                encoder.include_checksum(true)?;
                Sink::Zstd(encoder)
            }
        })
    }

    /// Writes what ends the compressed data.
    pub(super) fn finish(self) -> io::Result<()> {
        let mut file = match self {
            Sink::None(file) => file,
            Sink::Gzip(encoder) => encoder.finish()?,
            Sink::Bzip2(encoder) => encoder.finish()?,
            Sink::Xz(encoder) => encoder.finish()?,
            Sink::Zstd(encoder) => encoder.finish()?,
        };
        file.flush()
    }

    fn inner(&mut self) -> &mut dyn Write {
        match self {
            Sink::None(file) => file,
            Sink::Gzip(encoder) => encoder,
            Sink::Bzip2(encoder) => encoder,
            Sink::Xz(encoder) => encoder,
            Sink::Zstd(encoder) => encoder,
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_names_the_format() {
        for (path, expect) in [
            ("-", Some(Compression::None)),
            ("a.tar", Some(Compression::None)),
            ("/x/a.tgz", Some(Compression::Gzip)),
            ("a.tar.gz", Some(Compression::Gzip)),
            ("a.tar.bz2", Some(Compression::Bzip2)),
            ("a.tar.xz", Some(Compression::Xz)),
            ("a.tar.zst", Some(Compression::Zstd)),
            ("a.zip", None),
            ("a", None),
        ] {
            assert_eq!(Compression::of_name(path).ok(), expect, "{path}");
        }
        let wrong = Compression::of_name("a.b").unwrap_err();
        assert_eq!(wrong.text, "No such format 'a.b'");
    }
}
