//! The server of a user's sessions: a process of its own, without a terminal, that ends with the
//! last session or its broker.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use client::Client;
use proto::service::{Service, ServiceAdd, ServiceRemove};
use proto::terminus::{Created, New};
use proto::{Empty, Payload as _};
use rpc::{Dest, RpcError};
use subprocess::{Command, Process, Stdio};
use terminus::{Server, Session};
use tokio::sync::mpsc;
use types::Errno;
use wire::Message;

use super::SESSION;

/// What the server says once it takes requests. Anything else is why it does not.
pub(super) const READY: &str = "ready";

/// How long to wait for the rest of a session's output after its end: others may have its
/// terminal open for ever.
const DRAIN_MAX: Duration = Duration::from_millis(100);

/// What runs where the user has no `SHELL`.
const SHELL: &str = "bash";

/// A session whose process has ended with a status.
type Ended = (Rc<Session>, i32);

struct Host {
    client: Client,
    service: String,
    server: Rc<Server>,
    ended: mpsc::UnboundedSender<Ended>,
    /// Whether a session was asked for.
    asked: bool,
    /// Requests to end the server.
    killers: Vec<Message>,
}

pub(super) fn run(words: &[String]) -> i32 {
    let [service] = words else {
        println!("a service name is needed");
        return 1;
    };
    if let Err(error) = leave_terminal() {
        println!("{}", Errno::from_io(&error));
        return 1;
    }
    let served = client::run(serve(service));
    match served.unwrap_or_else(|error| Err(Errno::from_io(&error).to_string())) {
        Ok(()) => 0,
        Err(why) => {
            print!("{why}");
            1
        }
    }
}

/// Lets go of whatever the starting process had.
#[expect(unsafe_code, reason = "nothing else closes what nobody owns")]
fn leave_terminal() -> io::Result<()> {
    // SAFETY: nothing of this program is open above standard error. Old kernels lack the call.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
    nix::unistd::setsid()?;
    Ok(())
}

/// Says so and closes standard output, which the starting process reads to its end.
fn say_ready() -> io::Result<()> {
    use std::io::Write as _;
    let mut stdout = io::stdout();
    stdout.write_all(READY.as_bytes())?;
    stdout.flush()?;
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null)?;
    Ok(())
}

async fn serve(service: &str) -> Result<(), String> {
    let client = client::open(None).await;
    let client = client.map_err(|error| error.to_string())?;
    let mut incoming = client.incoming();
    let name = Service {
        service: service.to_owned(),
    };
    let added = client.handle().call::<ServiceAdd>(Dest::Any, &name).await;
    match added {
        Ok(_) => {}
        // Another one was quicker, which is as good.
        Err(error) if error.errno == Errno::EEXIST => {
            return say_ready().map_err(|error| error.to_string());
        }
        Err(error) => return Err(format!("{service}: {}", error.errno)),
    }
    let rank = client.rank().await.map_err(|error| error.to_string())?;
    let (sender, mut ended) = mpsc::unbounded_channel();
    let server = Server::new(client.handle().clone(), service.to_owned(), rank);
    let mut host = Host {
        client,
        service: service.to_owned(),
        server: Rc::new(server),
        ended: sender,
        asked: false,
        killers: Vec::new(),
    };
    say_ready().map_err(|error| error.to_string())?;
    loop {
        let mut last = None;
        tokio::select! {
            message = incoming.recv() => match message {
                Some(message) if message.is_request() => host.on_request(message),
                Some(_) => {}
                // The broker is gone, and with the terminals go their processes.
                None => return Ok(()),
            },
            ended = ended.recv() => last = ended,
        }
        if let Some((session, _)) = &last {
            host.server.remove(session.id());
        }
        let over = host.is_over();
        if over {
            // Who learns of the end shall find no server any more.
            host.leave(&mut incoming).await;
        }
        if let Some((session, status)) = last {
            session.finish(status);
        }
        if over {
            for killer in host.killers.drain(..) {
                host.client.handle().respond(&killer, &Empty {});
            }
            host.client.flush().await;
            return Ok(());
        }
    }
}

impl Host {
    /// Whether there has been a session, or the wish to end, and there is no session any more.
    fn is_over(&self) -> bool {
        self.server.is_empty() && (self.asked || !self.killers.is_empty())
    }

    fn on_request(&mut self, message: Message) {
        let result = match message.topic.as_ref().map_or("", |topic| topic.method()) {
            "disconnect" => {
                self.server.disconnect(&message);
                Ok(())
            }
            _ if message.cred.userid.0 != nix::unistd::getuid().as_raw() => {
                Err(Errno::EPERM.into())
            }
            "new" => self.start(&message),
            "kill-server" => {
                self.kill_all();
                self.killers.push(message.clone());
                Ok(())
            }
            method => {
                self.server.dispatch(method, message.clone());
                Ok(())
            }
        };
        if let Err(error) = result {
            self.client.handle().respond_error(&message, &error);
        }
    }

    fn kill_all(&self) {
        for session in self.server.sessions() {
            // It fails where there is no process any more, which is what is wanted.
            let _ = session.signal(libc::SIGKILL);
        }
    }

    fn start(&mut self, message: &Message) -> Result<(), RpcError> {
        self.asked = true;
        let new = New::decode(message.payload.as_ref()).map_err(|_| Errno::EPROTO)?;
        let used: BTreeSet<u32> = self.server.sessions().iter().map(|it| it.id()).collect();
        let id = (0..).find(|id| !used.contains(id)).unwrap_or_default();
        let argv = match new.cmd.as_slice() {
            [] => vec![std::env::var("SHELL").unwrap_or_else(|_| SHELL.to_owned())],
            argv => argv.to_vec(),
        };
        let name = match new.name.as_str() {
            "" => argv[0].clone(),
            name => name.to_owned(),
        };
        let (session, terminal) = self.server.open(id, name.clone(), new.wait != 0)?;
        let process = environment(&new, id).and_then(|env| {
            let mut command = Command::new(argv.clone());
            command.env = Some(env);
            command.cwd = new.cwd.as_ref().map(Into::into);
            let clone = || terminal.try_clone().map_err(|error| Errno::from_io(&error));
            command.stdin = Stdio::Fd(clone()?);
            command.stdout = Stdio::Fd(clone()?);
            command.stderr = Stdio::Fd(clone()?);
            command.on_terminal = true;
            command.spawn().map_err(|errno| {
                let text = format!("failed to run {}: {errno}", argv[0]);
                RpcError::new(errno, text)
            })
        });
        let process = process.inspect_err(|_| self.server.remove(id))?;
        session.started(process.pid);
        tokio::task::spawn_local(follow(session, process, self.ended.clone()));
        let created = Created {
            name,
            pty_service: self.server.topic(id),
            id,
        };
        self.client.handle().respond(message, &created);
        Ok(())
    }

    /// Takes no requests any more. Those that have come are answered as if none was here.
    async fn leave(&self, incoming: &mut mpsc::Receiver<Message>) {
        let handle = self.client.handle();
        let name = Service {
            service: self.service.clone(),
        };
        // It fails with the connection, which comes to the same.
        let _ = handle.call::<ServiceRemove>(Dest::Any, &name).await;
        while let Ok(message) = incoming.try_recv() {
            if message.is_request() {
                let text = proto::refusal::no_service(message.topic_str());
                handle.respond_error(&message, &RpcError::new(Errno::ENOSYS, text));
            }
        }
    }
}

/// The environment of a session: the server's with changes.
fn environment(new: &New, id: u32) -> Result<Vec<(OsString, OsString)>, RpcError> {
    let mut env: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (name, value) in new.environ.iter().flatten() {
        let value = value.as_str().ok_or(Errno::EPROTO)?;
        env.insert(name.into(), value.into());
    }
    env.insert(SESSION.into(), id.to_string().into());
    Ok(env.into_iter().collect())
}

/// Carries a session's output to its end.
async fn follow(session: Rc<Session>, mut process: Process, ended: mpsc::UnboundedSender<Ended>) {
    // Nobody is here to tell of a terminal that cannot be read: it shows nothing then.
    let carry = session.carry(async |_| {});
    tokio::pin!(carry);
    let (status, drained) = tokio::select! {
        status = process.wait() => (status, false),
        _ = &mut carry => (process.wait().await, true),
    };
    let status = status.unwrap_or_default();
    session.exited(status);
    session.released().await;
    if !drained {
        let _ = tokio::time::timeout(DRAIN_MAX, carry).await;
    }
    // It fails if the server has ended before.
    let _ = ended.send((session.clone(), status));
}
