//! Z85, the text form of binary keys (ZeroMQ RFC 32).

use thiserror::Error;

const DIGITS: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// Text or data that has no Z85 form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Z85Error {
    /// Data must be a multiple of 4 bytes, text a multiple of 5 characters.
    #[error("length is not a multiple of the Z85 group size")]
    Length,
    /// A character outside the alphabet, or a group above 2^32 - 1.
    #[error("not valid Z85")]
    Digit,
}

/// Encodes `data` as Z85 text.
/// Errors: [`Z85Error::Length`] unless the length is a multiple of 4.
pub fn z85_encode(data: &[u8]) -> Result<String, Z85Error> {
    let (groups, rest) = data.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Z85Error::Length);
    }
    let mut text = String::with_capacity(data.len() / 4 * 5);
    for group in groups {
        let value = u32::from_be_bytes(*group);
        for power in [85 * 85 * 85 * 85, 85 * 85 * 85, 85 * 85, 85, 1] {
            text.push(char::from(DIGITS[(value / power % 85) as usize]));
        }
    }
    Ok(text)
}

/// Decodes Z85 text.
/// Errors: [`Z85Error`] for a bad length or character.
pub fn z85_decode(text: &str) -> Result<Vec<u8>, Z85Error> {
    let (groups, rest) = text.as_bytes().as_chunks::<5>();
    if !rest.is_empty() {
        return Err(Z85Error::Length);
    }
    let mut data = Vec::with_capacity(groups.len() * 4);
    for group in groups {
        let mut value: u64 = 0;
        for digit in group {
            let digit = DIGITS
                .iter()
                .position(|d| d == digit)
                .ok_or(Z85Error::Digit)?;
            value = value * 85 + digit as u64;
        }
        let value = u32::try_from(value).map_err(|_| Z85Error::Digit)?;
        data.extend_from_slice(&value.to_be_bytes());
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_32_example() {
        let data = [0x86, 0x4F, 0xD2, 0x6F, 0xB5, 0x59, 0xF7, 0x5B];
        assert_eq!(z85_encode(&data).unwrap(), "HelloWorld");
        assert_eq!(z85_decode("HelloWorld").unwrap(), data);
    }

    #[test]
    fn bad_text_is_refused() {
        assert_eq!(z85_encode(&[0; 3]), Err(Z85Error::Length));
        assert_eq!(z85_decode("Hell"), Err(Z85Error::Length));
        assert_eq!(z85_decode("Hell~"), Err(Z85Error::Digit));
        assert_eq!(z85_decode("#####"), Err(Z85Error::Digit));
    }

    proptest! {
        #[test]
        fn round_trip(words in proptest::collection::vec(any::<[u8; 4]>(), 0..20)) {
            let data = words.concat();
            prop_assert_eq!(z85_decode(&z85_encode(&data).unwrap()).unwrap(), data);
        }

        #[test]
        fn decode_never_panics(text in ".*") {
            let _ = z85_decode(&text);
        }
    }
}
