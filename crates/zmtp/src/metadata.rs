//! What peers tell each other in the handshake: socket type, identity, and other properties.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Error;

/// The longest identity ZMTP allows, in bytes.
const IDENTITY_MAX: usize = 255;

/// A ZeroMQ socket type (ZMTP 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketType {
    /// One peer only.
    Pair,
    /// Publisher.
    Pub,
    /// Subscriber.
    Sub,
    /// Strict requester.
    Req,
    /// Strict replier.
    Rep,
    /// Asynchronous requester.
    Dealer,
    /// Asynchronous replier that addresses peers by identity.
    Router,
    /// Sink of a pipeline.
    Pull,
    /// Source of a pipeline.
    Push,
    /// Publisher that sees subscriptions.
    Xpub,
    /// Subscriber that sends subscriptions.
    Xsub,
}

use SocketType::*;

const NAMES: [(SocketType, &str); 11] = [
    (Pair, "PAIR"),
    (Pub, "PUB"),
    (Sub, "SUB"),
    (Req, "REQ"),
    (Rep, "REP"),
    (Dealer, "DEALER"),
    (Router, "ROUTER"),
    (Pull, "PULL"),
    (Push, "PUSH"),
    (Xpub, "XPUB"),
    (Xsub, "XSUB"),
];

impl SocketType {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(t, _)| *t == self)
            .map_or("", |(_, name)| name)
    }

    /// The type with this name on the wire.
    pub fn from_name(name: &[u8]) -> Option<SocketType> {
        NAMES
            .iter()
            .find(|(_, n)| n.as_bytes() == name)
            .map(|(t, _)| *t)
    }

    /// Whether ZMTP lets a socket of this type talk to one of type `peer`.
    pub fn may_talk_to(self, peer: SocketType) -> bool {
        match self {
            Pair => peer == Pair,
            Pub | Xpub => matches!(peer, Sub | Xsub),
            Sub | Xsub => matches!(peer, Pub | Xpub),
            Req => matches!(peer, Rep | Router),
            Rep => matches!(peer, Req | Dealer),
            Dealer => matches!(peer, Rep | Dealer | Router),
            Router => matches!(peer, Req | Dealer | Router),
            Pull => peer == Push,
            Push => peer == Pull,
        }
    }

    fn has_identity(self) -> bool {
        matches!(self, Req | Dealer | Router)
    }
}

/// The properties of a peer, as its READY or INITIATE command carried them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    properties: Vec<(Bytes, Bytes)>,
}

impl Metadata {
    /// Reads a run of properties.
    /// Errors: [`Error::BadMetadata`] on a truncated property or a bad name.
    pub(crate) fn parse(mut data: &[u8]) -> Result<Metadata, Error> {
        let mut properties = Vec::new();
        while !data.is_empty() {
            let (name, value, rest) = take_property(data).ok_or(Error::BadMetadata)?;
            properties.push((Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)));
            data = rest;
        }
        Ok(Metadata { properties })
    }

    /// The value of a property. Names are compared without regard to case.
    pub fn property(&self, name: &str) -> Option<&Bytes> {
        let matching = |n: &Bytes| n.eq_ignore_ascii_case(name.as_bytes());
        self.properties
            .iter()
            .find(|(n, _)| matching(n))
            .map(|(_, value)| value)
    }

    /// The peer's identity, if it gave one that is not empty.
    pub fn identity(&self) -> Option<&Bytes> {
        self.property("Identity")
            .filter(|identity| !identity.is_empty())
    }

    /// The peer's socket type, checked against ours.
    pub(crate) fn check_peer_of(&self, ours: SocketType) -> Result<SocketType, Error> {
        let name = self.property("Socket-Type").ok_or(Error::BadMetadata)?;
        if self
            .identity()
            .is_some_and(|identity| identity.len() > IDENTITY_MAX)
        {
            return Err(Error::BadMetadata);
        }
        SocketType::from_name(name)
            .filter(|peer| ours.may_talk_to(*peer))
            .ok_or_else(|| Error::IncompatibleSocket(String::from_utf8_lossy(name).into_owned()))
    }
}

/// Splits `name`, `value` and what follows off the front of `data`.
fn take_property(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&name_len, rest) = data.split_first()?;
    let (name, rest) = rest.split_at_checked(name_len as usize)?;
    let (value_len, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*value_len) as usize)?;
    if name.is_empty() {
        None
    } else {
        Some((name, value, rest))
    }
}

/// The metadata we send: socket type, and identity where the type has one.
pub(crate) fn encode(socket_type: SocketType, identity: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(64 + identity.len());
    put_property("Socket-Type", socket_type.name().as_bytes(), &mut out);
    if socket_type.has_identity() {
        put_property(
            "Identity",
            &identity[..identity.len().min(IDENTITY_MAX)],
            &mut out,
        );
    }
    out
}

fn put_property(name: &str, value: &[u8], out: &mut BytesMut) {
    out.put_u8(name.len() as u8);
    out.put_slice(name.as_bytes());
    out.put_u32(value.len() as u32);
    out.put_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let parsed = Metadata::parse(&encode(Dealer, b"me")).unwrap();
        assert_eq!(parsed.property("socket-type").unwrap(), "DEALER");
        assert_eq!(parsed.identity().unwrap(), "me");
        assert_eq!(parsed.check_peer_of(Router), Ok(Dealer));
        assert!(parsed.check_peer_of(Pull).is_err());
    }

    #[test]
    fn truncation_is_an_error() {
        let whole = encode(Router, b"identity");
        let ends: Vec<usize> = (0..whole.len())
            .filter(|n| Metadata::parse(&whole[..*n]).is_ok())
            .collect();
        // Only the empty list and the end of the first property are whole.
        assert_eq!(ends, [0, 22]);
    }

    #[test]
    fn compatibility_is_mutual() {
        for (a, _) in NAMES {
            for (b, _) in NAMES {
                assert_eq!(a.may_talk_to(b), b.may_talk_to(a), "{a:?} {b:?}");
            }
        }
    }
}
