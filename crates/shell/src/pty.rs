//! Tasks on pseudo-terminals, and clients attached to them (the terminus protocol).
//!
//! A session is the terminal of one task, known by the task's rank. Its output is captured as the
//! task's standard output, or goes to the client that is attached, or both. The output of an
//! interactive session waits for the first client.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proto::Empty;
use rpc::RpcError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use spec::stdio::StreamData;
use subprocess::PtyMaster;
use tokio::sync::Notify;
use types::{Errno, IdSet};
use wire::Message;

use crate::fatal::Fatal;
use crate::job::Job;
use crate::output::{Dest, Stream};
use crate::shell::Shell;
use crate::store::now;

/// The size of a terminal until a client says otherwise.
const SIZE: (u16, u16) = (25, 80);

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
    sessions: RefCell<BTreeMap<u32, Rc<Session>>>,
}

/// A task's terminal.
pub(crate) struct Session {
    rank: u32,
    master: PtyMaster,
    capture: bool,
    /// Whether output waits for a client.
    held: Cell<bool>,
    released: Notify,
    client: RefCell<Option<Message>>,
    exited: Cell<bool>,
    ctime: f64,
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
    pub(crate) fn new(job: &Job) -> Result<Ptys, Fatal> {
        let (config, rank_0_added) = match parse(job)? {
            Some((config, added)) => (Some(config), added),
            None => (None, false),
        };
        Ok(Ptys {
            config,
            rank_0_added,
            sessions: RefCell::default(),
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

    /// Opens the terminal of a task that shall have one. Returns the task's side.
    pub(crate) fn open(&self, rank: u32) -> Result<Option<OwnedFd>, Fatal> {
        let Some(config) = self
            .config
            .as_ref()
            .filter(|config| config.ranks.contains(rank))
        else {
            return Ok(None);
        };
        let (master, terminal) = PtyMaster::open(SIZE.0, SIZE.1)
            .map_err(|errno| Fatal::new(format!("pty: error opening terminal: {errno}")))?;
        let session = Session {
            rank,
            master,
            capture: config.capture,
            held: Cell::new(config.interactive && rank == 0),
            released: Notify::new(),
            client: RefCell::new(None),
            exited: Cell::new(false),
            ctime: now(),
        };
        self.sessions.borrow_mut().insert(rank, Rc::new(session));
        Ok(Some(terminal))
    }

    pub(crate) fn session(&self, rank: u32) -> Option<Rc<Session>> {
        self.sessions.borrow().get(&rank).cloned()
    }

    /// Lets output go without a client: the job is being ended.
    pub(crate) fn release(&self) {
        for session in self.sessions.borrow().values() {
            session.release();
        }
    }

    /// Detaches the sender of `message`.
    pub(crate) fn disconnect(&self, message: &Message) {
        for session in self.sessions.borrow().values() {
            let mut client = session.client.borrow_mut();
            if client
                .as_ref()
                .is_some_and(|client| client.sender() == message.sender())
            {
                client.take();
            }
        }
    }
}

impl Session {
    fn release(&self) {
        self.held.set(false);
        self.released.notify_one();
    }

    fn send(&self, shell: &Shell, payload: &Value) {
        if let Some(client) = &*self.client.borrow() {
            let payload = proto::json_payload(payload);
            shell.handle.respond_raw(client, payload);
        }
    }

    /// The task has ended and its terminal is drained.
    pub(crate) fn on_exit(&self, shell: &Shell, status: i32) {
        self.exited.set(true);
        let exit = json!({"type": "exit", "message": "session exiting", "status": status});
        self.send(shell, &exit);
        if let Some(client) = self.client.borrow_mut().take() {
            shell.handle.respond_end(&client);
        }
    }
}

/// Carries what a task writes to its terminal until it closes it.
pub(crate) async fn carry(shell: &Rc<Shell>, session: &Session, dest: &Dest) {
    while session.held.get() {
        session.released.notified().await;
    }
    let mut buffer = vec![0; 16 << 10];
    loop {
        match session.master.read(&mut buffer).await {
            Ok(0) => return,
            Ok(count) => {
                let data = &buffer[..count];
                session.send(shell, &data_message(data));
                if session.capture {
                    let data = StreamData::new("stdout", session.rank, data);
                    shell.emit(Stream::Out, dest, data).await;
                }
            }
            Err(errno) => return shell.log.error(format!("pty: read: {errno}")),
        }
    }
}

/// Bytes as the protocol carries them.
fn data_message(data: &[u8]) -> Value {
    match std::str::from_utf8(data) {
        Ok(text) if !data.contains(&0) => json!({"type": "data", "data": text}),
        _ => json!({"type": "data", "data": BASE64.encode(data), "encoding": "base64"}),
    }
}

#[derive(Deserialize)]
struct Size {
    rows: u16,
    cols: u16,
}

/// What a client says to a session.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Order {
    Attach {
        #[serde(default)]
        winsize: Option<Size>,
    },
    Resize {
        winsize: Size,
    },
    Data {
        data: String,
        #[serde(default)]
        encoding: Option<String>,
    },
    Detach {},
}

/// A request below `terminus.`.
pub(crate) fn on_request(shell: &Rc<Shell>, method: &str, message: Message) {
    let result = match method {
        "list" => {
            list(shell, &message);
            Ok(())
        }
        "disconnect" => {
            shell.ptys.disconnect(&message);
            Ok(())
        }
        "new" | "kill" | "kill-server" => Err(RpcError::new(
            Errno::ENOSYS,
            format!("terminus.{method} is not supported by the job shell"),
        )),
        _ => on_order(shell, method, &message),
    };
    if let Err(error) = result {
        shell.handle.respond_error(&message, &error);
    }
}

fn list(shell: &Shell, message: &Message) {
    let sessions: Vec<Value> = shell
        .ptys
        .sessions
        .borrow()
        .values()
        .map(|session| {
            let task = shell
                .tasks
                .borrow()
                .iter()
                .find(|task| task.rank == session.rank)
                .cloned();
            json!({
                "id": session.rank,
                "name": format!("task{}", session.rank),
                "clients": i32::from(session.client.borrow().is_some()),
                "pid": task.map_or(-1, |task| task.pid),
                "exited": i32::from(session.exited.get()),
                "ctime": session.ctime,
            })
        })
        .collect();
    let reply = json!({
        "server": {"service": format!("{}.terminus", shell.service), "rank": shell.rank, "ctime": now()},
        "sessions": sessions,
    });
    shell
        .handle
        .respond_raw(message, proto::json_payload(&reply));
}

fn on_order(shell: &Rc<Shell>, id: &str, message: &Message) -> Result<(), RpcError> {
    let session = id.parse().ok().and_then(|rank| shell.ptys.session(rank));
    let session = session.ok_or_else(|| RpcError::new(Errno::ENOENT, "No such session"))?;
    let text = message.text().ok_or(Errno::EPROTO)?;
    let order: Order = serde_json::from_str(text).map_err(|_| Errno::EPROTO)?;
    match order {
        Order::Attach { winsize } => return attach(shell, &session, message, winsize),
        Order::Resize { winsize } => session.master.resize(winsize.rows, winsize.cols)?,
        Order::Detach {} => {
            shell.ptys.disconnect(message);
        }
        Order::Data { data, encoding } => {
            let bytes = match encoding.as_deref() {
                Some("base64") => BASE64.decode(data).map_err(|_| Errno::EPROTO)?,
                _ => data.into_bytes(),
            };
            let (shell, message) = (shell.clone(), message.clone());
            tokio::task::spawn_local(async move {
                match session.master.write_all(&bytes).await {
                    Ok(()) => shell.handle.respond(&message, &Empty {}),
                    Err(errno) => shell.handle.respond_error(&message, &errno.into()),
                }
            });
            return Ok(());
        }
    }
    shell.handle.respond(message, &Empty {});
    Ok(())
}

fn attach(
    shell: &Rc<Shell>,
    session: &Session,
    message: &Message,
    winsize: Option<Size>,
) -> Result<(), RpcError> {
    if !message.is_streaming() {
        return Err(Errno::EPROTO.into());
    }
    if session.client.borrow().is_some() {
        return Err(Errno::EEXIST.into());
    }
    if let Some(size) = winsize {
        session.master.resize(size.rows, size.cols)?;
    }
    let mut answer = Map::new();
    answer.insert("type".into(), "attach".into());
    shell
        .handle
        .respond_raw(message, proto::json_payload(&answer));
    if session.exited.get() {
        shell.handle.respond_end(message);
        return Ok(());
    }
    *session.client.borrow_mut() = Some(message.clone());
    session.release();
    Ok(())
}
