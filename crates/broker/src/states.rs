//! What a broker does in each state of its life, from loading built-in services to unloading them.
//!
//! [`crate::lifecycle`] says which state follows which event; here each state's work is started on
//! entry, and ends by posting the event that leads on.

use std::rc::Rc;
use std::time::Duration;

use module::Severity;
use proto::config::ConfigGet;
use rpc::Dest;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use types::Rank;

use crate::broker::{Access, Broker};
use crate::lifecycle::{State, duration_text};
use crate::modules::Program;
use crate::overlay::ParentCard;
use crate::settings::duration_attribute;
use crate::{cleanup, connector, groups, internal, parent, runat, services};

/// How long a broker about to go waits for an initial program that was told to end.
const HANGUP_GRACE: Duration = Duration::from_secs(1);

/// What the life of a broker starts from.
pub(crate) struct Start {
    pub(crate) command: Vec<String>,
    pub(crate) parent: Option<ParentCard>,
    pub(crate) listener: Option<UnixListener>,
}

/// Runs the state machine to its end. Returns the exit code.
pub(crate) async fn life(
    broker: Rc<Broker>,
    mut start: Start,
    mut events: mpsc::UnboundedReceiver<String>,
) -> i32 {
    let signals = tokio::task::spawn_local(crate::signals::watch(broker.clone()));
    enter(&broker, &mut start, State::LoadBuiltins);
    while let Some(event) = events.recv().await {
        let state = broker.machine.state();
        let Some(next) = state.after(&event) else {
            broker.log(
                Severity::Debug,
                &format!("{event}: ignored in {}", state.name()),
            );
            continue;
        };
        let took = duration_text(broker.machine.enter(next));
        let text = format!("{event}: {}->{} {took}", state.name(), next.name());
        broker.log(Severity::Info, &text);
        if next == State::Exit {
            break;
        }
        enter(&broker, &mut start, next);
    }
    signals.abort();
    broker.log.end_followers();
    broker.overlay.close();
    // Lets what was queued for clients and neighbours go out.
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    broker.exit_code()
}

/// Does what a state does on entry; the event that ends it comes later.
fn enter(broker: &Rc<Broker>, start: &mut Start, state: State) {
    let broker = broker.clone();
    match state {
        State::LoadBuiltins => {
            let listener = start.listener.take();
            tokio::task::spawn_local(async move {
                match load_builtins(&broker, listener).await {
                    Ok(()) => broker.post("builtins-success"),
                    Err(error) => {
                        broker.log(Severity::Err, &error);
                        broker.note_failure();
                        broker.post("builtins-fail");
                    }
                }
            });
        }
        State::Join => match start.parent.take() {
            None => broker.post("parent-none"),
            Some(card) => {
                tokio::task::spawn_local(join_parent(broker, card));
            }
        },
        State::ConfigSync => {
            if broker.router.rank() == Rank::LEADER {
                broker.post("sync-none");
            } else {
                tokio::task::spawn_local(sync_config(broker));
            }
        }
        State::Init => {
            if broker.router.rank() == Rank::LEADER {
                parent::announce(&broker);
            }
            tokio::task::spawn_local(async move {
                match runat::run_rc(&broker, "rc1", "broker.rc1_path").await {
                    None => broker.post("rc1-none"),
                    Some(0) => broker.post("rc1-success"),
                    Some(_) if broker.attrs.borrow().get("broker.recovery-mode").is_some() => {
                        broker.post("rc1-ignorefail");
                    }
                    Some(code) => {
                        broker.note_exit(code);
                        broker.post("rc1-fail");
                    }
                }
            });
        }
        State::Quorum => {
            if let Err(error) = broker.groups.join(&broker, groups::ONLINE) {
                broker.log(Severity::Err, &format!("groups.join: {error}"));
            }
            if broker.router.rank() != Rank::LEADER {
                broker.overlay.on_parent_state(&broker);
            }
        }
        State::Run => {
            if broker.router.rank() == Rank::LEADER {
                broker.log(Severity::Debug, "quorum reached");
                let command = std::mem::take(&mut start.command);
                tokio::task::spawn_local(run_program(broker, command));
            } else {
                broker.overlay.on_parent_state(&broker);
            }
        }
        State::Cleanup => {
            broker.overlay.refuse_hellos();
            tokio::task::spawn_local(run_cleanup(broker));
        }
        State::Shutdown => {
            broker.overlay.refuse_hellos();
            if broker.overlay.connected() == 0 {
                broker.post("children-none");
            }
        }
        State::Finalize => {
            tokio::task::spawn_local(async move {
                match runat::run_rc(&broker, "rc3", "broker.rc3_path").await {
                    None => broker.post("rc3-none"),
                    Some(0) => broker.post("rc3-success"),
                    Some(code) => {
                        broker.note_exit(code);
                        broker.post("rc3-fail");
                    }
                }
            });
        }
        State::Goodbye => {
            tokio::task::spawn_local(say_goodbye(broker));
        }
        State::UnloadBuiltins => {
            tokio::task::spawn_local(async move {
                for name in broker.modules.names().into_iter().rev() {
                    if name != "rexec" {
                        let text = format!("broker module '{name}' was not properly shut down");
                        broker.log(Severity::Err, &text);
                        broker.note_failure();
                    }
                    if let Err(error) = crate::modules::remove(&broker, &name, false).await {
                        broker.log(Severity::Err, &format!("{name}: {error}"));
                    }
                }
                broker.post("builtins-done");
            });
        }
        State::Exit => {}
    }
}

async fn load_builtins(broker: &Rc<Broker>, listener: Option<UnixListener>) -> Result<(), String> {
    internal::serve(broker, services::all())
        .map_err(|errno| format!("internal services: {errno}"))?;
    for (key, flag) in {
        let access = broker.access.borrow();
        [
            ("allow-guest-user", access.allow_guest_user),
            ("allow-root-owner", access.allow_root_owner),
        ]
    } {
        broker.log_as("connector-local", Severity::Debug, &format!("{key}={flag}"));
    }
    if let Some(listener) = listener {
        tokio::task::spawn_local(connector::serve(broker.clone(), listener));
    }
    if let Some(builtin) = broker.builtin("rexec") {
        let program = Program::builtin(builtin, "rexec", "builtin", Vec::new());
        crate::modules::load(broker, program)
            .await
            .map_err(|error| format!("rexec: {error}"))?;
    }
    Ok(())
}

async fn join_parent(broker: Rc<Broker>, card: ParentCard) {
    let timeout = duration_attribute(&broker.attrs.borrow(), "tbon.connect_timeout")
        .ok()
        .filter(|timeout| !timeout.is_zero())
        .unwrap_or(Duration::from_secs(3600));
    match broker.overlay.join(&card, timeout).await {
        Ok(()) => broker.overlay.clone().follow_parent(broker.clone()).await,
        Err(error) => {
            broker.log_as("overlay", Severity::Err, &error);
            broker.note_failure();
            broker.post("parent-fail");
        }
    }
}

/// Takes over the parent's configuration, and each later one.
async fn sync_config(broker: Rc<Broker>) {
    let handle = broker.router.handle();
    let mut configs = handle.stream::<ConfigGet>(Dest::Upstream, &proto::Empty {});
    match configs.next().await {
        Ok(Some(config)) => {
            if let Ok(access) = Access::parse(&config) {
                *broker.access.borrow_mut() = access;
            }
            *broker.config.borrow_mut() = Rc::new(config);
            broker.post("sync-success");
        }
        Ok(None) | Err(_) => {
            broker.log(Severity::Err, "could not fetch configuration from parent");
            broker.note_failure();
            return broker.post("sync-fail");
        }
    }
    while let Ok(Some(config)) = configs.next().await {
        if let Err(error) = services::apply_config(&broker, config).await {
            broker.log(Severity::Err, &format!("configuration update: {error}"));
        }
    }
}

async fn run_program(broker: Rc<Broker>, command: Vec<String>) {
    if broker.attrs.borrow().get("broker.rc2_none").is_some() {
        return;
    }
    let code = runat::run_rc2(&broker, &command).await;
    broker.note_exit(code);
    broker.idle.notify_waiters();
    broker.post(if code == 0 { "rc2-success" } else { "rc2-fail" });
}

async fn run_cleanup(broker: Rc<Broker>) {
    let commands = broker.cleanup.take();
    if broker.router.rank() != Rank::LEADER {
        return broker.post("cleanup-none");
    }
    let mut failed = false;
    for (index, command) in commands.iter().enumerate() {
        let code = runat::run_logged(&broker, "cleanup", index, command).await;
        broker.note_exit(code);
        failed |= code != 0;
    }
    let code = cleanup::end_jobs(&broker).await;
    broker.note_exit(code);
    failed |= code != 0;
    broker.post(if failed {
        "cleanup-fail"
    } else {
        "cleanup-success"
    });
}

async fn say_goodbye(broker: Rc<Broker>) {
    if broker.router.rank() != Rank::LEADER
        && let Err(text) = broker.overlay.leave().await
    {
        broker.log(Severity::Err, text);
    }
    // Those who follow `flux shutdown` see the end before the broker goes.
    for request in broker.shutdown_requests.borrow().iter() {
        request.end();
    }
    broker.log.end_followers();
    let gone = async {
        while !broker.shutdown_requests.borrow().is_empty() && !broker.connector.is_idle() {
            broker.idle.notified().await;
        }
    };
    // A client that stays connected does not keep the broker up for ever.
    if tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .is_err()
    {
        broker.log(Severity::Err, "shutdown client did not disconnect");
    }
    // The exit code of a program that was told to end is still the instance's. One that goes on all
    // the same is left alone.
    let ended = async {
        while broker.running.borrow().rc2.is_some() {
            broker.idle.notified().await;
        }
    };
    let _ended = tokio::time::timeout(HANGUP_GRACE, ended).await;
    broker.post("goodbye");
}
