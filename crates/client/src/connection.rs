//! The traffic of one connection: a writer and a reader task around a stream socket.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use rpc::{Handle, RpcError, Transport};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use types::{Cred, Errno};
use wire::{Kind, Message, StreamDecoder, StreamOutput};

use crate::trace::Trace;

/// Bytes a client may have waiting for the broker. A program that makes more calls than the
/// broker can read is in error unless it waits for [`Link::drained`]; past this the connection is
/// given up rather than memory.
const OUTPUT_MAX: usize = 512 << 20;

/// Bytes waiting above which [`Link::drained`] waits.
const OUTPUT_LOW: usize = 1 << 20;

/// Events and requests a program may leave unread. One that subscribes must also read.
pub(crate) const INCOMING_MAX: usize = 1 << 16;

/// What the tasks of a connection and its handle share.
pub(crate) struct Link {
    stream: UnixStream,
    output: RefCell<StreamOutput>,
    wake_writer: Notify,
    drained: Notify,
    closed: Cell<bool>,
    wake_reaper: Notify,
    cred: Cred,
    incoming: RefCell<Option<mpsc::Sender<Message>>>,
    trace: Option<Trace>,
}

impl Link {
    pub(crate) fn new(stream: UnixStream, cred: Cred) -> Rc<Link> {
        Rc::new(Link {
            stream,
            output: RefCell::default(),
            wake_writer: Notify::new(),
            drained: Notify::new(),
            closed: Cell::new(false),
            wake_reaper: Notify::new(),
            cred,
            incoming: RefCell::new(None),
            trace: Trace::wanted(),
        })
    }

    /// Starts the tasks. They end with the runtime.
    pub(crate) fn start(self: &Rc<Self>, handle: &Handle) {
        tokio::task::spawn_local(self.clone().write_loop());
        tokio::task::spawn_local(self.clone().read_loop(handle.clone()));
    }

    /// Where events and requests go from now on.
    pub(crate) fn take_incoming(&self) -> mpsc::Receiver<Message> {
        let (sender, receiver) = mpsc::channel(INCOMING_MAX);
        *self.incoming.borrow_mut() = Some(sender);
        receiver
    }

    /// Whether the connection is lost.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Waits until little is left to send.
    pub(crate) async fn drained(&self, limit: Option<usize>) {
        let limit = limit.unwrap_or(OUTPUT_LOW);
        while self.output.borrow().len() > limit && !self.closed.get() {
            self.drained.notified().await;
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.output.borrow_mut().clear();
        self.incoming.borrow_mut().take();
        self.drained.notify_waiters();
        self.wake_reaper.notify_one();
    }

    /// Writes what the socket takes now.
    fn write_some(&self) -> io::Result<()> {
        let mut output = self.output.borrow_mut();
        while !output.is_empty() {
            let written = self.stream.try_write_vectored(&output.slices());
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => output.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn write_loop(self: Rc<Self>) {
        while !self.closed.get() {
            if self.output.borrow().is_empty() {
                self.wake_writer.notified().await;
                continue;
            }
            let written = match self.stream.writable().await {
                Ok(()) => self.write_some(),
                Err(error) => Err(error),
            };
            if written.is_err() {
                // The reader sees the end of the stream once it has read what is left.
                self.output.borrow_mut().clear();
            }
            if self.output.borrow().len() <= OUTPUT_LOW {
                self.drained.notify_waiters();
            }
        }
    }

    async fn read_loop(self: Rc<Self>, handle: Handle) {
        let mut decoder = StreamDecoder::new();
        loop {
            if self.closed.get() || self.read_some(&mut decoder).await.is_err() {
                break;
            }
            loop {
                match decoder.next() {
                    Ok(Some(message)) => self.deliver(&handle, message),
                    Ok(None) => break,
                    Err(_) => return self.reap(&handle).await,
                }
            }
        }
        self.reap(&handle).await;
    }

    async fn read_some(&self, decoder: &mut StreamDecoder) -> io::Result<()> {
        loop {
            tokio::select! {
                ready = self.stream.readable() => ready?,
                () = self.wake_reaper.notified() => return Err(io::ErrorKind::ConnectionReset.into()),
            }
            decoder.reserve(16 << 10);
            match self.stream.try_read_buf(decoder.buffer()) {
                Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn deliver(&self, handle: &Handle, message: Message) {
        if let Some(trace) = &self.trace {
            trace.show(&message);
        }
        if matches!(message.kind, Kind::Response { .. }) && message.routes().is_empty() {
            return handle.on_response(message);
        }
        let full = match &*self.incoming.borrow() {
            Some(sender) => matches!(
                sender.try_send(message),
                Err(mpsc::error::TrySendError::Full(_))
            ),
            None => false,
        };
        if full {
            self.close();
        }
    }

    /// Fails every call under way, and from then on every new one.
    async fn reap(&self, handle: &Handle) {
        self.close();
        let error = RpcError::from(Errno::ECONNRESET);
        // Closing left a permit, so that the first turn fails what is under way.
        loop {
            self.wake_reaper.notified().await;
            handle.fail_pending(&error);
        }
    }
}

impl Transport for Link {
    fn send(&self, mut message: Message) {
        if self.closed.get() {
            return self.wake_reaper.notify_one();
        }
        if self.cred != Cred::UNKNOWN {
            message.cred = self.cred;
        }
        if let Some(trace) = &self.trace {
            trace.show(&message);
        }
        let waiting = {
            let mut output = self.output.borrow_mut();
            let waiting = !output.is_empty();
            output.push(&message);
            waiting
        };
        if waiting {
            if self.output.borrow().len() > OUTPUT_MAX {
                self.close();
            }
            return;
        }
        // An error shows at the reader too, which then fails the call.
        if self.write_some().is_err() {
            self.output.borrow_mut().clear();
        } else if !self.output.borrow().is_empty() {
            self.wake_writer.notify_one();
        }
    }
}
