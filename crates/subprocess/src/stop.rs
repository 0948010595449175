//! Processes that stop before the first instruction of their program, for debuggers to attach to.

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use types::Errno;

/// Makes a process that `command` starts stop as it becomes its program. Whoever starts it then has
/// to [`leave_stopped`].
#[expect(unsafe_code, reason = "nothing else runs code before exec")]
pub(crate) fn in_exec(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: it is one system call.
    unsafe {
        command.pre_exec(|| Ok(ptrace::traceme()?));
    }
}

/// Waits until the process has become its program, which it does on the thread that started it, and
/// leaves it stopped by SIGSTOP. A process that has ended by then is left to whoever waits for it.
///
/// Errors: those of `waitid(2)` and `ptrace(2)`.
pub(crate) fn leave_stopped(pid: i32) -> Result<(), Errno> {
    let pid = Pid::from_raw(pid);
    let failed = |errno: nix::errno::Errno| Errno(errno as i32);
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(pid), flags).map_err(failed)? {
        WaitStatus::Exited(..) | WaitStatus::Signaled(..) => Ok(()),
        _ => ptrace::detach(pid, Signal::SIGSTOP).map_err(failed),
    }
}
