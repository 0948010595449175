//! What a launcher leaves a process to find it by.

use std::os::fd::{BorrowedFd, FromRawFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// A launcher's connection and this process's place in the program.
#[derive(Debug)]
pub struct Launch {
    /// The connection to the server.
    pub socket: UnixStream,
    /// This process.
    pub rank: u32,
    /// How many there are, at least one more than `rank`.
    pub size: u32,
}

/// The environment names a launcher, but not one that can be used.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A variable has no number.
    #[error("{name}={text} is not a number")]
    Number {
        /// The variable.
        name: &'static str,
        /// What it has.
        text: String,
    },
    /// No such descriptor.
    #[error("PMI_FD={fd}: {errno}")]
    Descriptor {
        /// The number.
        fd: i32,
        /// Why it cannot be used.
        errno: nix::errno::Errno,
    },
    /// A rank that is not below the size.
    #[error("PMI_RANK={rank} and PMI_SIZE={size} do not fit")]
    Place {
        /// The rank.
        rank: u32,
        /// The size.
        size: u32,
    },
}

impl Launch {
    /// Takes what `PMI_FD`, `PMI_RANK` and `PMI_SIZE` name (RFC 13); `None` if one is not set. A
    /// process calls it once, because it takes the descriptor.
    #[expect(
        unsafe_code,
        reason = "takes ownership of a descriptor named in the environment"
    )]
    pub fn inherited() -> Result<Option<Launch>, LaunchError> {
        let (Some(fd), Some(rank), Some(size)) =
            (number("PMI_FD")?, number("PMI_RANK")?, number("PMI_SIZE")?)
        else {
            return Ok(None);
        };
        if rank >= size {
            return Err(LaunchError::Place { rank, size });
        }
        let wrong = |errno| LaunchError::Descriptor { fd, errno };
        if fd < 0 {
            return Err(wrong(nix::errno::Errno::EBADF));
        }
        // Programs this process starts have nothing to say to its launcher.
        let close = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
        // SAFETY: used for one call, which fails cleanly if the descriptor is not open.
        fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, close).map_err(wrong)?;
        // SAFETY: the launcher opened it for this process, and nothing else here uses it.
        let socket = unsafe { UnixStream::from_raw_fd(fd) };
        Ok(Some(Launch { socket, rank, size }))
    }
}

fn number<T: std::str::FromStr>(name: &'static str) -> Result<Option<T>, LaunchError> {
    let Some(text) = std::env::var_os(name) else {
        return Ok(None);
    };
    let text = text.to_string_lossy().into_owned();
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(LaunchError::Number { name, text }),
    }
}
