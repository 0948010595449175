//! The job's part of the key-value store: eventlogs in its guest namespace.
//!
//! Appends collect and travel together. The first goes out after a short pause, so that what
//! belongs together shares a commit; while there is much to say the pause grows, up to the
//! batch timeout, so that a chatty job does not load the store.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::kvs::Txn;
use rpc::{Handle, RpcError};
use serde_json::{Map, Value};
use spec::stdio::StreamData;
use spec::{Entry, eventlog};
use tokio::sync::Notify;

/// The first pause.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Silence after which pauses are short again.
const QUIET: Duration = Duration::from_secs(1);
/// Bytes that go out without a pause. Small enough that the store works on one piece while the
/// next collects, and that buffers are used again.
const SIZE_MAX: usize = 256 << 10;

/// The keys of the guest namespace.
pub(crate) mod key {
    pub(crate) const EXEC: &str = "exec.eventlog";
    pub(crate) const OUTPUT: &str = "output";
    pub(crate) const INPUT: &str = "input";
}

/// Seconds since the epoch.
pub(crate) fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// The writer of a job's eventlogs.
pub(crate) struct Store {
    handle: Handle,
    namespace: String,
    /// Lines by key, in the order keys were first used.
    pending: RefCell<Vec<(&'static str, Vec<u8>)>>,
    size: Cell<usize>,
    /// The pause before the next commit, and when the last began.
    pause: Cell<Duration>,
    pause_max: Cell<Duration>,
    last: Cell<Option<Instant>>,
    timer: Cell<bool>,
    in_flight: Cell<u32>,
    settled: Notify,
    error: RefCell<Option<RpcError>>,
}

impl Store {
    pub(crate) fn new(handle: Handle, namespace: String) -> Rc<Store> {
        Rc::new(Store {
            handle,
            namespace,
            pending: RefCell::default(),
            size: Cell::new(0),
            pause: Cell::new(PAUSE_MIN),
            pause_max: Cell::new(Duration::from_millis(500)),
            last: Cell::new(None),
            timer: Cell::new(false),
            in_flight: Cell::new(0),
            settled: Notify::new(),
            error: RefCell::new(None),
        })
    }

    /// The longest pause.
    pub(crate) fn set_pause_max(&self, pause: Duration) {
        self.pause_max.set(pause);
        self.pause.set(self.pause.get().min(pause));
    }

    /// Adds an event to be stored with the next commit, whenever that is.
    pub(crate) fn add(&self, key: &'static str, name: &str, context: Map<String, Value>) {
        self.add_with(key, |lines| match context.is_empty() {
            true => lines.extend_from_slice(Entry::new(now(), name).encode().as_bytes()),
            false => eventlog::append(lines, now(), name, &context),
        });
    }

    fn add_with(&self, key: &'static str, add: impl FnOnce(&mut Vec<u8>)) {
        let mut pending = self.pending.borrow_mut();
        let at = pending.iter().position(|(other, _)| *other == key);
        let at = at.unwrap_or_else(|| {
            pending.push((key, Vec::new()));
            pending.len() - 1
        });
        let lines = &mut pending[at].1;
        let before = lines.len();
        add(lines);
        self.size.set(self.size.get() + lines.len() - before);
    }

    /// Adds a piece of output and sees to it that it is stored soon.
    pub(crate) fn append_data(self: &Rc<Self>, data: &StreamData) {
        self.add_with(key::OUTPUT, |lines| {
            eventlog::append(lines, now(), "data", data);
        });
        self.schedule();
    }

    /// Adds an event and sees to it that it is stored soon.
    pub(crate) fn append(
        self: &Rc<Self>,
        key: &'static str,
        name: &str,
        context: Map<String, Value>,
    ) {
        self.add(key, name, context);
        self.schedule();
    }

    /// Stores what there is after the pause.
    pub(crate) fn schedule(self: &Rc<Self>) {
        if self.size.get() >= SIZE_MAX {
            return self.flush();
        }
        if self.timer.replace(true) {
            return;
        }
        let quiet = self.last.get().is_none_or(|last| last.elapsed() > QUIET);
        let pause = if quiet { PAUSE_MIN } else { self.pause.get() };
        self.pause.set((pause * 2).min(self.pause_max.get()));
        self.flush_after(pause.min(self.pause_max.get()));
    }

    /// Stores what there is within this time.
    pub(crate) fn schedule_within(self: &Rc<Self>, pause: Duration) {
        if !self.timer.replace(true) {
            self.flush_after(pause);
        }
    }

    fn flush_after(self: &Rc<Self>, pause: Duration) {
        let store = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(pause).await;
            store.timer.set(false);
            store.flush();
        });
    }

    /// Sends what there is. Commits are applied in the order they are sent.
    pub(crate) fn flush(self: &Rc<Self>) {
        let pending = self.pending.take();
        if pending.is_empty() {
            return;
        }
        self.size.set(0);
        self.last.set(Some(Instant::now()));
        let mut txn = Txn::new();
        for (key, lines) in &pending {
            txn.append(key, lines);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let store = self.clone();
        // Polled at once so that the request leaves now.
        tokio::task::spawn_local(async move {
            let result = txn.commit(&store.handle, &store.namespace, 0).await;
            if let Err(error) = result {
                store.error.borrow_mut().get_or_insert(error);
            }
            store.in_flight.set(store.in_flight.get() - 1);
            store.settled.notify_waiters();
        });
    }

    /// Stores what there is and waits until all is stored.
    ///
    /// # Errors
    ///
    /// The first commit that failed.
    pub(crate) async fn sync(self: &Rc<Self>) -> Result<(), RpcError> {
        self.flush();
        loop {
            let settled = self.settled.notified();
            if self.in_flight.get() == 0 {
                break;
            }
            settled.await;
        }
        self.error.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// Waits while more than a few commits are on their way.
    pub(crate) async fn relieved(&self) {
        loop {
            let settled = self.settled.notified();
            if self.in_flight.get() < 4 {
                return;
            }
            settled.await;
        }
    }
}
