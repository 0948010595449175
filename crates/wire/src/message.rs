//! The in-memory form of a message.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use smallvec::SmallVec;
use types::{Cred, Errno, Matchtag, Rank};

/// A message's topic: UTF-8 text, words joined by dots (RFC 3).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Topic(Bytes);

impl Topic {
    /// A topic that costs no allocation.
    pub const fn from_static(text: &'static str) -> Topic {
        Topic(Bytes::from_static(text.as_bytes()))
    }

    /// A topic sharing the given bytes; `None` if they are not UTF-8.
    pub fn from_bytes(bytes: Bytes) -> Option<Topic> {
        std::str::from_utf8(&bytes).ok()?;
        Some(Topic(bytes))
    }

    /// The topic's bytes, shared.
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The service part: all before the first dot.
    pub fn service(&self) -> &str {
        self.split_once('.').map_or(&**self, |(service, _)| service)
    }

    /// The method part: all after the first dot, empty if there is none.
    pub fn method(&self) -> &str {
        self.split_once('.').map_or("", |(_, method)| method)
    }
}

impl Deref for Topic {
    type Target = str;

    fn deref(&self) -> &str {
        // Every constructor checked this; a failure would be a bug here, and an empty topic
        // reaches no service.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl From<String> for Topic {
    fn from(text: String) -> Topic {
        Topic(Bytes::from(text))
    }
}

impl From<&str> for Topic {
    fn from(text: &str) -> Topic {
        Topic(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// One hop of a message's route: the id of a client, a module or a broker (RFC 3).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub Bytes);

impl RouteId {
    /// At most the first eight characters, as `ping` shows an id.
    pub fn short(&self) -> String {
        String::from_utf8_lossy(&self.0).chars().take(8).collect()
    }
}

impl From<String> for RouteId {
    fn from(text: String) -> RouteId {
        RouteId(Bytes::from(text))
    }
}

impl From<&str> for RouteId {
    fn from(text: &str) -> RouteId {
        RouteId(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Debug for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Where a request goes (RFC 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The nearest broker towards the leader that has the service.
    Any,
    /// This broker. With [`Flags::UPSTREAM`] the rank is the sender's own, and the request goes
    /// to the nearest broker above it.
    Rank(Rank),
}

/// What kind of message this is, with the fields only that kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A remote procedure call (RFC 6).
    Request {
        /// Where it goes.
        target: Target,
        /// What ties the response to it; `None` if the sender wants no response or will match it
        /// otherwise.
        matchtag: Option<Matchtag>,
    },
    /// The answer to a request.
    Response {
        /// The failure, if it is one.
        errno: Option<Errno>,
        /// The request's matchtag.
        matchtag: Option<Matchtag>,
    },
    /// A message to everybody who subscribed to its topic.
    Event {
        /// The number the leader gave it, from 1; 0 before that.
        sequence: u32,
    },
    /// A word between two neighbouring brokers.
    Control {
        /// Which word.
        kind: u32,
        /// Its argument.
        status: u32,
    },
}

/// The flags of a message a sender may set (RFC 3); those that only describe which parts are
/// present are implied by the message itself.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// The sender of this request wants no response.
    pub const NORESPONSE: Flags = Flags(0x04);
    /// The request starts above the rank in its target.
    pub const UPSTREAM: Flags = Flags(0x10);
    /// The event is for the instance owner and its sender only.
    pub const PRIVATE: Flags = Flags(0x20);
    /// The request takes a stream of responses, ended by an error.
    pub const STREAMING: Flags = Flags(0x40);
    /// Free for the service's own use.
    pub const USER1: Flags = Flags(0x80);

    /// Whether all flags of `other` are set.
    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// These flags but for those of `other`.
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x}", self.0)
    }
}

/// The ids a request passed, oldest first. Four hops reach across most trees without allocating.
pub(crate) type RouteStack = SmallVec<[RouteId; 4]>;

/// A message (RFC 3).
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its kind, with the fields of that kind.
    pub kind: Kind,
    /// Its flags.
    pub flags: Flags,
    /// Who sent it, as stamped by the channel it entered through.
    pub cred: Cred,
    /// Its topic; only control messages have none.
    pub topic: Option<Topic>,
    /// Its payload. String and JSON payloads include one trailing NUL.
    pub payload: Option<Bytes>,
    /// Whether the route part is present at all.
    pub(crate) routed: bool,
    pub(crate) routes: RouteStack,
}

impl Message {
    fn new(kind: Kind, topic: Option<Topic>) -> Message {
        Message {
            kind,
            flags: Flags::NONE,
            cred: Cred::UNKNOWN,
            topic,
            payload: None,
            routed: false,
            routes: RouteStack::new(),
        }
    }

    /// A request with an empty route stack.
    pub fn request(topic: Topic, target: Target, matchtag: Option<Matchtag>) -> Message {
        let mut message = Message::new(Kind::Request { target, matchtag }, Some(topic));
        message.routed = true;
        message
    }

    /// An event that the leader has not numbered yet.
    pub fn event(topic: Topic) -> Message {
        let mut message = Message::new(Kind::Event { sequence: 0 }, Some(topic));
        message.routed = true;
        message
    }

    /// A control message.
    pub fn control(kind: u32, status: u32) -> Message {
        Message::new(Kind::Control { kind, status }, None)
    }

    /// A response to this request: same topic, flags, matchtag and routes, no credentials yet.
    /// `None` if this is no request or wants no response.
    pub fn response(&self, errno: Option<Errno>) -> Option<Message> {
        let Kind::Request { matchtag, .. } = self.kind else {
            return None;
        };
        if self.flags.contains(Flags::NORESPONSE) {
            return None;
        }
        Some(self.forced_response(matchtag, errno))
    }

    /// As [`Message::response`], even where the request asked for none. The job shells' start
    /// barrier is such a request that is answered all the same.
    pub fn response_unasked(&self, errno: Option<Errno>) -> Option<Message> {
        let Kind::Request { matchtag, .. } = self.kind else {
            return None;
        };
        Some(self.forced_response(matchtag, errno))
    }

    fn forced_response(&self, matchtag: Option<Matchtag>, errno: Option<Errno>) -> Message {
        Message {
            kind: Kind::Response { errno, matchtag },
            flags: self.flags,
            cred: Cred::UNKNOWN,
            topic: self.topic.clone(),
            payload: None,
            routed: true,
            routes: self.routes.clone(),
        }
    }

    /// This message with a payload. An empty payload is no payload.
    pub fn with_payload(mut self, payload: Bytes) -> Message {
        self.payload = if payload.is_empty() {
            None
        } else {
            Some(payload)
        };
        self
    }

    /// This message with a text payload, to which the NUL of RFC 3 is added.
    pub fn with_text(self, text: &str) -> Message {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        self.with_payload(bytes.into())
    }

    /// This message with more flags.
    pub fn with_flags(mut self, flags: Flags) -> Message {
        self.flags = self.flags.with(flags);
        self
    }

    /// The topic, empty for a control message.
    pub fn topic_str(&self) -> &str {
        self.topic.as_deref().unwrap_or_default()
    }

    /// The payload as text: `None` if there is none, it lacks its NUL or is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        let bytes = self.payload.as_ref()?.strip_suffix(b"\0")?;
        std::str::from_utf8(bytes).ok()
    }

    /// The matchtag, where the kind has one.
    pub fn matchtag(&self) -> Option<Matchtag> {
        match self.kind {
            Kind::Request { matchtag, .. } | Kind::Response { matchtag, .. } => matchtag,
            Kind::Event { .. } | Kind::Control { .. } => None,
        }
    }

    /// Whether this is a request.
    pub fn is_request(&self) -> bool {
        matches!(self.kind, Kind::Request { .. })
    }

    /// Whether this is a request that wants a stream of responses.
    pub fn is_streaming(&self) -> bool {
        self.flags.contains(Flags::STREAMING)
    }

    /// Adds a hop: the newest.
    pub fn push_route(&mut self, id: RouteId) {
        self.routed = true;
        self.routes.push(id);
    }

    /// Takes the newest hop away.
    pub fn pop_route(&mut self) -> Option<RouteId> {
        self.routes.pop()
    }

    /// The newest hop: where a response goes next.
    pub fn next_hop(&self) -> Option<&RouteId> {
        self.routes.last()
    }

    /// The oldest hop: the sender.
    pub fn sender(&self) -> Option<&RouteId> {
        self.routes.first()
    }

    /// The hops, oldest first.
    pub fn routes(&self) -> &[RouteId] {
        &self.routes
    }

    /// Forgets every hop.
    pub fn clear_routes(&mut self) {
        self.routes.clear();
    }
}
