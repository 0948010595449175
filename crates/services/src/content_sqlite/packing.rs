//! How blobs are kept in a row: as they are, or as an LZ4 block.

use std::borrow::Cow;

use bytes::Bytes;
use lz4_flex::block::{self, CompressTable};

/// Smaller blobs are kept as they are.
const SIZE_MIN: usize = 256;

/// Blobs of at least this size are packed with tables of their own.
const SIZE_LARGE: usize = u16::MAX as usize;

/// What stands for the size of a blob that is kept as it is.
const AS_IT_IS: i64 = -1;

/// Packs blobs. It keeps the table and the room it needs: they are larger than most blobs, so to
/// make and drop them each time takes longer than to compress.
#[derive(Default)]
pub(super) struct Packer {
    table: CompressTable,
    room: Vec<u8>,
}

impl Packer {
    /// The size and object of a blob's row.
    pub(super) fn pack<'a>(&'a mut self, blob: &'a [u8]) -> (i64, Option<Cow<'a, [u8]>>) {
        if blob.len() < SIZE_MIN {
            // An empty blob is NULL.
            let blob = Some(blob).filter(|blob| !blob.is_empty());
            return (AS_IT_IS, blob.map(Cow::Borrowed));
        }
        (blob.len() as i64, Some(self.compress(blob)))
    }

    fn compress(&mut self, blob: &[u8]) -> Cow<'_, [u8]> {
        if blob.len() < SIZE_LARGE {
            let most = block::get_maximum_output_size(blob.len());
            if self.room.len() < most {
                self.room.resize(most, 0);
            }
            let packed = block::compress_into_with_table(blob, &mut self.room, &mut self.table);
            if let Ok(size) = packed {
                return Cow::Borrowed(&self.room[..size]);
            }
        }
        Cow::Owned(block::compress(blob))
    }
}

/// The blob of a row; `None` if it is damaged. A block cannot grow more than this when unpacked,
/// so that a damaged length does not cost all memory.
pub(super) fn unpack(size: i64, object: &[u8]) -> Option<Bytes> {
    const GROWTH_MAX: usize = 255;
    if size == AS_IT_IS {
        return Some(Bytes::copy_from_slice(object));
    }
    let size = usize::try_from(size).ok()?;
    if size / GROWTH_MAX > object.len() {
        return None;
    }
    let blob = block::decompress(object, size).ok()?;
    Some(blob.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blob_comes_back_whatever_was_packed_before() {
        let mut packer = Packer::default();
        for length in [
            0,
            1,
            255,
            256,
            300,
            70_000,
            65_534,
            65_535,
            256,
            4096,
            1 << 20,
            257,
        ] {
            let mixed: Vec<u8> = (0..length)
                .map(|n: u32| (n.wrapping_mul(n) >> 5) as u8)
                .collect();
            let plain = vec![b'x'; length as usize];
            for blob in [mixed, plain] {
                let (size, object) = packer.pack(&blob);
                assert_eq!(size == -1, blob.len() < SIZE_MIN);
                assert_eq!(object.is_none(), blob.is_empty());
                let back = unpack(size, &object.unwrap_or_default());
                assert_eq!(back.as_deref(), Some(&blob[..]), "{length}");
            }
        }
    }

    #[test]
    fn damage_is_found() {
        assert_eq!(unpack(-2, b"x"), None);
        assert_eq!(unpack(i64::MAX, b"x"), None);
        assert_eq!(unpack(300, b"junk"), None);
    }
}
