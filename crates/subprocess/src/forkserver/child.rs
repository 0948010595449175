//! The server's process, and what its children do before they become the program.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setpgid};
use types::Errno;

use super::request::{BODY_MAX, HEADER_SIZE, Request, decode_header, encode_reply};

/// Serves the broker at the other end of standard input until that is closed. Each child runs
/// `body` with the arguments of its request and ends with the code that returns.
///
/// The signals in `held` are blocked in the child: `body` unblocks them once it handles them, so
/// that one which comes early is not the child's end.
///
/// For the start of a program that has one thread and no descriptors of its own yet.
///
/// # Errors
///
/// Those of reading and writing, and `EPROTO` for what is no request.
pub fn serve(held: &[Signal], body: impl FnOnce(Vec<OsString>) -> u8) -> io::Result<u8> {
    let held: SigSet = held.iter().copied().collect();
    let title = Title::find();
    let mut broker = take_over_stdin()?;
    while let Some(arrived) = receive(&mut broker)? {
        held.thread_block()?;
        let forked = fork_sibling();
        if !matches!(forked, Ok(0)) {
            held.thread_unblock()?;
        }
        match forked {
            Ok(0) => {
                let argv = settle(broker, arrived, title.as_ref())?;
                return Ok(body(argv));
            }
            Ok(_) => {}
            Err(errno) => broker.write_all(&encode_reply(arrived.number, Err(errno)))?,
        }
    }
    Ok(0)
}

/// The connection, on a descriptor above the standard ones. Closes what the broker may have let
/// through by mistake, which children must not have.
#[expect(unsafe_code, reason = "nothing else closes what nobody owns")]
fn take_over_stdin() -> io::Result<UnixStream> {
    // SAFETY: nothing of this program is open above standard error. Old kernels lack the call.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
    let broker = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(broker.into())
}

/// A request as it came.
struct Arrived {
    number: u32,
    body: Vec<u8>,
    /// To become standard input, output and error.
    stdio: [OwnedFd; 3],
}

/// The next request; `None` once the broker is gone.
fn receive(broker: &mut UnixStream) -> io::Result<Option<Arrived>> {
    let mut header = [0; HEADER_SIZE];
    let mut control = nix::cmsg_space!([RawFd; 3]);
    let fds = {
        let mut parts = [IoSliceMut::new(&mut header)];
        let flags = MsgFlags::MSG_WAITALL | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(broker.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.bytes < HEADER_SIZE {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        take_fds(received.cmsgs()?)
    };
    let (number, size) = decode_header(header);
    let Some(stdio) = fds.filter(|_| size <= BODY_MAX) else {
        return Err(io::Error::from_raw_os_error(libc::EPROTO));
    };
    let mut body = vec![0; size];
    broker.read_exact(&mut body)?;
    Ok(Some(Arrived {
        number,
        body,
        stdio,
    }))
}

#[expect(unsafe_code, reason = "descriptors arrive as numbers")]
fn take_fds(messages: impl Iterator<Item = ControlMessageOwned>) -> Option<[OwnedFd; 3]> {
    let mut owned = Vec::new();
    for message in messages {
        if let ControlMessageOwned::ScmRights(fds) = message {
            // SAFETY: the kernel made these descriptors for this message, and only here are they
            // known.
            owned.extend(
                fds.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    owned.try_into().ok()
}

/// Forks a child whose parent is this process's own parent. Returns 0 in the child.
#[expect(unsafe_code, reason = "no safe interface to this system call")]
fn fork_sibling() -> Result<i64, Errno> {
    // SAFETY: without a new stack or shared memory this is fork(2), and this process has one
    // thread, so the child finds every lock free. Going around the C library leaves it with the
    // server's thread id in its notes, which matters to robust mutexes only.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0) };
    nix::errno::Errno::result(pid).map_err(|errno| Errno(errno as i32))
}

/// Makes this process what the request asks for, tells the broker of it and leaves the connection.
/// Returns the arguments. If this fails the process ends, and its standard error says why.
fn settle(
    mut broker: UnixStream,
    arrived: Arrived,
    title: Option<&Title>,
) -> io::Result<Vec<OsString>> {
    let prepared = prepare(&arrived.body, arrived.stdio);
    let reply = encode_reply(arrived.number, Ok(std::process::id() as i32));
    broker.write_all(&reply)?;
    drop(broker);
    let request = prepared?;
    set_environment(&request.env);
    if let Some(title) = title {
        title.set(&request.argv);
    }
    Ok(request.argv)
}

fn prepare(body: &[u8], stdio: [OwnedFd; 3]) -> io::Result<Request> {
    let request = Request::decode(body);
    let request = request.ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))?;
    if request.own_group {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    }
    let [stdin, stdout, stderr] = stdio;
    dup2_stdin(stdin)?;
    dup2_stdout(stdout)?;
    dup2_stderr(stderr)?;
    if !request.cwd.is_empty() {
        std::env::set_current_dir(&request.cwd)?;
    }
    Ok(request)
}

#[expect(unsafe_code, reason = "the environment is replaced")]
fn set_environment(env: &[(OsString, OsString)]) {
    // SAFETY: this process has one thread, and nothing holds on to what it read before.
    unsafe {
        libc::clearenv();
        for (name, value) in env {
            std::env::set_var(name, value);
        }
    }
}

/// Where the kernel finds the arguments it shows of this process.
struct Title {
    start: usize,
    size: usize,
}

impl Title {
    /// Errors are no matter: the process then shows the server's arguments.
    fn find() -> Option<Title> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the program's name in parentheses, and may hold anything.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split_ascii_whitespace().skip(45);
        let start: usize = fields.next()?.parse().ok()?;
        let end: usize = fields.next()?.parse().ok()?;
        let size = end.checked_sub(start)?;
        (start != 0 && size > 0).then_some(Title { start, size })
    }

    /// Shows these arguments, if they fit where the server's were.
    #[expect(unsafe_code, reason = "the arguments lie outside what Rust manages")]
    fn set(&self, argv: &[OsString]) {
        let mut text = Vec::with_capacity(self.size);
        for word in argv.iter().map(OsString::as_os_str).map(OsStr::as_bytes) {
            text.extend_from_slice(word);
            text.push(0);
        }
        if text.len() > self.size {
            return;
        }
        text.resize(self.size, 0);
        // SAFETY: the kernel put the arguments there at the start, writable and for the process's
        // own use; the size is theirs, the last byte the NUL of the last of them. Nothing reads
        // them at the same time, as there is one thread.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), self.start as *mut u8, self.size);
        }
    }
}
