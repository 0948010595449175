//! One connection and the task that moves its bytes.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::ops::ControlFlow;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time;

use super::endpoint::Stream;
use super::{Closed, Options, Overflow, SendError};
use crate::connection::{Config, Connection, Event};

/// Room made in the read buffer when it runs low: a batch of small messages per system call.
const READ_SIZE: usize = 64 * 1024;
/// Below this much room a read is not worth its system call. Parts of messages keep their read
/// buffer alive, so a buffer is filled up before the next one is made.
const READ_MIN: usize = 4 * 1024;
/// What the protocol may queue of its own accord, beyond the limit for messages.
const ANSWERS_MAX: usize = 64 * 1024;
/// A write buffer that a burst made larger than this is given back.
const WRITE_BUFFER_MAX: usize = 1024 * 1024;

/// A connection that senders and its task share.
pub(crate) struct Link {
    state: RefCell<State>,
    /// There is something to write.
    written: Notify,
    /// `State::closing` was set.
    closed: Notify,
    options: Options,
}

struct State {
    connection: Connection,
    /// Encoded and not yet picked up by the writer.
    out: BytesMut,
    /// Picked up and not yet written.
    in_flight: usize,
    /// Set once: no more is sent.
    closing: bool,
    close_reason: Option<Closed>,
}

impl Link {
    pub(crate) fn new(config: Config, options: Options) -> Link {
        let mut out = BytesMut::new();
        let connection = Connection::new(config, &mut out);
        let state = State {
            connection,
            out,
            in_flight: 0,
            closing: false,
            close_reason: None,
        };
        Link {
            state: RefCell::new(state),
            written: Notify::new(),
            closed: Notify::new(),
            options,
        }
    }

    /// Queues a message.
    pub(crate) fn send<P: AsRef<[u8]>>(&self, parts: &[P]) -> Result<(), SendError> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if state.closing {
            return Err(SendError::Closed);
        }
        if state.out.len() + state.in_flight >= self.options.queue_bytes_max {
            drop(guard);
            if self.options.overflow == Overflow::Disconnect {
                self.close(Closed::Overflow);
            }
            return Err(SendError::Full);
        }
        let idle = state.out.is_empty();
        state
            .connection
            .send(parts, &mut state.out)
            .map_err(|_| SendError::Closed)?;
        if idle {
            self.written.notify_one();
        }
        Ok(())
    }

    /// Ends the connection once what is queued is written or the linger time is over.
    pub(crate) fn close(&self, reason: Closed) {
        let mut state = self.state.borrow_mut();
        if !state.closing {
            state.closing = true;
            state.close_reason = Some(reason);
            self.closed.notify_one();
        }
    }

    /// Runs the connection until it ends, and says why it did. `on_event` may send through this
    /// link; `Break` ends the connection with the given reason.
    pub(crate) async fn run(
        &self,
        stream: Stream,
        on_event: impl FnMut(Event) -> ControlFlow<Closed>,
    ) -> Closed {
        let Stream {
            mut reader,
            mut writer,
            ..
        } = stream;
        let mut writing = BytesMut::new();
        let reason = tokio::select! {
            biased;
            () = self.closed.notified() => Closed::Local,
            reason = self.read(&mut reader, on_event) => reason,
            error = self.write(&mut writer, &mut writing) => Closed::Io(error),
            () = self.handshake_deadline() => Closed::HandshakeTimeout,
        };
        let reason = self.finish(reason);
        if matches!(
            reason,
            Closed::Local | Closed::DuplicateIdentity | Closed::Protocol(_)
        ) {
            let parting = async {
                self.flush(&mut writer, &mut writing).await?;
                drain(&mut reader).await
            };
            // Failing to deliver the rest changes nothing: the connection ends either way.
            let _ = time::timeout(self.options.linger, parting).await;
        }
        reason
    }

    /// Stops senders and settles the reason: the first one given counts.
    fn finish(&self, reason: Closed) -> Closed {
        let mut state = self.state.borrow_mut();
        state.closing = true;
        state.close_reason.take().unwrap_or(reason)
    }

    async fn read<R: AsyncRead + Unpin>(
        &self,
        reader: &mut R,
        mut on_event: impl FnMut(Event) -> ControlFlow<Closed>,
    ) -> Closed {
        let mut input = BytesMut::new();
        loop {
            if input.capacity() - input.len() < READ_MIN {
                input.reserve(READ_SIZE);
            }
            match reader.read_buf(&mut input).await {
                Ok(0) => return Closed::Peer,
                Ok(_) => {}
                Err(error) => return Closed::Io(error),
            }
            loop {
                // The borrow ends before the callback runs, which may send.
                match self.feed(&mut input) {
                    Ok(None) => break,
                    Ok(Some(event)) => {
                        if let ControlFlow::Break(reason) = on_event(event) {
                            return reason;
                        }
                    }
                    Err(error) => return Closed::Protocol(error),
                }
            }
        }
    }

    fn feed(&self, input: &mut BytesMut) -> Result<Option<Event>, crate::Error> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if state.closing {
            return Err(crate::Error::NotOpen);
        }
        let queued = state.out.len();
        let event = state.connection.feed(input, &mut state.out);
        if state.out.len() > queued {
            // A handshake fits; a peer that pings without reading the answers does not, for long.
            let answers_max = self.options.queue_bytes_max.saturating_add(ANSWERS_MAX);
            if state.out.len() > answers_max {
                return Err(crate::Error::TooLarge("queue"));
            }
            self.written.notify_one();
        }
        event
    }

    async fn write<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        writing: &mut BytesMut,
    ) -> io::Error {
        loop {
            if writing.is_empty() && !self.pick_up(writing) {
                self.written.notified().await;
                continue;
            }
            match writer.write_buf(writing).await {
                Ok(0) => return io::ErrorKind::WriteZero.into(),
                Ok(_) => self.state.borrow_mut().in_flight = writing.len(),
                Err(error) => return error,
            }
        }
    }

    /// Exchanges the empty `writing` buffer for what is queued; false if nothing is.
    fn pick_up(&self, writing: &mut BytesMut) -> bool {
        let mut state = self.state.borrow_mut();
        if state.out.is_empty() {
            return false;
        }
        if writing.capacity() > WRITE_BUFFER_MAX {
            *writing = BytesMut::new();
        }
        mem::swap(writing, &mut state.out);
        state.in_flight = writing.len();
        true
    }

    async fn flush<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        writing: &mut BytesMut,
    ) -> io::Result<()> {
        writer.write_all_buf(writing).await?;
        let mut rest = mem::take(&mut self.state.borrow_mut().out);
        writer.write_all_buf(&mut rest).await?;
        writer.shutdown().await
    }

    /// Waits until the handshake has taken too long; for ever if it is over by then.
    async fn handshake_deadline(&self) {
        time::sleep(self.options.handshake_timeout).await;
        if self.state.borrow().connection.is_open() {
            std::future::pending::<()>().await;
        }
    }
}

/// Reads until the peer closes too. Closing with unread input would make the system reset the
/// connection, and with it drop what the peer has not received yet.
async fn drain<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<()> {
    let mut scrap = [0; 4096];
    while reader.read(&mut scrap).await? > 0 {}
    Ok(())
}
