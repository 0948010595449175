//! Making calls, answering them, publishing events.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use proto::{Flow, Payload, Rpc};
use types::{Errno, Rank};
use wire::{Flags, Message, Target, Topic};

use crate::RpcError;
use crate::pending::{Call, Pending, RawCall, RawStream, Stream};

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dest {
    /// The nearest broker towards the leader that has the service.
    Any,
    /// This broker.
    Rank(Rank),
    /// The nearest broker above the local one that has the service.
    Upstream,
}

impl From<Rank> for Dest {
    fn from(rank: Rank) -> Dest {
        Dest::Rank(rank)
    }
}

/// Where a handle's messages go out. Sending never blocks.
pub trait Transport {
    /// Sends a message.
    fn send(&self, message: Message);
}

struct Inner {
    transport: Rc<dyn Transport>,
    pending: Rc<Pending>,
    rank: Cell<Rank>,
}

/// A party to RPCs: a module, a shell, a command. Clones are the same party.
#[derive(Clone)]
pub struct Handle(Rc<Inner>);

impl Handle {
    /// A handle that sends through `transport`.
    pub fn new(transport: Rc<dyn Transport>) -> Handle {
        Handle(Rc::new(Inner {
            transport,
            pending: Rc::new(Pending::default()),
            rank: Cell::new(Rank::LEADER),
        }))
    }

    /// Tells the handle the rank of the local broker, which upstream calls need.
    pub fn set_rank(&self, rank: Rank) {
        self.0.rank.set(rank);
    }

    /// The rank of the local broker.
    pub fn rank(&self) -> Rank {
        self.0.rank.get()
    }

    /// Takes a response that arrived with an empty route stack.
    pub fn on_response(&self, message: Message) {
        self.0.pending.on_response(message);
    }

    /// Directs responses without a matchtag, which some protocols match by topic (RFC 27,
    /// RFC 32), to `sink`. Without one they are dropped. `sink` must not call back into the handle.
    pub fn on_unmatched(&self, sink: impl Fn(Message) + 'static) {
        self.0.pending.set_unmatched(Box::new(sink));
    }

    /// Sends a request without a matchtag whose responses are matched by topic: see
    /// [`Handle::on_unmatched`].
    pub fn send_unmatched(&self, topic: Topic, dest: impl Into<Dest>, payload: Bytes) {
        let (target, upstream) = self.target(dest.into());
        let message = Message::request(topic, target, None)
            .with_payload(payload)
            .with_flags(upstream);
        self.send(message);
    }

    /// Fails every call under way.
    pub fn fail_pending(&self, error: &RpcError) {
        self.0.pending.fail_all(error);
    }

    /// How many calls wait for a response.
    pub fn pending_count(&self) -> usize {
        self.0.pending.len()
    }

    /// Sends a message as it is.
    pub fn send(&self, message: Message) {
        self.0.transport.send(message);
    }

    /// Calls an RPC with one response, under its default service name.
    pub fn call<R: Rpc>(&self, dest: impl Into<Dest>, request: &R::Request) -> Call<R::Response> {
        self.call_service::<R>(R::SERVICE, dest, request)
    }

    /// Calls an RPC with one response, under another service name.
    pub fn call_service<R: Rpc>(
        &self,
        service: &str,
        dest: impl Into<Dest>,
        request: &R::Request,
    ) -> Call<R::Response> {
        debug_assert!(matches!(R::FLOW, Flow::Single | Flow::SingleOrStream));
        let topic = R::topic_of(service).into();
        Call::new(self.start(topic, dest.into(), request.encode(), Flags::NONE))
    }

    /// Calls an RPC with a stream of responses, under its default service name.
    pub fn stream<R: Rpc>(
        &self,
        dest: impl Into<Dest>,
        request: &R::Request,
    ) -> Stream<R::Response> {
        self.stream_service::<R>(R::SERVICE, dest, request)
    }

    /// Calls an RPC with a stream of responses, under another service name.
    pub fn stream_service<R: Rpc>(
        &self,
        service: &str,
        dest: impl Into<Dest>,
        request: &R::Request,
    ) -> Stream<R::Response> {
        debug_assert!(matches!(R::FLOW, Flow::Stream | Flow::SingleOrStream));
        let topic = R::topic_of(service).into();
        Stream::new(self.start(topic, dest.into(), request.encode(), Flags::STREAMING))
    }

    /// Sends a request that gets no response.
    pub fn notify<R: Rpc>(&self, dest: impl Into<Dest>, request: &R::Request) {
        self.notify_service::<R>(R::SERVICE, dest, request);
    }

    /// Sends a request that gets no response, under another service name.
    pub fn notify_service<R: Rpc>(
        &self,
        service: &str,
        dest: impl Into<Dest>,
        request: &R::Request,
    ) {
        self.notify_raw(R::topic_of(service).into(), dest.into(), request.encode());
    }

    /// Calls an RPC whose request asks for no response and is answered all the same; the answer is
    /// known by its topic.
    pub fn call_untagged<R: Rpc>(
        &self,
        dest: impl Into<Dest>,
        request: &R::Request,
    ) -> Call<R::Response> {
        let topic: Topic = R::topic().into();
        let call = Call::new(self.0.pending.begin_untagged(topic.clone()));
        self.notify_raw(topic, dest, request.encode());
        call
    }

    /// Calls a topic with bytes as they are.
    pub fn call_raw(&self, topic: Topic, dest: impl Into<Dest>, payload: Bytes) -> RawCall {
        RawCall(self.start(topic, dest.into(), payload, Flags::NONE))
    }

    /// Calls a topic with bytes as they are, for a stream of responses.
    pub fn stream_raw(&self, topic: Topic, dest: impl Into<Dest>, payload: Bytes) -> RawStream {
        self.start(topic, dest.into(), payload, Flags::STREAMING)
    }

    /// Sends a request with bytes as they are that gets no response.
    pub fn notify_raw(&self, topic: Topic, dest: impl Into<Dest>, payload: Bytes) {
        let (target, upstream) = self.target(dest.into());
        let message = Message::request(topic, target, None)
            .with_payload(payload)
            .with_flags(Flags::NORESPONSE.with(upstream));
        self.send(message);
    }

    /// Sends `request` (made by the caller, credentials and all) under a fresh matchtag.
    pub fn forward(&self, mut request: Message) -> RawStream {
        let raw = self.0.pending.begin();
        if let wire::Kind::Request { matchtag, .. } = &mut request.kind {
            *matchtag = Some(raw.matchtag());
        }
        self.send(request);
        raw
    }

    fn start(&self, topic: Topic, dest: Dest, payload: Bytes, flags: Flags) -> RawStream {
        let raw = self.0.pending.begin();
        let (target, upstream) = self.target(dest);
        let message = Message::request(topic, target, Some(raw.matchtag()))
            .with_payload(payload)
            .with_flags(flags.with(upstream));
        self.send(message);
        raw
    }

    fn target(&self, dest: Dest) -> (Target, Flags) {
        match dest {
            Dest::Any => (Target::Any, Flags::NONE),
            Dest::Rank(rank) => (Target::Rank(rank), Flags::NONE),
            Dest::Upstream => (Target::Rank(self.rank()), Flags::UPSTREAM),
        }
    }

    /// Answers a request. Silent where it wants no response.
    pub fn respond<P: Payload>(&self, request: &Message, response: &P) {
        if let Some(message) = request.response(None) {
            self.send(message.with_payload(response.encode()));
        }
    }

    /// Answers a request with bytes as they are.
    pub fn respond_raw(&self, request: &Message, payload: Bytes) {
        if let Some(message) = request.response(None) {
            self.send(message.with_payload(payload));
        }
    }

    /// Fails a request.
    pub fn respond_error(&self, request: &Message, error: &RpcError) {
        // Errno 0 would read as success (RFC 6).
        let errno = if error.errno.0 == 0 {
            Errno::EINVAL
        } else {
            error.errno
        };
        if let Some(mut message) = request.response(Some(errno)) {
            if let Some(text) = &error.text {
                message = message.with_text(text);
            }
            self.send(message);
        }
    }

    /// Answers a request with a result.
    pub fn respond_result<P: Payload>(&self, request: &Message, result: &Result<P, RpcError>) {
        match result {
            Ok(response) => self.respond(request, response),
            Err(error) => self.respond_error(request, error),
        }
    }

    /// Ends a stream of responses well.
    pub fn respond_end(&self, request: &Message) {
        self.respond_error(request, &Errno::ENODATA.into());
    }

    /// Publishes an event with a JSON payload.
    pub fn publish<P: Payload>(&self, topic: impl Into<Topic>, flags: Flags, payload: &P) {
        self.send(
            Message::event(topic.into())
                .with_flags(flags)
                .with_payload(payload.encode()),
        );
    }
}
