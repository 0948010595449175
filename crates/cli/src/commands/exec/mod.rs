//! `flux exec`: commands on many ranks.

mod session;
mod target;

use client::Client;
use proto::Empty;
use proto::config::ConfigGet;
use proto::rexec::{Attach, Command, Exec, ExecEvent, RexecExec, flags};
use rpc::{Dest, RpcError};
use serde_json::{Map, Value};
use types::{Errno, Rank};

use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{err, outln};
use session::Session;
use target::Target;

const PROG: &str = "flux-exec";

/// The variable that holds the address of a user's message bus.
const BUS: &str = "DBUS_SESSION_BUS_ADDRESS";

static PARSER: Parser = Parser {
    name: "flux-exec",
    usage: "[OPTIONS] COMMAND...",
    about: "",
    family: Family::G,
    opts: &[
        arg('r', "rank", "IDSET", "The ranks, or all (default)"),
        arg('x', "exclude", "IDSET", "Not these ranks"),
        flag('\0', "bg", "Leave the commands running in the background"),
        flag(
            '\0',
            "waitable",
            "With --bg, keep the result until it is waited for",
        ),
        flag(
            '\0',
            "attach",
            "Follow the background process whose pid or label is given",
        ),
        arg('\0', "label", "LABEL", "Give the commands a name"),
        arg(
            'd',
            "dir",
            "PATH",
            "Working directory, or none for the broker's",
        ),
        flag('l', "label-io", "Put the rank in front of output lines"),
        flag('n', "noinput", "Give the commands no standard input"),
        flag('v', "verbose", "Say more"),
        flag('q', "quiet", "Do not say how commands ended"),
        flag('\0', "with-imp", "Run the command under the IMP"),
        arg(
            'j',
            "jobid",
            "JOBID",
            "Run on the nodes of a job, by its shells; ranks count from its first node",
        ),
        flag('\0', "sign", "").hidden(),
        arg('\0', "service", "NAME", "").hidden(),
        arg('\0', "setopt", "NAME=VALUE", "").hidden(),
        arg('\0', "stdin-flow", "on|off", "").hidden(),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.is_empty() && !args.has("attach") {
        return PARSER.wrong_words();
    }
    fail::run(PROG, async {
        check(&args)?;
        let flow = flow(&args)?;
        let client = fail::connect().await?;
        let target = Target::of(&client, &args).await?;
        if args.has("attach") {
            return attach(&client, &args, &target).await;
        }
        let command = command(&client, &args).await?;
        if args.has("bg") {
            return background(&client, &args, &target, command).await;
        }
        Session::start(&client, &args, &target, command, flow).await
    })
}

/// Refuses options that make no sense together.
fn check(args: &Args) -> Result<(), Fail> {
    let has = |option| args.has(option);
    let wrong = if has("sign") {
        "--sign: requests cannot be signed without flux-security"
    } else if has("attach") && (has("bg") || has("waitable")) {
        "--attach cannot be used with --bg or --waitable"
    } else if has("attach") && args.words.is_empty() {
        "--attach requires a pid or label argument"
    } else if has("attach") && args.words.len() > 1 {
        "--attach takes a single pid or label argument"
    } else if has("waitable") && !has("bg") {
        "--waitable can only be used with --bg"
    } else {
        return Ok(());
    };
    Err(Fail::new(wrong))
}

/// Whether input waits until a command has room for it. systemd tells of no room.
fn flow(args: &Args) -> Result<bool, Fail> {
    match args.get("stdin-flow") {
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(_) => Err(Fail::new("Set --stdin-flow to on or off")),
        None => Ok(args.get("service") != Some("sdexec")),
    }
}

async fn attach(client: &Client, args: &Args, target: &Target) -> Outcome {
    let word = args.words.first().map_or("", String::as_str);
    let request = match word.parse() {
        Ok(pid) if target.ranks.len() == 1 => Attach {
            pid,
            label: None,
            flags: flags::STDOUT | flags::STDERR,
        },
        Ok(_) => {
            return Err(Fail::new(
                "--attach by pid requires a single target rank (use --rank)",
            ));
        }
        Err(_) => Attach {
            pid: -1,
            label: Some(word.to_owned()),
            flags: flags::STDOUT | flags::STDERR,
        },
    };
    Session::attach(client, args, target, &request).await
}

async fn command(client: &Client, args: &Args) -> Result<Command, Fail> {
    let cwd = match args.get("dir") {
        Some("none") => None,
        Some(dir) => Some(dir.to_owned()),
        None => Some(crate::current_dir("--dir")?),
    };
    let mut opts = Map::new();
    for option in args.all("setopt") {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| Fail::of(format!("error handling '{option}' option"), Errno::EINVAL))?;
        opts.insert(name.to_owned(), value.into());
    }
    let mut cmdline = args.words.clone();
    if args.has("with-imp") {
        cmdline.splice(0..0, [imp(client).await?, "run".to_owned()]);
    }
    Ok(Command {
        cwd,
        label: args.get("label").map(str::to_owned),
        cmdline,
        env: environment(client).await?,
        opts,
        ..Command::default()
    })
}

/// The path of the configured IMP.
async fn imp(client: &Client) -> Result<String, Fail> {
    let config = client.handle().call::<ConfigGet>(Dest::Any, &Empty {});
    let config = config.await?;
    let path = config.get("exec").and_then(|exec| exec.get("imp"));
    let path = path.and_then(Value::as_str).map(str::to_owned);
    path.ok_or_else(|| {
        Fail::of(
            "--with-imp: exec.imp path not found in config",
            Errno::ENOENT,
        )
    })
}

/// The caller's environment as commands have it: with the message bus of the instance's owner, and
/// nothing of a proxy.
async fn environment(client: &Client) -> Result<Map<String, Value>, Fail> {
    let mut env: Map<String, Value> = types::environ::text_vars()
        .filter(|(name, _)| name != "FLUX_PROXY_REMOTE")
        .map(|(name, value)| (name, value.into()))
        .collect();
    if !env.contains_key(BUS) {
        let owner = client.attr("security.owner").await?;
        env.insert(
            BUS.to_owned(),
            format!("unix:path=/run/user/{owner}/bus").into(),
        );
    }
    Ok(env)
}

async fn background(client: &Client, args: &Args, target: &Target, cmd: Command) -> Outcome {
    let request = Exec {
        cmd,
        flags: if args.has("waitable") {
            flags::WAITABLE
        } else {
            0
        },
        local_flags: None,
    };
    let mut calls = Vec::new();
    for rank in target.ranks.iter() {
        let call = client
            .handle()
            .call_service::<RexecExec>(&target.service, Rank(rank), &request);
        calls.push((rank, call));
    }
    let mut status = 0;
    for (rank, call) in calls {
        match call.await {
            Ok(ExecEvent::Started { pid }) => outln!("{rank}: {pid}"),
            Ok(_) => return Err(Fail::from(Errno::EPROTO)),
            Err(error) => status = status.max(start_failure(rank, &args.words[0], &error)),
        }
    }
    Ok(status)
}

/// Tells of a command that did not start and returns the exit code that stands for it.
fn start_failure(rank: u32, command: &str, error: &RpcError) -> i32 {
    err!("{PROG}: Error: rank {rank}: {command}: {error}");
    match error.errno {
        Errno::ENOENT => 127,
        Errno::EPERM | Errno::EACCES => 126,
        Errno::EHOSTUNREACH => 68,
        _ => 1,
    }
}
