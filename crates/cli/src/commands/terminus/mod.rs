//! `flux terminus`: terminal sessions that outlive who started them.
//!
//! The first session starts a server ([`serve`]), which ends with the last one.

mod serve;

use std::io::Read as _;
use std::process::{Command, Stdio};

use client::Client;
use proto::Empty;
use proto::terminus::{
    Created, Kill, List, New, TerminusKill, TerminusKillServer, TerminusList, TerminusNew,
    session_topic, user_service,
};
use rpc::{Dest, RpcError};
use types::{Errno, Rank};

use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Opt, Parser, arg, flag};
use crate::pty::{self, How};
use crate::{err, outln, timefmt};

const PROG: &str = "flux-terminus";

/// Set in every session, which shall not hold another.
const SESSION: &str = "FLUX_TERMINUS_SESSION";

const RANK: Opt = arg('r', "rank", "RANK", "Use the server of this rank");
const SERVICE: Opt = arg(
    's',
    "service",
    "NAME",
    "Use this server (default USERID-terminus)",
);
const PIPE: Opt = flag(
    'p',
    "pipe",
    "Type standard input into the session, show nothing, and leave",
);

static START: Parser = Parser {
    name: "flux-terminus start",
    usage: "[OPTIONS] [COMMAND...]",
    about: "Start a new session",
    family: Family::G,
    opts: &[
        flag('d', "detach", "Do not attach to it"),
        flag(
            'w',
            "wait",
            "Keep a detached session after its end until somebody has attached to it",
        ),
        arg('n', "name", "NAME", "Call it NAME (default: the command)"),
        RANK,
        SERVICE,
        PIPE,
    ],
};

static ATTACH: Parser = Parser {
    name: "flux-terminus attach",
    usage: "[OPTIONS] ID",
    about: "Attach to a session; Ctrl-\\ detaches",
    opts: &[RANK, SERVICE, PIPE],
    ..START
};

static LIST: Parser = Parser {
    name: "flux-terminus list",
    usage: "[OPTIONS]...",
    about: "List sessions",
    opts: &[RANK, SERVICE],
    ..START
};

static KILL: Parser = Parser {
    name: "flux-terminus kill",
    usage: "[OPTIONS] ID",
    about: "Kill a session",
    ..LIST
};

static KILL_SERVER: Parser = Parser {
    name: "flux-terminus kill-server",
    about: "Kill all sessions",
    ..LIST
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let Some((word, rest)) = words.split_first() else {
        show_help();
        err!("{PROG}: missing subcommand");
        return 1;
    };
    let (parser, body): (_, fn(&Args) -> i32) = match word.as_str() {
        "start" => (&START, |args| fail::run(PROG, start(args))),
        "attach" => (&ATTACH, |args| fail::run(PROG, attach(args))),
        "list" => (&LIST, |args| fail::run(PROG, list(args))),
        "kill" => (&KILL, |args| fail::run(PROG, kill(args))),
        "kill-server" => (&KILL_SERVER, |args| fail::run(PROG, kill_server(args))),
        "-h" | "--help" => return show_help(),
        // What `start` runs to have a server.
        "serve" => return serve::run(rest),
        _ => {
            show_help();
            err!("{PROG}: Unknown subcommand: {word}");
            return 1;
        }
    };
    match parser.parse(rest) {
        Ok(args) => body(&args),
        Err(status) => status,
    }
}

fn show_help() -> i32 {
    let mut text = String::new();
    for (at, parser) in [&START, &ATTACH, &LIST, &KILL, &KILL_SERVER]
        .into_iter()
        .enumerate()
    {
        let lead = if at == 0 { "Usage:" } else { "   or:" };
        text.push_str(&format!("{lead} {} {}\n", parser.name, parser.usage));
    }
    text.push_str("Keep terminal sessions to attach to\n");
    crate::output::error_bytes(text.as_bytes());
    0
}

/// The server a command line names.
struct Server {
    client: Client,
    service: String,
    dest: Dest,
}

impl Server {
    async fn connect(args: &Args) -> Result<Server, Fail> {
        let dest = match args.int("rank")? {
            // -1 is the wire's word for any, and scripts use it.
            None | Some(-1) => Dest::Any,
            Some(rank) => {
                let valid = u32::try_from(rank).map(|rank| Dest::Rank(Rank(rank)));
                valid.map_err(|_| Fail::new(format!("invalid rank {rank}")))?
            }
        };
        let own = || user_service(nix::unistd::getuid().as_raw());
        Ok(Server {
            client: fail::connect().await?,
            service: args.get("service").map_or_else(own, str::to_owned),
            dest,
        })
    }

    async fn list(&self) -> Result<List, RpcError> {
        let handle = self.client.handle();
        handle
            .call_service::<TerminusList>(&self.service, self.dest, &Empty {})
            .await
    }

    /// Says that there is none, or what else went wrong.
    fn failed(&self, what: &str, error: &RpcError) -> Fail {
        match error.errno {
            Errno::ENOSYS => Fail::new(format!("no server running at {}", self.service)),
            _ => Fail::of(what, error),
        }
    }

    async fn attach(&self, topic: String, args: &Args, how: How) -> Outcome {
        let how = if args.has("pipe") { How::Pipe } else { how };
        let handle = self.client.handle().clone();
        match pty::attach(handle, topic.clone(), self.dest, how).await {
            Ok(pty) => pty::follow(pty).await,
            Err(error) if error.errno == Errno::ENOSYS => {
                Err(Fail::new(format!("Invalid session or server at {topic}")))
            }
            Err(error) => Err(Fail::of(
                format!("Failed to attach to session at {topic}"),
                error,
            )),
        }
    }
}

fn refuse_nesting() -> Result<(), Fail> {
    match std::env::var_os(SESSION) {
        Some(_) => Err(Fail::new("Nesting flux-terminus sessions not supported")),
        None => Ok(()),
    }
}

fn session_id(args: &Args) -> Result<u32, Fail> {
    let usage = |text: &str| Fail::from(args.parser().usage_error(text));
    let [word] = args.words.as_slice() else {
        return Err(usage("session ID required"));
    };
    word.parse()
        .map_err(|_| usage("session ID must be an integer"))
}

async fn start(args: &Args) -> Outcome {
    refuse_nesting()?;
    let server = Server::connect(args).await?;
    if let Err(error) = server.list().await {
        if error.errno != Errno::ENOSYS {
            return Err(Fail::of("list sessions", error));
        }
        if args.has("rank") {
            let text = "Unable to start a new server with --rank option";
            return Err(Fail::new(text));
        }
        start_server(&server.service)?;
    }
    let detach = args.has("detach");
    let here = std::env::current_dir().ok();
    let request = New {
        name: args.get("name").unwrap_or_default().to_owned(),
        cmd: args.words.clone(),
        environ: None,
        // Elsewhere there may be no such directory.
        cwd: here
            .filter(|_| !args.has("rank"))
            .map(|dir| dir.to_string_lossy().into_owned()),
        wait: (!detach || args.has("wait")).into(),
    };
    let handle = server.client.handle();
    let created = handle
        .call_service::<TerminusNew>(&server.service, server.dest, &request)
        .await;
    let Created { pty_service, .. } = created.map_err(|error| Fail::of("new session", error))?;
    if detach {
        return Ok(0);
    }
    server.attach(pty_service, args, How::ClearTerminal).await
}

/// Starts a server and waits until it takes requests.
fn start_server(service: &str) -> Result<(), Fail> {
    let io_error = |error: std::io::Error| Fail::of("start a server", Errno::from_io(&error));
    let mut server = Command::new(std::env::current_exe().map_err(io_error)?)
        .args(["terminus", "serve", service])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(io_error)?;
    let mut said = String::new();
    if let Some(mut stdout) = server.stdout.take() {
        stdout.read_to_string(&mut said).map_err(io_error)?;
    }
    match said.as_str() {
        serve::READY => Ok(()),
        "" => Err(Fail::new("Failed to start a new server")),
        why => Err(Fail::of("Failed to start a new server", why)),
    }
}

async fn attach(args: &Args) -> Outcome {
    refuse_nesting()?;
    let id = session_id(args)?;
    let server = Server::connect(args).await?;
    let topic = session_topic(&server.service, id);
    server.attach(topic, args, How::ClearTerminal).await
}

async fn list(args: &Args) -> Outcome {
    let server = Server::connect(args).await?;
    let list = server.list().await;
    let list = list.map_err(|error| server.failed("list sessions", &error))?;
    let time = |seconds| timefmt::strftime("%a %b %e %H:%M:%S %Y", seconds);
    outln!(
        "server at {} running on rank {} since {}",
        list.server.service,
        list.server.rank,
        time(list.server.ctime)
    );
    match list.sessions.len() {
        0 => outln!("no sessions"),
        1 => outln!("1 current session:"),
        count => outln!("{count} current sessions:"),
    }
    for session in &list.sessions {
        outln!(
            "{}: [{}]{} {} clients (created {})",
            session.id,
            session.name,
            if session.exited == 0 { "" } else { " (exited)" },
            session.clients,
            time(session.ctime)
        );
    }
    Ok(0)
}

async fn kill(args: &Args) -> Outcome {
    let request = Kill {
        id: session_id(args)?,
        signal: libc::SIGKILL,
        wait: 1,
    };
    let server = Server::connect(args).await?;
    let handle = server.client.handle();
    let killed = handle
        .call_service::<TerminusKill>(&server.service, server.dest, &request)
        .await;
    killed.map_err(|error| server.failed("kill", &error))?;
    Ok(0)
}

async fn kill_server(args: &Args) -> Outcome {
    let server = Server::connect(args).await?;
    let handle = server.client.handle();
    let killed = handle
        .call_service::<TerminusKillServer>(&server.service, server.dest, &Empty {})
        .await;
    killed.map_err(|error| server.failed("kill-server", &error))?;
    Ok(0)
}
