//! Payload encodings: JSON objects with a trailing NUL (RFC 3), or raw bytes.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use types::Errno;

/// Why a payload is not what the RPC wants. `EPROTO` to the peer.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// JSON text must end with a NUL.
    #[error("payload is not NUL-terminated")]
    NotTerminated,
    /// JSON payloads are objects.
    #[error("payload is not a JSON object")]
    NotObject,
    /// Not JSON, or not the JSON expected.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl PayloadError {
    /// The error a peer is told.
    pub fn errno(&self) -> Errno {
        Errno::EPROTO
    }
}

/// What travels in a message's payload.
///
/// Every serde type is one, as a JSON object; [`Raw`] is bytes as they are.
pub trait Payload: Sized + 'static {
    /// The payload bytes; empty for no payload.
    fn encode(&self) -> Bytes;
    /// Reads payload bytes; `None` where the message has none.
    fn decode(payload: Option<&Bytes>) -> Result<Self, PayloadError>;
}

/// Encodes a value as a JSON payload, NUL included.
pub fn json_payload<T: Serialize + ?Sized>(value: &T) -> Bytes {
    let mut bytes = Vec::with_capacity(128);
    // Serialising to memory fails only for maps with non-string keys, which no payload has.
    if serde_json::to_writer(&mut bytes, value).is_err() {
        debug_assert!(false, "payload type does not serialise");
    }
    bytes.push(0);
    bytes.into()
}

impl<T: Serialize + DeserializeOwned + 'static> Payload for T {
    fn encode(&self) -> Bytes {
        json_payload(self)
    }

    fn decode(payload: Option<&Bytes>) -> Result<Self, PayloadError> {
        let Some(bytes) = payload else {
            return Ok(serde_json::from_str("{}")?);
        };
        let text = bytes
            .strip_suffix(b"\0")
            .ok_or(PayloadError::NotTerminated)?;
        if text.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(PayloadError::NotObject);
        }
        Ok(serde_json::from_slice(text)?)
    }
}

/// Bytes as they are: blobs, digests, log records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl Payload for Raw {
    fn encode(&self) -> Bytes {
        self.0.clone()
    }

    fn decode(payload: Option<&Bytes>) -> Result<Self, PayloadError> {
        Ok(Raw(payload.cloned().unwrap_or_default()))
    }
}

/// Nothing. Sent as no payload is not enough for some clients, which unpack an empty object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        name: String,
    }

    fn decode(bytes: &'static [u8]) -> Result<Sample, PayloadError> {
        Sample::decode(Some(&Bytes::from_static(bytes)))
    }

    #[test]
    fn json_payloads_are_terminated_objects() {
        let sample = Sample {
            name: "a\0b".into(),
        };
        assert_eq!(sample.encode(), &b"{\"name\":\"a\\u0000b\"}\0"[..]);
        assert_eq!(
            Sample::decode(Some(&sample.encode())).expect("own encoding"),
            sample
        );
        assert!(matches!(
            decode(b"{\"name\":\"a\"}"),
            Err(PayloadError::NotTerminated)
        ));
        assert!(matches!(decode(b"[\"a\"]\0"), Err(PayloadError::NotObject)));
        assert!(matches!(
            decode(b"{\"nome\":\"a\"}\0"),
            Err(PayloadError::Json(_))
        ));
        assert!(Sample::decode(None).is_err());
        assert_eq!(Empty::decode(None).expect("nothing is needed"), Empty {});
    }
}
