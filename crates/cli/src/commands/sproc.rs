//! `flux sproc`: the processes of a server of remote execution.

use base64::Engine;
use client::Client;
use proto::Empty;
use proto::rexec::{Kill, Listed, Process, RexecKill, RexecList, RexecWait};
use rpc::{Dest, RpcError};
use serde_json::{Map, Value as Json};
use types::Rank;

use super::dispatch_argparse;
use super::queue::print;
use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome, python_text};
use crate::format::{Format, Row, Value};
use crate::options::{Args, Family, Opt, Parser, arg, flag};
use crate::{err, output, signal};

const RANK: Opt = arg('r', "rank", "RANK", "Ask this rank");
const SERVICE: Opt = arg(
    's',
    "service",
    "SERVICE",
    "Ask this service (default rexec)",
);

const DEFAULT_FORMAT: &str = "{pid:>9} {state:<2} {label:<12} {cmd}";

static PS: Parser = Parser {
    name: "flux-sproc ps",
    usage: "[-h] [-r RANK] [-s SERVICE] [-o FORMAT] [-n]",
    about: "",
    family: Family::P,
    opts: &[
        RANK,
        SERVICE,
        arg('o', "format", "FORMAT", "A Python format string"),
        flag('n', "no-header", "Leave out the header line"),
    ],
};

static KILL: Parser = Parser {
    name: "flux-sproc kill",
    usage: "[-h] [-r RANK] [-s SERVICE] [-w] signum pid",
    opts: &[
        RANK,
        SERVICE,
        flag('w', "wait", "Wait for the process after that"),
    ],
    ..PS
};

static WAIT: Parser = Parser {
    name: "flux-sproc wait",
    usage: "[-h] [-r RANK] [-s SERVICE] [-o] pid",
    opts: &[
        RANK,
        SERVICE,
        flag('o', "output", "Write the output the server kept"),
    ],
    ..PS
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    dispatch_argparse(
        "flux-sproc",
        &[("kill", kill), ("wait", wait), ("ps", ps)],
        words,
    )
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
            Some(rank) => {
                let rank = u32::try_from(rank).map_err(|_| Fail::new("invalid rank"))?;
                Dest::Rank(Rank(rank))
            }
            None => Dest::Any,
        };
        Ok(Server {
            client: fail::connect_p().await?,
            service: args.get("service").unwrap_or("rexec").to_owned(),
            dest,
        })
    }

    async fn wait(&self, process: &Process, show: bool) -> Outcome {
        let call =
            self.client
                .handle()
                .call_service::<RexecWait>(&self.service, self.dest, process);
        let waited = call.await.map_err(|error| failed("wait", &error))?;
        if show {
            for chunk in waited.output.iter().flatten() {
                show_chunk(chunk)?;
            }
        }
        Ok(signal::exit_code(waited.status))
    }
}

fn failed(what: &str, error: &RpcError) -> Fail {
    Fail::of(what, python_text(error))
}

/// Writes output a process left, an RFC 24 data object, where it belongs.
fn show_chunk(chunk: &Map<String, Json>) -> Result<(), Fail> {
    let Some(data) = chunk.get("data").and_then(Json::as_str) else {
        return Ok(());
    };
    let bytes = match chunk.get("encoding").and_then(Json::as_str) {
        Some("base64") => base64::engine::general_purpose::STANDARD
            .decode(data)
            .map_err(|error| Fail::of("output", error))?,
        _ => data.as_bytes().to_vec(),
    };
    if chunk.get("stream").and_then(Json::as_str) == Some("stderr") {
        output::error_bytes(&bytes);
    } else {
        output::write(&bytes);
    }
    Ok(())
}

/// A process by its id or label.
fn process(word: &str) -> Process {
    match word.parse() {
        Ok(pid) => Process { pid, label: None },
        Err(_) => Process {
            pid: -1,
            label: Some(word.to_owned()),
        },
    }
}

fn wait(words: &[String]) -> i32 {
    let args = match WAIT.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [word] = args.words.as_slice() else {
        return WAIT.usage_error("the following arguments are required: pid");
    };
    fail::run("flux-sproc: ERROR", async {
        let server = Server::connect(&args).await?;
        server.wait(&process(word), args.has("output")).await
    })
}

fn kill(words: &[String]) -> i32 {
    let args = match KILL.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [number, word] = args.words.as_slice() else {
        let missing = if args.words.is_empty() {
            "signum, pid"
        } else {
            "pid"
        };
        return KILL.usage_error(&format!("the following arguments are required: {missing}"));
    };
    let Ok(signum) = number.parse() else {
        return KILL.usage_error(&format!("argument signum: invalid int value: '{number}'"));
    };
    fail::run("flux-sproc: ERROR", async {
        let server = Server::connect(&args).await?;
        let process = process(word);
        let request = Kill {
            pid: process.pid,
            label: process.label.clone(),
            signum,
        };
        let call = server.client.handle().call_service::<RexecKill>(
            &server.service,
            server.dest,
            &request,
        );
        let killed = call.await.map_err(|error| failed("kill", &error));
        if !args.has("wait") {
            return killed.map(|_| 0);
        }
        // A process that is over already may be waited for all the same.
        if let Err(failure) = killed {
            err!("flux-sproc: ERROR: {}", failure.text);
        }
        let waited = server.wait(&process, false).await;
        waited.map_err(|failure| match failure.text.strip_prefix("wait: ") {
            Some(text) => Fail::new(format!("kill: wait failed: {text}")),
            None => failure,
        })
    })
}

/// A line of the listing.
struct Line {
    rank: u32,
    process: Listed,
}

fn heading(name: &str) -> Option<String> {
    let heading = match name {
        "pid" => "PID",
        "cmd" => "COMMAND",
        "label" => "LABEL",
        "rank" => "RANK",
        "state" => "ST",
        _ => return None,
    };
    Some(heading.to_owned())
}

impl Row for Line {
    fn field(&self, name: &str) -> Result<Value, String> {
        let process = &self.process;
        Ok(match name {
            "pid" => Value::Int(process.pid.into()),
            "cmd" => process.cmd.as_str().into(),
            "label" if process.label.is_empty() => "-".into(),
            "label" => process.label.as_str().into(),
            "rank" => Value::Int(self.rank.into()),
            "state" => process.state.as_str().into(),
            _ => return Err(format!("Unknown format field: {name}")),
        })
    }
}

fn ps(words: &[String]) -> i32 {
    let args = match PS.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run("flux-sproc: ERROR", async {
        let mut format = Format::parse(args.get("format").unwrap_or(DEFAULT_FORMAT), heading)
            .map_err(Fail::new)?;
        let server = Server::connect(&args).await?;
        let call = server.client.handle().call_service::<RexecList>(
            &server.service,
            server.dest,
            &Empty {},
        );
        let list = call.await.map_err(|error| failed("list", &error))?;
        let rank = list.rank;
        let mut lines: Vec<Line> = list
            .procs
            .into_iter()
            .map(|process| Line { rank, process })
            .collect();
        print(&mut format, &mut lines, !args.has("no-header"))
    })
}
