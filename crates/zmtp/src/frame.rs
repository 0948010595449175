//! Frames: a flags byte, a length of one or eight bytes, and a body (ZMTP 3.1, "Framing").

use bytes::{Buf, BufMut, BytesMut};

use crate::error::Error;

/// More frames of the same message follow.
pub(crate) const MORE: u8 = 1;
const LONG: u8 = 2;
/// The frame is a command, not part of a message.
pub(crate) const COMMAND: u8 = 4;

const SHORT_MAX: usize = 255;

/// A frame off the wire.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) more: bool,
    pub(crate) command: bool,
    pub(crate) body: BytesMut,
}

/// The lengths of the header and the body of the frame that `input` begins with; `None` means more
/// bytes are needed to tell.
/// Errors: reserved flags, or a length that is none on this machine.
pub(crate) fn length(input: &[u8]) -> Result<Option<(usize, usize)>, Error> {
    let Some(&flags) = input.first() else {
        return Ok(None);
    };
    if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
        return Err(Error::BadFrame);
    }
    if flags & LONG == 0 {
        return Ok(input.get(1).map(|&length| (2, length.into())));
    }
    let Some(mut length) = input.get(1..9) else {
        return Ok(None);
    };
    let body = usize::try_from(length.get_u64()).map_err(|_| Error::TooLarge("frame"))?;
    Ok(Some((9, body)))
}

/// Takes a whole frame from the front of `input`; `None` means more bytes are needed.
/// Errors: reserved flags, or a body longer than `body_max`.
pub(crate) fn decode(input: &mut BytesMut, body_max: usize) -> Result<Option<Frame>, Error> {
    let Some((header_len, body_len)) = length(input)? else {
        return Ok(None);
    };
    if body_len > body_max {
        return Err(Error::TooLarge("frame"));
    }
    if input.len() - header_len < body_len {
        return Ok(None);
    }
    let flags = input[0];
    input.advance(header_len);
    let body = input.split_to(body_len);
    Ok(Some(Frame {
        more: flags & MORE != 0,
        command: flags & COMMAND != 0,
        body,
    }))
}

/// Appends the header of a frame whose body of `body_len` bytes follows.
pub(crate) fn put_header(flags: u8, body_len: usize, out: &mut BytesMut) {
    if body_len <= SHORT_MAX {
        out.put_slice(&[flags, body_len as u8]);
    } else {
        out.put_u8(flags | LONG);
        out.put_u64(body_len as u64);
    }
}

/// Appends a command frame: a name and its data in pieces.
pub(crate) fn put_command(name: &str, data: &[&[u8]], out: &mut BytesMut) {
    let data_len: usize = data.iter().map(|piece| piece.len()).sum();
    put_header(COMMAND, 1 + name.len() + data_len, out);
    out.put_u8(name.len() as u8);
    out.put_slice(name.as_bytes());
    for piece in data {
        out.put_slice(piece);
    }
}

/// Splits a command's body into name and data.
pub(crate) fn split_command(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&name_len, rest) = body.split_first()?;
    rest.split_at_checked(name_len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(len: usize, flags: u8) {
        let mut wire = BytesMut::new();
        put_header(flags, len, &mut wire);
        wire.put_bytes(7, len);
        let mut partial = BytesMut::from(&wire[..wire.len() - 1]);
        assert!(decode(&mut partial, usize::MAX).unwrap().is_none() || len == 0);
        let frame = decode(&mut wire, len).unwrap().unwrap();
        assert_eq!(frame.body.len(), len);
        assert_eq!(frame.more, flags & MORE != 0);
        assert!(wire.is_empty());
    }

    #[test]
    fn short_and_long_frames() {
        for len in [1, 255, 256, 70_000] {
            round_trip(len, 0);
            round_trip(len, MORE);
            round_trip(len, COMMAND);
        }
    }

    #[test]
    fn bad_headers_are_errors() {
        let check = |bytes: &[u8], expect| {
            assert_eq!(decode(&mut BytesMut::from(bytes), 100).unwrap_err(), expect);
        };
        check(&[8, 0], Error::BadFrame);
        check(&[MORE | COMMAND, 0], Error::BadFrame);
        check(&[0, 101], Error::TooLarge("frame"));
        check(
            &[2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
            Error::TooLarge("frame"),
        );
    }
}
