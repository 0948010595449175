//! Messages as RFC 3 parts: route ids (newest first), delimiter, topic, payload, proto frame.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;
use types::{Cred, Errno, Matchtag, Rank, RoleMask, UserId};

use crate::message::{Flags, Kind, Message, RouteId, RouteStack, Target, Topic};

/// The parts of one message. Six hold a message two hops from its sender without allocating.
pub type Parts = SmallVec<[Bytes; 6]>;

const MAGIC: u8 = 0x8e;
const VERSION: u8 = 1;
const PROTO_LENGTH: usize = 20;

const FLAG_TOPIC: u8 = 0x01;
const FLAG_PAYLOAD: u8 = 0x02;
const FLAG_ROUTE: u8 = 0x08;
const IMPLIED_FLAGS: Flags = Flags(FLAG_TOPIC | FLAG_PAYLOAD | FLAG_ROUTE);

const NODEID_ANY: u32 = 0xffff_ffff;

/// Why parts are no message. All of these are `EPROTO` to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is no proto frame, or not one of 20 bytes.
    #[error("message has no valid proto frame")]
    Proto,
    /// The proto frame's first byte is another.
    #[error("message magic is {0:#04x}, not 0x8e")]
    Magic(u8),
    /// The protocol version is another.
    #[error("message version is {0}, not 1")]
    Version(u8),
    /// The type is none of RFC 3's.
    #[error("message type {0} is unknown")]
    Type(u8),
    /// A flag promises a part that is not there, or parts are left over.
    #[error("message parts do not match its flags")]
    Parts,
    /// A request that wants no response and a stream of them.
    #[error("message is both noresponse and streaming")]
    Flags,
    /// The topic is not UTF-8.
    #[error("message topic is not UTF-8")]
    Topic,
}

impl DecodeError {
    /// The error a peer is told.
    pub fn errno(self) -> Errno {
        Errno::EPROTO
    }
}

impl Message {
    /// The parts of this message, sharing its buffers.
    pub fn to_parts(&self) -> Parts {
        let mut parts = Parts::new();
        if self.routed {
            parts.extend(self.routes.iter().rev().map(|id| id.0.clone()));
            parts.push(Bytes::new());
        }
        if let Some(topic) = &self.topic {
            parts.push(topic.bytes());
        }
        if let Some(payload) = &self.payload {
            parts.push(payload.clone());
        }
        parts.push(Bytes::copy_from_slice(&self.proto()));
        parts
    }

    /// Decodes the parts of one message.
    pub fn from_parts(parts: &[Bytes]) -> Result<Message, DecodeError> {
        let (proto, rest) = parts.split_last().ok_or(DecodeError::Proto)?;
        let proto = Proto::decode(proto)?;
        let mut rest = rest.iter();
        let mut routes = RouteStack::new();
        if proto.has(FLAG_ROUTE) {
            loop {
                let id = rest.next().ok_or(DecodeError::Parts)?;
                if id.is_empty() {
                    break;
                }
                routes.push(RouteId(id.clone()));
            }
            routes.reverse();
        }
        let topic = if proto.has(FLAG_TOPIC) {
            let bytes = rest.next().ok_or(DecodeError::Parts)?.clone();
            Some(Topic::from_bytes(bytes).ok_or(DecodeError::Topic)?)
        } else {
            None
        };
        let payload = if proto.has(FLAG_PAYLOAD) {
            Some(rest.next().ok_or(DecodeError::Parts)?.clone()).filter(|bytes| !bytes.is_empty())
        } else {
            None
        };
        if rest.next().is_some() {
            return Err(DecodeError::Parts);
        }
        Ok(Message {
            kind: proto.kind()?,
            flags: Flags(proto.flags).without(IMPLIED_FLAGS),
            cred: Cred {
                userid: UserId(proto.userid),
                rolemask: RoleMask(proto.rolemask),
            },
            topic,
            payload,
            routed: proto.has(FLAG_ROUTE),
            routes,
        })
    }

    /// The proto frame: always the last part, always 20 bytes.
    pub(crate) fn proto(&self) -> [u8; PROTO_LENGTH] {
        let (kind, aux1, aux2) = match self.kind {
            Kind::Request { target, matchtag } => {
                let nodeid = match target {
                    Target::Any => NODEID_ANY,
                    Target::Rank(rank) => rank.0,
                };
                (1, nodeid, matchtag.map_or(0, |tag| tag.0))
            }
            Kind::Response { errno, matchtag } => (
                2,
                errno.map_or(0, |errno| errno.0 as u32),
                matchtag.map_or(0, |tag| tag.0),
            ),
            Kind::Event { sequence } => (4, sequence, 0),
            Kind::Control { kind, status } => (8, kind, status),
        };
        let mut flags = self.flags.without(IMPLIED_FLAGS).0;
        if self.topic.is_some() {
            flags |= FLAG_TOPIC;
        }
        if self.payload.is_some() {
            flags |= FLAG_PAYLOAD;
        }
        if self.routed {
            flags |= FLAG_ROUTE;
        }
        let mut frame = [0; PROTO_LENGTH];
        let mut out = &mut frame[..];
        out.put_slice(&[MAGIC, VERSION, kind, flags]);
        out.put_u32(self.cred.userid.0);
        out.put_u32(self.cred.rolemask.0);
        out.put_u32(aux1);
        out.put_u32(aux2);
        frame
    }

    /// Calls `part` with each part's bytes, in wire order, copying none.
    pub(crate) fn each_part(&self, mut part: impl FnMut(&[u8])) {
        if self.routed {
            for id in self.routes.iter().rev() {
                part(&id.0);
            }
            part(b"");
        }
        if let Some(topic) = &self.topic {
            part(topic.as_bytes());
        }
        if let Some(payload) = &self.payload {
            part(payload);
        }
        part(&self.proto());
    }
}

/// A proto frame, field by field.
struct Proto {
    kind: u8,
    flags: u8,
    userid: u32,
    rolemask: u32,
    aux1: u32,
    aux2: u32,
}

impl Proto {
    fn decode(frame: &[u8]) -> Result<Proto, DecodeError> {
        let frame: &[u8; PROTO_LENGTH] = frame.try_into().map_err(|_| DecodeError::Proto)?;
        let word = |at: usize| {
            u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
        };
        if frame[0] != MAGIC {
            return Err(DecodeError::Magic(frame[0]));
        }
        if frame[1] != VERSION {
            return Err(DecodeError::Version(frame[1]));
        }
        let proto = Proto {
            kind: frame[2],
            flags: frame[3],
            userid: word(4),
            rolemask: word(8),
            aux1: word(12),
            aux2: word(16),
        };
        if Flags(proto.flags).contains(Flags::NORESPONSE.with(Flags::STREAMING)) {
            return Err(DecodeError::Flags);
        }
        Ok(proto)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn kind(&self) -> Result<Kind, DecodeError> {
        let matchtag = (self.aux2 != 0).then_some(Matchtag(self.aux2));
        match self.kind {
            1 => {
                let target = match self.aux1 {
                    NODEID_ANY => Target::Any,
                    rank => Target::Rank(Rank(rank)),
                };
                Ok(Kind::Request { target, matchtag })
            }
            2 => {
                let errno = (self.aux1 != 0).then_some(Errno(self.aux1 as i32));
                Ok(Kind::Response { errno, matchtag })
            }
            4 => Ok(Kind::Event {
                sequence: self.aux1,
            }),
            8 => Ok(Kind::Control {
                kind: self.aux1,
                status: self.aux2,
            }),
            other => Err(DecodeError::Type(other)),
        }
    }
}

/// Appends a stream part: its length, then the bytes.
pub(crate) fn put_part(out: &mut BytesMut, part: &[u8]) {
    put_part_length(out, part.len());
    out.put_slice(part);
}

/// Appends the length of a stream part: one byte, or 0xff and four.
pub(crate) fn put_part_length(out: &mut BytesMut, length: usize) {
    if length < 255 {
        out.put_u8(length as u8);
    } else {
        out.put_u8(255);
        out.put_u32(length as u32);
    }
}

/// The bytes [`put_part`] takes for a part of this length.
pub(crate) fn part_size(length: usize) -> usize {
    length + if length < 255 { 1 } else { 5 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Message {
        let mut message = Message::request(
            "kvs.lookup".into(),
            Target::Rank(Rank(3)),
            Some(Matchtag(7)),
        )
        .with_text("{\"key\":\"a\"}")
        .with_flags(Flags::STREAMING);
        message.cred = Cred {
            userid: UserId(1000),
            rolemask: RoleMask::OWNER,
        };
        message.push_route("client".into());
        message.push_route("broker".into());
        message
    }

    #[test]
    fn proto_frame_has_the_layout_of_rfc_3() {
        let frame = sample().proto();
        assert_eq!(
            frame,
            [
                0x8e, 1, 1, 0x4b, 0, 0, 3, 0xe8, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 7
            ]
        );
    }

    #[test]
    fn parts_are_newest_hop_first() {
        let parts = sample().to_parts();
        let texts: Vec<_> = parts.iter().take(4).map(|part| &part[..]).collect();
        assert_eq!(texts, [&b"broker"[..], b"client", b"", b"kvs.lookup"]);
        assert_eq!(Message::from_parts(&parts), Ok(sample()));
    }

    #[test]
    fn every_kind_survives_a_round_trip() {
        let request = sample();
        let kinds = [
            request.response(None).expect("a request has a response"),
            request
                .response(Some(Errno::ENOENT))
                .expect("a request has a response"),
            Message::event("hello.world".into()).with_flags(Flags::PRIVATE),
            Message::control(1, 5),
            Message::request("a".into(), Target::Any, None).with_flags(Flags::NORESPONSE),
        ];
        for message in kinds {
            assert_eq!(Message::from_parts(&message.to_parts()), Ok(message));
        }
    }

    #[test]
    fn bad_parts_are_refused() {
        let good = sample().to_parts();
        let damaged = |at: usize, value: u8| {
            let mut parts = good.clone();
            let mut frame = parts[5].to_vec();
            frame[at] = value;
            parts[5] = frame.into();
            Message::from_parts(&parts)
        };
        assert_eq!(damaged(0, 0), Err(DecodeError::Magic(0)));
        assert_eq!(damaged(1, 2), Err(DecodeError::Version(2)));
        assert_eq!(damaged(2, 3), Err(DecodeError::Type(3)));
        assert_eq!(damaged(3, 0x44), Err(DecodeError::Flags));
        assert_eq!(damaged(3, 0x01), Err(DecodeError::Parts));
        assert_eq!(Message::from_parts(&good[..5]), Err(DecodeError::Proto));
        assert_eq!(Message::from_parts(&[]), Err(DecodeError::Proto));
    }

    #[test]
    fn a_noresponse_request_has_no_response() {
        let request = Message::request("a".into(), Target::Any, None).with_flags(Flags::NORESPONSE);
        assert_eq!(request.response(None), None);
        assert!(request.response_unasked(None).is_some());
    }
}
