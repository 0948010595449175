//! Measures round trips and message rate between two processes.
//!
//! `echo server ENDPOINT null|curve` returns every message; `echo client ENDPOINT null|curve`
//! measures against it. Keys are fixed, so this is for measuring only. Put both on one core with
//! `taskset -c 0` to leave out the cost of waking another.

use std::cell::RefCell;
use std::error::Error;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use zmtp::transport::{Dealer, DealerEvent, Endpoint, Options, Router, RouterEvent};
use zmtp::{Config, CurveKeypair, Mechanism, SecretKey, SocketType};

const PAYLOAD: [u8; 200] = [b'x'; 200];
const ROUNDS: usize = 50_000;
const BURST: usize = 1_000_000;

fn keypair(seed: u8) -> CurveKeypair {
    CurveKeypair::from_secret(SecretKey::from_bytes([seed; 32]))
}

async fn server(endpoint: Endpoint, curve: bool) -> Result<(), Box<dyn Error>> {
    let mechanism = match curve {
        false => Mechanism::Null,
        true => Mechanism::CurveServer {
            keypair: keypair(1),
            authorize: Arc::new(|_| true),
        },
    };
    let config = Config::new(SocketType::Router, "", mechanism);
    let slot: Rc<RefCell<Weak<Router>>> = Rc::default();
    let own = slot.clone();
    let (done, mut until_done) = mpsc::channel(1);
    // A burst is only counted: its last message, told by its length, is returned.
    let on_event = move |event| match event {
        RouterEvent::Message { identity, parts } => {
            let burst = parts.len() > 1 && parts[0] == "burst";
            let sent = own
                .borrow()
                .upgrade()
                .filter(|_| !burst)
                .map(|r| r.send(&identity, &parts));
            if let Some(Err(error)) = sent {
                eprintln!("send: {error}");
            }
        }
        RouterEvent::Disconnected { .. } => drop(done.try_send(())),
        _ => {}
    };
    let router = Rc::new(Router::bind(&[endpoint], config, Options::default(), on_event).await?);
    *slot.borrow_mut() = Rc::downgrade(&router);
    until_done.recv().await;
    Ok(())
}

async fn client(endpoint: Endpoint, curve: bool) -> Result<(), Box<dyn Error>> {
    let mechanism = match curve {
        false => Mechanism::Null,
        true => Mechanism::CurveClient {
            keypair: keypair(2),
            server: keypair(1).public,
        },
    };
    let config = Config::new(SocketType::Dealer, "client", mechanism);
    let (sender, mut events) = mpsc::unbounded_channel();
    let on_event = move |event| drop(sender.send(event));
    let dealer = Dealer::connect(&endpoint, config, Options::default(), on_event).await?;
    let payload = Bytes::from_static(&PAYLOAD);
    let burst = Bytes::from_static(b"burst");
    let mut samples = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        dealer.send(std::slice::from_ref(&payload))?;
        match events.recv().await {
            Some(DealerEvent::Message(_)) => samples.push(start.elapsed()),
            other => return Err(format!("{other:?}").into()),
        }
    }
    samples.sort();
    let at = |share: usize| Duration::as_nanos(&samples[ROUNDS * share / 100]) as f64 / 1000.0;
    println!("round trip p50 {:.1} us, p99 {:.1} us", at(50), at(99));
    let start = Instant::now();
    for i in 0..BURST {
        dealer.send(&[burst.clone(), payload.clone()])?;
        if i % 256 == 0 {
            tokio::task::yield_now().await;
        }
    }
    dealer.send(&[Bytes::from_static(b"end")])?;
    match events.recv().await {
        Some(DealerEvent::Message(_)) => {}
        other => return Err(format!("{other:?}").into()),
    }
    let rate = BURST as f64 / start.elapsed().as_secs_f64();
    println!(
        "one way {:.0} k messages/s of two parts, {} bytes",
        rate / 1000.0,
        PAYLOAD.len()
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: echo server|client ENDPOINT null|curve";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, endpoint, mechanism] = &arguments[..] else {
        return Err(usage.into());
    };
    let (endpoint, curve) = (endpoint.parse()?, mechanism == "curve");
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(Default::default())?;
    match role.as_str() {
        "server" => runtime.block_on(server(endpoint, curve)),
        "client" => runtime.block_on(client(endpoint, curve)),
        _ => Err(usage.into()),
    }
}
