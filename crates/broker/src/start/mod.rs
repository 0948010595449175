//! `flux start`: becomes a broker, or, for tests, runs several on this host.
//!
//! The brokers of a test instance find each other by PMI, which this process serves them.

mod options;
mod serve;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::rc::Rc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{AccessFlags, access, geteuid};
use pmi::{Output, Server, Settings};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use types::{Errno, Hostlist};

use options::{Clique, Options, USAGE, Which};

/// How long brokers may go on after the first has ended.
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs `flux start` with the words after it.
pub fn start_main(words: Vec<OsString>) -> ExitCode {
    let options = match options::parse(words.into_iter()) {
        Ok(options) => options,
        Err(text) => {
            types::complain!("{text}");
            return ExitCode::FAILURE;
        }
    };
    if options.help {
        types::complain!("{}", USAGE.trim_end());
        return ExitCode::SUCCESS;
    }
    let result = match options.test_size {
        Some(size) => start_test_instance(&options, size),
        None => become_broker(&options),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(text) => {
            types::complain!("flux-start: {text}");
            ExitCode::FAILURE
        }
    }
}

/// The executable that holds the broker: this one.
fn executable() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("cannot find own executable: {error}"))
}

/// The words common to every broker, the executable first.
fn command_line(options: &Options) -> Result<Vec<String>, String> {
    let mut words = options.wrap.clone();
    words.push(executable()?.to_string_lossy().into_owned());
    words.push("broker".into());
    words.extend(options.broker.iter().cloned());
    if options.verbose > 0 {
        words.push(format!("-v{}", options.verbose));
    }
    if let Some(target) = &options.recovery {
        words.extend(recovery(target.as_deref())?);
    }
    if options.sysconfig && options.config_path.is_none() {
        words.push("-c/etc/flux/system/conf.d".into());
    }
    Ok(words)
}

fn recovery(target: Option<&str>) -> Result<Vec<String>, String> {
    let mut words: Vec<String> = [
        "-Sbroker.recovery-mode=1",
        "-Sbroker.quorum=1",
        "-Sbroker.module-nopanic=1",
        "-Slog-stderr-level=5",
    ]
    .map(str::to_owned)
    .into();
    let target = target.unwrap_or("/var/lib/flux");
    let meta = std::fs::metadata(target)
        .map_err(|error| format!("{target}: {}", Errno::from_io(&error)))?;
    let key = if meta.is_dir() {
        recoverable(target, &meta)?;
        "statedir"
    } else {
        "content.restore"
    };
    words.push(format!("-S{key}={target}"));
    Ok(words)
}

/// Checks that a state directory can be recovered from. A mistyped one would be a new instance's.
fn recoverable(dir: &str, meta: &Metadata) -> Result<(), String> {
    if meta.uid() != geteuid().as_raw() {
        return Err(format!("{dir}: not owned by you"));
    }
    if meta.mode() & 0o700 != 0o700 {
        return Err(format!("{dir}: no access"));
    }
    let database = format!("{dir}/content.sqlite");
    let check = |flags| access(database.as_str(), flags);
    check(AccessFlags::F_OK).map_err(|errno| format!("{database}: {}", errno.desc()))?;
    check(AccessFlags::R_OK).map_err(|_| format!("{database}: no read permission"))?;
    check(AccessFlags::W_OK).map_err(|_| format!("{database}: no write permission"))
}

/// Without `--test-size` this process becomes the broker.
fn become_broker(options: &Options) -> Result<u8, String> {
    let mut words = command_line(options)?;
    words.extend(options.command.iter().cloned());
    if options.verbose > 0 {
        types::complain!("flux-start: {}", words.join(" "));
    }
    if options.noexec {
        return Ok(0);
    }
    let error = Command::new(&words[0]).args(&words[1..]).exec();
    Err(format!("{}: {error}", words[0]))
}

/// One broker of a test instance.
struct Member {
    pid: Option<u32>,
    /// The exit code of the last run.
    code: Option<i32>,
    ended: Rc<Notify>,
}

/// A test instance.
struct Instance {
    options: Options,
    words: Vec<String>,
    rundir: PathBuf,
    hosts: Option<Hostlist>,
    members: RefCell<Vec<Member>>,
    server: RefCell<Server>,
    /// The brokers' PMI sockets.
    sockets: RefCell<HashMap<u32, mpsc::UnboundedSender<String>>>,
    ended: mpsc::UnboundedSender<u32>,
}

fn start_test_instance(options: &Options, size: u32) -> Result<u8, String> {
    let words = command_line(options)?;
    let hosts = parse_hosts(options, size)?;
    if options.noexec {
        if options.verbose > 0 {
            for rank in 0..size {
                types::complain!("flux-start: {rank}: {}", words.join(" "));
            }
        }
        return Ok(0);
    }
    let (rundir, remove) = make_rundir(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let code = tokio::task::LocalSet::new().block_on(&runtime, async {
        let (ended, ended_rx) = mpsc::unbounded_channel();
        let instance = Rc::new(Instance {
            words,
            hosts,
            members: RefCell::new(
                (0..size)
                    .map(|_| Member {
                        pid: None,
                        code: None,
                        ended: Rc::default(),
                    })
                    .collect(),
            ),
            server: RefCell::new(pmi_server(options, size)),
            sockets: RefCell::default(),
            ended,
            rundir: rundir.clone(),
            options: clone_options(options),
        });
        run(instance, size, ended_rx).await
    });
    if remove && let Err(error) = std::fs::remove_dir_all(&rundir) {
        types::complain!("flux-start: {}: {error}", rundir.display());
    }
    code
}

/// The parts of the options an instance needs after start.
fn clone_options(options: &Options) -> Options {
    Options {
        verbose: options.verbose,
        test_size: options.test_size,
        test_exit_timeout: options.test_exit_timeout.clone(),
        test_exit_mode: options.test_exit_mode,
        test_start_mode: options.test_start_mode,
        command: options.command.clone(),
        ..Options::default()
    }
}

fn parse_hosts(options: &Options, size: u32) -> Result<Option<Hostlist>, String> {
    let Some(text) = &options.test_hosts else {
        return Ok(None);
    };
    let hosts: Hostlist = text
        .parse()
        .map_err(|error| format!("--test-hosts: {text}: {error}"))?;
    if hosts.len() != size as usize {
        return Err("--test-hosts hostlist has incorrect size".into());
    }
    Ok(Some(hosts))
}

/// The directory of the instance, and whether it goes when the instance does.
fn make_rundir(options: &Options) -> Result<(PathBuf, bool), String> {
    if let Some(dir) = &options.test_rundir {
        let path = PathBuf::from(dir);
        let meta = std::fs::metadata(&path).map_err(|error| format!("{dir}: {error}"))?;
        if !meta.is_dir() {
            return Err(format!("{dir}: not a directory"));
        }
        return Ok((path, options.test_rundir_cleanup));
    }
    let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| "/tmp".into());
    let path = crate::rundir::make_unique(Path::new(&parent))
        .map_err(|error| format!("{}: {error}", Path::new(&parent).display()))?;
    Ok((path, true))
}

fn pmi_server(options: &Options, size: u32) -> Server {
    let clique = options.test_pmi_clique.clone().unwrap_or_default();
    let mut pairs = HashMap::new();
    match clique {
        Clique::Single => {
            pairs.insert(
                "PMI_process_mapping".into(),
                format!("(vector,(0,1,{size}))"),
            );
        }
        Clique::PerBroker => {
            pairs.insert(
                "PMI_process_mapping".into(),
                format!("(vector,(0,{size},1))"),
            );
        }
        Clique::None => {}
        Clique::Map(map) => {
            pairs.insert("flux.taskmap".into(), map);
        }
    }
    let settings = Settings {
        kvsname: "-".into(),
        universe_size: size,
        local_tasks: size,
    };
    Server::new(settings, pairs)
}

async fn run(
    instance: Rc<Instance>,
    size: u32,
    mut ended: mpsc::UnboundedReceiver<u32>,
) -> Result<u8, String> {
    // Signals from the terminal reach the brokers too; they decide.
    for kind in [
        tokio::signal::unix::SignalKind::interrupt(),
        tokio::signal::unix::SignalKind::quit(),
    ] {
        let _caught = tokio::signal::unix::signal(kind).map_err(|error| error.to_string())?;
    }
    let _service = serve::listen(&instance)?;
    let started = match instance.options.test_start_mode.unwrap_or_default() {
        Which::All => size,
        Which::Leader => 1,
    };
    for rank in 0..started {
        instance.spawn(rank)?;
    }
    let timeout = match instance.options.test_exit_timeout.as_deref() {
        None => Some(EXIT_TIMEOUT),
        Some(text) => types::fsd::parse_duration(text)
            .map_err(|_| format!("--test-exit-timeout: {text}: invalid duration"))?,
    };
    // A timeout of zero means none, as the reference's own tests use it.
    let timeout = timeout.filter(|timeout| !timeout.is_zero());
    let mode = instance.options.test_exit_mode.unwrap_or_default();
    let mut killer: Option<tokio::task::JoinHandle<()>> = None;
    while instance.running() > 0 {
        let Some(rank) = ended.recv().await else {
            break;
        };
        let counts = mode == Which::All || rank == 0;
        if counts
            && killer.is_none()
            && instance.running() > 0
            && let Some(timeout) = timeout
        {
            killer = Some(tokio::task::spawn_local(kill_late(
                instance.clone(),
                timeout,
            )));
        }
    }
    if let Some(killer) = killer {
        killer.abort();
    }
    let members = instance.members.borrow();
    let code = match mode {
        Which::Leader => members[0].code.unwrap_or(0),
        Which::All => members
            .iter()
            .filter_map(|member| member.code)
            .max()
            .unwrap_or(0),
    };
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

async fn kill_late(instance: Rc<Instance>, timeout: Duration) {
    tokio::time::sleep(timeout).await;
    let mut killed = types::IdSet::new();
    for (rank, member) in instance.members.borrow().iter().enumerate() {
        if let Some(pid) = member.pid {
            killed.insert(rank as u32);
            let pid = nix::unistd::Pid::from_raw(pid as i32);
            // It may have ended this very moment, which is what is wanted.
            let _ended = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    types::complain!("flux-start: Exit timeout: killed rank {killed}");
}

impl Instance {
    fn running(&self) -> usize {
        self.members
            .borrow()
            .iter()
            .filter(|member| member.pid.is_some())
            .count()
    }

    fn trace(&self, rank: u32, who: char, line: &str) {
        if self.options.verbose >= 2 {
            types::complain!("flux-start: {rank}: {who}: {}", line.trim_end());
        }
    }

    /// Starts the broker of a rank.
    fn spawn(self: &Rc<Self>, rank: u32) -> Result<(), String> {
        let size = self.members.borrow().len();
        let (own, theirs) = std::os::unix::net::UnixStream::pair().map_err(|e| e.to_string())?;
        let theirs = OwnedFd::from(theirs);
        // Only while this one child starts; nothing else here runs in between.
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| e.to_string())?;
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        command.arg(format!("--setattr=rundir={}", self.rundir.display()));
        if let Some(host) = self
            .hosts
            .as_ref()
            .and_then(|hosts| hosts.nth(rank as usize))
        {
            command.arg(format!("--setattr=hostname={host}"));
        }
        if rank == 0 {
            command.args(&self.options.command);
        } else {
            command.stdin(std::process::Stdio::null());
        }
        command
            .env("PMI_FD", theirs.as_raw_fd().to_string())
            .env("PMI_RANK", rank.to_string())
            .env("PMI_SIZE", size.to_string())
            .env(
                "FLUX_START_URI",
                format!("local://{}/start", self.rundir.display()),
            );
        if self.options.verbose > 0 {
            let words: Vec<_> = command
                .get_args()
                .map(|word| word.to_string_lossy())
                .collect();
            types::complain!("flux-start: {rank}: {} {}", self.words[0], words.join(" "));
        }
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.words[0]))?;
        drop(theirs);
        self.members.borrow_mut()[rank as usize].pid = child.id();
        own.set_nonblocking(true).map_err(|e| e.to_string())?;
        let own = UnixStream::from_std(own).map_err(|e| e.to_string())?;
        tokio::task::spawn_local(serve_pmi(self.clone(), rank, own));
        let instance = self.clone();
        tokio::task::spawn_local(async move {
            let status = child.wait().await;
            instance.on_exit(rank, child.id(), status);
        });
        Ok(())
    }

    fn on_exit(&self, rank: u32, _pid: Option<u32>, status: io::Result<ExitStatus>) {
        let mut members = self.members.borrow_mut();
        let member = &mut members[rank as usize];
        let pid = member.pid.take().unwrap_or(0);
        let code = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(0), _) => 0,
                (Some(code), _) => {
                    types::complain!("flux-start: {rank} (pid {pid}) exited with rc={code}");
                    code
                }
                (None, signal) => {
                    let number = signal.unwrap_or(0);
                    let name = types::describe_signal(number);
                    types::complain!("flux-start: {rank} (pid {pid}) {name}");
                    128 + number
                }
            },
            Err(error) => {
                types::complain!("flux-start: {rank} (pid {pid}): wait: {error}");
                1
            }
        };
        member.code = Some(code);
        member.ended.notify_waiters();
        // The loop that takes this lives until no broker runs.
        let _done = self.ended.send(rank);
    }

    fn carry_out(&self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Reply { task, line } => {
                    self.trace(task, 'S', &line);
                    if let Some(socket) = self.sockets.borrow().get(&task) {
                        // A broker that is gone needs no answer.
                        let _gone = socket.send(line);
                    }
                }
                Output::Exchange(pairs) => {
                    let mut replies = Vec::new();
                    self.server
                        .borrow_mut()
                        .barrier_complete(pairs, true, &mut replies);
                    self.carry_out(replies);
                }
                Output::Abort {
                    task,
                    code,
                    message,
                } => {
                    types::complain!("flux-start: {task}: PMI abort (exit code {code}): {message}");
                    for member in self.members.borrow().iter() {
                        if let Some(pid) = member.pid {
                            let pid = nix::unistd::Pid::from_raw(pid as i32);
                            let _ended =
                                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                        }
                    }
                }
                Output::ProtocolError { task, line } => {
                    types::complain!(
                        "flux-start: {task}: PMI protocol error: {}",
                        line.trim_end()
                    );
                }
                Output::BadVersion { task } => {
                    types::complain!("flux-start: {task}: PMI version is not 1");
                }
                Output::Finalized { .. } => {}
            }
        }
    }
}

async fn serve_pmi(instance: Rc<Instance>, rank: u32, stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let (lines_out, mut lines_rx) = mpsc::unbounded_channel::<String>();
    instance.sockets.borrow_mut().insert(rank, lines_out);
    let write = async {
        while let Some(line) = lines_rx.recv().await {
            if writer.write_all(line.as_bytes()).await.is_err() {
                break;
            }
        }
    };
    let read = async {
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            instance.trace(rank, 'C', &line);
            let mut outputs = Vec::new();
            instance
                .server
                .borrow_mut()
                .on_line(rank, &line, &mut outputs);
            instance.carry_out(outputs);
        }
    };
    tokio::select! { () = write => {}, () = read => {} }
    instance.sockets.borrow_mut().remove(&rank);
}
