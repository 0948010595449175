//! Following one job to its end, as `flux job attach` and `flux run` do.

mod job_pty;
mod status_line;
mod stdin;
mod tail;

use std::time::{Duration, Instant};

use client::Client;
use proto::job_info::{Event, EventlogWatch, JobInfoEventlogWatch, watch_flags};
use proto::job_manager::{JobManagerKill, JobManagerRaise, Kill, Raise};
use rpc::{Dest, RpcError, Stream};
use serde_json::{Map, Value};
use spec::eventlog::{self, EventlogError};
use spec::stdio::StreamData;
use spec::{Entry, Taskmap};
use tokio::signal::unix::{Signal, SignalKind, signal};
use types::{Errno, IdSet, JobId, Rank};

use crate::fail::{Fail, Outcome};
use crate::pty::{End, How};
use crate::{err, output, pty, signal as names};
use job_pty::{JobPty, Progress};
use status_line::StatusLine;
use stdin::Stdin;
use tail::Tail;

/// The time in which a second Ctrl-C cancels the job.
const CANCEL_WINDOW: Duration = Duration::from_secs(2);

/// The key of a job's output.
const OUTPUT: &str = "guest.output";

/// What to show of the job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// The events of the job.
    pub(crate) events: bool,
    /// The events of its execution.
    pub(crate) exec: bool,
    /// What the job waits for, at once.
    pub(crate) status: bool,
    /// How often to ask whether its queue is stopped.
    pub(crate) queue_check: Option<Duration>,
    /// The task rank in front of each line.
    pub(crate) label: bool,
    /// Where log lines come from.
    pub(crate) verbose: bool,
    /// No log lines but errors.
    pub(crate) quiet: bool,
    /// Leave standard input alone.
    pub(crate) read_only: bool,
    /// The tasks that get standard input, all if absent.
    pub(crate) stdin_ranks: Option<IdSet>,
    /// Stop after this event of the job, instead of `clean`.
    pub(crate) wait_event: Option<String>,
    /// Only the last lines of output so far.
    pub(crate) tail: Option<u64>,
}

/// Where the job takes standard input.
struct Service {
    name: String,
    rank: Rank,
    /// What the interactive terminal of task 0 is called below that name.
    pty: Option<String>,
    /// Whether what is written there comes as output too.
    captures: bool,
}

struct Session<'a> {
    client: &'a Client,
    id: JobId,
    options: &'a Options,
    /// The time of the first event.
    start: f64,
    status: Option<i32>,
    fatal: bool,
    encodings: Map<String, Value>,
    service: Option<Service>,
    pty: JobPty,
    stdin: Stdin,
    tail: Tail,
}

/// The events of a log as they come.
pub(crate) struct Events {
    stream: Stream<Event<'static>>,
    /// What has come and was not taken yet.
    come: eventlog::Decoder,
}

impl Events {
    /// The next event, `None` at the end of the log.
    ///
    /// # Errors
    ///
    /// The service's; `EINVAL` for what is not an event.
    pub(crate) async fn next(&mut self) -> Result<Option<Entry>, RpcError> {
        loop {
            if let Some(entry) = self.come.next() {
                let invalid = |error: EventlogError| {
                    RpcError::new(error.errno(), format!("eventlog: {error}"))
                };
                return entry.map(Some).map_err(invalid);
            }
            let Some(Event { event }) = self.stream.next().await? else {
                return Ok(None);
            };
            self.come.push(event.as_bytes());
            if !event.ends_with('\n') {
                self.come.push(b"\n");
            }
        }
    }

    /// Whether the next event is here.
    fn has_next(&self) -> bool {
        !self.come.is_empty()
    }
}

/// Opens a stream of events of a job.
pub(crate) fn watch(client: &Client, id: JobId, path: &str, flags: i32) -> Events {
    let request = EventlogWatch {
        id,
        path: path.to_owned(),
        flags,
        guest: false,
        batch: true,
    };
    Events {
        stream: client
            .handle()
            .stream::<JobInfoEventlogWatch>(Dest::Any, &request),
        come: eventlog::Decoder::default(),
    }
}

/// The next event of a stream; a stream that is not open (any more) never has one.
async fn next(stream: &mut Option<Events>) -> Result<Option<Entry>, RpcError> {
    match stream {
        Some(open) => open.next().await,
        None => std::future::pending().await,
    }
}

/// A signal of a stream that may not be open.
async fn stopped(signals: &mut Option<Signal>) {
    match signals {
        Some(open) => drop(open.recv().await),
        None => std::future::pending().await,
    }
}

/// Follows a job and returns its exit code.
pub(crate) async fn attach(client: &Client, id: JobId, options: &Options) -> Outcome {
    let mut session = Session {
        client,
        id,
        options,
        start: 0.0,
        status: None,
        fatal: false,
        encodings: Map::new(),
        service: None,
        pty: JobPty::Unknown,
        stdin: Stdin::new(client.handle().clone(), options.stdin_ranks.clone()),
        tail: Tail::default(),
    };
    session.run().await
}

impl Session<'_> {
    async fn run(&mut self) -> Outcome {
        let mut main = Some(watch(self.client, self.id, "eventlog", 0));
        let mut exec = None;
        let mut out = None;
        let io_error = |error: std::io::Error| Fail::new(error.to_string());
        let mut interrupt = signal(SignalKind::interrupt()).map_err(io_error)?;
        let mut forward = Forwarded::new().map_err(io_error)?;
        let mut interrupted: Option<Instant> = None;
        // Ctrl-Z suspends as always until a first Ctrl-C.
        let mut suspend: Option<Signal> = None;
        let mut first = true;
        let mut status_line = StatusLine::new(self.id, self.options);
        while main.is_some() || exec.is_some() || out.is_some() || self.pty.is_attached() {
            if ![&main, &exec, &out]
                .into_iter()
                .flatten()
                .any(Events::has_next)
            {
                output::flush();
            }
            tokio::select! {
                biased;
                event = next(&mut exec) => match self.take(event, "exec")? {
                    Some(entry) => {
                        self.exec_event(&entry);
                        if self.pty.is_unknown() && self.service.is_some() {
                            self.pty = self.ask_for_pty()?;
                            self.open_stdin();
                        }
                    }
                    None => exec = None,
                },
                // What the terminal shows is not to be shown twice.
                event = next(&mut out), if !self.pty.is_asked() => match self.take(event, "output")? {
                    Some(entry) => self.output_event(&entry),
                    None => out = None,
                },
                event = next(&mut main) => match event {
                    Ok(Some(entry)) => {
                        if first {
                            first = false;
                            self.start = entry.timestamp;
                            if let Some(lines) = self.options.tail {
                                self.tail = Tail::find(self.client, self.id, OUTPUT, lines).await?;
                            }
                            let wait = watch_flags::WAITCREATE;
                            let open = |path| Some(watch(self.client, self.id, path, wait));
                            exec = open("guest.exec.eventlog");
                            out = open(OUTPUT);
                        }
                        status_line.on_event(self.client, &entry);
                        if self.job_event(&entry) {
                            return Ok(self.exit_code());
                        }
                        // A shell that is gone gives no terminal any more.
                        if self.status.is_some() && self.pty.is_asked() {
                            self.pty = JobPty::None;
                        }
                    }
                    Ok(None) => main = None,
                    Err(error) if first => return Err(self.refused(&error)),
                    Err(error) => return Err(Fail::of("eventlog", error)),
                },
                progress = self.pty.next() => match progress {
                    Progress::Answered(Ok(pty)) => {
                        self.pty = JobPty::Attached(Box::pin(pty.run()));
                    }
                    Progress::Answered(Err(_)) => {
                        self.pty = JobPty::None;
                        self.open_stdin();
                    }
                    Progress::Ended(End::Detached) => return Ok(0),
                    Progress::Ended(End::Lost) => return Ok(1),
                    Progress::Ended(End::Exited(_)) => {
                        self.pty = JobPty::Over;
                        // The job's end says how it went.
                        if self.status.is_some() {
                            return Ok(self.exit_code());
                        }
                    }
                },
                progress = self.stdin.next() => self.stdin.on_progress(progress),
                _ = interrupt.recv() => {
                    let again = interrupted.is_some_and(|at| at.elapsed() < CANCEL_WINDOW);
                    if again {
                        self.cancel().await;
                    } else {
                        err!("flux-job: one more ctrl-C within 2s to cancel or ctrl-Z to detach");
                        interrupted = Some(Instant::now());
                        if suspend.is_none() {
                            let stop = SignalKind::from_raw(libc::SIGTSTP);
                            suspend = Some(signal(stop).map_err(io_error)?);
                        }
                    }
                }
                () = stopped(&mut suspend) => {
                    if interrupted.is_some_and(|at| at.elapsed() < CANCEL_WINDOW) {
                        err!("flux-job: detaching...");
                        return Ok(self.exit_code());
                    }
                    err!("flux-job: one more ctrl-Z to suspend");
                    names::restore_default(libc::SIGTSTP);
                    suspend = None;
                }
                number = forward.recv() => self.kill(number).await,
                never = status_line.keep() => match never {},
            }
        }
        Ok(self.exit_code())
    }

    fn refused(&self, error: &RpcError) -> Fail {
        let reason = match error.errno {
            Errno::ENOENT => "No such job".to_owned(),
            Errno::EPERM => "that is not your job".to_owned(),
            _ => error.to_string(),
        };
        // The decimal form is what scripts match.
        Fail::of(format!("Failed to attach to {}", self.id.0), reason)
    }

    /// An entry of one of the guest's eventlogs, `None` at its end.
    fn take(
        &self,
        event: Result<Option<Entry>, RpcError>,
        what: &str,
    ) -> Result<Option<Entry>, Fail> {
        match event {
            Ok(entry) => Ok(entry),
            // The job had none.
            Err(error) if error.errno == Errno::ENOENT => Ok(None),
            Err(error) => Err(Fail::of(what, error)),
        }
    }

    fn offset(&self, entry: &Entry) -> f64 {
        entry.timestamp - self.start
    }

    fn show(&self, kind: &str, entry: &Entry) {
        let at = self.offset(entry);
        match &entry.context {
            Some(context) => {
                let context = Value::Object(context.clone());
                err!("{at:.3}s: {kind}.{} {context}", entry.name);
            }
            None => err!("{at:.3}s: {kind}.{}", entry.name),
        }
    }

    /// Takes an event of the job. True ends the session.
    fn job_event(&mut self, entry: &Entry) -> bool {
        if entry.name == "exception" {
            let severity = entry.get_i64("severity").unwrap_or_default();
            err!(
                "{:.3}s: job.exception {} type={} severity={severity} {}",
                self.offset(entry),
                self.id,
                entry.get_str("type").unwrap_or_default(),
                entry.get_str("note").unwrap_or_default()
            );
            self.fatal |= severity == 0;
        } else {
            if entry.name == "finish" {
                self.finish(entry);
            }
            if self.options.events {
                self.show("job", entry);
            }
        }
        // Who has left the job's terminal waits for nothing more than to know how the job went.
        let over = self.pty.is_over() && entry.name == "finish";
        over || self.options.wait_event.as_ref() == Some(&entry.name)
    }

    /// Asks for the job's terminal, if it has one.
    fn ask_for_pty(&self) -> Result<JobPty, Fail> {
        let found = self.service.as_ref().and_then(|service| {
            let name = service.pty.as_ref()?;
            Some((format!("{}.{name}", service.name), service.rank))
        });
        let Some((topic, rank)) = found else {
            return Ok(JobPty::None);
        };
        if self.options.read_only {
            return Err(Fail::new("Cannot connect to pty in readonly mode"));
        }
        let handle = self.client.handle().clone();
        let answer = pty::attach(handle, topic, rank.into(), How::Terminal);
        Ok(JobPty::Asked(Box::pin(answer)))
    }

    /// Opens standard input, if it goes to the tasks.
    fn open_stdin(&mut self) {
        if let Some(service) = &self.service
            && self.pty.is_none()
            && !self.options.read_only
        {
            self.stdin.open(&service.name, service.rank);
        }
    }

    fn finish(&mut self, entry: &Entry) {
        let status = entry.get_i64("status").unwrap_or_default() as i32;
        self.status = Some(status);
        if self.pty.is_over() {
            return;
        }
        let code = names::exit_code(status);
        if let Some(signal) = names::killed_by(status) {
            err!("flux-job: job shell {}", names::describe(signal));
        } else if code > 128 {
            err!("flux-job: task(s) {}", names::describe(code - 128));
        } else if code > 0 {
            err!("flux-job: task(s) exited with exit code {code}");
        }
    }

    fn exit_code(&self) -> i32 {
        match self.status.map(names::exit_code) {
            Some(code) if code != 0 => code,
            Some(_) if self.fatal => 1,
            Some(code) => code,
            None => 1,
        }
    }

    fn exec_event(&mut self, entry: &Entry) {
        match entry.name.as_str() {
            "shell.init" => {
                let rank = entry.get_i64("leader-rank").unwrap_or_default();
                self.service = entry.get_str("service").map(|name| Service {
                    name: name.to_owned(),
                    rank: Rank(u32::try_from(rank).unwrap_or_default()),
                    pty: entry.get_str("pty").map(str::to_owned),
                    captures: entry.get_i64("capture").is_some_and(|flag| flag != 0),
                });
            }
            "shell.start" => {
                let taskmap = entry.get("taskmap").map(Taskmap::from_value);
                if let Some(Ok(taskmap)) = taskmap {
                    let ntasks = u32::try_from(taskmap.ntasks()).unwrap_or(u32::MAX);
                    self.stdin.on_tasks(ntasks);
                }
            }
            "log" => {
                let text = |key| entry.get_str(key).unwrap_or_default();
                let rank = entry.get("rank").map(rank_text).unwrap_or_default();
                for line in text("data").lines() {
                    err!(
                        "{:.3}s: {}[{rank}]: {}: {line}",
                        self.offset(entry),
                        text("component"),
                        text("stream")
                    );
                }
            }
            _ => {}
        }
        if self.options.exec {
            self.show("exec", entry);
        }
    }

    fn output_event(&mut self, entry: &Entry) {
        match entry.name.as_str() {
            "header" => {
                if let Some(Value::Object(encodings)) = entry.get("encoding") {
                    self.encodings = encodings.clone();
                }
            }
            "data" => {
                let Some(context) = &entry.context else {
                    return;
                };
                if let Some(data) = data_of(context, &self.encodings)
                    && !self.was_on_pty(&data)
                {
                    for data in self.tail.cut(data) {
                        show_data(&data, self.options.label, "");
                    }
                }
            }
            "redirect" if !self.options.quiet => {
                let text = |key| entry.get_str(key).unwrap_or_default();
                err!(
                    "{}: {} redirected to {}",
                    text("rank"),
                    text("stream"),
                    text("path")
                );
            }
            "log" => {
                if let Some(line) = log_line(entry, self.options.verbose, self.options.quiet) {
                    err!("{:.3}s: {line}", self.offset(entry));
                }
            }
            _ => {}
        }
    }

    /// Whether the user saw it on the job's terminal.
    fn was_on_pty(&self, data: &StreamData) -> bool {
        let captures = self.service.as_ref().is_some_and(|it| it.captures);
        captures && data.rank == "0" && self.pty.shows_output()
    }

    async fn cancel(&self) {
        let request = Raise {
            id: self.id,
            severity: 0,
            kind: "cancel".to_owned(),
            note: Some("interrupted by ctrl-C".to_owned()),
            wait_status: None,
        };
        let call = self
            .client
            .handle()
            .call::<JobManagerRaise>(Dest::Any, &request);
        if let Err(error) = call.await {
            err!("flux-job: cancel {}: {error}", self.id);
        }
    }

    async fn kill(&self, signum: i32) {
        let request = Kill {
            id: self.id,
            signum,
        };
        let call = self
            .client
            .handle()
            .call::<JobManagerKill>(Dest::Any, &request);
        if let Err(error) = call.await {
            err!("flux-job: kill {}: {error}", self.id);
        }
    }
}

/// A rank as people read it.
fn rank_text(rank: &Value) -> String {
    match rank {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The data in an output entry, `None` if it has none.
pub(crate) fn data_of(
    context: &Map<String, Value>,
    encodings: &Map<String, Value>,
) -> Option<StreamData> {
    let stream = context.get("stream").and_then(Value::as_str)?;
    let encoding = encodings.get(stream).and_then(Value::as_str);
    match StreamData::decode(context, encoding.unwrap_or("UTF-8")) {
        Ok(data) => Some(data),
        Err(error) => {
            err!("flux-job: error decoding output: {error}");
            None
        }
    }
}

/// Prints output where it belongs, with `prefix` and perhaps the rank in front of each line.
pub(crate) fn show_data(data: &StreamData, label: bool, prefix: &str) {
    let Some(bytes) = &data.data else { return };
    let write: fn(&[u8]) = if data.stream == "stderr" {
        output::error_bytes
    } else {
        |bytes| output::write(&output::lines(bytes))
    };
    for _ in 0..data.repeat {
        if !label && prefix.is_empty() {
            write(bytes);
            continue;
        }
        let mut out = Vec::with_capacity(bytes.len() + 16);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            out.extend_from_slice(prefix.as_bytes());
            if label {
                out.extend_from_slice(data.rank.as_bytes());
                out.extend_from_slice(b": ");
            }
            out.extend_from_slice(line);
        }
        write(&out);
    }
}

/// A shell's log record as a line, `None` if it is not to be shown.
pub(crate) fn log_line(entry: &Entry, verbose: bool, quiet: bool) -> Option<String> {
    let level = entry.get_i64("level").unwrap_or(5);
    if quiet && level > 3 {
        return None;
    }
    let label = match level {
        ..=2 => "FATAL: ",
        3 => "ERROR: ",
        4 => " WARN: ",
        5 => "",
        6 => "DEBUG: ",
        _ => "TRACE: ",
    };
    let mut line = format!(
        "flux-shell[{}]: {label}",
        entry.get("rank").map(rank_text).unwrap_or_default()
    );
    if let Some(component) = entry.get_str("component") {
        line.push_str(&format!("{component}: "));
    }
    if verbose && let Some(file) = entry.get_str("file") {
        let number = entry.get_i64("line").unwrap_or_default();
        line.push_str(&format!("{file}:{number}: "));
    }
    line.push_str(entry.get_str("message").unwrap_or_default());
    Some(line)
}

/// The signals passed on to the job.
struct Forwarded {
    signals: Vec<(i32, Signal)>,
}

impl Forwarded {
    fn new() -> std::io::Result<Forwarded> {
        let kinds = [
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::alarm(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let signals = kinds
            .into_iter()
            .map(|kind| Ok((kind.as_raw_value(), signal(kind)?)))
            .collect::<std::io::Result<_>>()?;
        Ok(Forwarded { signals })
    }

    async fn recv(&mut self) -> i32 {
        std::future::poll_fn(|cx| {
            for (number, signal) in &mut self.signals {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
