//! What a process writes, in lines or pieces of bounded size.

use std::fmt;
use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes asked of a stream at once.
const READ_SIZE: usize = 64 << 10;

/// How a stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffering {
    /// After each newline.
    Line,
    /// After each newline, but what is not ended by one does not wait for it.
    Eager,
    /// As it comes.
    None,
}

/// Cuts a stream of bytes into pieces.
#[derive(Debug)]
pub struct Splitter {
    buffer: BytesMut,
    buffering: Buffering,
    max: usize,
    /// Bytes known to hold no newline.
    scanned: usize,
}

impl Splitter {
    /// A splitter whose pieces have at most `max` bytes.
    pub fn new(buffering: Buffering, max: usize) -> Splitter {
        Splitter {
            buffer: BytesMut::new(),
            buffering,
            max: max.max(1),
            scanned: 0,
        }
    }

    /// Where bytes are added.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next piece. A line that does not fit comes in several.
    pub fn next_piece(&mut self) -> Option<Bytes> {
        if self.buffer.is_empty() {
            return None;
        }
        let fresh = &self.buffer[self.scanned..];
        let newline = match self.buffering {
            Buffering::Line => fresh.iter().position(|byte| *byte == b'\n'),
            Buffering::None => Some(fresh.len() - 1),
            Buffering::Eager => {
                let newline = fresh.iter().position(|byte| *byte == b'\n');
                Some(newline.unwrap_or(fresh.len() - 1))
            }
        };
        match newline {
            Some(at) => Some(self.take((self.scanned + at + 1).min(self.max))),
            None if self.buffer.len() >= self.max => Some(self.take(self.max)),
            None => {
                self.scanned = self.buffer.len();
                None
            }
        }
    }

    /// All complete lines at once, or else what [`Splitter::next_piece`] gives.
    pub fn next_lines(&mut self) -> Option<Bytes> {
        let fresh = &self.buffer[self.scanned..];
        let newline = fresh.iter().rposition(|byte| *byte == b'\n');
        match (self.buffering, newline) {
            (Buffering::Line, Some(at)) => Some(self.take((self.scanned + at + 1).min(self.max))),
            (Buffering::Line, None) => self.next_piece(),
            (Buffering::Eager | Buffering::None, _) => self.rest(),
        }
    }

    /// What is left at the end of the stream.
    pub fn rest(&mut self) -> Option<Bytes> {
        let count = self.buffer.len().min(self.max);
        (count > 0).then(|| self.take(count))
    }

    fn take(&mut self, count: usize) -> Bytes {
        self.scanned = 0;
        self.buffer.split_to(count).freeze()
    }
}

/// A stream a process writes to.
pub struct Output {
    source: Pin<Box<dyn AsyncRead>>,
    splitter: Splitter,
    ended: bool,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("splitter", &self.splitter)
            .finish_non_exhaustive()
    }
}

impl Output {
    /// The stream read from `source`.
    pub fn new(source: impl AsyncRead + 'static, buffering: Buffering, max: usize) -> Output {
        Output {
            source: Box::pin(source),
            splitter: Splitter::new(buffering, max),
            ended: false,
        }
    }

    /// Says how the stream is cut, before it is read.
    pub fn set_buffering(&mut self, buffering: Buffering, max: usize) {
        self.splitter = Splitter::new(buffering, max);
    }

    /// The next piece; `None` at the end. Cancel safe.
    ///
    /// # Errors
    ///
    /// Those of `read(2)`.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.next_with(Splitter::next_piece).await
    }

    /// All complete lines that are there, or the next piece; `None` at the end. Cancel safe.
    ///
    /// # Errors
    ///
    /// Those of `read(2)`.
    pub async fn next_lines(&mut self) -> io::Result<Option<Bytes>> {
        self.next_with(Splitter::next_lines).await
    }

    async fn next_with(
        &mut self,
        cut: fn(&mut Splitter) -> Option<Bytes>,
    ) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(piece) = cut(&mut self.splitter) {
                return Ok(Some(piece));
            }
            if self.ended {
                return Ok(self.splitter.rest());
            }
            let buffer = self.splitter.buffer();
            buffer.reserve(READ_SIZE.min(4096 + buffer.len()));
            if self.source.read_buf(buffer).await? == 0 {
                self.ended = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(splitter: &mut Splitter, chunks: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        for chunk in chunks {
            splitter.buffer().extend_from_slice(chunk.as_bytes());
            while let Some(piece) = splitter.next_piece() {
                found.push(text(piece));
            }
        }
        while let Some(piece) = splitter.rest() {
            found.push(text(piece));
        }
        found
    }

    #[test]
    fn lines_are_whole_unless_too_long() {
        let mut splitter = Splitter::new(Buffering::Line, 8);
        let found = pieces(&mut splitter, &["a", "b\nc\n", "0123456789\n", "end"]);
        assert_eq!(found, ["ab\n", "c\n", "01234567", "89\n", "end"]);
    }

    #[test]
    fn without_buffering_pieces_come_as_they_are() {
        let mut splitter = Splitter::new(Buffering::None, 8);
        let found = pieces(&mut splitter, &["a", "b\nc", "0123456789"]);
        assert_eq!(found, ["a", "b\nc", "01234567", "89"]);
    }

    #[test]
    fn eager_lines_come_one_by_one_and_fragments_at_once() {
        let mut splitter = Splitter::new(Buffering::Eager, 8);
        let found = pieces(&mut splitter, &["a", "b\nc\nd", "0123456789"]);
        assert_eq!(found, ["a", "b\n", "c\n", "d", "01234567", "89"]);
        splitter.buffer().extend_from_slice(b"a\nb");
        assert_eq!(splitter.next_lines().as_deref(), Some(&b"a\nb"[..]));
    }

    #[test]
    fn lines_may_be_taken_together() {
        let mut splitter = Splitter::new(Buffering::Line, 100);
        splitter.buffer().extend_from_slice(b"a\nb\nc");
        assert_eq!(splitter.next_lines().as_deref(), Some(&b"a\nb\n"[..]));
        assert_eq!(splitter.next_lines(), None);
        assert_eq!(splitter.rest().as_deref(), Some(&b"c"[..]));
    }
}
