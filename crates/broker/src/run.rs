//! A broker from its command line to its exit code.
//!
//! The order of things: settings ([`crate::settings`]), bootstrap ([`crate::boot`]), the place in
//! the tree and the way into it ([`crate::place`]), then the states of a broker's life
//! ([`crate::states`]).

use std::ffi::{CString, OsString};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use module::{Builtin, Severity};
use proto::Raw;
use proto::log::LogAppend;
use rpc::Dest;
use tokio::sync::{Notify, mpsc};
use types::{Rank, UserId};
use wire::RouteId;

use crate::args::{self, Args, USAGE};
use crate::boot::Boot;
use crate::broker::{Broker, Parts};
use crate::overlay::place_attributes;
use crate::place::{describe_place, join_tree, plan_tree};
use crate::router::Router;
use crate::rundir::Cleanup;
use crate::settings::{Prepared, prepare};
use crate::states::{Start, life};
use crate::{connector, groups, panics, runat, rundir};

/// Runs `flux broker` with the words after it and the modules this program has.
pub fn broker_main(words: Vec<OsString>, builtins: Vec<Builtin>) -> ExitCode {
    let args = match args::parse(words.into_iter()) {
        Ok(args) => args,
        Err(text) => {
            types::complain!("{text}");
            return ExitCode::FAILURE;
        }
    };
    if args.help {
        types::complain!("{}", USAGE.trim_end());
        return ExitCode::SUCCESS;
    }
    let mut cleanup = Cleanup::default();
    let result = run(args, builtins, &mut cleanup);
    for failure in cleanup.run() {
        types::complain!("flux-broker: {failure}");
    }
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(text) => {
            types::complain!("flux-broker: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args, builtins: Vec<Builtin>, cleanup: &mut Cleanup) -> Result<i32, String> {
    raise_descriptor_limit()?;
    let_faults_kill()?;
    let panics = panics::watch();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let code =
        tokio::task::LocalSet::new().block_on(&runtime, live(args, builtins, panics, cleanup));
    // Threads of modules (the database's) end by themselves; nothing waits for others.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

fn raise_descriptor_limit() -> Result<(), String> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| errno.to_string())?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        .map_err(|errno| format!("RLIMIT_NOFILE: {errno}"))
}

/// Gives the signals of faults back their meaning. The handler a Rust program has for them takes
/// the first for a stack overflow or ignores it, so that somebody who sends one to have a broker
/// dump core would have to send it twice.
#[expect(unsafe_code, reason = "signal(2); no handler is installed")]
fn let_faults_kill() -> Result<(), String> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default disposition runs no code of this program.
        unsafe { signal(fault, SigHandler::SigDfl) }
            .map_err(|errno| format!("{fault}: {errno}"))?;
    }
    Ok(())
}

async fn live(
    args: Args,
    builtins: Vec<Builtin>,
    panics: Arc<Notify>,
    cleanup: &mut Cleanup,
) -> Result<i32, String> {
    let Prepared {
        mut attrs,
        config,
        access,
        log,
    } = prepare(&args)?;
    let hostname = attrs.get("hostname").unwrap_or_default();
    let boot = Boot::start(attrs.get("broker.boot-method"), &config, hostname)?;
    attrs.put("broker.boot-method", boot.method);
    describe_place(&mut attrs, &boot)?;
    let rank = boot.rank;
    name_process(rank);
    rundir::prepare(&mut attrs, rank.0, cleanup)?;
    let topology = Rc::new(plan_tree(&mut attrs, &boot)?);
    let id = RouteId::from(attrs.get("broker.uuid").unwrap_or_default());
    let owner = UserId(nix::unistd::getuid().as_raw());
    let connector_id = RouteId::from(uuid::Uuid::new_v4().to_string());
    let router = Router::new(id.clone(), connector_id, owner);
    router.place(rank, topology.clone());
    for (name, value) in place_attributes(rank, &topology) {
        attrs.put(name, value);
    }
    let size = topology.size();
    let joined = join_tree(&mut attrs, boot, &topology, id).await?;
    router.set_tree(Some(joined.overlay.clone()));
    let forward = (rank != Rank::LEADER).then(|| forward_to_parent(&router));
    log.set_rank(rank, forward);
    if rank == Rank::LEADER {
        if let Some(path) = attrs.get("log-filename") {
            log.set_file(path)
                .map_err(|error| format!("log-filename: {path}: {error}"))?;
        }
    } else {
        attrs.clear("log-filename");
    }
    let uri = attrs.get("local-uri").unwrap_or_default();
    let socket = uri
        .strip_prefix("local://")
        .ok_or("local-uri is malformed")?
        .to_owned();
    let listener =
        connector::bind(socket.as_ref()).map_err(|error| format!("{socket}: {error}"))?;
    let (events, events_rx) = mpsc::unbounded_channel();
    let parts = Parts {
        router,
        attrs,
        config,
        access,
        log,
        builtins,
        overlay: joined.overlay.clone(),
        groups: groups::Groups::new(rank, topology),
        hostlist: joined.hostlist,
    };
    let broker = Broker::new(parts, events);
    tokio::task::spawn_local(panics::follow(broker.clone(), panics));
    joined.overlay.attach(&broker);
    if args.verbose > 0 {
        let text = format!("boot: rank={rank} size={size}");
        broker.log(Severity::Info, &text);
    }
    if args.verbose > 1 {
        broker.log(Severity::Info, "entering event loop");
    }
    let start = Start {
        command: args.command,
        parent: joined.parent,
        listener: Some(listener),
    };
    let code = life(broker.clone(), start, events_rx).await;
    runat::hang_up_leftovers(&broker);
    // The socket goes last: while it is there, clients are answered.
    if let Err(error) = std::fs::remove_file(&socket)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        types::complain!("flux-broker: {socket}: {error}");
    }
    Ok(code)
}

/// Has `ps` and the like tell brokers apart. Nothing depends on it.
fn name_process(rank: Rank) {
    if let Ok(name) = CString::new(format!("flux-broker-{rank}")) {
        let _named = nix::sys::prctl::set_name(&name);
    }
}

fn forward_to_parent(router: &Rc<Router>) -> Rc<dyn Fn(Bytes)> {
    let handle = router.handle();
    Rc::new(move |record| handle.notify::<LogAppend>(Dest::Upstream, &Raw(record)))
}
