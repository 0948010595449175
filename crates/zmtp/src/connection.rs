//! One ZMTP connection without I/O.
//!
//! Bytes from the peer go in through [`Connection::feed`], which returns one event at a time and
//! appends to `out` whatever must be sent in answer. An error is final: flush `out` (it may hold
//! an ERROR command that tells the peer why) and close.

use std::fmt;
use std::mem;

use bytes::{BufMut, Bytes, BytesMut};

use crate::curve::{self, Established, MESSAGE_OVERHEAD, Session, Step};
use crate::error::Error;
use crate::frame::{self, Frame};
use crate::greeting;
use crate::keys::{Authorize, CurveKeypair, PublicKey};
use crate::metadata::{self, Metadata, SocketType};

/// A message: one or more parts. Parts share the buffer they were read into, which may be larger
/// than they are; copy what is kept for long.
pub type Multipart = Vec<Bytes>;

/// The longest frame accepted before the handshake ends; real ones are a few hundred bytes.
const HANDSHAKE_FRAME_MAX: usize = 8192;
/// The longest command in traffic, of which PING with a 16-byte context is the longest known.
const PING_CONTEXT_MAX: usize = 16;

/// How peers are authenticated and traffic protected. Both ends must choose the same.
#[derive(Clone)]
pub enum Mechanism {
    /// No security.
    Null,
    /// CURVE, in the server's role.
    CurveServer {
        /// Our long-term keys.
        keypair: CurveKeypair,
        /// Says which clients may connect.
        authorize: Authorize,
    },
    /// CURVE, in the client's role.
    CurveClient {
        /// Our long-term keys.
        keypair: CurveKeypair,
        /// The server's long-term key. A server that cannot prove it owns this key is refused.
        server: PublicKey,
    },
}

impl Mechanism {
    /// The name on the wire, and whether we take the server's part.
    fn greeting(&self) -> (&'static str, bool) {
        match self {
            Mechanism::Null => ("NULL", false),
            Mechanism::CurveServer { .. } => ("CURVE", true),
            Mechanism::CurveClient { .. } => ("CURVE", false),
        }
    }
}

impl fmt::Debug for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mechanism::Null => "Null",
            Mechanism::CurveServer { .. } => "CurveServer",
            Mechanism::CurveClient { .. } => "CurveClient",
        })
    }
}

/// What a peer may make us hold in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message, all parts together, in bytes.
    pub message_bytes_max: usize,
    /// The most parts in one message.
    pub parts_max: usize,
}

impl Default for Limits {
    /// 2 GiB, for a content blob at its largest, and 65 536 parts, for a route through the
    /// deepest tree.
    fn default() -> Limits {
        Limits {
            message_bytes_max: 1 << 31,
            parts_max: 1 << 16,
        }
    }
}

/// Our side of a connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// The socket type we announce.
    pub socket_type: SocketType,
    /// The identity we announce, at most 255 bytes; may be empty.
    pub identity: Bytes,
    /// The security mechanism.
    pub mechanism: Mechanism,
    /// Bounds on what the peer may send.
    pub limits: Limits,
}

impl Config {
    /// A configuration with default limits.
    pub fn new(
        socket_type: SocketType,
        identity: impl Into<Bytes>,
        mechanism: Mechanism,
    ) -> Config {
        Config {
            socket_type,
            identity: identity.into(),
            mechanism,
            limits: Limits::default(),
        }
    }
}

/// The peer, as known after the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its socket type.
    pub socket_type: SocketType,
    /// Everything it said about itself.
    pub metadata: Metadata,
    /// The key it proved to own; `None` without CURVE.
    pub key: Option<PublicKey>,
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake is over; messages may be sent.
    Ready(Box<PeerInfo>),
    /// A whole message arrived.
    Message(Multipart),
    /// The peer pinged and the answer is in `out`. Shows that the peer is alive.
    Ping,
    /// The peer answered a ping that carried this context.
    Pong(Bytes),
}

enum State {
    Greeting,
    NullHandshake,
    CurveClient(Box<curve::Client>),
    CurveServer(Box<curve::Server>),
    /// Traffic flows; encrypted if there is a session.
    Open(Option<Box<Session>>),
    Failed,
}

/// The protocol state of one connection.
pub struct Connection {
    config: Config,
    state: State,
    partial: Multipart,
    partial_len: usize,
}

impl Connection {
    /// Starts a connection by appending our greeting to `out`.
    pub fn new(config: Config, out: &mut BytesMut) -> Connection {
        let (mechanism, as_server) = config.mechanism.greeting();
        greeting::encode(mechanism, as_server, out);
        Connection {
            config,
            state: State::Greeting,
            partial: Vec::new(),
            partial_len: 0,
        }
    }

    /// Whether the handshake is over and the connection has not failed.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Takes bytes from `input` up to the next event; `None` means more bytes are needed. Call
    /// again after an event. Bytes to send are appended to `out`, even when an error is returned.
    pub fn feed(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Event>, Error> {
        let result = self.advance(input, out);
        if result.is_err() {
            self.state = State::Failed;
            self.partial = Vec::new();
        }
        result
    }

    /// How many more bytes the frame that `input` begins with needs; 0 as long as its length is not
    /// known or not acceptable.
    pub(crate) fn missing(&self, input: &[u8]) -> usize {
        if !self.is_open() {
            return 0;
        }
        match frame::length(input) {
            Ok(Some((header, body))) if body <= self.body_max() => {
                (header + body).saturating_sub(input.len())
            }
            // Decoding tells.
            _ => 0,
        }
    }

    /// The longest frame accepted in traffic.
    fn body_max(&self) -> usize {
        let overhead = match &self.state {
            State::Open(Some(_)) => MESSAGE_OVERHEAD,
            _ => 0,
        };
        self.config
            .limits
            .message_bytes_max
            .saturating_add(overhead)
    }

    /// Appends a message to `out`. A message without parts is not sent.
    /// Errors: [`Error::NotOpen`] before the handshake is over or after a failure.
    pub fn send<P: AsRef<[u8]>>(&mut self, parts: &[P], out: &mut BytesMut) -> Result<(), Error> {
        let State::Open(session) = &mut self.state else {
            return Err(Error::NotOpen);
        };
        for (i, part) in parts.iter().enumerate() {
            let (part, more) = (part.as_ref(), i + 1 < parts.len());
            match session {
                Some(session) => session.seal(more, false, &[part], out)?,
                None => {
                    frame::put_header(if more { frame::MORE } else { 0 }, part.len(), out);
                    out.put_slice(part);
                }
            }
        }
        Ok(())
    }

    /// Appends a PING with at most 16 bytes of `context`, which the PONG brings back. The peer
    /// may close when it hears nothing for `ttl_deciseconds`; 0 means it shall not.
    /// Errors: [`Error::NotOpen`] as for [`Connection::send`].
    pub fn ping(
        &mut self,
        ttl_deciseconds: u16,
        context: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), Error> {
        let mut data = BytesMut::new();
        data.put_u16(ttl_deciseconds);
        data.put_slice(&context[..context.len().min(PING_CONTEXT_MAX)]);
        self.send_command("PING", &data, out)
    }

    fn send_command(&mut self, name: &str, data: &[u8], out: &mut BytesMut) -> Result<(), Error> {
        match &mut self.state {
            State::Open(Some(session)) => {
                let mut head = vec![name.len() as u8];
                head.extend_from_slice(name.as_bytes());
                session.seal(false, true, &[&head, data], out)
            }
            State::Open(None) => {
                frame::put_command(name, &[data], out);
                Ok(())
            }
            _ => Err(Error::NotOpen),
        }
    }

    fn advance(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Event>, Error> {
        loop {
            let body_max = self.body_max();
            let event = match &mut self.state {
                State::Failed => return Err(Error::NotOpen),
                State::Greeting => {
                    let Some(greeting) = greeting::decode(input)? else {
                        return Ok(None);
                    };
                    self.on_greeting(&greeting, out)?;
                    None
                }
                State::Open(session) => {
                    let Some(mut frame) = frame::decode(input, body_max)? else {
                        return Ok(None);
                    };
                    if let Some(session) = session {
                        if frame.more {
                            return Err(Error::BadFrame);
                        }
                        frame = session.open(frame.body)?;
                    }
                    self.on_traffic(frame, out)?
                }
                _ => {
                    let frame = frame::decode(input, HANDSHAKE_FRAME_MAX)?;
                    let Some(frame) = frame else { return Ok(None) };
                    if !frame.command {
                        return Err(Error::BadCommand("handshake"));
                    }
                    self.on_handshake(&frame.body, out)?
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn on_greeting(&mut self, peer: &greeting::Greeting, out: &mut BytesMut) -> Result<(), Error> {
        let (ours, as_server) = self.config.mechanism.greeting();
        if peer.mechanism != ours {
            return Err(Error::MechanismMismatch(peer.mechanism.clone()));
        }
        // libzmq never sets the flag, so only two servers can be told apart here; two clients find
        // out from each other's HELLO.
        if as_server && peer.as_server {
            return Err(Error::RoleMismatch);
        }
        self.state = match &self.config.mechanism {
            Mechanism::Null => {
                frame::put_command("READY", &[&self.metadata()], out);
                State::NullHandshake
            }
            Mechanism::CurveServer { keypair, authorize } => {
                let server = curve::Server::new(keypair.clone(), authorize.clone());
                State::CurveServer(Box::new(server))
            }
            Mechanism::CurveClient { keypair, server } => State::CurveClient(Box::new(
                curve::Client::start(keypair.clone(), *server, out)?,
            )),
        };
        Ok(())
    }

    fn metadata(&self) -> BytesMut {
        metadata::encode(self.config.socket_type, &self.config.identity)
    }

    fn on_handshake(&mut self, body: &[u8], out: &mut BytesMut) -> Result<Option<Event>, Error> {
        let metadata = self.metadata();
        let step = match &mut self.state {
            State::NullHandshake => return self.on_null_command(body),
            State::CurveClient(client) => client.on_command(body, &metadata, out)?,
            State::CurveServer(server) => server.on_command(body, &metadata, out)?,
            State::Greeting | State::Open(_) | State::Failed => return Err(Error::NotOpen),
        };
        match step {
            Step::Continue => Ok(None),
            Step::Done(established) => {
                let Established {
                    session,
                    metadata,
                    peer,
                } = *established;
                self.open(Some(Box::new(session)), &metadata, Some(peer))
                    .map(Some)
            }
        }
    }

    fn on_null_command(&mut self, body: &[u8]) -> Result<Option<Event>, Error> {
        match frame::split_command(body) {
            Some((b"READY", data)) => self.open(None, data, None).map(Some),
            Some((b"ERROR", data)) => Err(curve::refusal(data)),
            _ => Err(Error::BadCommand("handshake")),
        }
    }

    fn open(
        &mut self,
        session: Option<Box<Session>>,
        metadata: &[u8],
        key: Option<PublicKey>,
    ) -> Result<Event, Error> {
        let metadata = Metadata::parse(metadata)?;
        let socket_type = metadata.check_peer_of(self.config.socket_type)?;
        self.state = State::Open(session);
        Ok(Event::Ready(Box::new(PeerInfo {
            socket_type,
            metadata,
            key,
        })))
    }

    fn on_traffic(&mut self, frame: Frame, out: &mut BytesMut) -> Result<Option<Event>, Error> {
        if frame.command {
            return self.on_command(&frame.body, out);
        }
        self.partial_len = self.partial_len.saturating_add(frame.body.len());
        if self.partial_len > self.config.limits.message_bytes_max {
            return Err(Error::TooLarge("message"));
        }
        if self.partial.len() >= self.config.limits.parts_max {
            return Err(Error::TooLarge("number of parts"));
        }
        self.partial.push(frame.body.freeze());
        if frame.more {
            return Ok(None);
        }
        self.partial_len = 0;
        // Most messages of one peer have the same number of parts.
        let capacity = self.partial.len();
        let message = mem::replace(&mut self.partial, Vec::with_capacity(capacity));
        Ok(Some(Event::Message(message)))
    }

    fn on_command(&mut self, body: &[u8], out: &mut BytesMut) -> Result<Option<Event>, Error> {
        let (name, data) = frame::split_command(body).ok_or(Error::BadCommand("traffic"))?;
        match name {
            b"PING" => {
                let context = data.get(2..).ok_or(Error::BadCommand("PING"))?;
                if context.len() > PING_CONTEXT_MAX {
                    return Err(Error::BadCommand("PING"));
                }
                self.send_command("PONG", context, out)?;
                Ok(Some(Event::Ping))
            }
            b"PONG" => Ok(Some(Event::Pong(Bytes::copy_from_slice(data)))),
            b"ERROR" => Err(curve::refusal(data)),
            // SUBSCRIBE, CANCEL and whatever later versions add mean nothing to our socket types.
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
