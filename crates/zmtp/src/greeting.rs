//! The 64 bytes each peer sends first (ZMTP 3.1, "Greeting").

use bytes::{BufMut, BytesMut};

use crate::error::Error;

/// Bytes of a greeting.
pub(crate) const GREETING_LEN: usize = 64;

const SIGNATURE_LEN: usize = 10;

/// What the peer's greeting says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// The security mechanism's name.
    pub(crate) mechanism: String,
    /// Whether the peer takes the server's part in it.
    pub(crate) as_server: bool,
}

/// Appends a greeting to `out`.
pub(crate) fn encode(mechanism: &str, as_server: bool, out: &mut BytesMut) {
    let end = out.len() + GREETING_LEN;
    out.put_slice(&[0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F]);
    out.put_slice(&[3, 1]);
    out.put_slice(mechanism.as_bytes());
    out.resize(end - 32, 0);
    out.put_u8(u8::from(as_server));
    out.resize(end, 0);
}

/// Reads a greeting from the front of `input`; `None` means more bytes are needed.
/// Errors: as soon as the bytes so far cannot begin a greeting we support.
pub(crate) fn decode(input: &mut BytesMut) -> Result<Option<Greeting>, Error> {
    if input.first().is_some_and(|b| *b != 0xFF)
        || input.get(SIGNATURE_LEN - 1).is_some_and(|b| *b != 0x7F)
    {
        return Err(Error::BadGreeting);
    }
    if let Some(&major) = input.get(SIGNATURE_LEN)
        && major < 3
    {
        return Err(Error::UnsupportedVersion(major, 0));
    }
    if input.len() < GREETING_LEN {
        return Ok(None);
    }
    let greeting = input.split_to(GREETING_LEN);
    let mechanism = greeting[12..32]
        .split(|b| *b == 0)
        .next()
        .unwrap_or_default();
    Ok(Some(Greeting {
        mechanism: String::from_utf8_lossy(mechanism).into_owned(),
        as_server: greeting[32] & 1 != 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let mut bytes = BytesMut::new();
        encode("CURVE", true, &mut bytes);
        assert_eq!(bytes.len(), GREETING_LEN);
        let mut partial = BytesMut::from(&bytes[..63]);
        assert_eq!(decode(&mut partial), Ok(None));
        let expect = Greeting {
            mechanism: "CURVE".into(),
            as_server: true,
        };
        assert_eq!(decode(&mut bytes), Ok(Some(expect)));
        assert!(bytes.is_empty());
    }

    #[test]
    fn strangers_are_refused_early() {
        let check = |bytes: &[u8], expect| assert_eq!(decode(&mut BytesMut::from(bytes)), expect);
        check(b"G", Err(Error::BadGreeting));
        check(&[0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0], Err(Error::BadGreeting));
        let zmtp2 = [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 1];
        check(&zmtp2, Err(Error::UnsupportedVersion(1, 0)));
    }
}
