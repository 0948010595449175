//! Tasks on pseudo-terminals, and clients attached to them (the terminus protocol).
//!
//! A session is the terminal of one task, known by the task's rank. Its output is captured as the
//! task's standard output, or goes to the clients that are attached, or both. The output of an
//! interactive session waits for the first client.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use rpc::{Handle, RpcError};
use serde_json::Value;
use spec::stdio::StreamData;
use terminus::Session;
use types::{Errno, IdSet, Rank};
use wire::Message;

use crate::fatal::Fatal;
use crate::job::Job;
use crate::output::{Dest, Stream};
use crate::shell::Shell;

/// The name of the sessions' server below that of the shell.
const SERVER: &str = "terminus";

/// What the `pty` option asks for.
struct Config {
    ranks: IdSet,
    capture: bool,
    interactive: bool,
}

/// The sessions of this shell.
pub(crate) struct Ptys {
    config: Option<Config>,
    /// Whether rank 0 got a terminal without being listed.
    pub(crate) rank_0_added: bool,
    server: terminus::Server,
}

fn parse(job: &Job) -> Result<Option<(Config, bool)>, Fatal> {
    let invalid = |text: String| Fatal::new(format!("invalid shell pty option: {text}"));
    let all = IdSet::first_n(job.ntasks);
    let object = match job.option("pty") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(object)) => object,
        Some(_) => {
            let config = Config {
                ranks: all,
                capture: true,
                interactive: false,
            };
            return Ok(Some((config, false)));
        }
    };
    let known = ["ranks", "capture", "interactive"];
    let unknown: Vec<&str> = object
        .keys()
        .map(String::as_str)
        .filter(|key| !known.contains(key))
        .collect();
    if !unknown.is_empty() {
        let text = format!(
            "{} object item(s) left unpacked: {}",
            unknown.len(),
            unknown.join(", ")
        );
        return Err(invalid(text));
    }
    let switch = |name: &str| match object.get(name) {
        None => Ok(None),
        Some(value) => match (value.as_i64(), value.as_bool()) {
            (Some(number), _) => Ok(Some(number != 0)),
            (None, Some(flag)) => Ok(Some(flag)),
            (None, None) => Err(invalid(format!("{name}: Expected integer"))),
        },
    };
    let interactive = switch("interactive")?.unwrap_or(false);
    let capture = switch("capture")?.unwrap_or(!interactive);
    let mut ranks = match object.get("ranks") {
        None if interactive => IdSet::first_n(1),
        None => all,
        Some(Value::Number(rank)) => {
            let rank = rank.as_u64().and_then(|rank| u32::try_from(rank).ok());
            let rank = rank.ok_or_else(|| invalid("bad rank".into()))?;
            [rank].into_iter().collect()
        }
        Some(Value::String(text)) if text == "all" => all,
        Some(Value::String(text)) => text
            .parse()
            .map_err(|_| invalid(format!("invalid ranks {text}")))?,
        Some(_) => return Err(invalid("ranks: Expected string or integer".into())),
    };
    let added = interactive && ranks.insert(0);
    let config = Config {
        ranks,
        capture,
        interactive,
    };
    Ok(Some((config, added)))
}

impl Ptys {
    pub(crate) fn new(job: &Job, handle: Handle, service: &str, rank: u32) -> Result<Ptys, Fatal> {
        let (config, rank_0_added) = match parse(job)? {
            Some((config, added)) => (Some(config), added),
            None => (None, false),
        };
        let node = job.nodes.get(rank as usize);
        let broker_rank = Rank(node.map_or(0, |node| node.broker_rank));
        Ok(Ptys {
            config,
            rank_0_added,
            server: terminus::Server::new(handle, format!("{service}.{SERVER}"), broker_rank),
        })
    }

    pub(crate) fn is_interactive(&self) -> bool {
        self.config
            .as_ref()
            .is_some_and(|config| config.interactive)
    }

    pub(crate) fn captures(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.capture)
    }

    /// What the session of rank 0 is called below the shell's name.
    pub(crate) fn first_session(&self) -> String {
        proto::terminus::session_topic(SERVER, 0)
    }

    /// Opens the terminal of a task that shall have one. Returns the task's side.
    pub(crate) fn open(&self, rank: u32) -> Result<Option<OwnedFd>, Fatal> {
        let Some(config) = self
            .config
            .as_ref()
            .filter(|config| config.ranks.contains(rank))
        else {
            return Ok(None);
        };
        let held = config.interactive && rank == 0;
        let opened = self.server.open(rank, format!("task{rank}"), held);
        let (_, terminal) =
            opened.map_err(|errno| Fatal::new(format!("pty: error opening terminal: {errno}")))?;
        Ok(Some(terminal))
    }

    pub(crate) fn session(&self, rank: u32) -> Option<Rc<Session>> {
        self.server.session(rank)
    }

    /// Lets output go without a client: the job is being ended.
    pub(crate) fn release(&self) {
        for session in self.server.sessions() {
            session.release();
        }
    }

    /// Detaches the sender of `message`.
    pub(crate) fn disconnect(&self, message: &Message) {
        self.server.disconnect(message);
    }
}

/// Carries what a task writes to its terminal until it closes it.
pub(crate) async fn carry(shell: &Rc<Shell>, session: &Session, dest: &Dest) {
    let capture = shell.ptys.captures();
    let sink = async |bytes: &[u8]| {
        if capture {
            let data = StreamData::new("stdout", session.id(), bytes);
            shell.emit(Stream::Out, dest, data).await;
        }
    };
    if let Err(errno) = session.carry(sink).await {
        shell.log.error(format!("pty: read: {errno}"));
    }
}

/// A request to the sessions' server. A shell starts no others than its tasks and lives as they do.
pub(crate) fn on_request(shell: &Rc<Shell>, method: &str, message: Message) {
    match method {
        "new" | "kill-server" => {
            let text = format!("{SERVER}.{method} is not supported by the job shell");
            let error = RpcError::new(Errno::ENOSYS, text);
            shell.handle.respond_error(&message, &error);
        }
        _ => shell.ptys.server.dispatch(method, message),
    }
}
