//! Calls under way: matchtags, and the futures that wait for responses.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use proto::Payload;
use types::{Errno, Matchtag};
use wire::{Kind, Message, Topic};

use crate::RpcError;

/// Responses that arrived for one call and were not taken yet.
#[derive(Default)]
struct Slot {
    queue: VecDeque<Message>,
    waker: Option<Waker>,
}

/// The calls of one handle, by matchtag.
///
/// A tag returns to the pool only when its final response has arrived, even if the caller no
/// longer waits: a late response must not answer a newer call.
#[derive(Default)]
pub(crate) struct Pending {
    calls: RefCell<HashMap<u32, Rc<RefCell<Slot>>>>,
    free: RefCell<Vec<u32>>,
    highest: Cell<u32>,
    /// Calls without a matchtag, whose response is known by its topic, oldest first.
    untagged: RefCell<Vec<(Topic, Rc<RefCell<Slot>>)>>,
    unmatched: RefCell<Option<Unmatched>>,
}

/// Takes responses without a matchtag.
pub(crate) type Unmatched = Box<dyn Fn(Message)>;

impl Pending {
    pub(crate) fn set_unmatched(&self, sink: Unmatched) {
        *self.unmatched.borrow_mut() = Some(sink);
    }

    pub(crate) fn begin(self: &Rc<Self>) -> RawStream {
        let tag = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let tag = self.highest.get() + 1;
            self.highest.set(tag);
            tag
        });
        let slot = Rc::new(RefCell::new(Slot::default()));
        self.calls.borrow_mut().insert(tag, slot.clone());
        RawStream {
            slot,
            tag: Matchtag(tag),
        }
    }

    /// A call without a matchtag: its response will be known by its topic.
    pub(crate) fn begin_untagged(&self, topic: Topic) -> RawStream {
        let slot = Rc::new(RefCell::new(Slot::default()));
        self.untagged.borrow_mut().push((topic, slot.clone()));
        RawStream {
            slot,
            tag: Matchtag(0),
        }
    }

    fn on_untagged(&self, message: Message) {
        let slot = {
            let mut untagged = self.untagged.borrow_mut();
            let found = untagged
                .iter()
                .position(|(topic, _)| Some(topic) == message.topic.as_ref());
            match found {
                Some(at) => untagged.remove(at).1,
                None => {
                    drop(untagged);
                    if let Some(sink) = &*self.unmatched.borrow() {
                        sink(message);
                    }
                    return;
                }
            }
        };
        deliver(&slot, message);
    }

    /// Hands a response to its call. Those nobody waits for any more only retire their tag.
    pub(crate) fn on_response(&self, message: Message) {
        let Kind::Response { errno, matchtag } = message.kind else {
            return;
        };
        let Some(tag) = matchtag else {
            return self.on_untagged(message);
        };
        let last = errno.is_some() || !message.is_streaming();
        let slot = if last {
            let slot = self.calls.borrow_mut().remove(&tag.0);
            if slot.is_some() {
                self.free.borrow_mut().push(tag.0);
            }
            slot
        } else {
            self.calls.borrow().get(&tag.0).cloned()
        };
        let Some(slot) = slot else { return };
        if Rc::strong_count(&slot) == if last { 1 } else { 2 } {
            // Only the table and this function hold it: the caller is gone, keep nothing.
            return;
        }
        deliver(&slot, message);
    }

    /// Fails every call under way, as when the connection is lost.
    pub(crate) fn fail_all(&self, error: &RpcError) {
        let calls = std::mem::take(&mut *self.calls.borrow_mut());
        for (tag, slot) in calls {
            let mut message = Message::request("".into(), wire::Target::Any, Some(Matchtag(tag)));
            message.kind = Kind::Response {
                errno: Some(error.errno),
                matchtag: Some(Matchtag(tag)),
            };
            if let Some(text) = &error.text {
                message = message.with_text(text);
            }
            self.free.borrow_mut().push(tag);
            deliver(&slot, message);
        }
        for (topic, slot) in std::mem::take(&mut *self.untagged.borrow_mut()) {
            let mut message = Message::request(topic, wire::Target::Any, None);
            message.kind = Kind::Response {
                errno: Some(error.errno),
                matchtag: None,
            };
            deliver(&slot, message);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.borrow().len()
    }
}

/// Puts a response where its caller looks.
fn deliver(slot: &Rc<RefCell<Slot>>, message: Message) {
    let waker = {
        let mut slot = slot.borrow_mut();
        slot.queue.push_back(message);
        slot.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The responses to a streaming call, as messages.
pub struct RawStream {
    slot: Rc<RefCell<Slot>>,
    tag: Matchtag,
}

impl RawStream {
    /// The call's matchtag, which cancel requests name.
    pub fn matchtag(&self) -> Matchtag {
        self.tag
    }

    /// The next response; an error ends the stream, `ENODATA` being the good end.
    pub async fn next(&mut self) -> Result<Message, RpcError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// A response that is already here, without waiting.
    pub fn try_next(&mut self) -> Option<Result<Message, RpcError>> {
        self.slot.borrow_mut().queue.pop_front().map(result_of)
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Result<Message, RpcError>> {
        let mut slot = self.slot.borrow_mut();
        match slot.queue.pop_front() {
            Some(message) => Poll::Ready(result_of(message)),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn result_of(message: Message) -> Result<Message, RpcError> {
    match message.kind {
        Kind::Response {
            errno: Some(errno), ..
        } => Err(RpcError {
            errno,
            text: message.text().map(str::to_owned),
        }),
        _ => Ok(message),
    }
}

/// The response to a call, as a message.
pub struct RawCall(pub(crate) RawStream);

impl RawCall {
    /// The call's matchtag.
    pub fn matchtag(&self) -> Matchtag {
        self.0.tag
    }
}

impl Future for RawCall {
    type Output = Result<Message, RpcError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_next(cx)
    }
}

/// The response to a call.
pub struct Call<T> {
    raw: RawStream,
    response: PhantomData<fn() -> T>,
}

impl<T> Call<T> {
    pub(crate) fn new(raw: RawStream) -> Call<T> {
        Call {
            raw,
            response: PhantomData,
        }
    }
}

impl<T: Payload> Future for Call<T> {
    type Output = Result<T, RpcError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.raw.poll_next(cx).map(|result| decode(&result?))
    }
}

/// The responses to a streaming call.
pub struct Stream<T> {
    raw: RawStream,
    response: PhantomData<fn() -> T>,
}

impl<T: Payload> Stream<T> {
    pub(crate) fn new(raw: RawStream) -> Stream<T> {
        Stream {
            raw,
            response: PhantomData,
        }
    }

    /// The call's matchtag, which cancel requests name.
    pub fn matchtag(&self) -> Matchtag {
        self.raw.tag
    }

    /// The next response; `None` at the good end (`ENODATA`).
    pub async fn next(&mut self) -> Result<Option<T>, RpcError> {
        match self.raw.next().await {
            Ok(message) => decode(&message).map(Some),
            Err(error) if error.errno == Errno::ENODATA => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next response with its payload's raw bytes, where an absent payload means something.
    pub async fn next_raw(&mut self) -> Result<Option<Option<Bytes>>, RpcError> {
        match self.raw.next().await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) if error.errno == Errno::ENODATA => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn decode<T: Payload>(message: &Message) -> Result<T, RpcError> {
    T::decode(message.payload.as_ref()).map_err(|error| {
        RpcError::new(
            Errno::EPROTO,
            format!("error decoding {} response: {error}", message.topic_str()),
        )
    })
}
