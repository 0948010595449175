//! What to start, and starting it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, access, pipe2};
use tokio::net::unix::pipe;
use types::Errno;

use crate::forkserver::Request;
use crate::output::{Buffering, Output};
use crate::{BUFFER_DEFAULT, Input, pidfd, stop};

/// Where a standard stream of a process leads.
#[derive(Debug, Default)]
pub enum Stdio {
    /// Nowhere.
    #[default]
    Null,
    /// Where the starting process's own leads.
    Inherit,
    /// To the starting process.
    Pipe,
    /// To this descriptor.
    Fd(OwnedFd),
}

/// What a process does before it becomes its program.
///
/// It runs between `fork` and `exec` in a copy of the starting process, whose other threads it does
/// not have. An error keeps the process from starting.
#[derive(Clone)]
pub struct BeforeExec(Rc<dyn Fn() -> Result<(), Errno>>);

impl BeforeExec {
    /// Does this.
    pub fn new(action: impl Fn() -> Result<(), Errno> + 'static) -> BeforeExec {
        BeforeExec(Rc::new(action))
    }

    #[expect(unsafe_code, reason = "nothing else runs code before exec")]
    fn attach(&self, command: &mut std::process::Command) {
        /// What is called on the thread it comes from.
        struct Here(BeforeExec);
        // SAFETY: the command is spawned on the thread that makes it, and the fork is a copy of that
        // thread alone.
        unsafe impl Send for Here {}
        // SAFETY: as above.
        unsafe impl Sync for Here {}
        impl Here {
            fn run(&self) -> std::io::Result<()> {
                (self.0.0)().map_err(|errno| std::io::Error::from_raw_os_error(errno.0))
            }
        }
        let here = Here(self.clone());
        // SAFETY: processes with such an action are started by programs of one thread, so that no
        // lock can be held by one that is not copied.
        unsafe {
            command.pre_exec(move || here.run());
        }
    }
}

impl std::fmt::Debug for BeforeExec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BeforeExec")
    }
}

/// A process to start.
#[derive(Debug, Default)]
pub struct Command {
    /// Program and arguments. A program without a slash is sought in the starting process's
    /// `PATH`.
    pub argv: Vec<OsString>,
    /// The whole environment; `None` for the starting process's own.
    pub env: Option<Vec<(OsString, OsString)>>,
    /// Where to seek the program instead.
    pub path: Option<OsString>,
    /// The working directory. If it cannot be entered the process runs in `/tmp` and its standard
    /// error says so.
    pub cwd: Option<PathBuf>,
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
    /// Whether it leads a process group of its own.
    pub own_group: bool,
    /// Further two-way channels: each is a variable that holds a descriptor's number.
    pub channels: Vec<String>,
    /// Whether its standard input is a terminal it shall lead a session on.
    pub on_terminal: bool,
    /// Bytes its input may hold.
    pub input_max: usize,
    /// What it does first. A fork server does not do it.
    pub before_exec: Option<BeforeExec>,
    /// Whether it is stopped by SIGSTOP as soon as it is its program. A fork server does not do it.
    pub stop_in_exec: bool,
}

/// A started process.
#[derive(Debug)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its standard input, where that is a pipe.
    pub stdin: Option<Input>,
    /// Its standard output, where that is a pipe.
    pub stdout: Option<Output>,
    /// Its standard error, where that is a pipe.
    pub stderr: Option<Output>,
    /// Its channels, in the order of the command's.
    pub channels: Vec<(String, Input, Output)>,
    child: Child,
}

/// How a process's end is learnt.
#[derive(Debug)]
enum Child {
    /// It was started here.
    Spawned(tokio::process::Child),
    /// A fork server made it.
    Forked(pidfd::Child),
}

impl Process {
    /// Waits for its end. Returns the status as of `wait(2)`. Cancel safe.
    ///
    /// # Errors
    ///
    /// Those of `wait(2)`.
    pub async fn wait(&mut self) -> Result<i32, Errno> {
        match &mut self.child {
            Child::Spawned(child) => {
                let status = child.wait().await;
                Ok(status.map_err(|error| Errno::from_io(&error))?.into_raw())
            }
            Child::Forked(child) => child.wait().await,
        }
    }
}

/// Sends a signal to a process, or to the group it leads.
///
/// # Errors
///
/// `EINVAL` no such signal, `ESRCH` no such process, `EPERM`.
pub fn signal(pid: i32, group: bool, signum: i32) -> Result<(), Errno> {
    let signal = match signum {
        0 => None,
        _ => Some(Signal::try_from(signum).map_err(|errno| Errno(errno as i32))?),
    };
    let pid = if group { -pid } else { pid };
    kill(Pid::from_raw(pid), signal).map_err(|errno| Errno(errno as i32))
}

/// The exit code a shell would show for a wait status: 128 and the signal for a signalled one.
pub fn exit_code(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

/// A wait status in words: `Exit 1`, or the signal's description.
pub fn describe_status(status: i32) -> String {
    let signal = status & 0x7f;
    if signal == 0 {
        return format!("Exit {}", (status >> 8) & 0xff);
    }
    types::describe_signal(signal)
}

/// The file a program's name means (as `execvp(3)` seeks it). Errors: `ENOENT`, `EACCES`.
fn find_program(name: &OsStr, path: Option<OsString>) -> Result<PathBuf, Errno> {
    if name.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    let path = path
        .or_else(|| std::env::var_os("PATH"))
        .unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut failure = Errno::ENOENT;
    for directory in std::env::split_paths(&path) {
        let file = directory.join(name);
        match access(&file, AccessFlags::X_OK) {
            Ok(()) if file.is_file() => return Ok(file),
            Err(nix::errno::Errno::EACCES) if file.is_file() => failure = Errno::EACCES,
            _ => {}
        }
    }
    Err(failure)
}

/// Why a directory cannot be entered.
fn cannot_enter(directory: &Path) -> Option<Errno> {
    match access(directory, AccessFlags::X_OK) {
        Err(errno) => Some(Errno(errno as i32)),
        Ok(()) if !directory.is_dir() => Some(Errno::ENOTDIR),
        Ok(()) => None,
    }
}

/// The process's end of one of its standard streams.
enum End {
    Null,
    Inherit,
    Fd(OwnedFd),
}

impl End {
    /// Both ends of a stream; `reads`: whether the process reads from it.
    fn new(stdio: Stdio, reads: bool) -> Result<(End, Option<OwnedFd>), Errno> {
        Ok(match stdio {
            Stdio::Null => (End::Null, None),
            Stdio::Inherit => (End::Inherit, None),
            Stdio::Fd(fd) => (End::Fd(fd), None),
            Stdio::Pipe => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| Errno(errno as i32))?;
                let (theirs, ours) = if reads { (read, write) } else { (write, read) };
                (End::Fd(theirs), Some(ours))
            }
        })
    }

    fn stdio(&self) -> Result<std::process::Stdio, Errno> {
        Ok(match self {
            End::Null => std::process::Stdio::null(),
            End::Inherit => std::process::Stdio::inherit(),
            End::Fd(fd) => fd
                .try_clone()
                .map_err(|error| Errno::from_io(&error))?
                .into(),
        })
    }

    /// A descriptor for another process to have.
    fn descriptor(&self) -> Result<OwnedFd, Errno> {
        let opened = match self {
            End::Null => File::options().read(true).write(true).open("/dev/null"),
            End::Inherit => return Err(Errno::EINVAL),
            End::Fd(fd) => return fd.try_clone().map_err(|error| Errno::from_io(&error)),
        };
        Ok(opened.map_err(|error| Errno::from_io(&error))?.into())
    }

    /// Writes what the process itself would have. It is a courtesy: nobody may be reading.
    fn say(&self, text: &str) {
        let written = match self {
            End::Null => Ok(()),
            End::Inherit => std::io::stderr().write_all(text.as_bytes()),
            End::Fd(fd) => nix::unistd::write(fd, text.as_bytes())
                .map(drop)
                .map_err(Into::into),
        };
        drop(written);
    }
}

/// A command whose streams are set up.
pub(crate) struct Prepared {
    command: Command,
    streams: [End; 3],
    cwd: Option<PathBuf>,
    /// The process's ends of its channels.
    channels: Vec<OwnedFd>,
    ours: Ours,
}

/// The starting process's ends.
struct Ours {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    channels: Vec<std::os::unix::net::UnixStream>,
}

impl Prepared {
    fn new(mut command: Command) -> Result<Prepared, Errno> {
        let (stdin, our_stdin) = End::new(std::mem::take(&mut command.stdin), true)?;
        let (stdout, our_stdout) = End::new(std::mem::take(&mut command.stdout), false)?;
        let (stderr, our_stderr) = End::new(std::mem::take(&mut command.stderr), false)?;
        let mut our_channels = Vec::new();
        let mut channels = Vec::new();
        for _ in &command.channels {
            let (ours, theirs) =
                std::os::unix::net::UnixStream::pair().map_err(|error| Errno::from_io(&error))?;
            // Inherited by this one process: nothing else starts one before it is closed again.
            fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))
                .map_err(|errno| Errno(errno as i32))?;
            our_channels.push(ours);
            channels.push(OwnedFd::from(theirs));
        }
        Ok(Prepared {
            cwd: command.usable_cwd(&stderr),
            streams: [stdin, stdout, stderr],
            channels,
            ours: Ours {
                stdin: our_stdin,
                stdout: our_stdout,
                stderr: our_stderr,
                channels: our_channels,
            },
            command,
        })
    }

    /// What a fork server needs to know.
    pub(crate) fn request(&self) -> Request {
        let env = self.command.env.clone();
        Request {
            own_group: self.command.own_group,
            cwd: self.cwd.clone().map(OsString::from).unwrap_or_default(),
            argv: self.command.argv.clone(),
            env: env.unwrap_or_else(|| std::env::vars_os().collect()),
        }
    }

    /// Descriptors to become the process's standard ones.
    pub(crate) fn descriptors(&self) -> Result<[OwnedFd; 3], Errno> {
        let [stdin, stdout, stderr] = &self.streams;
        Ok([
            stdin.descriptor()?,
            stdout.descriptor()?,
            stderr.descriptor()?,
        ])
    }

    /// Starts the process from here.
    pub(crate) fn spawn(self) -> Result<Process, Errno> {
        let name = self.command.argv.first().ok_or(Errno::EINVAL)?;
        let program = find_program(name, self.command.path.clone())?;
        let args = &self.command.argv[1..];
        let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
        let child = self.exec(&program, name, &args).or_else(|errno| {
            if errno.0 != libc::ENOEXEC {
                return Err(errno);
            }
            // A script without an interpreter line is one of the shell, as for `execvp(3)`.
            let mut words = vec![program.as_os_str()];
            words.extend(&args);
            self.exec(Path::new("/bin/sh"), OsStr::new("sh"), &words)
        })?;
        let pid = child.id().map_or(0, |pid| pid as i32);
        self.into_process(pid, Child::Spawned(child))
    }

    /// Takes over the process a fork server made of this.
    pub(crate) fn forked(self, pid: i32) -> Result<Process, Errno> {
        self.into_process(pid, Child::Forked(pidfd::Child::new(pid)?))
    }

    /// Executes `program` with these arguments in the command's circumstances.
    fn exec(
        &self,
        program: &Path,
        name: &OsStr,
        args: &[&OsStr],
    ) -> Result<tokio::process::Child, Errno> {
        let mut command = std::process::Command::new(program);
        command.arg0(name).args(args);
        let [stdin, stdout, stderr] = &self.streams;
        command
            .stdin(stdin.stdio()?)
            .stdout(stdout.stdio()?)
            .stderr(stderr.stdio()?);
        if let Some(env) = &self.command.env {
            command.env_clear();
            command.envs(env.iter().map(|(name, value)| (name, value)));
        }
        for (name, fd) in self.command.channels.iter().zip(&self.channels) {
            command.env(name, fd.as_raw_fd().to_string());
        }
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        if self.command.on_terminal {
            crate::pty::lead_session(&mut command);
        } else if self.command.own_group {
            command.process_group(0);
        }
        if let Some(action) = &self.command.before_exec {
            action.attach(&mut command);
        }
        if self.command.stop_in_exec {
            stop::in_exec(&mut command);
        }
        let child = tokio::process::Command::from(command)
            .spawn()
            .map_err(|error| Errno::from_io(&error))?;
        if self.command.stop_in_exec
            && let Some(pid) = child.id()
        {
            stop::leave_stopped(pid as i32)?;
        }
        Ok(child)
    }

    fn into_process(self, pid: i32, child: Child) -> Result<Process, Errno> {
        let input_max = self.command.input_max;
        let ours = self.ours;
        Ok(Process {
            pid,
            stdin: ours.stdin.map(|fd| sender(fd, input_max)).transpose()?,
            stdout: ours.stdout.map(receiver).transpose()?,
            stderr: ours.stderr.map(receiver).transpose()?,
            channels: (self.command.channels.into_iter())
                .zip(ours.channels)
                .map(|(name, stream)| two_way(name, stream, input_max))
                .collect::<Result<_, _>>()?,
            child,
        })
    }
}

impl Command {
    /// A command that inherits nothing but the environment and leads its own process group.
    pub fn new<S: Into<OsString>>(argv: impl IntoIterator<Item = S>) -> Command {
        Command {
            argv: argv.into_iter().map(Into::into).collect(),
            own_group: true,
            input_max: BUFFER_DEFAULT,
            ..Command::default()
        }
    }

    /// Starts the process.
    ///
    /// # Errors
    ///
    /// Those of `exec(2)`: `ENOENT`, `EACCES` and others; `EINVAL` for an empty command.
    pub fn spawn(self) -> Result<Process, Errno> {
        self.prepare()?.spawn()
    }

    /// Opens the process's streams.
    pub(crate) fn prepare(self) -> Result<Prepared, Errno> {
        Prepared::new(self)
    }

    /// The directory to start in. Where the one asked for cannot be entered it says so on the
    /// process's standard error, as if the process had tried.
    fn usable_cwd(&self, stderr: &End) -> Option<PathBuf> {
        let cwd = self.cwd.as_ref()?;
        let Some(errno) = cannot_enter(cwd) else {
            return Some(cwd.clone());
        };
        stderr.say(&format!(
            "Could not change dir to {}: {errno}. Going to /tmp instead\n",
            cwd.display()
        ));
        Some("/tmp".into())
    }
}

fn receiver(fd: OwnedFd) -> Result<Output, Errno> {
    let pipe = pipe::Receiver::from_owned_fd(fd).map_err(|error| Errno::from_io(&error))?;
    Ok(Output::new(pipe, Buffering::Line, BUFFER_DEFAULT))
}

fn sender(fd: OwnedFd, max: usize) -> Result<Input, Errno> {
    let pipe = pipe::Sender::from_owned_fd(fd).map_err(|error| Errno::from_io(&error))?;
    Ok(Input::new(pipe, max))
}

fn two_way(
    name: String,
    stream: std::os::unix::net::UnixStream,
    max: usize,
) -> Result<(String, Input, Output), Errno> {
    let convert = |error| Errno::from_io(&error);
    stream.set_nonblocking(true).map_err(convert)?;
    let (read, write) = tokio::net::UnixStream::from_std(stream)
        .map_err(convert)?
        .into_split();
    let output = Output::new(read, Buffering::Line, BUFFER_DEFAULT);
    Ok((name, Input::new(write, max), output))
}
