//! Commands that run under our eyes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::Client;
use proto::rexec::{
    Attach, Command, Exec, ExecEvent, Kill, RexecAttach, RexecExec, RexecKill, RexecWrite, Write,
    flags,
};
use rpc::{Dest, RpcError, Stream};
use serde_json::{Map, Value};
use spec::stdio::StreamData;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use types::{IdSet, Rank};

use super::start_failure;
use super::target::Target;
use crate::fail::{Fail, Outcome};
use crate::options::Args;
use crate::{attach, err, input, output, signal as names};

/// The time in which one more Ctrl-C ends this program, though commands run.
const EXIT_WINDOW: Duration = Duration::from_secs(1);

/// A running command.
struct Running {
    /// Known once it is started.
    pid: Option<i32>,
    matchtag: u32,
    /// Bytes that may be written to it.
    credit: u64,
}

/// What the commands are to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// They are ours: they get our input and our signals.
    Foreground,
    /// They run for themselves and we watch.
    Attached,
}

/// Commands on some ranks, one on each.
pub(super) struct Session<'a> {
    client: &'a Client,
    args: &'a Args,
    service: &'a str,
    mode: Mode,
    /// Whether the servers tell how much may be written.
    flow: bool,
    began: Instant,
    /// What is run, as failures call it.
    name: String,
    running: BTreeMap<u32, Running>,
    count: usize,
    /// The ranks that ended in each way other than well.
    ended: BTreeMap<i32, IdSet>,
    highest: i32,
    /// When Ctrl-C was typed last, and how often in short succession.
    interrupted: Option<(Instant, u32)>,
    /// What is read and not yet written.
    pending: Option<Bytes>,
}

type Arrived = (u32, Result<Option<ExecEvent>, RpcError>);

impl<'a> Session<'a> {
    fn new(client: &'a Client, args: &'a Args, service: &'a str, mode: Mode) -> Session<'a> {
        Session {
            client,
            args,
            service,
            mode,
            flow: false,
            began: Instant::now(),
            name: args.words.first().cloned().unwrap_or_default(),
            running: BTreeMap::new(),
            count: 0,
            ended: BTreeMap::new(),
            highest: 0,
            interrupted: None,
            pending: None,
        }
    }

    /// Starts the command on each rank and follows it to its end. `flow`: whether input is held
    /// back until a command has room for it.
    pub(super) async fn start(
        client: &Client,
        args: &Args,
        target: &Target,
        cmd: Command,
        flow: bool,
    ) -> Outcome {
        let mut session = Session::new(client, args, &target.service, Mode::Foreground);
        session.flow = flow;
        let credit = if flow { flags::WRITE_CREDIT } else { 0 };
        let request = Exec {
            cmd,
            flags: flags::STDOUT | flags::STDERR | credit,
            local_flags: None,
        };
        session.say(format_args!(
            "Starting {} on {}",
            session.name,
            target.ranks.to_bracketed()
        ));
        let open = |rank| {
            let handle = client.handle();
            handle.stream_service::<RexecExec>(&target.service, Rank(rank), &request)
        };
        session.follow(&target.ranks, open).await
    }

    /// Follows background processes known by what `request` says.
    pub(super) async fn attach(
        client: &Client,
        args: &Args,
        target: &Target,
        request: &Attach,
    ) -> Outcome {
        let mut session = Session::new(client, args, &target.service, Mode::Attached);
        session.name = match &request.label {
            Some(label) => format!("label {label}"),
            None => format!("pid {}", request.pid),
        };
        let open = |rank| {
            let handle = client.handle();
            handle.stream_service::<RexecAttach>(&target.service, Rank(rank), request)
        };
        session.follow(&target.ranks, open).await
    }

    async fn follow(&mut self, ranks: &IdSet, open: impl Fn(u32) -> Stream<ExecEvent>) -> Outcome {
        // Every command's task passes on what arrives; the bound holds its output back.
        let (sender, mut events) = mpsc::channel::<Arrived>(256);
        for rank in ranks.iter() {
            let mut stream = open(rank);
            let running = Running {
                pid: None,
                matchtag: stream.matchtag().0,
                credit: 0,
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
        self.count = self.running.len();
        self.say(format_args!("Sent all requests"));
        let listen = |kind| -> Result<Signal, Fail> {
            signal(kind).map_err(|error| Fail::new(error.to_string()))
        };
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let mut stdin = match (self.mode, self.args.has("noinput")) {
            (Mode::Attached, _) => None,
            (Mode::Foreground, false) => Some(input::read()),
            (Mode::Foreground, true) => {
                self.pending = Some(Bytes::new());
                None
            }
        };
        while !self.running.is_empty() {
            if events.is_empty() {
                output::flush();
            }
            self.write_pending();
            let room = self.pending.is_none();
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some((rank, event)) => self.event(rank, event),
                    None => break,
                },
                _ = interrupt.recv() => if let Some(status) = self.interrupt() {
                    return Ok(status);
                },
                _ = terminate.recv() => self.kill(libc::SIGTERM),
                chunk = input::next(&mut stdin), if room => {
                    if chunk.is_empty() {
                        stdin = None;
                    }
                    self.pending = Some(chunk);
                }
            }
        }
        output::flush();
        self.summary();
        Ok(self.highest)
    }

    /// With `--verbose`, tells what is going on and when.
    fn say(&self, text: std::fmt::Arguments<'_>) {
        if self.args.has("verbose") {
            let milliseconds = self.began.elapsed().as_secs_f64() * 1e3;
            err!("{milliseconds:03.3}ms: {text}");
        }
    }

    fn summary(&self) {
        if self.mode == Mode::Foreground {
            self.say(format_args!(
                "{} tasks complete with code {}",
                self.count, self.highest
            ));
        }
        if self.args.has("quiet") {
            return;
        }
        for (status, ids) in &self.ended {
            let ids = ids.to_bracketed();
            match names::killed_by(*status) {
                Some(signal) => err!("{ids}: {}", names::describe(signal)),
                None => err!("{ids}: Exit {}", names::exit_code(*status)),
            }
        }
    }

    fn event(&mut self, rank: u32, event: Result<Option<ExecEvent>, RpcError>) {
        let Some(running) = self.running.get_mut(&rank) else {
            return;
        };
        match event {
            Ok(Some(ExecEvent::Started { pid } | ExecEvent::Attached { pid, .. })) => {
                running.pid = Some(pid);
                if !self.flow {
                    running.credit = u64::MAX;
                }
            }
            Ok(Some(ExecEvent::AddCredit { channels })) => {
                let more = channels.get("stdin").and_then(Value::as_u64);
                running.credit = running.credit.saturating_add(more.unwrap_or(0));
            }
            Ok(Some(ExecEvent::Output { io, .. })) => self.show(rank, &io),
            Ok(Some(ExecEvent::Finished { status })) => {
                // It reads no more.
                running.credit = u64::MAX;
                if status != 0 {
                    self.ended.entry(status).or_default().insert(rank);
                }
                self.highest = self.highest.max(names::exit_code(status));
            }
            Ok(Some(ExecEvent::Stopped {})) => {}
            Ok(None) => drop(self.running.remove(&rank)),
            Err(error) => {
                self.running.remove(&rank);
                let code = start_failure(rank, &self.name, &error);
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

    /// Ctrl-C. Returns the exit status if it ends this program.
    fn interrupt(&mut self) -> Option<i32> {
        if self.mode == Mode::Attached {
            let process = self.args.words.first().map_or("", String::as_str);
            err!("detached; use 'flux sproc kill {process}' to signal it");
            return Some(0);
        }
        let times = match self.interrupted {
            Some((at, times)) if times < 2 || at.elapsed() < EXIT_WINDOW => times + 1,
            Some(_) => 2,
            None => 1,
        };
        self.interrupted = Some((Instant::now(), times));
        if times > 2 {
            let ids: IdSet = self.running.keys().copied().collect();
            err!("{}: command still running at exit", ids.to_bracketed());
            return Some(1);
        }
        self.kill(libc::SIGINT);
        if times == 2 {
            let window = EXIT_WINDOW.as_secs_f64();
            err!("interrupt (Ctrl+C) one more time within {window:.2} sec to exit");
        }
        None
    }

    fn kill(&self, signum: i32) {
        let started = || {
            let pid = |(rank, running): (&u32, &Running)| Some((*rank, running.pid?));
            self.running.iter().filter_map(pid)
        };
        if self.args.has("verbose") {
            let count = started().count();
            err!("sending signal {signum} to {count} running processes");
        }
        for (rank, pid) in started() {
            let request = Kill {
                pid,
                label: None,
                signum,
            };
            // The command may just have ended; then there is nothing to signal.
            drop(self.client.handle().call_service::<RexecKill>(
                self.service,
                Dest::Rank(Rank(rank)),
                &request,
            ));
        }
    }

    /// Writes as much of the input as all commands have room for.
    fn write_pending(&mut self) {
        let Some(mut chunk) = self.pending.take() else {
            return;
        };
        let started = self.running.values().all(|running| running.pid.is_some());
        let room = self.running.values().map(|running| running.credit).min();
        let room = usize::try_from(room.unwrap_or(0)).unwrap_or(usize::MAX);
        if !started || (room == 0 && !chunk.is_empty()) {
            self.pending = Some(chunk);
            return;
        }
        let part = chunk.split_to(room.min(chunk.len()));
        self.write(&part);
        self.pending = (!chunk.is_empty()).then_some(chunk);
    }

    /// Writes to all commands; an empty chunk ends their input.
    fn write(&mut self, chunk: &[u8]) {
        for (rank, running) in &mut self.running {
            let data = match chunk.is_empty() {
                true => StreamData::eof("stdin", rank),
                false => StreamData::new("stdin", rank, chunk),
            };
            if self.flow {
                running.credit = running.credit.saturating_sub(chunk.len() as u64);
            }
            let request = Write {
                matchtag: running.matchtag,
                io: data.encode(),
            };
            self.client
                .handle()
                .notify_service::<RexecWrite>(self.service, Rank(*rank), &request);
        }
    }
}
