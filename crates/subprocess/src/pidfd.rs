//! Waiting for a child that was not started with [`std::process::Command`].

use std::os::fd::{FromRawFd, OwnedFd};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use types::Errno;

/// Opens a descriptor that is readable once the process has ended.
#[expect(unsafe_code, reason = "no safe interface to this system call")]
fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: it takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = nix::errno::Errno::result(fd).map_err(|errno| Errno(errno as i32))?;
    // SAFETY: the call just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Whether the kernel can tell of a process's end by descriptor (Linux 5.3).
pub(crate) fn is_supported() -> bool {
    pidfd_open(std::process::id() as i32).is_ok()
}

/// A child of this process.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    /// `None` once it has been waited for.
    end: Option<AsyncFd<OwnedFd>>,
    status: i32,
}

impl Child {
    /// The child with this process id, which nobody has waited for.
    ///
    /// Errors: those of `pidfd_open(2)`.
    #[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
    pub(crate) fn new(pid: i32) -> Result<Child, Errno> {
        // SAFETY: an owned descriptor stays open and the same until it is dropped, which happens
        // only after it is deregistered.
        let end = unsafe { AsyncFd::register_with_interest(pidfd_open(pid)?, Interest::READABLE) };
        Ok(Child {
            pid: Pid::from_raw(pid),
            end: Some(end.map_err(|error| Errno::from_io(&error.into()))?),
            status: 0,
        })
    }

    /// Waits for its end. Returns the status as of `wait(2)`. Cancel safe.
    ///
    /// Errors: those of `wait(2)`.
    pub(crate) async fn wait(&mut self) -> Result<i32, Errno> {
        while let Some(end) = &self.end {
            let mut ready = end.readable().await.map_err(|e| Errno::from_io(&e))?;
            let waited = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
            match waited.map_err(|errno| Errno(errno as i32))? {
                WaitStatus::Exited(_, code) => self.status = (code & 0xff) << 8,
                WaitStatus::Signaled(_, signal, core) => {
                    self.status = signal as i32 | if core { 0x80 } else { 0 };
                }
                _ => {
                    ready.clear_ready();
                    continue;
                }
            }
            self.end = None;
        }
        Ok(self.status)
    }
}
