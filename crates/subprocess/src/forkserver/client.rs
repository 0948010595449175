//! The broker's side of a fork server.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use types::Errno;

use super::request::{REPLY_SIZE, decode_reply, encode_header};
use crate::command::{Command, Process, Stdio};
use crate::pidfd;

/// A fork server, started when it is first needed and again after it died.
pub struct ForkServer {
    argv: Vec<OsString>,
    /// Whether the kernel has what is needed.
    supported: bool,
    connection: RefCell<Option<Rc<Connection>>>,
}

/// A request on its way out.
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// They travel with the first byte.
    stdio: Option<[OwnedFd; 3]>,
}

/// What goes to one server process and comes from it.
struct Connection {
    stream: UnixStream,
    queue: RefCell<VecDeque<Outgoing>>,
    wake: Notify,
    last: Cell<u32>,
    waiting: RefCell<BTreeMap<u32, oneshot::Sender<Result<i32, Errno>>>>,
    closed: Cell<bool>,
}

impl ForkServer {
    /// A server that is started with these arguments. The program has to call [`super::serve`].
    pub fn new<S: Into<OsString>>(argv: impl IntoIterator<Item = S>) -> ForkServer {
        ForkServer {
            argv: argv.into_iter().map(Into::into).collect(),
            supported: pidfd::is_supported(),
            connection: RefCell::new(None),
        }
    }

    /// Whether it can make a process of such a command.
    pub fn suits(&self, command: &Command) -> bool {
        let inherits = |stdio: &Stdio| matches!(stdio, Stdio::Inherit);
        self.supported
            && command.channels.is_empty()
            && !command.on_terminal
            && !inherits(&command.stdin)
            && !inherits(&command.stdout)
            && !inherits(&command.stderr)
    }

    /// Makes a process as [`Command::spawn`] does, except that it runs this server's program
    /// whatever the command's is. Should the server die meanwhile, the command is executed.
    ///
    /// # Errors
    ///
    /// Those of `fork(2)` and of [`Command::spawn`].
    pub async fn spawn(&self, command: Command) -> Result<Process, Errno> {
        let prepared = command.prepare()?;
        let body = prepared.request().encode()?;
        let reply = self.connection()?.send(&body, prepared.descriptors()?);
        match reply.await {
            Ok(pid) => prepared.forked(pid?),
            // There is no process of this request: its first act would have been to reply.
            Err(_) => prepared.spawn(),
        }
    }

    fn connection(&self) -> Result<Rc<Connection>, Errno> {
        let mut connection = self.connection.borrow_mut();
        if let Some(running) = connection.as_ref().filter(|running| !running.closed.get()) {
            return Ok(running.clone());
        }
        let started = Connection::start(&self.argv)?;
        *connection = Some(started.clone());
        Ok(started)
    }
}

impl Connection {
    /// Starts a server process.
    fn start(argv: &[OsString]) -> Result<Rc<Connection>, Errno> {
        let convert = |error: io::Error| Errno::from_io(&error);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(convert)?;
        ours.set_nonblocking(true).map_err(convert)?;
        let mut command = Command::new(argv);
        command.stdin = Stdio::Fd(theirs.into());
        command.stderr = Stdio::Inherit;
        let mut process = command.spawn()?;
        tokio::task::spawn_local(async move { process.wait().await });
        let connection = Rc::new(Connection {
            stream: UnixStream::from_std(ours).map_err(convert)?,
            queue: RefCell::default(),
            wake: Notify::new(),
            last: Cell::new(0),
            waiting: RefCell::default(),
            closed: Cell::new(false),
        });
        tokio::task::spawn_local(connection.clone().write_loop());
        tokio::task::spawn_local(connection.clone().read_loop());
        Ok(connection)
    }

    fn send(&self, body: &[u8], stdio: [OwnedFd; 3]) -> oneshot::Receiver<Result<i32, Errno>> {
        let (sender, reply) = oneshot::channel();
        let number = self.last.get().wrapping_add(1);
        self.last.set(number);
        let mut bytes = encode_header(number, body.len() as u32).to_vec();
        bytes.extend_from_slice(body);
        self.waiting.borrow_mut().insert(number, sender);
        self.queue.borrow_mut().push_back(Outgoing {
            bytes,
            sent: 0,
            stdio: Some(stdio),
        });
        if self.write_some().is_err() {
            // The reader sees the end, and tells those who wait.
            self.queue.borrow_mut().clear();
        } else if !self.queue.borrow().is_empty() {
            self.wake.notify_one();
        }
        reply
    }

    /// Writes what the socket takes now.
    fn write_some(&self) -> io::Result<()> {
        let mut queue = self.queue.borrow_mut();
        while let Some(first) = queue.front_mut() {
            let sent = self
                .stream
                .try_io(Interest::WRITABLE, || first.write(&self.stream));
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if first.sent == first.bytes.len() {
                queue.pop_front();
            }
        }
        Ok(())
    }

    async fn write_loop(self: Rc<Self>) {
        while !self.closed.get() {
            if self.queue.borrow().is_empty() {
                self.wake.notified().await;
                continue;
            }
            let written = match self.stream.writable().await {
                Ok(()) => self.write_some(),
                Err(error) => Err(error),
            };
            if written.is_err() {
                self.queue.borrow_mut().clear();
            }
        }
    }

    async fn read_loop(self: Rc<Self>) {
        let mut held = Vec::with_capacity(REPLY_SIZE);
        while self.read_some(&mut held).await.is_ok() {
            while let Some(reply) = held.first_chunk::<REPLY_SIZE>() {
                let (number, result) = decode_reply(*reply);
                held.drain(..REPLY_SIZE);
                if let Some(waiting) = self.waiting.borrow_mut().remove(&number) {
                    let _nobody_waits = waiting.send(result);
                }
            }
        }
        self.closed.set(true);
        self.wake.notify_one();
        self.queue.borrow_mut().clear();
        // Dropping the senders tells those who wait.
        self.waiting.borrow_mut().clear();
    }

    async fn read_some(&self, held: &mut Vec<u8>) -> io::Result<()> {
        loop {
            self.stream.readable().await?;
            let mut buffer = [0; 64 * REPLY_SIZE];
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    held.extend_from_slice(&buffer[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Outgoing {
    fn write(&mut self, stream: &UnixStream) -> io::Result<()> {
        let fds = self
            .stdio
            .as_ref()
            .map(|fds| fds.each_ref().map(AsRawFd::as_raw_fd));
        let control: Vec<_> = fds
            .iter()
            .map(|fds| ControlMessage::ScmRights(fds))
            .collect();
        let part = [IoSlice::new(&self.bytes[self.sent..])];
        let flags = MsgFlags::MSG_NOSIGNAL;
        self.sent += sendmsg::<()>(stream.as_raw_fd(), &part, &control, flags, None)?;
        self.stdio = None;
        Ok(())
    }
}
