//! Addresses of blobs in the content store (RFC 10).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha1::Digest as _;
use types::Errno;

/// The hash algorithms an instance may be configured with (`content.hash`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HashKind {
    /// SHA-1, the default.
    #[default]
    Sha1,
    /// SHA-256.
    Sha256,
}

impl HashKind {
    /// The name in the `content.hash` attribute and in blobrefs.
    pub fn name(self) -> &'static str {
        match self {
            HashKind::Sha1 => "sha1",
            HashKind::Sha256 => "sha256",
        }
    }

    /// The algorithm of that name.
    pub fn from_name(name: &str) -> Option<HashKind> {
        match name {
            "sha1" => Some(HashKind::Sha1),
            "sha256" => Some(HashKind::Sha256),
            _ => None,
        }
    }

    /// The length of a digest in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            HashKind::Sha1 => 20,
            HashKind::Sha256 => 32,
        }
    }
}

/// The text or digest is no blobref (RFC 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid blobref")]
pub struct BlobRefError;

impl BlobRefError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(self) -> Errno {
        Errno::EINVAL
    }
}

/// The address of a blob: the digest of its content (RFC 10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlobRef {
    /// A SHA-1 digest.
    Sha1([u8; 20]),
    /// A SHA-256 digest.
    Sha256([u8; 32]),
}

impl BlobRef {
    /// The address of a blob.
    pub fn hash(kind: HashKind, blob: &[u8]) -> BlobRef {
        match kind {
            HashKind::Sha1 => BlobRef::Sha1(sha1::Sha1::digest(blob).into()),
            HashKind::Sha256 => BlobRef::Sha256(sha2::Sha256::digest(blob).into()),
        }
    }

    /// The address with the given digest, as content messages carry it.
    ///
    /// Errors: [`BlobRefError`] if the length is not that of `kind`.
    pub fn from_digest(kind: HashKind, digest: &[u8]) -> Result<BlobRef, BlobRefError> {
        match kind {
            HashKind::Sha1 => digest.try_into().map(BlobRef::Sha1),
            HashKind::Sha256 => digest.try_into().map(BlobRef::Sha256),
        }
        .map_err(|_| BlobRefError)
    }

    /// The raw digest.
    pub fn digest(&self) -> &[u8] {
        match self {
            BlobRef::Sha1(digest) => digest,
            BlobRef::Sha256(digest) => digest,
        }
    }

    /// The algorithm the digest was made with.
    pub fn kind(&self) -> HashKind {
        match self {
            BlobRef::Sha1(_) => HashKind::Sha1,
            BlobRef::Sha256(_) => HashKind::Sha256,
        }
    }
}

impl fmt::Display for BlobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(72);
        text.push_str(self.kind().name());
        text.push('-');
        for byte in self.digest() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for BlobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobRef {
    type Err = BlobRefError;

    fn from_str(text: &str) -> Result<BlobRef, BlobRefError> {
        let (name, hex) = text.split_once('-').ok_or(BlobRefError)?;
        let kind = HashKind::from_name(name).ok_or(BlobRefError)?;
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(BlobRefError),
        };
        if hex.len() != kind.digest_len() * 2 {
            return Err(BlobRefError);
        }
        let mut digest = [0u8; 32];
        for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        BlobRef::from_digest(kind, &digest[..kind.digest_len()])
    }
}

impl Serialize for BlobRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlobRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BlobRef, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_10_is_the_digest_of_foo() {
        let text = "sha1-f1d2d2f924e986ac86fdf7b36c94bcdf32beec15";
        assert_eq!(BlobRef::hash(HashKind::Sha1, b"foo\n").to_string(), text);
        assert_eq!(text.parse(), Ok(BlobRef::hash(HashKind::Sha1, b"foo\n")));
    }

    #[test]
    fn sha256_of_nothing() {
        assert_eq!(
            BlobRef::hash(HashKind::Sha256, b"").to_string(),
            "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn refuses_other_text() {
        for text in [
            "",
            "sha1",
            "sha1-",
            "sha1-f1d2",
            "md5-f1d2d2f924e986ac86fdf7b36c94bcdf",
            "sha1-F1D2D2F924E986AC86FDF7B36C94BCDF32BEEC15",
            "sha256-f1d2d2f924e986ac86fdf7b36c94bcdf32beec15",
            "sha1-f1d2d2f924e986ac86fdf7b36c94bcdf32beec1g",
            "sha1-f1d2d2f924e986ac86fdf7b36c94bcdf32beec155",
        ] {
            assert_eq!(text.parse::<BlobRef>(), Err(BlobRefError), "{text}");
        }
        assert!(BlobRef::from_digest(HashKind::Sha1, &[0; 19]).is_err());
    }

    proptest! {
        #[test]
        fn round_trips(blob in proptest::collection::vec(any::<u8>(), 0..100)) {
            for kind in [HashKind::Sha1, HashKind::Sha256] {
                let blobref = BlobRef::hash(kind, &blob);
                prop_assert_eq!(blobref.to_string().parse(), Ok(blobref));
                prop_assert_eq!(BlobRef::from_digest(kind, blobref.digest()), Ok(blobref));
            }
        }
    }
}
