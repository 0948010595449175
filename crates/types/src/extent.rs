//! The parts of a file that hold data, between its holes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The pieces of data in a file: where each begins and how long it is. Holes end where the file
/// system says, which may be before or after the first byte that is not zero.
#[derive(Debug)]
pub struct Extents<'a> {
    file: &'a File,
    size: u64,
    max: u64,
    at: u64,
    /// Where the extent that `at` is in ends. Looking it up once is not only quicker: a file system
    /// in memory walks all pages up to there.
    end: u64,
}

impl<'a> Extents<'a> {
    /// The data in the first `size` bytes of a file, in pieces of at most `max` bytes.
    pub fn new(file: &'a File, size: u64, max: u64) -> Extents<'a> {
        Extents {
            file,
            size,
            max: max.max(1),
            at: 0,
            end: 0,
        }
    }

    fn seek(&mut self) -> io::Result<()> {
        let Some(start) = seek(self.file, self.at, libc::SEEK_DATA)? else {
            self.at = self.size;
            return Ok(());
        };
        let end = seek(self.file, start, libc::SEEK_HOLE)?;
        // The file may have grown since it was looked at.
        self.at = start.min(self.size);
        self.end = end.map_or(self.size, |end| end.min(self.size));
        Ok(())
    }
}

/// Errors are those of `lseek(2)`. The file's position changes.
impl Iterator for Extents<'_> {
    type Item = io::Result<(u64, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end
            && self.at < self.size
            && let Err(error) = self.seek()
        {
            self.size = 0;
            return Some(Err(error));
        }
        if self.at >= self.end {
            return None;
        }
        let start = self.at;
        let length = self.max.min(self.end - start);
        self.at = start + length;
        Some(Ok((start, length)))
    }
}

#[allow(unsafe_code, reason = "lseek(2) with SEEK_DATA and SEEK_HOLE")]
fn seek(file: &File, at: u64, whence: i32) -> io::Result<Option<u64>> {
    let at = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open, and the call touches no memory.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    if let Ok(found) = u64::try_from(found) {
        return Ok(Some(found));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENXIO) => Ok(None),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_are_passed_over() {
        let name = format!("flux-extent-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("temporary file");
        std::fs::remove_file(&path).expect("own file");
        let size = 3 << 20;
        assert!(Extents::new(&file, 0, 9).next().is_none(), "empty");
        file.set_len(size).expect("sparse");
        file.write_all_at(b"data", 2 << 20).expect("written");
        let mut data = 0;
        let mut at = 0;
        for piece in Extents::new(&file, size, 1000) {
            let (start, length) = piece.expect("seek");
            assert!(start >= at && length > 0 && length <= 1000);
            data += length;
            at = start + length;
        }
        // A file system without holes has one extent.
        assert!(data == size || (4..1 << 20).contains(&data), "{data}");
    }
}
