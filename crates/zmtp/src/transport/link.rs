//! One connection and the task that moves its bytes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time;

use super::endpoint::Stream;
use super::{Closed, Options, Overflow, SendError};
use crate::connection::{Config, Connection, Event, Multipart};

/// Room made in the read buffer when it runs low: a batch of small messages per system call.
const READ_SIZE: usize = 64 * 1024;
/// How much is set aside for a frame of which only the beginning has arrived.
const AHEAD_MAX: usize = 2 << 20;
/// Below this much room a read is not worth its system call. Parts of messages keep their read
/// buffer alive, so a buffer is filled up before the next one is made.
const READ_MIN: usize = 4 * 1024;
/// What the protocol may queue of its own accord, beyond the limit for messages.
const ANSWERS_MAX: usize = 64 * 1024;
/// Messages are encoded while less than this is left to write: enough for a system call. The
/// others wait as they are. Their parts are shared with whoever else holds them, a blob on its way
/// to every child for one, while what is encoded has to be kept for each peer.
const ENCODED_MIN: usize = 64 * 1024;
/// A write buffer that became larger than this is given back once nothing waits.
const WRITE_BUFFER_MAX: usize = 256 * 1024;
/// What a part that waits counts for beyond its bytes.
const PART_OVERHEAD: usize = 64;

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
    /// Messages that are not encoded yet.
    waiting: VecDeque<Multipart>,
    /// What they count for.
    waiting_bytes: usize,
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
            waiting: VecDeque::new(),
            waiting_bytes: 0,
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
    pub(crate) fn send(&self, parts: &[Bytes]) -> Result<(), SendError> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if state.closing || !state.connection.is_open() {
            return Err(SendError::Closed);
        }
        if state.queued() >= self.options.queue_bytes_max {
            drop(guard);
            if self.options.overflow == Overflow::Disconnect {
                self.close(Closed::Overflow);
            }
            return Err(SendError::Full);
        }
        let idle = state.out.is_empty();
        if state.has_room() && state.waiting.is_empty() {
            state
                .connection
                .send(parts, &mut state.out)
                .map_err(|_| SendError::Closed)?;
            if idle {
                self.written.notify_one();
            }
        } else {
            // The writer, which has something to write, sees to it next.
            state.waiting_bytes += weight(parts);
            state.waiting.push_back(parts.to_vec());
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
            self.reserve(&mut input);
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

    /// Makes room for the next bytes. A large frame gets a buffer of its own, in which it ends, so
    /// that it is not moved while it arrives, and keeps nothing else in memory.
    fn reserve(&self, input: &mut BytesMut) {
        let missing = self.state.borrow().connection.missing(input);
        if missing > READ_SIZE {
            input.reserve(missing.min(input.len().max(AHEAD_MAX)));
        } else if input.capacity() - input.len() < READ_MIN {
            input.reserve(READ_SIZE);
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
            if state.queued() > answers_max {
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
        state.encode();
        if state.waiting.is_empty() && writing.try_reclaim(WRITE_BUFFER_MAX) {
            *writing = BytesMut::new();
        }
        mem::swap(writing, &mut state.out);
        state.in_flight = writing.len();
        !writing.is_empty()
    }

    async fn flush<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        writing: &mut BytesMut,
    ) -> io::Result<()> {
        loop {
            writer.write_all_buf(writing).await?;
            if !self.pick_up(writing) {
                return writer.shutdown().await;
            }
        }
    }

    /// Waits until the handshake has taken too long; for ever if it is over by then.
    async fn handshake_deadline(&self) {
        time::sleep(self.options.handshake_timeout).await;
        if self.state.borrow().connection.is_open() {
            std::future::pending::<()>().await;
        }
    }
}

impl State {
    /// Bytes that wait to be written.
    fn queued(&self) -> usize {
        self.waiting_bytes + self.out.len() + self.in_flight
    }

    /// Whether the next message is to be encoded.
    fn has_room(&self) -> bool {
        self.out.len() + self.in_flight < ENCODED_MIN
    }

    /// Encodes messages that waited, when the writer has nothing in flight.
    fn encode(&mut self) {
        self.in_flight = 0;
        while self.has_room()
            && let Some(parts) = self.waiting.pop_front()
        {
            self.waiting_bytes -= weight(&parts);
            if self.connection.send(&parts, &mut self.out).is_err() {
                // It failed since, and its reader ends it.
                self.waiting.clear();
                self.waiting_bytes = 0;
            }
        }
    }
}

/// What a message that waits counts for.
fn weight(parts: &[Bytes]) -> usize {
    parts.iter().map(|part| part.len() + PART_OVERHEAD).sum()
}

/// Reads until the peer closes too. Closing with unread input would make the system reset the
/// connection, and with it drop what the peer has not received yet.
async fn drain<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<()> {
    let mut scrap = [0; 4096];
    while reader.read(&mut scrap).await? > 0 {}
    Ok(())
}
