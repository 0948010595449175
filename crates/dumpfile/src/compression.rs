//! The compressions an archive may have.
//!
//! Whatever format has a checksum of its data for an option is written with it, so that damage is
//! found when the archive is read.

use std::io::{self, BufRead, BufWriter, Read, Write};

use bzip2::bufread::MultiBzDecoder;
use bzip2::write::BzEncoder;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
use lzma_rust2::{XzOptions, XzReader, XzWriter};

use crate::lz4::Frames;

/// What reading an xz archive may take of memory. The format's own highest level takes 65 MiB.
const XZ_MEMORY_MAX_KIB: u32 = 256 << 10;
/// The level of lzma that is xz's own default.
const XZ_LEVEL: u32 = 6;

/// A compression of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not compressed.
    None,
    /// gzip, of RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard, of RFC 8878.
    Zstd,
    /// lz4, in frames.
    Lz4,
}

/// The first bytes of each.
const MAGICS: &[(&[u8], Compression)] = &[
    (&[0x1f, 0x8b], Compression::Gzip),
    (b"BZh", Compression::Bzip2),
    (b"\xfd7zXZ\0", Compression::Xz),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
    (&[0x04, 0x22, 0x4d, 0x18], Compression::Lz4),
];

impl Compression {
    /// The compression that bytes with this beginning have.
    pub(crate) fn of_magic(magic: &[u8]) -> Compression {
        let found = MAGICS.iter().find(|(known, _)| magic.starts_with(known));
        found.map_or(Compression::None, |(_, compression)| *compression)
    }

    /// Reads compressed bytes.
    pub(crate) fn decoder(self, input: impl BufRead + 'static) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
            Compression::Bzip2 => Box::new(MultiBzDecoder::new(input)),
            Compression::Xz => Box::new(XzReader::new_mem_limit(input, true, XZ_MEMORY_MAX_KIB)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(input)?),
            Compression::Lz4 => Box::new(Frames::new(input)),
        })
    }
}

type File = BufWriter<Box<dyn Write>>;

/// Where an archive is written to.
pub(crate) enum Sink {
    None(File),
    Gzip(GzEncoder<File>),
    Bzip2(BzEncoder<File>),
    Xz(Box<XzWriter<File>>),
    Zstd(zstd::Encoder<'static, File>),
    Lz4(Box<FrameEncoder<File>>),
}

impl Sink {
    /// Compresses to a file.
    pub(crate) fn new(compression: Compression, file: File) -> io::Result<Sink> {
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
            Compression::Lz4 => {
                let info = FrameInfo::new()
                    .block_size(BlockSize::Max1MB)
                    .content_checksum(true);
                Sink::Lz4(Box::new(FrameEncoder::with_frame_info(info, file)))
            }
        })
    }

    /// Writes what ends the compressed data.
    pub(crate) fn finish(self) -> io::Result<()> {
        let mut file = match self {
            Sink::None(file) => file,
            Sink::Gzip(encoder) => encoder.finish()?,
            Sink::Bzip2(encoder) => encoder.finish()?,
            Sink::Xz(encoder) => encoder.finish()?,
            Sink::Zstd(encoder) => encoder.finish()?,
            Sink::Lz4(encoder) => encoder.finish()?,
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
            Sink::Lz4(encoder) => &mut **encoder,
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
