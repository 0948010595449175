//! What can go wrong on a connection. Every error ends the connection it happened on.

use thiserror::Error;

use crate::keys::PublicKey;

/// A failed connection: the peer broke the protocol, was refused, or refused us.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The first bytes are not a ZMTP greeting.
    #[error("peer does not speak ZMTP")]
    BadGreeting,
    /// The peer's protocol major version is below 3.
    #[error("peer speaks unsupported ZMTP version {0}.{1}")]
    UnsupportedVersion(u8, u8),
    /// The peers are configured with different security mechanisms.
    #[error("security mechanism mismatch: peer wants {0}")]
    MechanismMismatch(String),
    /// Both peers are CURVE servers.
    #[error("both peers take the same security role")]
    RoleMismatch,
    /// A frame header has reserved bits set or a length no frame can have.
    #[error("malformed frame")]
    BadFrame,
    /// A command is malformed or out of place; says which.
    #[error("malformed or unexpected command: {0}")]
    BadCommand(&'static str),
    /// The peer's metadata does not parse.
    #[error("malformed metadata")]
    BadMetadata,
    /// A frame or message is larger than [`crate::Limits`] allows.
    #[error("{0} exceeds the size limit")]
    TooLarge(&'static str),
    /// A box did not open: wrong key, or tampering.
    #[error("decryption failed: wrong key or corrupt data")]
    Decrypt,
    /// A nonce was used twice or went backwards: a replay.
    #[error("nonce out of sequence")]
    Nonce,
    /// The client's key is not on the allow list.
    #[error("No access for client key {0}")]
    Unauthorized(PublicKey),
    /// The peer's socket type cannot talk to ours.
    #[error("incompatible peer socket type {0}")]
    IncompatibleSocket(String),
    /// The peer sent an ERROR command with this reason (`400` means our key was refused).
    #[error("peer refused the connection: {0}")]
    Refused(String),
    /// The connection is not ready for messages, or has failed before.
    #[error("connection is not open")]
    NotOpen,
}
