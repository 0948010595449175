//! Signals to the broker, by the state it is in.

use std::rc::Rc;

use module::Severity;
use tokio::signal::unix::{SignalKind, signal};

use crate::broker::Broker;
use crate::lifecycle::State;
use crate::runat;

/// The signals that ask the broker to go on to its end.
const KINDS: [(SignalKind, i32); 5] = [
    (SignalKind::hangup(), nix::libc::SIGHUP),
    (SignalKind::interrupt(), nix::libc::SIGINT),
    (SignalKind::quit(), nix::libc::SIGQUIT),
    (SignalKind::terminate(), nix::libc::SIGTERM),
    (SignalKind::alarm(), nix::libc::SIGALRM),
];

/// Acts on signals for ever.
pub(crate) async fn watch(broker: Rc<Broker>) {
    let mut tasks = tokio::task::JoinSet::new();
    for (kind, number) in KINDS {
        let mut signals = match signal(kind) {
            Ok(signals) => signals,
            Err(error) => {
                broker.log(Severity::Err, &format!("signal {number}: {error}"));
                continue;
            }
        };
        let broker = broker.clone();
        tasks.spawn_local(async move {
            while signals.recv().await.is_some() {
                on_signal(&broker, number);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

fn on_signal(broker: &Broker, number: i32) {
    broker.log(Severity::Info, &format!("signal {number}"));
    match broker.machine.state() {
        State::Join => broker.post("parent-fail"),
        State::ConfigSync => broker.post("sync-fail"),
        State::Init if !runat::abort_running(broker) => broker.post("rc1-fail"),
        State::Quorum => broker.post("quorum-fail"),
        State::Run if !runat::hang_up_rc2(broker) => broker.post("shutdown"),
        State::Cleanup | State::Finalize => {
            runat::abort_running(broker);
        }
        _ => {}
    }
}
