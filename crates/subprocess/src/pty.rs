//! Pseudo-terminals.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use tokio::io::unix::AsyncFd;
use types::Errno;

/// The master's side of a terminal.
#[derive(Debug)]
pub struct PtyMaster(AsyncFd<OwnedFd>);

fn winsize(rows: u16, cols: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn convert(errno: nix::Error) -> Errno {
    Errno(errno as i32)
}

impl PtyMaster {
    /// Opens a terminal of this size: the master's side and the process's.
    ///
    /// # Errors
    ///
    /// Those of `openpty(3)`.
    #[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
    pub fn open(rows: u16, cols: u16) -> Result<(PtyMaster, OwnedFd), Errno> {
        let pair = openpty(Some(&winsize(rows, cols)), None).map_err(convert)?;
        for fd in [&pair.master, &pair.slave] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(convert)?;
        }
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(convert)?;
        // SAFETY: an owned descriptor stays open and the same until it is dropped, which happens
        // only after it is deregistered.
        let master = unsafe { AsyncFd::register(pair.master) };
        let master = master.map_err(|error| Errno::from_io(&error.into()))?;
        Ok((PtyMaster(master), pair.slave))
    }

    /// Reads what the processes wrote; 0 once none has the terminal open. Cancel safe.
    ///
    /// # Errors
    ///
    /// Those of `read(2)`.
    pub async fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let read = |fd: &OwnedFd| nix::unistd::read(fd, buffer).map_err(io::Error::from);
        let mut read = read;
        loop {
            let mut ready = self
                .0
                .readable()
                .await
                .map_err(|error| Errno::from_io(&error))?;
            match ready.try_io(|inner| read(inner.get_ref())) {
                // Linux says so when the last process has closed its side.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(Err(error)) => return Err(Errno::from_io(&error)),
                Ok(Ok(count)) => return Ok(count),
                Err(_) => {}
            }
        }
    }

    /// Types on the terminal.
    ///
    /// # Errors
    ///
    /// Those of `write(2)`.
    pub async fn write_all(&self, mut data: &[u8]) -> Result<(), Errno> {
        while !data.is_empty() {
            let mut ready = self
                .0
                .writable()
                .await
                .map_err(|error| Errno::from_io(&error))?;
            let write = |inner: &AsyncFd<OwnedFd>| {
                nix::unistd::write(inner.get_ref(), data).map_err(io::Error::from)
            };
            match ready.try_io(write) {
                Ok(Ok(count)) => data = &data[count..],
                Ok(Err(error)) => return Err(Errno::from_io(&error)),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Changes the terminal's size.
    ///
    /// # Errors
    ///
    /// Those of `ioctl(2)`.
    #[expect(unsafe_code, reason = "no safe interface to this ioctl")]
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), Errno> {
        let size = winsize(rows, cols);
        // SAFETY: the descriptor is open and the argument is a winsize, as TIOCSWINSZ wants.
        let result = unsafe { libc::ioctl(self.0.get_ref().as_raw_fd(), libc::TIOCSWINSZ, &size) };
        nix::errno::Errno::result(result).map(drop).map_err(convert)
    }
}

/// Makes the process lead a session on the terminal that is its standard input.
#[expect(unsafe_code, reason = "nothing else can make a terminal a session's")]
pub(crate) fn lead_session(command: &mut std::process::Command) {
    let set_up = || {
        nix::unistd::setsid()?;
        // SAFETY: TIOCSCTTY takes an integer; a bad descriptor makes it fail.
        let result = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
        nix::errno::Errno::result(result)?;
        Ok(())
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(set_up);
    }
}
