//! Talks to real libzmq, through pyzmq, and to itself.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that fails"
)]

use std::cell::RefCell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::timeout;
use zmtp::transport::{
    Closed, Dealer, DealerEvent, Endpoint, Options, Overflow, Router, RouterEvent, SendError,
};
use zmtp::{AllowList, Config, CurveKeypair, Error, Mechanism, SocketType};

/// Every wait ends by then, so that a fault fails instead of hanging.
const LIMIT: Duration = Duration::from_secs(60);

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("zmtp-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn ipc(&self) -> Endpoint {
        Endpoint::Ipc(self.0.join("s"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder
        .enable_all()
        .build_local(Default::default())
        .unwrap();
    runtime.block_on(async { timeout(LIMIT, test).await.expect("test took too long") });
}

fn tcp() -> Endpoint {
    "tcp://127.0.0.1:*".parse().unwrap()
}

#[derive(Clone)]
struct Security {
    curve: bool,
    server: CurveKeypair,
    client: CurveKeypair,
    allowed: AllowList,
}

impl Security {
    fn null() -> Security {
        Security {
            curve: false,
            ..Security::curve()
        }
    }

    fn curve() -> Security {
        let security = Security {
            curve: true,
            server: CurveKeypair::generate(),
            client: CurveKeypair::generate(),
            allowed: AllowList::new(),
        };
        security.allowed.allow(security.client.public);
        security
    }

    fn router(&self) -> Config {
        let mechanism = match self.curve {
            false => Mechanism::Null,
            true => Mechanism::CurveServer {
                keypair: self.server.clone(),
                authorize: self.allowed.authorize(),
            },
        };
        Config::new(SocketType::Router, "", mechanism)
    }

    fn dealer(&self) -> Config {
        let mechanism = match self.curve {
            false => Mechanism::Null,
            true => Mechanism::CurveClient {
                keypair: self.client.clone(),
                server: self.server.public,
            },
        };
        Config::new(SocketType::Dealer, "rust", mechanism)
    }

    fn python(&self, action: &str, endpoint: &Endpoint) -> Child {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer.py");
        let mechanism = if self.curve { "curve" } else { "null" };
        Command::new("python3")
            .arg(script)
            .args([action, &endpoint.to_string(), mechanism])
            .env("SERVER_PUBLIC", self.server.public.to_z85())
            .env("SERVER_SECRET", self.server.secret.to_z85())
            .env("CLIENT_PUBLIC", self.client.public.to_z85())
            .env("CLIENT_SECRET", self.client.secret.to_z85())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 is needed for these tests")
    }
}

/// Fails with advice when pyzmq is missing.
async fn require_pyzmq() {
    let check = "import zmq, sys; sys.exit(0 if zmq.has('curve') else 1)";
    let status = Command::new("python3").args(["-c", check]).status().await;
    assert!(
        status.is_ok_and(|s| s.success()),
        "pyzmq with CURVE is needed for these tests: run `pip install pyzmq`"
    );
}

async fn finish(mut child: Child) {
    assert!(
        child.wait().await.unwrap().success(),
        "the python peer failed"
    );
}

async fn first_line(child: &mut Child) -> String {
    let stdout = child.stdout.take().unwrap();
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).await.unwrap();
    line.trim().to_owned()
}

/// A ROUTER that returns every message to its sender and reports other events.
async fn echo_router(
    config: Config,
    endpoint: &Endpoint,
) -> (Rc<Router>, UnboundedReceiver<RouterEvent>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let slot: Rc<RefCell<std::rc::Weak<Router>>> = Rc::default();
    let own = slot.clone();
    let on_event = move |event| match event {
        RouterEvent::Message { identity, parts } => {
            if let Some(router) = own.borrow().upgrade() {
                router.send(&identity, &parts).unwrap();
            }
        }
        other => drop(sender.send(other)),
    };
    let endpoints = std::slice::from_ref(endpoint);
    let router = Router::bind(endpoints, config, Options::default(), on_event)
        .await
        .unwrap();
    let router = Rc::new(router);
    *slot.borrow_mut() = Rc::downgrade(&router);
    (router, receiver)
}

async fn python_dealer(security: Security, endpoint: Endpoint) {
    require_pyzmq().await;
    let (router, mut events) = echo_router(security.router(), &endpoint).await;
    finish(security.python("dealer", &router.endpoints()[0])).await;
    let Some(RouterEvent::Connected { identity, peer }) = events.recv().await else {
        panic!()
    };
    assert_eq!(identity, "python");
    assert_eq!(peer.socket_type, SocketType::Dealer);
    assert_eq!(peer.key, security.curve.then_some(security.client.public));
    loop {
        match events.recv().await.unwrap() {
            RouterEvent::Alive { .. } => {}
            RouterEvent::Disconnected {
                reason: Closed::Peer,
                ..
            } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        router.send(b"python", &["too late".into()]),
        Err(SendError::Unroutable)
    );
}

async fn python_router(security: Security, endpoint: Endpoint) {
    require_pyzmq().await;
    let mut child = security.python("router", &endpoint);
    let endpoint: Endpoint = first_line(&mut child).await.parse().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let on_event = move |event| drop(sender.send(event));
    let dealer = Dealer::connect(&endpoint, security.dealer(), Options::default(), on_event);
    let dealer = dealer.await.unwrap();
    assert_eq!(dealer.peer().socket_type, SocketType::Router);
    let large = vec![b'x'; 5_000_000];
    let messages: [&[&[u8]]; 4] = [
        &[b"one"],
        &[b"", b"two", b""],
        &[b"large", &large],
        &[b"quit"],
    ];
    for message in messages {
        let parts: Vec<Bytes> = message.iter().map(|part| part.to_vec().into()).collect();
        dealer.send(&parts).unwrap();
    }
    for message in messages {
        match events.recv().await.unwrap() {
            DealerEvent::Message(parts) => assert_eq!(parts, message),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        events.recv().await.unwrap(),
        DealerEvent::Disconnected(_)
    ));
    finish(child).await;
}

#[test]
fn libzmq_dealer_null_tcp() {
    run(python_dealer(Security::null(), tcp()));
}

#[test]
fn libzmq_dealer_null_ipc() {
    let scratch = Scratch::new("dealer-null");
    run(python_dealer(Security::null(), scratch.ipc()));
}

#[test]
fn libzmq_dealer_curve_tcp() {
    run(python_dealer(Security::curve(), tcp()));
}

#[test]
fn libzmq_dealer_curve_ipc() {
    let scratch = Scratch::new("dealer-curve");
    run(python_dealer(Security::curve(), scratch.ipc()));
}

#[test]
fn libzmq_router_null_tcp() {
    run(python_router(Security::null(), tcp()));
}

#[test]
fn libzmq_router_null_ipc() {
    let scratch = Scratch::new("router-null");
    run(python_router(Security::null(), scratch.ipc()));
}

#[test]
fn libzmq_router_curve_tcp() {
    run(python_router(Security::curve(), tcp()));
}

#[test]
fn libzmq_router_curve_ipc() {
    let scratch = Scratch::new("router-curve");
    run(python_router(Security::curve(), scratch.ipc()));
}

#[test]
fn libzmq_client_off_the_allow_list_is_told() {
    run(async {
        require_pyzmq().await;
        let security = Security::curve();
        security.allowed.revoke(&security.client.public);
        let (router, mut events) = echo_router(security.router(), &tcp()).await;
        let mut child = security.python("refused", &router.endpoints()[0]);
        assert_eq!(first_line(&mut child).await, "HANDSHAKE_FAILED_AUTH 400");
        finish(child).await;
        let Some(RouterEvent::Rejected { reason, .. }) = events.recv().await else {
            panic!()
        };
        assert!(reason.to_string().contains("No access"), "{reason}");
    });
}

#[test]
fn libzmq_client_with_wrong_server_key_is_dropped() {
    run(async {
        require_pyzmq().await;
        let mut security = Security::curve();
        let (router, mut events) = echo_router(security.router(), &tcp()).await;
        security.server = CurveKeypair::generate();
        let child = security.python("refused", &router.endpoints()[0]);
        let Some(RouterEvent::Rejected { reason, .. }) = events.recv().await else {
            panic!()
        };
        assert!(
            matches!(reason, Closed::Protocol(Error::Decrypt)),
            "{reason}"
        );
        finish(child).await;
    });
}

#[test]
fn libzmq_server_refuses_an_unlisted_key() {
    run(async {
        require_pyzmq().await;
        let mut security = Security::curve();
        let mut child = security.python("router", &tcp());
        let endpoint: Endpoint = first_line(&mut child).await.parse().unwrap();
        security.client = CurveKeypair::generate();
        let dealer =
            Dealer::connect(&endpoint, security.dealer(), Options::default(), |_| {}).await;
        let reason = dealer.err().expect("the key is not allowed");
        assert!(
            matches!(reason, Closed::Protocol(Error::Refused(_)) | Closed::Peer),
            "{reason}"
        );
        child.kill().await.unwrap();
    });
}

#[test]
fn dealer_waits_for_a_late_listener() {
    let scratch = Scratch::new("late");
    run(async {
        let (security, endpoint) = (Security::curve(), scratch.ipc());
        let dealer = Dealer::connect(&endpoint, security.dealer(), Options::default(), |_| {});
        let mut dealer = Box::pin(dealer);
        // One poll: it finds nobody.
        assert!(timeout(Duration::ZERO, &mut dealer).await.is_err());
        let (_router, mut events) = echo_router(security.router(), &endpoint).await;
        dealer.await.unwrap();
        assert!(matches!(
            events.recv().await.unwrap(),
            RouterEvent::Connected { .. }
        ));
    });
}

#[test]
fn second_peer_with_an_identity_is_refused() {
    run(async {
        let security = Security::null();
        let (router, mut events) = echo_router(security.router(), &tcp()).await;
        let endpoint = &router.endpoints()[0];
        let connect = || Dealer::connect(endpoint, security.dealer(), Options::default(), |_| {});
        let first = connect().await.unwrap();
        assert!(matches!(
            events.recv().await.unwrap(),
            RouterEvent::Connected { .. }
        ));
        // The refusal comes after the handshake, so this side may see it succeed.
        let _second = connect().await;
        let Some(RouterEvent::Rejected { reason, .. }) = events.recv().await else {
            panic!()
        };
        assert!(matches!(reason, Closed::DuplicateIdentity), "{reason}");
        assert!(router.is_connected(b"rust"));
        drop(first);
        assert!(matches!(
            events.recv().await.unwrap(),
            RouterEvent::Disconnected { .. }
        ));
    });
}

#[test]
fn disconnect_delivers_what_was_queued() {
    run(async {
        let security = Security::curve();
        let (router, mut router_events) = echo_router(security.router(), &tcp()).await;
        let (sender, mut events) = mpsc::unbounded_channel();
        let on_event = move |event| drop(sender.send(event));
        let endpoint = &router.endpoints()[0];
        let dealer = Dealer::connect(endpoint, security.dealer(), Options::default(), on_event);
        let _dealer = dealer.await.unwrap();
        assert!(matches!(
            router_events.recv().await.unwrap(),
            RouterEvent::Connected { .. }
        ));
        router.send(b"rust", &["go away".into()]).unwrap();
        router.disconnect(b"rust");
        assert_eq!(
            router.send(b"rust", &["more".into()]),
            Err(SendError::Unroutable)
        );
        let Some(DealerEvent::Message(parts)) = events.recv().await else {
            panic!()
        };
        assert_eq!(parts, ["go away"]);
        let Some(DealerEvent::Disconnected(reason)) = events.recv().await else {
            panic!()
        };
        assert!(matches!(reason, Closed::Peer), "{reason}");
        let Some(RouterEvent::Disconnected { reason, .. }) = router_events.recv().await else {
            panic!()
        };
        assert!(matches!(reason, Closed::Local), "{reason}");
    });
}

/// A raw peer that completes a NULL handshake and then reads nothing.
async fn deaf_peer(endpoint: &Endpoint) -> tokio::net::TcpStream {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Endpoint::Tcp { host, port } = endpoint else {
        panic!()
    };
    let mut stream = tokio::net::TcpStream::connect((host.as_str(), *port))
        .await
        .unwrap();
    let (mut out, mut input) = (bytes::BytesMut::new(), bytes::BytesMut::new());
    let config = Config::new(SocketType::Dealer, "deaf", Mechanism::Null);
    let mut connection = zmtp::Connection::new(config, &mut out);
    while !connection.is_open() {
        stream.write_all_buf(&mut out).await.unwrap();
        stream.read_buf(&mut input).await.unwrap();
        connection.feed(&mut input, &mut out).unwrap();
    }
    stream
}

#[test]
fn peer_that_does_not_read_is_dropped() {
    run(async {
        let (sender, mut events) = mpsc::unbounded_channel();
        let options = Options {
            queue_bytes_max: 1 << 20,
            ..Options::default()
        };
        let config = Security::null().router();
        let on_event = move |event| drop(sender.send(event));
        let router = Router::bind(&[tcp()], config, options, on_event)
            .await
            .unwrap();
        let _stream = deaf_peer(&router.endpoints()[0]).await;
        assert!(matches!(
            events.recv().await.unwrap(),
            RouterEvent::Connected { .. }
        ));
        let chunk = Bytes::from(vec![0; 100_000]);
        while router.send(b"deaf", std::slice::from_ref(&chunk)).is_ok() {
            tokio::task::yield_now().await;
        }
        let Some(RouterEvent::Disconnected { reason, .. }) = events.recv().await else {
            panic!()
        };
        assert!(matches!(reason, Closed::Overflow), "{reason}");
    });
}

#[test]
fn full_queue_can_refuse_instead() {
    run(async {
        let (sender, mut events) = mpsc::unbounded_channel();
        let options = Options {
            queue_bytes_max: 10,
            overflow: Overflow::Refuse,
            ..Options::default()
        };
        let config = Security::null().router();
        let on_event = move |event| drop(sender.send(event));
        let router = Router::bind(&[tcp()], config, options, on_event)
            .await
            .unwrap();
        let _stream = deaf_peer(&router.endpoints()[0]).await;
        assert!(matches!(
            events.recv().await.unwrap(),
            RouterEvent::Connected { .. }
        ));
        // No await between these: the task had no chance to write.
        router.send(b"deaf", &["0123456789".into()]).unwrap();
        assert_eq!(router.send(b"deaf", &["x".into()]), Err(SendError::Full));
        assert!(router.is_connected(b"deaf"));
    });
}

#[test]
fn silent_connection_times_out() {
    run(async {
        let (sender, mut events) = mpsc::unbounded_channel();
        let options = Options {
            handshake_timeout: Duration::from_millis(50),
            ..Options::default()
        };
        let config = Security::curve().router();
        let on_event = move |event| drop(sender.send(event));
        let router = Router::bind(&[tcp()], config, options, on_event)
            .await
            .unwrap();
        let Endpoint::Tcp { host, port } = &router.endpoints()[0] else {
            panic!()
        };
        let _stream = tokio::net::TcpStream::connect((host.as_str(), *port))
            .await
            .unwrap();
        let Some(RouterEvent::Rejected { reason, .. }) = events.recv().await else {
            panic!()
        };
        assert!(matches!(reason, Closed::HandshakeTimeout), "{reason}");
    });
}

#[test]
fn socket_file_goes_with_the_router() {
    let scratch = Scratch::new("file");
    run(async {
        let Endpoint::Ipc(path) = scratch.ipc() else {
            panic!()
        };
        // A file left by a dead process is no obstacle.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (router, _) = echo_router(Security::null().router(), &scratch.ipc()).await;
        assert!(path.exists());
        drop(router);
        tokio::task::yield_now().await;
        assert!(!path.exists());
    });
}

#[test]
fn messages_that_wait_keep_their_order() {
    run(async {
        let security = Security::curve();
        let (router, _events) = echo_router(security.router(), &tcp()).await;
        let (sender, mut events) = mpsc::unbounded_channel();
        let on_event = move |event| drop(sender.send(event));
        let endpoint = &router.endpoints()[0];
        let dealer = Dealer::connect(endpoint, security.dealer(), Options::default(), on_event);
        let dealer = dealer.await.unwrap();
        let size = |number: u32| [1, 300, 70_000, 0, 1_000_000][number as usize % 5];
        let message = |number: u32| {
            let body = vec![number as u8; size(number)];
            [number.to_string().into(), Bytes::from(body)]
        };
        for number in 0..40 {
            // The first is encoded at once, most of the others when there is room.
            dealer.send(&message(number)).unwrap();
        }
        for number in 0..40 {
            match events.recv().await.unwrap() {
                DealerEvent::Message(parts) => assert_eq!(parts, message(number), "{number}"),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn shutdown_delivers_what_was_queued() {
    run(async {
        let (sender, mut events) = mpsc::unbounded_channel();
        let config = Security::curve();
        let on_event = move |event| drop(sender.send(event));
        let options = Options::default();
        let router = Router::bind(&[tcp()], config.router(), options, on_event)
            .await
            .unwrap();
        let endpoint = &router.endpoints()[0];
        let dealer = Dealer::connect(endpoint, config.dealer(), Options::default(), |_| {});
        let dealer = dealer.await.unwrap();
        let large = Bytes::from(vec![b'x'; 3_000_000]);
        dealer.send(std::slice::from_ref(&large)).unwrap();
        // Input that nobody reads must not spoil the parting.
        assert!(matches!(
            events.recv().await.unwrap(),
            RouterEvent::Connected { .. }
        ));
        router.send(b"rust", std::slice::from_ref(&large)).unwrap();
        dealer.shutdown().await;
        let Some(RouterEvent::Message { parts, .. }) = events.recv().await else {
            panic!()
        };
        assert_eq!(parts[0].len(), large.len());
        assert!(matches!(
            events.recv().await.unwrap(),
            RouterEvent::Disconnected { .. }
        ));
        router.shutdown().await;
    });
}
