//! The CurveZMQ handshake and its encrypted traffic (ZeroMQ RFCs 25 and 26).
//!
//! In the RFC's letters: C and S are the long-term keys of client and server, C' and S' the
//! short-term keys of this connection. HELLO and WELCOME exchange the short-term keys, INITIATE
//! proves who the client is, READY ends the handshake; after that everything travels in MESSAGE
//! boxes between C' and S'. The server keeps no keys between WELCOME and INITIATE: they return in
//! a cookie that only it can open.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::crypto::{Key, MAC_LEN, long_nonce, random, short_nonce};
use crate::error::Error;
use crate::frame;
use crate::keys::{Authorize, CurveKeypair, PublicKey, SecretKey, same};

const HELLO_NONCE: &[u8; 16] = b"CurveZMQHELLO---";
const INITIATE_NONCE: &[u8; 16] = b"CurveZMQINITIATE";
const READY_NONCE: &[u8; 16] = b"CurveZMQREADY---";
const CLIENT_MESSAGE_NONCE: &[u8; 16] = b"CurveZMQMESSAGEC";
const SERVER_MESSAGE_NONCE: &[u8; 16] = b"CurveZMQMESSAGES";

/// Bytes of HELLO after its name: version, padding, C', nonce, signature box.
const HELLO_LEN: usize = 2 + 72 + 32 + 8 + 64 + MAC_LEN;
/// Bytes of WELCOME after its name: nonce and box of S' and cookie.
const WELCOME_LEN: usize = 16 + 32 + COOKIE_LEN + MAC_LEN;
/// Bytes of a cookie: nonce and box of C' and s'.
const COOKIE_LEN: usize = 16 + 64 + MAC_LEN;
/// Bytes of a vouch: nonce and box of C' and S.
const VOUCH_LEN: usize = 16 + 64 + MAC_LEN;

const MESSAGE_NAME: &[u8; 8] = b"\x07MESSAGE";
/// What encryption adds to a frame's body: name, nonce, tag, flags.
pub(crate) const MESSAGE_OVERHEAD: usize = MESSAGE_NAME.len() + 8 + MAC_LEN + 1;

const INNER_MORE: u8 = 1;
const INNER_COMMAND: u8 = 2;

/// The reason code for a refused key, as libzmq's authentication protocol has it.
const REFUSED: &str = "400";

/// What a handshake command led to.
pub(crate) enum Step {
    /// Wait for the next command.
    Continue,
    /// The handshake is over.
    Done(Box<Established>),
}

/// The outcome of a handshake.
pub(crate) struct Established {
    pub(crate) session: Session,
    /// The peer's metadata, undecoded.
    pub(crate) metadata: Bytes,
    /// The long-term key the peer proved it owns.
    pub(crate) peer: PublicKey,
}

/// The numbers a peer must only ever raise.
#[derive(Default)]
struct NonceGuard(u64);

impl NonceGuard {
    fn accept(&mut self, bytes: &[u8; 8]) -> Result<u64, Error> {
        let nonce = u64::from_be_bytes(*bytes);
        if nonce <= self.0 {
            return Err(Error::Nonce);
        }
        self.0 = nonce;
        Ok(nonce)
    }
}

/// Splits a fixed number of bytes off the front of `data`.
fn take<'a, const N: usize>(data: &mut &'a [u8], what: &'static str) -> Result<&'a [u8; N], Error> {
    let (head, rest) = data
        .split_first_chunk::<N>()
        .ok_or(Error::BadCommand(what))?;
    *data = rest;
    Ok(head)
}

/// Opens a copy of a short box.
fn open_copy(key: &Key, nonce: &[u8; 24], sealed: &[u8]) -> Result<BytesMut, Error> {
    let mut data = BytesMut::from(sealed);
    key.open(nonce, &mut data)?;
    data.advance(MAC_LEN);
    Ok(data)
}

/// The client's side of the handshake.
pub(crate) struct Client {
    identity: CurveKeypair,
    server: PublicKey,
    short_term: CurveKeypair,
    nonce: u64,
    guard: NonceGuard,
    /// The key between C' and S', once WELCOME brought S'.
    key: Option<Key>,
}

impl Client {
    /// Starts the handshake by appending HELLO to `out`.
    pub(crate) fn start(
        identity: CurveKeypair,
        server: PublicKey,
        out: &mut BytesMut,
    ) -> Result<Client, Error> {
        let short_term = CurveKeypair::generate();
        let nonce = 1u64;
        let key = Key::shared(&server, &short_term.secret)?;
        let mut signature = BytesMut::new();
        key.seal(
            &short_nonce(HELLO_NONCE, nonce),
            &[&[0; 64]],
            &mut signature,
        );
        let fields: [&[u8]; 5] = [
            &[1, 0],
            &[0; 72],
            short_term.public.as_bytes(),
            &nonce.to_be_bytes(),
            &signature,
        ];
        frame::put_command("HELLO", &fields, out);
        Ok(Client {
            identity,
            server,
            short_term,
            nonce,
            guard: NonceGuard::default(),
            key: None,
        })
    }

    /// Takes the next command from the server. `metadata` is ours, for INITIATE.
    pub(crate) fn on_command(
        &mut self,
        body: &[u8],
        metadata: &[u8],
        out: &mut BytesMut,
    ) -> Result<Step, Error> {
        let (name, data) = frame::split_command(body).ok_or(Error::BadCommand("handshake"))?;
        match (name, self.key.take()) {
            (b"WELCOME", None) => self.on_welcome(data, metadata, out),
            (b"READY", Some(key)) => self.on_ready(data, key),
            (b"ERROR", _) => Err(refusal(data)),
            _ => Err(Error::BadCommand("handshake")),
        }
    }

    fn on_welcome(
        &mut self,
        mut data: &[u8],
        metadata: &[u8],
        out: &mut BytesMut,
    ) -> Result<Step, Error> {
        if data.len() != WELCOME_LEN {
            return Err(Error::BadCommand("WELCOME"));
        }
        let nonce = long_nonce(b"WELCOME-", take(&mut data, "WELCOME")?);
        let opened = open_copy(
            &Key::shared(&self.server, &self.short_term.secret)?,
            &nonce,
            data,
        )?;
        let mut opened = &opened[..];
        let server_short = PublicKey::from_bytes(*take(&mut opened, "WELCOME")?);
        let cookie: &[u8; COOKIE_LEN] = take(&mut opened, "WELCOME")?;

        let vouch_random = random::<16>();
        let mut vouch = BytesMut::from(&vouch_random[..]);
        Key::shared(&server_short, &self.identity.secret)?.seal(
            &long_nonce(b"VOUCH---", &vouch_random),
            &[self.short_term.public.as_bytes(), self.server.as_bytes()],
            &mut vouch,
        );
        self.nonce += 1;
        let key = Key::shared(&server_short, &self.short_term.secret)?;
        let mut sealed = BytesMut::new();
        let plain: [&[u8]; 3] = [self.identity.public.as_bytes(), &vouch, metadata];
        key.seal(
            &short_nonce(INITIATE_NONCE, self.nonce),
            &plain,
            &mut sealed,
        );
        frame::put_command(
            "INITIATE",
            &[cookie, &self.nonce.to_be_bytes(), &sealed],
            out,
        );
        self.key = Some(key);
        Ok(Step::Continue)
    }

    fn on_ready(&mut self, mut data: &[u8], key: Key) -> Result<Step, Error> {
        let nonce = self.guard.accept(take(&mut data, "READY")?)?;
        let metadata = open_copy(&key, &short_nonce(READY_NONCE, nonce), data)?.freeze();
        let session = Session {
            key,
            send_prefix: CLIENT_MESSAGE_NONCE,
            receive_prefix: SERVER_MESSAGE_NONCE,
            nonce: self.nonce,
            guard: NonceGuard(self.guard.0),
        };
        Ok(Step::Done(Box::new(Established {
            session,
            metadata,
            peer: self.server,
        })))
    }
}

/// The server's side of the handshake.
pub(crate) struct Server {
    identity: CurveKeypair,
    authorize: Authorize,
    guard: NonceGuard,
    /// Opens the one cookie we gave out, once WELCOME was sent.
    cookie_key: Option<Key>,
}

impl Server {
    /// Waits for a client's HELLO.
    pub(crate) fn new(identity: CurveKeypair, authorize: Authorize) -> Server {
        Server {
            identity,
            authorize,
            guard: NonceGuard::default(),
            cookie_key: None,
        }
    }

    /// Takes the next command from the client. `metadata` is ours, for READY.
    /// Errors: [`Error::Unauthorized`] leaves an ERROR command in `out` for the client.
    pub(crate) fn on_command(
        &mut self,
        body: &[u8],
        metadata: &[u8],
        out: &mut BytesMut,
    ) -> Result<Step, Error> {
        let (name, data) = frame::split_command(body).ok_or(Error::BadCommand("handshake"))?;
        match (name, self.cookie_key.take()) {
            (b"HELLO", None) => self.on_hello(data, out),
            (b"INITIATE", Some(cookie_key)) => self.on_initiate(data, cookie_key, metadata, out),
            (b"ERROR", _) => Err(refusal(data)),
            _ => Err(Error::BadCommand("handshake")),
        }
    }

    fn on_hello(&mut self, mut data: &[u8], out: &mut BytesMut) -> Result<Step, Error> {
        if data.len() != HELLO_LEN {
            return Err(Error::BadCommand("HELLO"));
        }
        if take(&mut data, "HELLO")? != &[1, 0] {
            return Err(Error::BadCommand("HELLO version"));
        }
        let _padding: &[u8; 72] = take(&mut data, "HELLO")?;
        let client_short = PublicKey::from_bytes(*take(&mut data, "HELLO")?);
        let nonce = self.guard.accept(take(&mut data, "HELLO")?)?;
        let key = Key::shared(&client_short, &self.identity.secret)?;
        let signature = open_copy(&key, &short_nonce(HELLO_NONCE, nonce), data)?;
        if signature.iter().any(|b| *b != 0) {
            return Err(Error::BadCommand("HELLO signature"));
        }

        let short_term = CurveKeypair::generate();
        let cookie_key = Key::random();
        let cookie_random = random::<16>();
        let mut cookie = BytesMut::from(&cookie_random[..]);
        cookie_key.seal(
            &long_nonce(b"COOKIE--", &cookie_random),
            &[client_short.as_bytes(), short_term.secret.as_bytes()],
            &mut cookie,
        );
        let welcome_random = random::<16>();
        let mut sealed = BytesMut::new();
        key.seal(
            &long_nonce(b"WELCOME-", &welcome_random),
            &[short_term.public.as_bytes(), &cookie],
            &mut sealed,
        );
        frame::put_command("WELCOME", &[&welcome_random, &sealed], out);
        self.cookie_key = Some(cookie_key);
        Ok(Step::Continue)
    }

    fn on_initiate(
        &mut self,
        mut data: &[u8],
        cookie_key: Key,
        metadata: &[u8],
        out: &mut BytesMut,
    ) -> Result<Step, Error> {
        let cookie_nonce = long_nonce(b"COOKIE--", take(&mut data, "INITIATE")?);
        let cookie: &[u8; COOKIE_LEN - 16] = take(&mut data, "INITIATE")?;
        let cookie = open_copy(&cookie_key, &cookie_nonce, cookie)?;
        let mut cookie = &cookie[..];
        let client_short = PublicKey::from_bytes(*take(&mut cookie, "INITIATE")?);
        let server_short = SecretKey::from_bytes(*take(&mut cookie, "INITIATE")?);

        let nonce = self.guard.accept(take(&mut data, "INITIATE")?)?;
        let key = Key::shared(&client_short, &server_short)?;
        let opened = open_copy(&key, &short_nonce(INITIATE_NONCE, nonce), data)?;
        let mut opened = &opened[..];
        let client = PublicKey::from_bytes(*take(&mut opened, "INITIATE")?);
        let vouch: &[u8; VOUCH_LEN] = take(&mut opened, "INITIATE")?;
        self.check_vouch(vouch, &client, &client_short, &server_short)?;
        if !(self.authorize)(&client) {
            frame::put_command("ERROR", &[&[REFUSED.len() as u8], REFUSED.as_bytes()], out);
            return Err(Error::Unauthorized(client));
        }

        let ready_nonce = 1u64;
        let mut sealed = BytesMut::new();
        key.seal(
            &short_nonce(READY_NONCE, ready_nonce),
            &[metadata],
            &mut sealed,
        );
        frame::put_command("READY", &[&ready_nonce.to_be_bytes(), &sealed], out);
        let session = Session {
            key,
            send_prefix: SERVER_MESSAGE_NONCE,
            receive_prefix: CLIENT_MESSAGE_NONCE,
            nonce: ready_nonce,
            guard: NonceGuard(self.guard.0),
        };
        let metadata = Bytes::copy_from_slice(opened);
        Ok(Step::Done(Box::new(Established {
            session,
            metadata,
            peer: client,
        })))
    }

    /// The vouch shows that the owner of C made C' for us.
    fn check_vouch(
        &self,
        vouch: &[u8; VOUCH_LEN],
        client: &PublicKey,
        client_short: &PublicKey,
        server_short: &SecretKey,
    ) -> Result<(), Error> {
        let mut vouch = &vouch[..];
        let nonce = long_nonce(b"VOUCH---", take(&mut vouch, "INITIATE")?);
        let opened = open_copy(&Key::shared(client, server_short)?, &nonce, vouch)?;
        let mut opened = &opened[..];
        let vouched_client: &[u8; 32] = take(&mut opened, "INITIATE")?;
        let vouched_server: &[u8; 32] = take(&mut opened, "INITIATE")?;
        // Both are compared whatever the first says, so that timing tells nothing.
        let genuine = same(vouched_client, client_short.as_bytes())
            & same(vouched_server, self.identity.public.as_bytes());
        if genuine { Ok(()) } else { Err(Error::Decrypt) }
    }
}

/// The reason in an ERROR command, as an error.
pub(crate) fn refusal(data: &[u8]) -> Error {
    match frame::split_command(data) {
        Some((reason, _)) => Error::Refused(String::from_utf8_lossy(reason).into_owned()),
        None => Error::BadCommand("ERROR"),
    }
}

/// The encrypted traffic after a handshake.
pub(crate) struct Session {
    key: Key,
    send_prefix: &'static [u8; 16],
    receive_prefix: &'static [u8; 16],
    /// The last nonce we used.
    nonce: u64,
    guard: NonceGuard,
}

impl Session {
    /// Appends a frame that carries `body`, given in pieces, encrypted.
    /// Errors: [`Error::Nonce`] when 2^64 frames have been sent.
    pub(crate) fn seal(
        &mut self,
        more: bool,
        command: bool,
        body: &[&[u8]],
        out: &mut BytesMut,
    ) -> Result<(), Error> {
        self.nonce = self.nonce.checked_add(1).ok_or(Error::Nonce)?;
        let body_len: usize = body.iter().map(|piece| piece.len()).sum();
        out.reserve(9 + MESSAGE_OVERHEAD + body_len);
        // The RFC calls MESSAGE a command, but libzmq sends it without the command flag, and
        // understands nothing else from older peers; we do as it does and accept both.
        frame::put_header(0, MESSAGE_OVERHEAD + body_len, out);
        out.put_slice(MESSAGE_NAME);
        out.put_u64(self.nonce);
        let flags = if more { INNER_MORE } else { 0 } | if command { INNER_COMMAND } else { 0 };
        let nonce = short_nonce(self.send_prefix, self.nonce);
        match body {
            [one] => self.key.seal(&nonce, &[&[flags], one], out),
            [one, two] => self.key.seal(&nonce, &[&[flags], one, two], out),
            pieces => self.key.seal(&nonce, &[&[flags], &pieces.concat()], out),
        }
        Ok(())
    }

    /// Opens the body of an encrypted frame.
    pub(crate) fn open(&mut self, mut body: BytesMut) -> Result<frame::Frame, Error> {
        let header = body
            .split_at_checked(16)
            .ok_or(Error::BadCommand("MESSAGE"))?
            .0;
        let (name, nonce) = header.split_at(MESSAGE_NAME.len());
        if name != MESSAGE_NAME {
            return Err(Error::BadCommand("MESSAGE"));
        }
        let nonce: &[u8; 8] = nonce.try_into().map_err(|_| Error::BadCommand("MESSAGE"))?;
        let nonce = self.guard.accept(nonce)?;
        body.advance(16);
        self.key
            .open(&short_nonce(self.receive_prefix, nonce), &mut body)?;
        body.advance(MAC_LEN);
        let flags = *body.first().ok_or(Error::BadCommand("MESSAGE"))?;
        body.advance(1);
        Ok(frame::Frame {
            more: flags & INNER_MORE != 0,
            command: flags & INNER_COMMAND != 0,
            body,
        })
    }
}
