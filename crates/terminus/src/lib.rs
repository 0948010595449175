//! Terminals that clients attach to and leave: the server's side of the terminus protocol.
//!
//! A [`Server`] answers the requests; whoever hosts it (a job shell, `flux terminus`) takes them
//! from its connection, decides who may send them, and starts the processes. Each [`Session`] is
//! one terminal. The host lets it carry the process's output and says when the process has ended.
//!
//! What is written while nobody looks is kept, as far as [`MISSED_MAX`] goes, for the next client:
//! a process does not stop because its user went home. A session that is held does wait for its
//! first client, with its output and with its end.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::terminus::{
    Data, Kill, List, Mode, Notice, Order, ServerInfo, SessionInfo, WinSize, session_topic,
};
use proto::{Empty, json_payload};
use rpc::{Handle, RpcError};
use subprocess::PtyMaster;
use tokio::sync::{Mutex, watch};
use types::{Errno, Rank};
use wire::Message;

/// The size of a terminal until a client says otherwise.
const SIZE: WinSize = WinSize { rows: 25, cols: 80 };

/// Bytes kept for the next client: some screens full. What is older is dropped.
pub const MISSED_MAX: usize = 64 << 10;

/// What clients are told at the end of a session.
const FAREWELL: &str = "session exiting";

/// Bytes read at once.
const CHUNK: usize = 16 << 10;

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// The sessions a process serves.
pub struct Server {
    handle: Handle,
    service: String,
    rank: Rank,
    ctime: f64,
    sessions: RefCell<BTreeMap<u32, Rc<Session>>>,
}

/// A terminal.
pub struct Session {
    handle: Handle,
    id: u32,
    name: String,
    ctime: f64,
    master: PtyMaster,
    pid: Cell<Option<i32>>,
    /// Whether output waits for a client.
    held: watch::Sender<bool>,
    clients: RefCell<Vec<Client>>,
    missed: RefCell<VecDeque<u8>>,
    /// Who types has the turn until all of it is written.
    turn: Mutex<()>,
    status: Cell<Option<i32>>,
    /// Whether everybody has been told of the end.
    over: Cell<bool>,
    /// Requests to answer at the end.
    killers: RefCell<Vec<Message>>,
}

/// Who is attached.
struct Client {
    request: Message,
    mode: Mode,
}

impl Server {
    /// A server without sessions, to be known as `service`.
    pub fn new(handle: Handle, service: String, rank: Rank) -> Server {
        Server {
            handle,
            service,
            rank,
            ctime: now(),
            sessions: RefCell::default(),
        }
    }

    /// Opens a terminal. Returns the process's side too.
    ///
    /// # Errors
    ///
    /// Those of `openpty(3)`.
    pub fn open(&self, id: u32, name: String, held: bool) -> Result<(Rc<Session>, OwnedFd), Errno> {
        let (master, terminal) = PtyMaster::open(SIZE.rows, SIZE.cols)?;
        let session = Rc::new(Session {
            handle: self.handle.clone(),
            id,
            name,
            ctime: now(),
            master,
            pid: Cell::new(None),
            held: watch::Sender::new(held),
            clients: RefCell::default(),
            missed: RefCell::default(),
            turn: Mutex::new(()),
            status: Cell::new(None),
            over: Cell::new(false),
            killers: RefCell::default(),
        });
        self.sessions.borrow_mut().insert(id, session.clone());
        Ok((session, terminal))
    }

    /// Where a session takes orders.
    pub fn topic(&self, id: u32) -> String {
        session_topic(&self.service, id)
    }

    /// A session.
    pub fn session(&self, id: u32) -> Option<Rc<Session>> {
        self.sessions.borrow().get(&id).cloned()
    }

    /// All sessions.
    pub fn sessions(&self) -> Vec<Rc<Session>> {
        self.sessions.borrow().values().cloned().collect()
    }

    /// Forgets a session.
    pub fn remove(&self, id: u32) {
        self.sessions.borrow_mut().remove(&id);
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.sessions.borrow().is_empty()
    }

    /// Detaches the sender of `message` from everything.
    pub fn disconnect(&self, message: &Message) {
        for session in self.sessions() {
            session.take_client(message);
            let others = |request: &Message| request.sender() != message.sender();
            session.killers.borrow_mut().retain(others);
        }
    }

    /// Answers a request for `method`: that of a session, or one of those that concern all of
    /// them. Starting sessions and ending the server are the host's.
    pub fn dispatch(&self, method: &str, message: Message) {
        let result = match method {
            "list" => {
                self.handle.respond(&message, &self.list());
                Ok(())
            }
            "kill" => self.kill(&message),
            "disconnect" => {
                self.disconnect(&message);
                Ok(())
            }
            _ => self.on_order(method, &message),
        };
        if let Err(error) = result {
            self.handle.respond_error(&message, &error);
        }
    }

    fn list(&self) -> List {
        List {
            server: ServerInfo {
                service: self.service.clone(),
                rank: self.rank.0,
                ctime: self.ctime,
            },
            sessions: self.sessions().iter().map(|it| it.info()).collect(),
        }
    }

    fn kill(&self, message: &Message) -> Result<(), RpcError> {
        let kill: Kill = payload(message)?;
        let session = self.session(kill.id).ok_or_else(no_session)?;
        session.signal(kill.signal)?;
        if kill.wait == 0 || session.over.get() {
            self.handle.respond(message, &Empty {});
        } else {
            session.killers.borrow_mut().push(message.clone());
        }
        Ok(())
    }

    fn on_order(&self, method: &str, message: &Message) -> Result<(), RpcError> {
        let id = method.parse().map_err(|_| {
            let text = proto::refusal::no_method(message.topic_str());
            RpcError::new(Errno::ENOSYS, text)
        })?;
        let session = self.session(id).ok_or_else(no_session)?;
        session.on_order(message)
    }
}

fn no_session() -> RpcError {
    RpcError::new(Errno::ENOENT, "No such session")
}

fn payload<T: proto::Payload>(message: &Message) -> Result<T, RpcError> {
    T::decode(message.payload.as_ref()).map_err(|_| Errno::EPROTO.into())
}

impl Session {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Notes which process runs on the terminal; it leads a session of its own.
    pub fn started(&self, pid: i32) {
        self.pid.set(Some(pid));
    }

    fn info(&self) -> SessionInfo {
        SessionInfo {
            id: self.id,
            name: self.name.clone(),
            clients: self.clients.borrow().len(),
            pid: self.pid.get().unwrap_or(-1),
            exited: self.status.get().is_some().into(),
            ctime: self.ctime,
        }
    }

    /// Signals the process and those it has in the foreground. What is to end waits for no client
    /// any more.
    ///
    /// # Errors
    ///
    /// `ESRCH` it has not been started, `EINVAL` no such signal, `EPERM`.
    pub fn signal(&self, signum: i32) -> Result<(), Errno> {
        self.release();
        if self.status.get().is_some() {
            return Ok(());
        }
        subprocess::signal(self.pid.get().ok_or(Errno::ESRCH)?, true, signum)
    }

    /// Lets output go without a client.
    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// Waits until output needs to wait for no client.
    pub async fn released(&self) {
        // It fails only without a sender, which is here.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }

    /// Carries what is written on the terminal to the clients and to `sink`, until no process has
    /// it open any more.
    ///
    /// # Errors
    ///
    /// Those of `read(2)`.
    pub async fn carry(&self, mut sink: impl AsyncFnMut(&[u8])) -> Result<(), Errno> {
        self.released().await;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = self.master.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            let bytes = &buffer[..count];
            self.show(bytes);
            sink(bytes).await;
        }
    }

    /// Notes how the process ended. Clients stay: there may be output yet.
    pub fn exited(&self, status: i32) {
        self.status.set(Some(status));
    }

    /// Tells everybody that the session is over, its process having ended with `status`. Who
    /// attaches later is told so at once.
    pub fn finish(&self, status: i32) {
        self.exited(status);
        self.over.set(true);
        for client in self.clients.take() {
            self.end(&client, FAREWELL, status);
        }
        for killer in self.killers.take() {
            self.handle.respond(&killer, &Empty {});
        }
    }

    fn show(&self, bytes: &[u8]) {
        let clients = self.clients.borrow();
        let mut readers = clients.iter().filter(|it| it.mode != Mode::WriteOnly);
        let Some(first) = readers.next() else {
            let mut missed = self.missed.borrow_mut();
            missed.extend(bytes);
            let excess = missed.len().saturating_sub(MISSED_MAX);
            missed.drain(..excess);
            return;
        };
        let payload = json_payload(&Notice::Data(Data::new(bytes)));
        for client in std::iter::once(first).chain(readers) {
            self.handle.respond_raw(&client.request, payload.clone());
        }
    }

    fn tell(&self, client: &Client, notice: &Notice) {
        let payload = json_payload(notice);
        self.handle.respond_raw(&client.request, payload);
    }

    fn end(&self, client: &Client, message: &str, status: i32) {
        let message = Some(message.to_owned());
        self.tell(client, &Notice::Exit { message, status });
        self.handle.respond_end(&client.request);
    }

    fn find_mode(&self, message: &Message) -> Option<Mode> {
        let clients = self.clients.borrow();
        let mut clients = clients.iter();
        let found = clients.find(|client| client.request.sender() == message.sender());
        found.map(|client| client.mode)
    }

    fn take_client(&self, message: &Message) -> Option<Client> {
        let mut clients = self.clients.borrow_mut();
        let at = clients
            .iter()
            .position(|client| client.request.sender() == message.sender())?;
        Some(clients.remove(at))
    }

    fn on_order(self: &Rc<Self>, message: &Message) -> Result<(), RpcError> {
        let order: Order = payload(message)?;
        let attached = self.find_mode(message);
        if let Order::Attach { mode, winsize } = order {
            if attached.is_some() {
                return Err(Errno::EEXIST.into());
            }
            return self.attach(message, mode, winsize);
        }
        let mode = attached.ok_or(Errno::ENOENT)?;
        match order {
            Order::Resize { winsize } => self.resize(winsize)?,
            Order::Data(_) if mode == Mode::ReadOnly => {}
            Order::Data(data) => {
                let bytes = data.bytes().ok_or(Errno::EPROTO)?;
                tokio::task::spawn_local(self.clone().take_typed(bytes, message.clone()));
                return Ok(());
            }
            Order::Detach => {
                if let Some(client) = self.take_client(message) {
                    self.end(&client, "Client requested detach", 0);
                }
            }
            Order::Attach { .. } | Order::Unknown => return Err(Errno::ENOSYS.into()),
        }
        self.handle.respond(message, &Empty {});
        Ok(())
    }

    fn attach(
        &self,
        message: &Message,
        mode: Mode,
        winsize: Option<WinSize>,
    ) -> Result<(), RpcError> {
        if !message.is_streaming() {
            return Err(Errno::EPROTO.into());
        }
        // Who does not look has no size.
        if let Some(size) = winsize.filter(|_| mode != Mode::WriteOnly) {
            self.resize(size)?;
        }
        let client = Client {
            request: message.clone(),
            mode,
        };
        self.tell(&client, &Notice::Attach);
        if mode != Mode::WriteOnly {
            let missed = Vec::from(self.missed.take());
            if !missed.is_empty() {
                self.tell(&client, &Notice::Data(Data::new(&missed)));
            }
        }
        match self.status.get() {
            Some(status) if self.over.get() => self.end(&client, FAREWELL, status),
            _ => self.clients.borrow_mut().push(client),
        }
        self.release();
        Ok(())
    }

    fn resize(&self, size: WinSize) -> Result<(), RpcError> {
        if size.rows == 0 || size.cols == 0 {
            let text = format!("invalid size {}x{}", size.rows, size.cols);
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        Ok(self.master.resize(size.rows, size.cols)?)
    }

    async fn take_typed(self: Rc<Self>, bytes: Vec<u8>, message: Message) {
        let _turn = self.turn.lock().await;
        match self.master.write_all(&bytes).await {
            Ok(()) => self.handle.respond(&message, &Empty {}),
            Err(errno) => self.handle.respond_error(&message, &errno.into()),
        }
    }
}

#[cfg(test)]
mod tests;
