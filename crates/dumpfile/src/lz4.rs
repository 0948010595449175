//! lz4 frames, one after the other.
//!
//! The decoder of the library takes an end of the input between two blocks for the end of the
//! frame, and would so read a cut archive without its checksum. [`Frames`] insists on end marks.

use std::io::{self, Read};

use lz4_flex::frame::FrameDecoder;

/// Counts what is read of a frame, and notices the end.
struct Input<R> {
    inner: R,
    taken: u64,
    ended: bool,
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.taken += count as u64;
        self.ended |= count == 0 && !buffer.is_empty();
        Ok(count)
    }
}

/// Decodes lz4 frames.
pub(crate) struct Frames<R: Read> {
    /// Absent only after a failure, which is for good.
    frame: Option<FrameDecoder<Input<R>>>,
}

impl<R: Read> Frames<R> {
    pub(crate) fn new(inner: R) -> Frames<R> {
        let input = Input {
            inner,
            taken: 0,
            ended: false,
        };
        Frames {
            frame: Some(FrameDecoder::new(input)),
        }
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(frame) = &mut self.frame else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            let count = match frame.read(buffer) {
                Ok(count) => count,
                Err(error) => {
                    self.frame = None;
                    return Err(error);
                }
            };
            let Input { taken, ended, .. } = *frame.get_ref();
            match (count, ended) {
                (0, false) if !buffer.is_empty() => {
                    // The end mark: what follows is the next frame, which may have other sizes than
                    // the buffers of this one's decoder.
                    let input = self.frame.take().map(FrameDecoder::into_inner);
                    self.frame = input.map(|input| FrameDecoder::new(Input { taken: 0, ..input }));
                }
                (0, true) if taken > 0 => {
                    self.frame = None;
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "lz4 frame without an end mark",
                    ));
                }
                _ => return Ok(count),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    fn frame(size: BlockSize, bytes: &[u8]) -> Vec<u8> {
        let info = FrameInfo::new().block_size(size).content_checksum(true);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(bytes).expect("encoded");
        encoder.finish().expect("finished")
    }

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Frames::new(bytes).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn frames_of_all_sizes_follow_each_other() {
        let bytes: Vec<u8> = (0..300_000u32).map(|at| (at / 7) as u8).collect();
        let mut all = frame(BlockSize::Max4MB, &bytes);
        all.extend(frame(BlockSize::Max64KB, b""));
        all.extend(frame(BlockSize::Max64KB, &bytes));
        let expect = [bytes.as_slice(), &bytes].concat();
        assert!(decode(&all).expect("decoded") == expect);
        assert_eq!(decode(b"").expect("decoded"), b"");
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = frame(BlockSize::Max64KB, &[7; 200_000]);
        for length in 1..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "{length}");
        }
    }
}
