//! The files `flux dump` writes and `flux restore` reads: archives of files and symbolic links, as
//! other programs have them too. tar, cpio and zip, compressed or not. (The archives of `flux
//! archive` are something else: they live in the key-value store.)
//!
//! A [`Writer`] is told its [`Format`], which [`Format::of_name`] takes from a file's suffix; a
//! [`Reader`] finds it out from the first bytes. Both go through an archive once, from its beginning
//! to its end, with one entry's data in memory. No damage goes unnoticed: whatever of end markers,
//! sizes and checksums a format has is written and is checked.

mod compression;
mod cpio;
mod format;
mod lz4;
mod reader;
mod tarball;
mod writer;
mod zip;

pub use compression::Compression;
pub use format::{Container, Format};
pub use reader::{Entries, Entry, Kind, Reader, check};
pub use writer::{Stamp, Writer};

/// Why an archive cannot be read, or not be written by this name. Names the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    text: String,
}

impl Error {
    fn new(text: impl Into<String>) -> Error {
        Error { text: text.into() }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// Data that is not what its format asks for.
fn damaged(text: impl Into<String>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, text.into())
}

/// Reads bytes as an archive.
pub fn fuzz(bytes: &[u8]) {
    // Small input can stand for much output; reading it all would make the runs slow.
    const ENTRIES_MAX: usize = 100;
    const DATA_MAX: u64 = 1 << 16;
    let input = Box::new(std::io::Cursor::new(bytes.to_vec()));
    let Ok(mut reader) = Reader::new("fuzz", input) else {
        return;
    };
    let Ok(mut entries) = reader.entries() else {
        return;
    };
    for _ in 0..ENTRIES_MAX {
        match entries.next_entry() {
            Ok(Some(mut entry)) if entry.size <= DATA_MAX => {
                let _result = entry.bytes();
            }
            Ok(Some(_)) => {}
            _ => return,
        }
    }
}
