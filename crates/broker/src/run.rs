//! A broker from its command line to its exit code.

use std::ffi::OsString;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use module::{Builtin, Severity};
use proto::Raw;
use proto::config::ConfigGet;
use proto::log::LogAppend;
use rpc::Dest;
use tbon::{Scheme, Topology};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use types::{Rank, UserId};
use wire::RouteId;
use zmtp::CurveKeypair;
use zmtp::transport::Endpoint;

use crate::args::{self, Args, USAGE};
use crate::attrs::Attrs;
use crate::boot::{self, Boot, Card, Nodes};
use crate::broker::{Access, Broker, Parts};
use crate::config;
use crate::lifecycle::{State, duration_text};
use crate::log::Log;
use crate::modules::Program;
use crate::overlay::{Listener, Overlay, ParentCard, place_attributes};
use crate::router::Router;
use crate::rundir::Cleanup;
use crate::{cleanup, connector, groups, internal, parent, runat, rundir, services};

/// Runs `flux broker` with the words after it and the modules this program has.
pub fn broker_main(words: Vec<OsString>, builtins: Vec<Builtin>) -> ExitCode {
    let args = match args::parse(words.into_iter()) {
        Ok(args) => args,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::FAILURE;
        }
    };
    if args.help {
        eprint!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    crate::allocator::tune();
    let mut cleanup = Cleanup::default();
    let result = run(args, builtins, &mut cleanup);
    for failure in cleanup.run() {
        eprintln!("flux-broker: {failure}");
    }
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(text) => {
            eprintln!("flux-broker: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args, builtins: Vec<Builtin>, cleanup: &mut Cleanup) -> Result<i32, String> {
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let code = tokio::task::LocalSet::new().block_on(&runtime, live(args, builtins, cleanup));
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

/// Everything known before the broker joins the tree.
struct Prepared {
    attrs: Attrs,
    config: config::Config,
    access: Access,
    log: Rc<Log>,
}

fn prepare(args: &Args) -> Result<Prepared, String> {
    let mut attrs = default_attributes(args)?;
    let mut config = config::Config::new();
    let path = args
        .config_path
        .clone()
        .or_else(|| attrs.get("config.path").map(str::to_owned))
        .or_else(|| std::env::var("FLUX_CONF_DIR").ok());
    if let Some(path) = path {
        config =
            config::load(path.as_ref()).map_err(|error| format!("Config file error: {error}"))?;
        attrs.put("config.path", path);
    }
    for argument in &args.conf {
        let more = config::load_argument(argument).map_err(|error| error.to_string())?;
        config::merge(&mut config, more);
    }
    let access = Access::parse(&config)?;
    tbon_config(&mut attrs, &config)?;
    let log = Rc::new(Log::new());
    log.set_hostname(attrs.get("hostname").unwrap_or("-"));
    for name in attrs.names().iter().filter(|name| name.starts_with("log-")) {
        let value = attrs.get(name).unwrap_or_default();
        if name != "log-filename" {
            log.set_attr(name, value)
                .map_err(|error| format!("{name}={value}: {error}"))?;
        }
    }
    Ok(Prepared {
        attrs,
        config,
        access,
        log,
    })
}

/// Takes settings of the `[tbon]` table that the command line leaves open.
fn tbon_config(attrs: &mut Attrs, config: &config::Config) -> Result<(), String> {
    let Some(table) = config.get("tbon") else {
        return Ok(());
    };
    let table = table
        .as_object()
        .ok_or("Config file error [tbon]: not a table")?;
    const KEYS: [&str; 10] = [
        "topo",
        "torpid_min",
        "torpid_max",
        "tcp_user_timeout",
        "connect_timeout",
        "zmqdebug",
        "child_rcvhwm",
        "zmq_io_threads",
        "interface-hint",
        "prefertcp",
    ];
    for (key, value) in table {
        if !KEYS.contains(&key.as_str()) {
            return Err(format!("Config file error [tbon]: unknown key {key}"));
        }
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            _ => return Err(format!("Config file error [tbon]: {key}: wrong type")),
        };
        attrs.put_default(&format!("tbon.{key}"), text);
    }
    Ok(())
}

fn default_attributes(args: &Args) -> Result<Attrs, String> {
    let mut attrs = Attrs::default();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    for (name, value) in &args.attrs {
        attrs
            .set_on_command_line(name, value)
            .map_err(|error| error.to_string())?;
    }
    let hostname = nix::unistd::gethostname().map_err(|errno| format!("gethostname: {errno}"))?;
    attrs.put_default("hostname", hostname.to_string_lossy());
    attrs.put("version", proto::VERSION);
    attrs.put("broker.pid", std::process::id().to_string());
    attrs.put("broker.uuid", uuid::Uuid::new_v4().to_string());
    attrs.put("broker.starttime", format!("{:.2}", now.as_secs_f64()));
    attrs.put("security.owner", nix::unistd::getuid().to_string());
    let verbose = args.verbose > 0;
    let stderr_level = match args.verbose {
        0 => "3",
        1 => "6",
        _ => "7",
    };
    let defaults = [
        ("broker.quorum-warn", "1m"),
        ("broker.shutdown-warn", "1m"),
        ("broker.shutdown-timeout", "none"),
        ("broker.sd-stop-timeout", "none"),
        ("broker.cleanup-timeout", "none"),
        ("broker.unload-builtins-timeout", "1m"),
        ("broker.rc1_path", "flux modprobe rc1"),
        ("broker.rc3_path", "flux modprobe rc3"),
        ("conf.shell_initrc", ""),
        ("conf.shell_pluginpath", ""),
        ("log-ring-size", "1024"),
        ("log-level", "7"),
        ("log-forward-level", "3"),
        ("log-critical-level", "2"),
        ("log-stderr-level", stderr_level),
        ("log-stderr-mode", if verbose { "local" } else { "leader" }),
        ("log-syslog-enable", "0"),
        ("log-syslog-level", "3"),
        ("tbon.child_rcvhwm", "0"),
        ("tbon.connect_timeout", "30s"),
        ("tbon.prefertcp", "0"),
        ("tbon.tcp_user_timeout", "20s"),
        ("tbon.torpid_max", "30s"),
        ("tbon.torpid_min", "5s"),
        ("tbon.zmq_io_threads", "1"),
        ("tbon.zmqdebug", "0"),
    ];
    for (name, value) in defaults {
        attrs.put_default(name, value);
    }
    attrs.put(
        "jobid-path",
        std::env::var("FLUX_JOB_ID_PATH").unwrap_or("/".into()),
    );
    Ok(attrs)
}

/// A duration attribute in seconds; zero where it says none.
fn duration_attribute(attrs: &Attrs, name: &str) -> Result<Duration, String> {
    let text = attrs.get(name).unwrap_or("0");
    match types::fsd::parse_duration(text) {
        Ok(duration) => Ok(duration.unwrap_or(Duration::ZERO)),
        Err(_) => Err(format!("Error parsing {name} attribute")),
    }
}

async fn live(args: Args, builtins: Vec<Builtin>, cleanup: &mut Cleanup) -> Result<i32, String> {
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
    // Programs started from here learn about this instance, not the enclosing one.
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
    joined.overlay.attach(&broker);
    let start = Start {
        command: args.command,
        parent: joined.parent,
        listener: Some(listener),
    };
    let code = life(broker.clone(), start, events_rx).await;
    // The socket goes last: while it is there, clients are answered.
    if let Err(error) = std::fs::remove_file(&socket)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("flux-broker: {socket}: {error}");
    }
    Ok(code)
}

fn forward_to_parent(router: &Rc<Router>) -> Rc<dyn Fn(Bytes)> {
    let handle = router.handle();
    Rc::new(move |record| handle.notify::<LogAppend>(Dest::Upstream, &Raw(record)))
}

/// The attributes that bootstrap fixes.
fn describe_place(attrs: &mut Attrs, boot: &Boot) -> Result<(), String> {
    attrs.put("rank", boot.rank.to_string());
    attrs.put("size", boot.size.to_string());
    attrs.put("instance-level", boot.level.to_string());
    if let Some(mapping) = &boot.mapping {
        attrs.put("broker.mapping", mapping.clone());
    }
    match &boot.jobid {
        Some(jobid) => {
            attrs.put("jobid", jobid.clone());
            if let Ok(uri) = std::env::var("FLUX_URI") {
                attrs.put("parent-uri", uri);
            }
            if let Ok(namespace) = std::env::var("FLUX_KVS_NAMESPACE") {
                attrs.put("parent-kvs-namespace", namespace);
            }
        }
        None => attrs.put_empty("parent-uri"),
    }
    let hint = boot
        .interface_hint
        .clone()
        .unwrap_or("default-route".into());
    attrs.put_default("tbon.interface-hint", hint);
    let quorum = match attrs.get("broker.quorum") {
        None => boot.size.to_string(),
        Some("0") => "1".into(),
        Some(text) if text == format!("0-{}", boot.size.saturating_sub(1)) => {
            eprintln!(
                "flux-broker: broker.quorum is now a size - assuming {}",
                boot.size
            );
            boot.size.to_string()
        }
        Some(text) => {
            let quorum: u32 = text
                .parse()
                .map_err(|_| "Error parsing broker.quorum attribute".to_owned())?;
            if quorum == 0 || quorum > boot.size {
                return Err("Error parsing broker.quorum attribute: out of range".into());
            }
            text.to_owned()
        }
    };
    attrs.put("broker.quorum", quorum);
    Ok(())
}

/// The shape of the tree, from the attributes.
fn plan_tree(attrs: &mut Attrs, boot: &Boot) -> Result<Topology, String> {
    let size = boot.size;
    if let Some(fanout) = attrs.get("tbon.fanout").map(str::to_owned) {
        attrs.put_default("tbon.topo", format!("kary:{fanout}"));
    }
    let default = if boot.config.is_some() {
        "custom"
    } else {
        "kary:32"
    };
    attrs.put_default("tbon.topo", default);
    let scheme: Scheme = attrs
        .get("tbon.topo")
        .unwrap_or_default()
        .parse()
        .map_err(|error| format!("{error}"))?;
    let topology = match (&boot.config, scheme) {
        (Some(config), Scheme::Custom) => Topology::from_parents(&config.parents),
        _ => Topology::new(scheme, size),
    };
    let topology = topology.map_err(|error| error.to_string())?;
    let critical: types::IdSet = (0..size)
        .filter(|rank| *rank == 0 || !topology.children(Rank(*rank)).is_empty())
        .collect();
    attrs.put_default("broker.critical-ranks", critical.to_string());
    let text = attrs.get("broker.critical-ranks").unwrap_or_default();
    let valid = text
        .parse::<types::IdSet>()
        .is_ok_and(|ranks| ranks.last().is_none_or(|r| r < size));
    if !valid {
        return Err(format!("invalid value for broker.critical-ranks='{text}'"));
    }
    Ok(topology)
}

/// The tree around this broker once everybody has published a card.
struct Joined {
    overlay: Rc<Overlay>,
    parent: Option<ParentCard>,
    hostlist: types::Hostlist,
}

async fn join_tree(
    attrs: &mut Attrs,
    boot: Boot,
    topology: &Rc<Topology>,
    id: RouteId,
) -> Result<Joined, String> {
    let (rank, size) = (boot.rank, boot.size);
    let hostname = attrs.get("hostname").unwrap_or_default().to_owned();
    let nodes = Nodes::new(attrs.get("broker.mapping"), size);
    let keypair = match &boot.config {
        Some(config) => config.keypair.clone(),
        None => CurveKeypair::generate(),
    };
    let endpoints = match &boot.config {
        Some(config) => configured_endpoints(config.bind.as_deref(), topology, rank)?,
        None => child_endpoints(attrs, &nodes, topology, rank)?,
    };
    let pubkey = keypair.public.to_z85();
    let parent_rank = topology.parent(rank);
    let children = topology.children(rank).to_vec();
    let listener = match endpoints.is_empty() {
        true => None,
        false => Some(Listener::bind(&id, &keypair, &endpoints).await?),
    };
    let uri = listener.as_ref().map(Listener::uris).unwrap_or_default();
    if !uri.is_empty() {
        attrs.put("tbon.endpoint", uri.join(","));
    }
    let card = Card {
        host: hostname.clone(),
        uri,
        pubkey: Some(pubkey),
    };
    let cards = boot.exchange(&card)?;
    let host_of = |rank: Rank| cards[rank.0 as usize].host.clone();
    let config = tbon::health::Config {
        rank,
        topology: topology.clone(),
        version: version_number(),
        parent_host: parent_rank.map(host_of).unwrap_or_default(),
        child_hosts: children.iter().map(|child| host_of(*child)).collect(),
        torpid_min: duration_attribute(attrs, "tbon.torpid_min")?,
        torpid_max: duration_attribute(attrs, "tbon.torpid_max")?,
    };
    let overlay = Overlay::new(id, hostname, config, keypair, listener);
    for child in &children {
        overlay.allow(key_of(&cards, *child)?);
    }
    let parent = match parent_rank {
        Some(parent) => {
            let card = &cards[parent.0 as usize];
            if card.uri.is_empty() {
                return Err(format!("connect URI is undefined for rank {parent}"));
            }
            let uri = parent_uri(card, nodes.share(rank, parent))?;
            attrs.put("tbon.parent-endpoint", uri.to_string());
            Some(ParentCard {
                endpoint: uri,
                key: key_of(&cards, parent)?,
            })
        }
        None => None,
    };
    let hostlist = boot::hostlist(&cards);
    attrs.put_default("hostlist", hostlist.to_string());
    Ok(Joined {
        overlay,
        parent,
        hostlist,
    })
}

fn version_number() -> tbon::Version {
    let mut parts = proto::VERSION
        .split('.')
        .map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    tbon::Version {
        major: next(),
        minor: next(),
        patch: next(),
    }
}

fn key_of(cards: &[Card], rank: Rank) -> Result<zmtp::PublicKey, String> {
    let text = cards[rank.0 as usize].pubkey.as_deref();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("rank {rank} has no valid public key"))
}

/// Where children will connect: a unix socket for those on this node, TCP for others.
fn child_endpoints(
    attrs: &Attrs,
    nodes: &Nodes,
    topology: &Topology,
    rank: Rank,
) -> Result<Vec<Endpoint>, String> {
    let children = topology.children(rank);
    if children.is_empty() {
        return Ok(Vec::new());
    }
    let tcp_only = attrs
        .get("tbon.prefertcp")
        .is_some_and(|value| value != "0");
    let local = children
        .iter()
        .filter(|child| nodes.share(rank, **child))
        .count();
    let mut endpoints = Vec::new();
    if tcp_only || local < children.len() {
        let hint = attrs.get("tbon.interface-hint").unwrap_or("default-route");
        let host = boot::address(hint, attrs.get("hostname").unwrap_or_default())?;
        endpoints.push(Endpoint::Tcp {
            host: host.to_string(),
            port: 0,
        });
    }
    if !tcp_only && local > 0 {
        let rundir = attrs.get("rundir").unwrap_or_default();
        endpoints.push(Endpoint::Ipc(format!("{rundir}/tbon-{rank}").into()));
    }
    Ok(endpoints)
}

/// Where children will connect, as the configuration says.
fn configured_endpoints(
    bind: Option<&str>,
    topology: &Topology,
    rank: Rank,
) -> Result<Vec<Endpoint>, String> {
    if topology.children(rank).is_empty() {
        return Ok(Vec::new());
    }
    let uri = bind.ok_or_else(|| format!("bind URI is undefined for rank {rank}"))?;
    Ok(vec![uri.parse().map_err(|error| format!("{error}"))?])
}

fn parent_uri(card: &Card, same_node: bool) -> Result<Endpoint, String> {
    let scheme = if same_node { "ipc://" } else { "tcp://" };
    let uri = card
        .uri
        .iter()
        .find(|uri| uri.starts_with(scheme))
        .or_else(|| card.uri.first())
        .ok_or_else(|| format!("parent on {} offers no endpoint", card.host))?;
    uri.parse().map_err(|error| format!("{error}"))
}

/// What the life of a broker starts from.
struct Start {
    command: Vec<String>,
    parent: Option<ParentCard>,
    listener: Option<UnixListener>,
}

/// Runs the state machine to its end. Returns the exit code.
async fn life(
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
    broker.post("goodbye");
}
