//! Why a look-up or a transaction fails, and the number clients see.

use types::Errno;

/// A failure of the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key does not exist.
    #[error("key does not exist")]
    NoEntry,
    /// A value was wanted, or appended to, and the key is a directory.
    #[error("key is a directory")]
    IsDirectory,
    /// A directory was wanted and the key is none.
    #[error("key is not a directory")]
    NotDirectory,
    /// A link was wanted and the key is none.
    #[error("key is not a symbolic link")]
    NotLink,
    /// Too many links on the way.
    #[error("too many levels of symbolic links")]
    Loop,
    /// The namespace does not exist or is being removed.
    #[error("namespace does not exist")]
    NoNamespace,
    /// The namespace belongs to someone else.
    #[error("namespace belongs to another user")]
    Denied,
    /// A value's pieces are too large together.
    #[error("value is too large")]
    Overflow,
    /// The root directory is replaced, or the path is too deep or leaves the namespace.
    #[error("invalid key for a transaction")]
    BadKey,
    /// The root reference a request brought along is no directory.
    #[error("root reference is not a directory")]
    BadRoot,
    /// Appending to a link.
    #[error("cannot append to a symbolic link")]
    AppendToLink,
    /// A checkpoint of a namespace that has none.
    #[error("only the primary namespace can be synchronised")]
    NoCheckpoint,
    /// A blob that should be a directory is none.
    #[error("directory is corrupt")]
    Corrupt,
}

impl Error {
    /// The number on the wire.
    pub fn errno(&self) -> Errno {
        match self {
            Error::NoEntry => Errno::ENOENT,
            Error::IsDirectory => Errno::EISDIR,
            Error::NotDirectory => Errno::ENOTDIR,
            Error::Loop => Errno::ELOOP,
            Error::NoNamespace => Errno::ENOTSUP,
            Error::Denied => Errno::EPERM,
            Error::Overflow => Errno::EOVERFLOW,
            Error::NotLink | Error::BadKey | Error::BadRoot | Error::NoCheckpoint => Errno::EINVAL,
            Error::AppendToLink => Errno::EOPNOTSUPP,
            Error::Corrupt => Errno::ENOTRECOVERABLE,
        }
    }
}
