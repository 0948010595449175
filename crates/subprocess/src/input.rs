//! What a process reads, within a bound.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// More was written than fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("buffer full")]
pub struct Full;

struct Inner {
    buffer: RefCell<BytesMut>,
    /// Bytes accepted and not yet drained.
    held: Cell<usize>,
    max: usize,
    closing: Cell<bool>,
    closed: Cell<bool>,
    /// Bytes drained and not yet reported.
    drained: Cell<usize>,
    wake_pump: Notify,
    wake_credit: Notify,
}

/// A stream a process reads from. Clones are the same stream.
#[derive(Clone)]
pub struct Input(Rc<Inner>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input")
            .field("held", &self.0.held)
            .field("max", &self.0.max)
            .finish_non_exhaustive()
    }
}

impl Input {
    /// A stream written to `sink`, that holds at most `max` bytes.
    pub fn new(sink: impl AsyncWrite + 'static, max: usize) -> Input {
        let inner = Rc::new(Inner {
            buffer: RefCell::default(),
            held: Cell::new(0),
            max,
            closing: Cell::new(false),
            closed: Cell::new(false),
            drained: Cell::new(0),
            wake_pump: Notify::new(),
            wake_credit: Notify::new(),
        });
        tokio::task::spawn_local(inner.clone().pump(Box::pin(sink)));
        Input(inner)
    }

    /// Bytes it holds at most.
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// Adds data. After the end, and when the process does not read any more, it is dropped.
    ///
    /// # Errors
    ///
    /// [`Full`], and nothing is added.
    pub fn write(&self, data: &[u8]) -> Result<(), Full> {
        let inner = &self.0;
        if inner.closing.get() || inner.closed.get() {
            return Ok(());
        }
        if inner.held.get() + data.len() > inner.max {
            return Err(Full);
        }
        inner.held.set(inner.held.get() + data.len());
        inner.buffer.borrow_mut().extend_from_slice(data);
        inner.wake_pump.notify_one();
        Ok(())
    }

    /// Ends the stream after what it holds.
    pub fn close(&self) {
        self.0.closing.set(true);
        self.0.wake_pump.notify_one();
    }

    /// How many more bytes have gone to the process since last asked; waits for some. `None` once
    /// the stream has ended.
    pub async fn credit(&self) -> Option<usize> {
        loop {
            let drained = self.0.drained.take();
            if drained > 0 {
                return Some(drained);
            }
            if self.0.closed.get() {
                return None;
            }
            self.0.wake_credit.notified().await;
        }
    }
}

impl Inner {
    async fn pump(self: Rc<Self>, mut sink: Pin<Box<dyn AsyncWrite>>) {
        loop {
            let mut chunk = self.buffer.take();
            if chunk.is_empty() {
                if self.closing.get() {
                    break;
                }
                self.wake_pump.notified().await;
                continue;
            }
            while chunk.has_remaining() {
                // A process that reads no more is no failure of ours.
                let Ok(count) = sink.write(&chunk).await else {
                    return self.end();
                };
                chunk.advance(count);
                self.held.set(self.held.get() - count);
                self.drained.set(self.drained.get() + count);
                self.wake_credit.notify_one();
            }
        }
        drop(sink);
        self.end();
    }

    fn end(&self) {
        self.closed.set(true);
        self.buffer.take();
        self.wake_credit.notify_one();
    }
}
