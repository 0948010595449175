//! Two connections wired back to back, and hostile peers.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::keys::AllowList;

struct Side {
    connection: Connection,
    /// Bytes on their way to the other side.
    out: BytesMut,
    events: Vec<Event>,
}

impl Side {
    fn new(config: Config) -> Side {
        let mut out = BytesMut::new();
        Side {
            connection: Connection::new(config, &mut out),
            out,
            events: Vec::new(),
        }
    }

    fn take(&mut self, input: &mut BytesMut) -> Result<(), Error> {
        while let Some(event) = self.connection.feed(input, &mut self.out)? {
            self.events.push(event);
        }
        Ok(())
    }

    fn messages(&self) -> Vec<Multipart> {
        let messages = self.events.iter().filter_map(|e| match e {
            Event::Message(parts) => Some(parts.clone()),
            _ => None,
        });
        messages.collect()
    }

    fn peer(&self) -> &PeerInfo {
        match &self.events[0] {
            Event::Ready(peer) => peer,
            other => panic!("first event is {other:?}"),
        }
    }
}

/// Carries bytes both ways in pieces of at most `step` until nothing moves.
fn pump(a: &mut Side, b: &mut Side, step: usize) -> Result<(), Error> {
    let (mut to_a, mut to_b) = (BytesMut::new(), BytesMut::new());
    while !(a.out.is_empty() && b.out.is_empty()) {
        to_b.extend_from_slice(&a.out.split_to(a.out.len().min(step)));
        b.take(&mut to_b)?;
        to_a.extend_from_slice(&b.out.split_to(b.out.len().min(step)));
        a.take(&mut to_a)?;
    }
    Ok(())
}

fn dealer(mechanism: Mechanism) -> Side {
    Side::new(Config::new(SocketType::Dealer, "child", mechanism))
}

fn router(mechanism: Mechanism) -> Side {
    Side::new(Config::new(SocketType::Router, "", mechanism))
}

struct Keys {
    server: CurveKeypair,
    client: CurveKeypair,
    allowed: AllowList,
}

impl Keys {
    fn new() -> Keys {
        let keys = Keys {
            server: CurveKeypair::generate(),
            client: CurveKeypair::generate(),
            allowed: AllowList::new(),
        };
        keys.allowed.allow(keys.client.public);
        keys
    }

    fn client(&self) -> Side {
        dealer(Mechanism::CurveClient {
            keypair: self.client.clone(),
            server: self.server.public,
        })
    }

    fn server(&self) -> Side {
        router(Mechanism::CurveServer {
            keypair: self.server.clone(),
            authorize: self.allowed.authorize(),
        })
    }
}

fn exchange(mut a: Side, mut b: Side, step: usize) {
    pump(&mut a, &mut b, step).unwrap();
    assert_eq!(b.peer().metadata.identity().unwrap(), "child");
    assert_eq!(a.peer().socket_type, SocketType::Router);
    let large = vec![b'x'; 100_000];
    let messages: [&[&[u8]]; 4] = [
        &[b"one"],
        &[b"", b"two", b""],
        &[&[b'y'; 255], &[b'y'; 256]],
        &[b"large", &large],
    ];
    for message in messages {
        a.connection.send(message, &mut a.out).unwrap();
        b.connection.send(message, &mut b.out).unwrap();
    }
    a.connection.ping(0, b"context", &mut a.out).unwrap();
    pump(&mut a, &mut b, step).unwrap();
    assert_eq!(a.messages(), messages);
    assert_eq!(b.messages(), messages);
    assert!(b.events.contains(&Event::Ping));
    assert!(
        a.events
            .contains(&Event::Pong(Bytes::from_static(b"context")))
    );
}

#[test]
fn null_exchange() {
    for step in [1, 7, 64, usize::MAX] {
        exchange(dealer(Mechanism::Null), router(Mechanism::Null), step);
    }
}

#[test]
fn curve_exchange() {
    for step in [1, 7, 64, usize::MAX] {
        let keys = Keys::new();
        exchange(keys.client(), keys.server(), step);
    }
}

#[test]
fn curve_peers_know_each_other() {
    let keys = Keys::new();
    let (mut a, mut b) = (keys.client(), keys.server());
    pump(&mut a, &mut b, usize::MAX).unwrap();
    assert_eq!(a.peer().key, Some(keys.server.public));
    assert_eq!(b.peer().key, Some(keys.client.public));
}

#[test]
fn curve_traffic_is_not_readable() {
    let keys = Keys::new();
    let (mut a, mut b) = (keys.client(), keys.server());
    pump(&mut a, &mut b, usize::MAX).unwrap();
    a.connection
        .send(&[b"a secret that must not show"], &mut a.out)
        .unwrap();
    assert!(!a.out.windows(8).any(|w| w == b"a secret"));
}

#[test]
fn unlisted_client_is_refused_and_told() {
    let keys = Keys::new();
    keys.allowed.revoke(&keys.client.public);
    let (mut a, mut b) = (keys.client(), keys.server());
    let error = pump(&mut a, &mut b, usize::MAX).unwrap_err();
    assert_eq!(error, Error::Unauthorized(keys.client.public));
    let mut told = b.out.split();
    assert_eq!(a.take(&mut told), Err(Error::Refused("400".into())));
    assert!(!b.connection.is_open());
}

#[test]
fn wrong_server_key_is_refused() {
    let mut keys = Keys::new();
    let mut b = keys.server();
    keys.server = CurveKeypair::generate();
    assert_eq!(
        pump(&mut keys.client(), &mut b, usize::MAX),
        Err(Error::Decrypt)
    );
}

#[test]
fn stolen_public_key_does_not_help() {
    let keys = Keys::new();
    let mut thief = CurveKeypair::generate();
    thief.public = keys.client.public;
    let mut a = dealer(Mechanism::CurveClient {
        keypair: thief,
        server: keys.server.public,
    });
    assert_eq!(
        pump(&mut a, &mut keys.server(), usize::MAX),
        Err(Error::Decrypt)
    );
}

#[test]
fn mechanisms_and_roles_must_fit() {
    let keys = Keys::new();
    let error = pump(&mut keys.client(), &mut router(Mechanism::Null), usize::MAX).unwrap_err();
    assert_eq!(error, Error::MechanismMismatch("CURVE".into()));
    let error = pump(&mut keys.server(), &mut keys.server(), usize::MAX).unwrap_err();
    assert_eq!(error, Error::RoleMismatch);
    let error = pump(&mut keys.client(), &mut keys.client(), usize::MAX).unwrap_err();
    assert_eq!(error, Error::BadCommand("handshake"));
    let mut push = Side::new(Config::new(SocketType::Push, "", Mechanism::Null));
    let error = pump(&mut push, &mut router(Mechanism::Null), usize::MAX).unwrap_err();
    assert!(matches!(error, Error::IncompatibleSocket(_)), "{error}");
}

#[test]
fn replayed_frame_is_refused() {
    let keys = Keys::new();
    let (mut a, mut b) = (keys.client(), keys.server());
    pump(&mut a, &mut b, usize::MAX).unwrap();
    a.connection.send(&[b"pay me"], &mut a.out).unwrap();
    let frame = a.out.split();
    b.take(&mut frame.clone()).unwrap();
    assert_eq!(b.take(&mut frame.clone()), Err(Error::Nonce));
    assert_eq!(b.take(&mut BytesMut::new()), Err(Error::NotOpen));
}

#[test]
fn plain_frame_on_encrypted_connection_is_refused() {
    let keys = Keys::new();
    let (mut a, mut b) = (keys.client(), keys.server());
    pump(&mut a, &mut b, usize::MAX).unwrap();
    let mut plain = BytesMut::from(&b"\x00\x05hello"[..]);
    assert!(b.take(&mut plain).is_err());
}

#[test]
fn limits_hold() {
    let limits = Limits {
        message_bytes_max: 10,
        parts_max: 3,
    };
    let check = |parts: &[&[u8]], expect: Result<(), Error>| {
        let mut config = Config::new(SocketType::Router, "", Mechanism::Null);
        config.limits = limits;
        let (mut a, mut b) = (dealer(Mechanism::Null), Side::new(config));
        pump(&mut a, &mut b, usize::MAX).unwrap();
        a.connection.send(parts, &mut a.out).unwrap();
        assert_eq!(pump(&mut a, &mut b, usize::MAX), expect);
    };
    check(&[b"12345", b"67890"], Ok(()));
    check(&[b"12345678901"], Err(Error::TooLarge("frame")));
    check(&[b"12345", b"678901"], Err(Error::TooLarge("message")));
    check(
        &[b"", b"", b"", b""],
        Err(Error::TooLarge("number of parts")),
    );
}

#[test]
fn nothing_is_sent_before_the_handshake() {
    let mut a = dealer(Mechanism::Null);
    a.out.clear();
    assert_eq!(a.connection.send(&[b"x"], &mut a.out), Err(Error::NotOpen));
    assert!(a.out.is_empty());
}

#[test]
fn unknown_commands_are_ignored() {
    let (mut a, mut b) = (dealer(Mechanism::Null), router(Mechanism::Null));
    pump(&mut a, &mut b, usize::MAX).unwrap();
    frame::put_command("SUBSCRIBE", &[b"topic"], &mut a.out);
    pump(&mut a, &mut b, usize::MAX).unwrap();
    assert_eq!(b.events.len(), 1);
}

proptest! {
    #[test]
    fn noise_never_panics(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        crate::fuzz::fuzz_connection(&data);
    }

    #[test]
    fn flipped_bit_is_an_error_or_harmless(at in 0usize..900, bit in 0u8..8) {
        let keys = Keys::new();
        let (mut a, mut b) = (keys.client(), keys.server());
        let mut sent = 0;
        loop {
            let mut to_b = a.out.split();
            if let Some(byte) = at.checked_sub(sent).and_then(|i| to_b.get_mut(i)) {
                *byte ^= 1 << bit;
            }
            sent += to_b.len();
            if b.take(&mut to_b).is_err() || a.take(&mut b.out.split()).is_err() {
                return Ok(());
            }
            if a.out.is_empty() {
                break;
            }
        }
        // Padding and filler may change; nothing that matters does.
        if b.connection.is_open() {
            prop_assert_eq!(b.peer().key, Some(keys.client.public));
        }
    }

    #[test]
    fn messages_survive(parts in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..400), 1..8), step in 1usize..500)
    {
        let keys = Keys::new();
        let any: Authorize = Arc::new(|_| true);
        let server = Mechanism::CurveServer { keypair: keys.server.clone(), authorize: any };
        let (mut a, mut b) = (keys.client(), router(server));
        pump(&mut a, &mut b, step).unwrap();
        a.connection.send(&parts, &mut a.out).unwrap();
        pump(&mut a, &mut b, step).unwrap();
        let expect: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
        prop_assert_eq!(b.messages(), vec![expect]);
    }
}
