//! cpio, in each of its formats: the binary one of either byte order, the portable one of POSIX
//! ("odc"), and the "new" ones, of which the last has checksums. That is the one written.

use std::io::{self, Read, Write};

use crate::reader::Found;
use crate::{Kind, Stamp, damaged};

const PORTABLE: &[u8] = b"070707";
const NEW: &[u8] = b"070701";
const NEW_CHECKED: &[u8] = b"070702";
/// The magic number of the binary format.
const BINARY: u16 = 0o070707;

/// How much of a header the magic is, or in the binary format the magic and more.
const MAGIC_LEN: usize = 6;
/// The longest name that is believed.
const NAME_MAX: u64 = 1 << 20;
/// The name of the entry after the last.
const TRAILER: &[u8] = b"TRAILER!!!";

/// The bits of a mode that tell what a file is.
const TYPE_MASK: u64 = 0o170_000;
const TYPE_FILE: u64 = 0o100_000;
const TYPE_SYMLINK: u64 = 0o120_000;

/// Whether an archive of this beginning is cpio.
pub(crate) fn is_cpio(head: &[u8]) -> bool {
    [PORTABLE, NEW, NEW_CHECKED]
        .iter()
        .any(|magic| head.starts_with(magic))
        || head.starts_with(&BINARY.to_le_bytes())
        || head.starts_with(&BINARY.to_be_bytes())
}

/// What the formats' headers have in common.
#[derive(Default)]
struct Header {
    mode: u64,
    time: u64,
    name_size: u64,
    size: u64,
    /// The sum of the data's bytes.
    sum: Option<u32>,
    /// How many bytes the header has.
    length: u64,
    /// What name and data are filled up to a multiple of.
    align: u64,
}

/// A cpio archive to read.
pub(crate) struct Archive {
    input: Box<dyn Read>,
    /// How much of the current entry's data is left, and of what fills it up.
    left: u64,
    padding: u64,
    /// What the bytes of the current entry must add up to, and what they came to so far.
    sum: Option<(u32, u32)>,
}

impl Archive {
    pub(crate) fn new(input: Box<dyn Read>) -> Archive {
        Archive {
            input,
            left: 0,
            padding: 0,
            sum: None,
        }
    }

    pub(crate) fn next_entry(&mut self) -> io::Result<Option<Found<'_>>> {
        io::copy(self, &mut io::sink())?;
        self.skip(self.padding)?;
        let header = self.header()?;
        if header.name_size == 0 || header.name_size > NAME_MAX {
            return Err(damaged(format!("a name of {} bytes", header.name_size)));
        }
        let mut name = vec![0; header.name_size as usize];
        self.input.read_exact(&mut name)?;
        if name.pop() != Some(0) {
            return Err(damaged("a name without end"));
        }
        self.skip(fill(header.length + header.name_size, header.align))?;
        if name == TRAILER {
            return Ok(None);
        }
        let kind = match header.mode & TYPE_MASK {
            TYPE_FILE => Kind::File,
            TYPE_SYMLINK => Kind::Symlink,
            _ => Kind::Other,
        };
        self.left = header.size;
        self.padding = fill(header.size, header.align);
        // Of other kinds of file the field has no meaning, and programs write zero.
        self.sum = header
            .sum
            .filter(|_| kind == Kind::File)
            .map(|sum| (sum, 0));
        Ok(Some(Found {
            name,
            kind,
            target: None,
            size: header.size,
            time: header.time,
            data: Box::new(self),
        }))
    }

    /// Reads what is behind the last entry.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        // The checksum of a compressed archive comes last.
        io::copy(&mut self.input, &mut io::sink())?;
        Ok(())
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        let mut padding = self.input.by_ref().take(count);
        match io::copy(&mut padding, &mut io::sink())? {
            skipped if skipped == count => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn header(&mut self) -> io::Result<Header> {
        let mut magic = [0; MAGIC_LEN];
        self.input.read_exact(&mut magic)?;
        match magic.as_slice() {
            PORTABLE => self.portable(),
            NEW => self.new_header(false),
            NEW_CHECKED => self.new_header(true),
            _ => self.binary(magic),
        }
    }

    fn portable(&mut self) -> io::Result<Header> {
        let mut digits = [0; 70];
        self.input.read_exact(&mut digits)?;
        let field = |at: usize, length: usize| number(&digits[at..at + length], 8);
        Ok(Header {
            mode: field(12, 6)?,
            time: field(42, 11)?,
            name_size: field(53, 6)?,
            size: field(59, 11)?,
            align: 1,
            ..Header::default()
        })
    }

    fn new_header(&mut self, checked: bool) -> io::Result<Header> {
        let mut digits = [0; 104];
        self.input.read_exact(&mut digits)?;
        let field = |index: usize| number(&digits[index * 8..index * 8 + 8], 16);
        let sum = field(12)?;
        Ok(Header {
            mode: field(1)?,
            time: field(5)?,
            size: field(6)?,
            name_size: field(11)?,
            sum: checked.then_some(sum as u32),
            length: (MAGIC_LEN + digits.len()) as u64,
            align: 4,
        })
    }

    fn binary(&mut self, start: [u8; MAGIC_LEN]) -> io::Result<Header> {
        let number: fn([u8; 2]) -> u16 = match [start[0], start[1]] {
            magic if magic == BINARY.to_le_bytes() => u16::from_le_bytes,
            magic if magic == BINARY.to_be_bytes() => u16::from_be_bytes,
            _ => return Err(damaged("an entry without a header")),
        };
        let mut rest = [0; 20];
        self.input.read_exact(&mut rest)?;
        let field = |at: usize| u64::from(number([rest[at], rest[at + 1]]));
        // The more significant half of a long number comes first in either order.
        let long = |at: usize| field(at) << 16 | field(at + 2);
        Ok(Header {
            mode: field(0),
            time: long(10),
            name_size: field(14),
            size: long(16),
            sum: None,
            length: (start.len() + rest.len()) as u64,
            align: 2,
        })
    }
}

/// Reads the data of the current entry.
impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.left.min(buffer.len() as u64) as usize;
        if most == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        if let Some((expect, sum)) = &mut self.sum {
            *sum = sum.wrapping_add(sum_of(&buffer[..count]));
            if self.left == 0 && sum != expect {
                return Err(damaged("the checksum does not match"));
            }
        }
        Ok(count)
    }
}

fn sum_of(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |sum: u32, byte| sum.wrapping_add(u32::from(*byte)))
}

/// How many bytes fill up so many.
fn fill(length: u64, align: u64) -> u64 {
    length.next_multiple_of(align) - length
}

fn number(digits: &[u8], radix: u32) -> io::Result<u64> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| u64::from_str_radix(digits, radix).ok())
        .ok_or_else(|| damaged("a header that is not of digits"))
}

/// A cpio archive to write.
pub(crate) struct Writer<W> {
    output: W,
    stamp: Stamp,
    /// The number of the next file.
    inode: u32,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(output: W, stamp: Stamp) -> Writer<W> {
        Writer {
            output,
            stamp,
            inode: 1,
        }
    }

    pub(crate) fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mode = TYPE_FILE as u32 | crate::writer::PERMISSIONS;
        self.entry(name.as_bytes(), mode, bytes)
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        let mode = TYPE_SYMLINK as u32 | crate::writer::PERMISSIONS;
        self.entry(name.as_bytes(), mode, target.as_bytes())
    }

    fn entry(&mut self, name: &[u8], mode: u32, bytes: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::other("too large for the cpio format");
        let size = u32::try_from(bytes.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        let sum = match u64::from(mode) & TYPE_MASK {
            TYPE_FILE => sum_of(bytes),
            _ => 0,
        };
        let links = 1;
        let fields = [
            self.inode,
            mode,
            self.stamp.uid,
            self.stamp.gid,
            links,
            // Times of after 2106 do not fit.
            u32::try_from(self.stamp.time).unwrap_or(u32::MAX),
            size,
            0,
            0,
            0,
            0,
            name_size,
            sum,
        ];
        // Two entries of one number would be two names of one file.
        self.inode = self.inode.checked_add(1).unwrap_or(1);
        self.output.write_all(NEW_CHECKED)?;
        let mut length = NEW_CHECKED.len();
        for field in fields {
            let digits = format!("{field:08X}");
            self.output.write_all(digits.as_bytes())?;
            length += digits.len();
        }
        self.output.write_all(name)?;
        self.output.write_all(&[0])?;
        self.pad(length as u64 + u64::from(name_size))?;
        self.output.write_all(bytes)?;
        self.pad(size.into())
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        self.output.write_all(&[0; 4][..fill(length, 4) as usize])
    }

    /// Writes the end marker.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.stamp.time = 0;
        self.entry(TRAILER, 0, b"")?;
        Ok(self.output)
    }
}
