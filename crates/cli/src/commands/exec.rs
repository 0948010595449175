//! `flux exec`: commands on many ranks.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use client::Client;
use proto::rexec::{
    Command, Exec, ExecEvent, Kill, RexecExec, RexecKill, RexecWrite, Write, flags,
};
use rpc::{Dest, RpcError};
use serde_json::{Map, Value};
use spec::stdio::StreamData;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use types::{Errno, IdSet, Rank};

use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{attach, err, outln, output, signal as names};

const PROG: &str = "flux-exec";

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
        arg('\0', "label", "LABEL", "Give the commands a name"),
        arg(
            'd',
            "dir",
            "PATH",
            "Working directory, or none for the broker's",
        ),
        flag('l', "label-io", "Put the rank in front of output lines"),
        flag('n', "noinput", "Leave standard input alone"),
        flag('v', "verbose", "Say more"),
        flag('q', "quiet", "Do not say how commands ended"),
        flag('\0', "with-imp", "").hidden(),
        flag('\0', "attach", "").hidden(),
        flag('\0', "sign", "").hidden(),
        arg('j', "jobid", "ID", "").hidden(),
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
    if args.words.is_empty() {
        return PARSER.wrong_words();
    }
    for option in ["with-imp", "attach", "sign", "jobid"] {
        if args.has(option) {
            err!("{PROG}: --{option} is not implemented");
            return 1;
        }
    }
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let ranks = ranks(&client, &args).await?;
        let command = command(&args)?;
        if args.has("bg") {
            return background(&client, &args, &ranks, command).await;
        }
        let mut session = Session {
            client: &client,
            args: &args,
            running: BTreeMap::new(),
            ended: BTreeMap::new(),
            highest: 0,
        };
        session.run(&ranks, command).await
    })
}

async fn ranks(client: &Client, args: &Args) -> Result<IdSet, Fail> {
    let size: u32 = client
        .attr("size")
        .await?
        .parse()
        .map_err(|_| Fail::from(Errno::EPROTO))?;
    let all = IdSet::first_n(size);
    let set = |text: &str| -> Result<IdSet, Fail> {
        text.parse()
            .map_err(|_| Fail::new(format!("error parsing idset: '{text}'")))
    };
    let mut ranks = match args.get("rank") {
        None | Some("all") => all.clone(),
        Some(text) => set(text)?,
    };
    let invalid = ranks.difference(&all);
    if !invalid.is_empty() {
        return Err(Fail::new(format!(
            "One or more invalid --ranks specified: {invalid}"
        )));
    }
    if let Some(text) = args.get("exclude") {
        ranks.remove_all(&set(text)?);
    }
    if ranks.is_empty() {
        return Err(Fail::new("No targets specified"));
    }
    Ok(ranks)
}

fn command(args: &Args) -> Result<Command, Fail> {
    let cwd = match args.get("dir") {
        Some("none") => None,
        Some(dir) => Some(dir.to_owned()),
        None => Some(crate::current_dir("--dir")?),
    };
    let mut opts = Map::new();
    for option in args.all("setopt") {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| Fail::new(format!("--setopt: invalid option {option}")))?;
        opts.insert(name.to_owned(), value.into());
    }
    Ok(Command {
        cwd,
        label: args.get("label").map(str::to_owned),
        cmdline: args.words.clone(),
        env: types::environ::text_vars()
            .map(|(name, value)| (name, value.into()))
            .collect(),
        opts,
        ..Command::default()
    })
}

fn service(args: &Args) -> &str {
    args.get("service").unwrap_or("rexec")
}

async fn background(client: &Client, args: &Args, ranks: &IdSet, cmd: Command) -> Outcome {
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
    for rank in ranks.iter() {
        let call = client
            .handle()
            .call_service::<RexecExec>(service(args), Rank(rank), &request);
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

/// A running command.
struct Running {
    pid: Option<i32>,
    matchtag: u32,
}

struct Session<'a> {
    client: &'a Client,
    args: &'a Args,
    running: BTreeMap<u32, Running>,
    /// The ranks that ended in each way other than well.
    ended: BTreeMap<i32, IdSet>,
    highest: i32,
}

type Arrived = (u32, Result<Option<ExecEvent>, RpcError>);

impl Session<'_> {
    async fn run(&mut self, ranks: &IdSet, cmd: Command) -> Outcome {
        let request = Exec {
            cmd,
            flags: flags::STDOUT | flags::STDERR,
            local_flags: None,
        };
        // Every command's task passes on what arrives; the bound holds its output back.
        let (sender, mut events) = mpsc::channel::<Arrived>(256);
        for rank in ranks.iter() {
            let mut stream = self.client.handle().stream_service::<RexecExec>(
                service(self.args),
                Rank(rank),
                &request,
            );
            let running = Running {
                pid: None,
                matchtag: stream.matchtag().0,
            };
            self.running.insert(rank, running);
            let sender = sender.clone();
            tokio::task::spawn_local(async move {
                loop {
                    let event = stream.next().await;
                    let last = !matches!(event, Ok(Some(_)));
                    if sender.send((rank, event)).await.is_err() || last {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut input = (!self.args.has("noinput")).then(read_stdin);
        let io_error = |error: std::io::Error| Fail::new(error.to_string());
        let mut interrupt = signal(SignalKind::interrupt()).map_err(io_error)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(io_error)?;
        let mut interrupts = 0;
        while !self.running.is_empty() {
            if events.is_empty() {
                output::flush();
            }
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some((rank, event)) => self.event(rank, event),
                    None => break,
                },
                _ = interrupt.recv() => {
                    interrupts += 1;
                    if interrupts > 2 {
                        let ids: IdSet = self.running.keys().copied().collect();
                        err!("{ids}: command still running at exit");
                        return Ok(1);
                    }
                    if interrupts == 2 {
                        err!("interrupt (Ctrl+C) one more time within 1.00 sec to exit");
                    }
                    self.kill(libc::SIGINT);
                }
                _ = terminate.recv() => self.kill(libc::SIGTERM),
                chunk = next_chunk(&mut input) => {
                    self.write(&chunk);
                    if chunk.is_empty() {
                        input = None;
                    }
                }
            }
        }
        output::flush();
        if !self.args.has("quiet") {
            for (status, ids) in &self.ended {
                let ids = ids.to_bracketed();
                match names::killed_by(*status) {
                    Some(signal) => err!("{ids}: {}", names::describe(signal)),
                    None => err!("{ids}: Exit {}", names::exit_code(*status)),
                }
            }
        }
        Ok(self.highest)
    }

    fn event(&mut self, rank: u32, event: Result<Option<ExecEvent>, RpcError>) {
        match event {
            Ok(Some(ExecEvent::Started { pid })) => {
                if let Some(running) = self.running.get_mut(&rank) {
                    running.pid = Some(pid);
                }
            }
            Ok(Some(ExecEvent::Output { io, .. })) => self.show(rank, &io),
            Ok(Some(ExecEvent::Finished { status })) => {
                if status != 0 {
                    self.ended.entry(status).or_default().insert(rank);
                }
                self.highest = self.highest.max(names::exit_code(status));
            }
            Ok(Some(_)) => {}
            Ok(None) => drop(self.running.remove(&rank)),
            Err(error) => {
                self.running.remove(&rank);
                let code = start_failure(rank, &self.args.words[0], &error);
                self.highest = self.highest.max(code);
            }
        }
    }

    fn show(&self, rank: u32, io: &Map<String, Value>) {
        if let Some(mut data) = attach::data_of(io, &Map::new()) {
            data.rank = rank.to_string();
            attach::show_data(&data, self.args.has("label-io"), "");
        }
    }

    fn kill(&self, signum: i32) {
        for (rank, running) in &self.running {
            if let Some(pid) = running.pid {
                let request = Kill {
                    pid,
                    label: None,
                    signum,
                };
                // The command may just have ended; then there is nothing to signal.
                drop(self.client.handle().call_service::<RexecKill>(
                    service(self.args),
                    Dest::Rank(Rank(*rank)),
                    &request,
                ));
            }
        }
    }

    fn write(&self, chunk: &[u8]) {
        for (rank, running) in &self.running {
            let data = if chunk.is_empty() {
                StreamData::eof("stdin", rank)
            } else {
                StreamData::new("stdin", rank, chunk)
            };
            let request = Write {
                matchtag: running.matchtag,
                io: data.encode(),
            };
            self.client.handle().notify_service::<RexecWrite>(
                service(self.args),
                Rank(*rank),
                &request,
            );
        }
    }
}

/// Reads standard input on a thread of its own, since a file cannot be polled. An empty chunk is
/// its end.
fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut chunk = vec![0; 1 << 15];
            // An unreadable input is an empty one.
            let length = stdin.read(&mut chunk).unwrap_or(0);
            chunk.truncate(length);
            if sender.blocking_send(chunk.into()).is_err() || length == 0 {
                return;
            }
        }
    });
    receiver
}

async fn next_chunk(input: &mut Option<mpsc::Receiver<Bytes>>) -> Bytes {
    match input {
        Some(receiver) => receiver.recv().await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}
