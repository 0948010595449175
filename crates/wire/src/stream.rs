//! Messages over a byte stream: local connector, relay and external modules.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use types::Errno;

use crate::codec::{DecodeError, Parts, part_size, put_part, put_part_length};
use crate::message::Message;

/// The first four bytes of every message, little-endian on the wire (the byte order of the
/// machines the reference runs on).
pub const STREAM_MAGIC: u32 = 0xffee_0012;

/// The longest message accepted. The reference has no bound; this one stays above anything its
/// services store (a blob of 1 GiB as base64 in JSON), and keeps the sum of lengths in 32 bits.
pub const MESSAGE_LENGTH_MAX: usize = 0x7fff_ffff;

const HEADER_LENGTH: usize = 8;

/// How much is set aside for a message of which only the beginning has arrived.
const AHEAD_MAX: usize = 2 << 20;

/// Why a byte stream holds no more messages. The stream is unusable afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The header does not begin with the magic number.
    #[error("stream magic is {0:#010x}, not {STREAM_MAGIC:#010x}")]
    Magic(u32),
    /// The header announces more than [`MESSAGE_LENGTH_MAX`] bytes.
    #[error("message of {0} bytes is too long")]
    TooLong(usize),
    /// A part reaches past the end of its message.
    #[error("message part is truncated")]
    Truncated,
    /// The parts are no message.
    #[error(transparent)]
    Message(#[from] DecodeError),
}

impl StreamError {
    /// The error number of this failure.
    pub fn errno(self) -> Errno {
        match self {
            Self::Magic(_) | Self::Message(_) => Errno::EPROTO,
            Self::TooLong(_) => Errno::EMSGSIZE,
            Self::Truncated => Errno::EINVAL,
        }
    }
}

/// Appends a message, framed, to `out`.
pub fn encode_stream(message: &Message, out: &mut BytesMut) {
    let length = put_header(message, out);
    out.reserve(length);
    message.each_part(|part| put_part(out, part));
}

/// Appends a message, framed, but for the bytes of its payload. Returns where in `out` they belong.
pub(crate) fn encode_stream_around(message: &Message, out: &mut BytesMut) -> usize {
    put_header(message, out);
    let payload = message.payload.as_deref().unwrap_or_default();
    let mut at = out.len();
    message.each_part(|part| {
        if std::ptr::eq(part, payload) {
            put_part_length(out, part.len());
            at = out.len();
        } else {
            put_part(out, part);
        }
    });
    at
}

/// Appends a message's header; returns the length it announces.
fn put_header(message: &Message, out: &mut BytesMut) -> usize {
    let mut length = 0;
    message.each_part(|part| length += part_size(part.len()));
    out.put_u32_le(STREAM_MAGIC);
    out.put_u32(length as u32);
    length
}

/// Cuts a byte stream into messages.
///
/// Feed bytes into [`StreamDecoder::buffer`], then call [`StreamDecoder::next`] until it
/// returns `None`. Memory grows with what has arrived, not with what a header announces.
#[derive(Debug, Default)]
pub struct StreamDecoder {
    buffer: BytesMut,
}

impl StreamDecoder {
    /// An empty decoder.
    pub fn new() -> StreamDecoder {
        StreamDecoder::default()
    }

    /// Where received bytes are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Makes room for the next bytes: at least `least`, and what the message that is arriving still
    /// needs, so that a large one is not moved again and again as it grows. A header alone gets
    /// no more than [`AHEAD_MAX`].
    pub fn reserve(&mut self, least: usize) {
        let wanted = match self.buffer.get(4..HEADER_LENGTH) {
            Some(mut length) => HEADER_LENGTH + length.get_u32() as usize,
            None => 0,
        };
        let missing = wanted.saturating_sub(self.buffer.len());
        let bound = self.buffer.len().max(AHEAD_MAX);
        self.buffer.reserve(missing.min(bound).max(least));
    }

    /// Whether the stream stopped in the middle of a message.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole message, sharing the buffer's memory; `None` until more bytes arrive.
    #[allow(
        clippy::should_implement_trait,
        reason = "not an iterator: None means not yet"
    )]
    pub fn next(&mut self) -> Result<Option<Message>, StreamError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_LENGTH>() else {
            return Ok(None);
        };
        let mut header = &header[..];
        let magic = header.get_u32_le();
        if magic != STREAM_MAGIC {
            return Err(StreamError::Magic(magic));
        }
        let length = header.get_u32() as usize;
        if length > MESSAGE_LENGTH_MAX {
            return Err(StreamError::TooLong(length));
        }
        if self.buffer.len() < HEADER_LENGTH + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_LENGTH);
        let mut body = self.buffer.split_to(length).freeze();
        let mut parts = Parts::new();
        while !body.is_empty() {
            parts.push(take_part(&mut body)?);
        }
        Ok(Some(Message::from_parts(&parts)?))
    }
}

fn take_part(body: &mut Bytes) -> Result<Bytes, StreamError> {
    let mut length = body.get_u8() as usize;
    if length == 255 {
        if body.len() < 4 {
            return Err(StreamError::Truncated);
        }
        length = body.get_u32() as usize;
    }
    if length > body.len() {
        return Err(StreamError::Truncated);
    }
    Ok(body.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Target;

    fn message(payload: usize) -> Message {
        Message::request("a.b".into(), Target::Any, None).with_payload(vec![b'x'; payload].into())
    }

    #[test]
    fn framing_is_magic_length_and_parts() {
        let mut out = BytesMut::new();
        encode_stream(&message(0), &mut out);
        assert_eq!(out[..8], [0x12, 0x00, 0xee, 0xff, 0, 0, 0, 26]);
        assert_eq!(out[8..13], [0, 3, b'a', b'.', b'b']);
        assert_eq!(out[13], 20);
    }

    #[test]
    fn messages_arrive_whole_whatever_the_chunks() {
        let sent: Vec<_> = [0, 1, 254, 255, 256, 70_000].map(message).into();
        let mut bytes = BytesMut::new();
        for message in &sent {
            encode_stream(message, &mut bytes);
        }
        for chunk in [1, 3, 7, 1000, bytes.len()] {
            let mut decoder = StreamDecoder::new();
            let mut received = Vec::new();
            for piece in bytes.chunks(chunk) {
                decoder.buffer().extend_from_slice(piece);
                while let Some(message) = decoder.next().expect("the stream is valid") {
                    received.push(message);
                }
            }
            assert!(!decoder.is_partial());
            assert_eq!(received, sent);
        }
    }

    #[test]
    fn bad_streams_are_refused() {
        let check = |bytes: &[u8]| {
            let mut decoder = StreamDecoder::new();
            decoder.buffer().extend_from_slice(bytes);
            decoder.next()
        };
        assert_eq!(check(b"GET / HT"), Err(StreamError::Magic(0x2054_4547)));
        assert_eq!(
            check(&[0x12, 0, 0xee, 0xff, 0x80, 0, 0, 0]),
            Err(StreamError::TooLong(0x8000_0000))
        );
        assert_eq!(
            check(&[0x12, 0, 0xee, 0xff, 0, 0, 0, 2, 9, 9]),
            Err(StreamError::Truncated)
        );
        assert_eq!(
            check(&[0x12, 0, 0xee, 0xff, 0, 0, 0, 0]),
            Err(StreamError::Message(DecodeError::Proto))
        );
        assert_eq!(check(&[0x12, 0]), Ok(None));
    }
}
