//! Entry points for fuzzing: feed arbitrary bytes to every decoder. None may panic.

use std::sync::Arc;

use bytes::BytesMut;

use crate::{
    Certificate, Config, Connection, CurveKeypair, Limits, Mechanism, PublicKey, SecretKey,
    SocketType,
};

/// A fixed key, so that a fuzzer's findings repeat.
fn keypair() -> CurveKeypair {
    CurveKeypair::from_secret(SecretKey::from_bytes([7; 32]))
}

fn drive(mechanism: Mechanism, chunks: &[&[u8]]) {
    let mut config = Config::new(SocketType::Router, "fuzz", mechanism);
    config.limits = Limits {
        message_bytes_max: 1 << 20,
        parts_max: 64,
    };
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let mut connection = Connection::new(config, &mut out);
    for chunk in chunks {
        input.extend_from_slice(chunk);
        loop {
            match connection.feed(&mut input, &mut out) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Plays `data` as a hostile peer of every mechanism, from the first byte and after a good
/// greeting.
pub fn fuzz_connection(data: &[u8]) {
    // With CURVE this comes out of a box, which a fuzzer cannot make.
    let _ = crate::metadata::Metadata::parse(data);
    let server = Mechanism::CurveServer {
        keypair: keypair(),
        authorize: Arc::new(|_| true),
    };
    let client = Mechanism::CurveClient {
        keypair: keypair(),
        server: PublicKey::from_bytes([9; 32]),
    };
    for (name, peer_is_server, mechanism) in [
        ("NULL", false, Mechanism::Null),
        ("CURVE", false, server),
        ("CURVE", true, client),
    ] {
        let mut greeting = BytesMut::new();
        crate::greeting::encode(name, peer_is_server, &mut greeting);
        drive(mechanism.clone(), &[data]);
        let (first, second) = data.split_at(data.len() / 2);
        drive(mechanism.clone(), &[&greeting, first, second]);
        let mut ready = BytesMut::new();
        let metadata = crate::metadata::encode(SocketType::Dealer, b"fuzz");
        crate::frame::put_command("READY", &[&metadata], &mut ready);
        drive(mechanism, &[&greeting, &ready, first, second]);
    }
}

/// Reads `data` as a certificate.
pub fn fuzz_certificate(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = text.parse::<Certificate>();
        let _ = text.parse::<PublicKey>();
    }
}
