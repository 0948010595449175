//! The failure of a call: an error number and perhaps a text (RFC 6).

use std::fmt;

use types::Errno;

/// Why a call failed.
///
/// `Display` gives the text if there is one, else the error number's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// The machine-readable part.
    pub errno: Errno,
    /// What the service had to add.
    pub text: Option<String>,
}

impl RpcError {
    /// An error with a text.
    pub fn new(errno: Errno, text: impl Into<String>) -> RpcError {
        RpcError {
            errno,
            text: Some(text.into()),
        }
    }
}

impl From<Errno> for RpcError {
    fn from(errno: Errno) -> RpcError {
        RpcError { errno, text: None }
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => self.errno.fmt(f),
        }
    }
}

impl std::error::Error for RpcError {}

/// An engine's error that knows its number on the wire.
pub trait ToErrno: std::error::Error {
    /// The number.
    fn errno(&self) -> Errno;

    /// Number and text together.
    fn to_rpc(&self) -> RpcError {
        RpcError::new(self.errno(), self.to_string())
    }
}
