//! The user's terminal attached to one elsewhere: the client's side of the terminus protocol.
//!
//! While it is attached the user's terminal passes every key on. Ctrl-\ detaches.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::termios::{self, SetArg, SpecialCharacterIndices as Key, Termios};
use proto::terminus::{Data, Mode, Notice, Order, WinSize};
use proto::{Payload as _, json_payload};
use rpc::{Dest, Handle, RawCall, RawStream, RpcError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, interval};
use types::Errno;
use wire::{Message, Topic};

use crate::fail::Fail;
use crate::{err, input, output, terminal};

/// The byte Ctrl-\ sends.
const DETACH_KEY: u8 = 0x1c;

/// How often to see whether the session is still there: a stream does not end with its server.
const PROBE_PERIOD: Duration = Duration::from_secs(1);

/// Chunks of input on their way at once. Enough for a fast typist far away, and the detach key is
/// still seen where the session reads nothing.
const UNANSWERED_MAX: usize = 64;

/// Answers that there is no such session before it is believed without a farewell.
const MISSES_MAX: u32 = 3;

/// What a server without a terminal of ours to look at assumes too.
const SIZE: WinSize = WinSize { rows: 25, cols: 80 };

/// How to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// With the user's terminal, as it is.
    Terminal,
    /// With the user's terminal, cleared.
    ClearTerminal,
    /// Type what standard input has, then leave.
    Pipe,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The user detached.
    Detached,
    /// The session ended, its process with this status.
    Exited(i32),
    /// The session is out of reach.
    Lost,
}

/// An attached session.
pub(crate) struct Pty {
    handle: Handle,
    topic: Topic,
    dest: Dest,
    how: How,
    notices: RawStream,
    unanswered: VecDeque<RawCall>,
    detaching: bool,
    /// Answers that there is no such session.
    misses: u32,
    resized: Signal,
    probe: Interval,
    /// Put back when it is dropped.
    _raw: Option<RawTerminal>,
}

/// Attaches to a session.
///
/// # Errors
///
/// The server's: `ENOENT` no such session, `ENOSYS` no such server.
pub(crate) async fn attach(
    handle: Handle,
    topic: String,
    dest: Dest,
    how: How,
) -> Result<Pty, RpcError> {
    let topic = Topic::from(topic);
    let mode = match how {
        How::Pipe => Mode::WriteOnly,
        How::Terminal | How::ClearTerminal => Mode::ReadWrite,
    };
    let winsize = Some(window());
    let order = json_payload(&Order::Attach { mode, winsize });
    let resized = signal(SignalKind::window_change());
    let resized = resized.map_err(|error| Errno::from_io(&error))?;
    let mut notices = handle.stream_raw(topic.clone(), dest, order);
    let first = notices.next().await?;
    if !matches!(decode(&first), Some(Notice::Attach)) {
        return Err(Errno::EPROTO.into());
    }
    let raw = match how {
        How::Pipe => None,
        How::Terminal | How::ClearTerminal => RawTerminal::set(),
    };
    if how == How::ClearTerminal {
        show(b"\x1b[2J\x1b[;H");
    }
    Ok(Pty {
        handle,
        topic,
        dest,
        how,
        notices,
        unanswered: VecDeque::new(),
        detaching: false,
        misses: 0,
        resized,
        probe: interval(PROBE_PERIOD),
        _raw: raw,
    })
}

/// The size of the user's terminal.
fn window() -> WinSize {
    let clamp = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).max(1);
    match terminal::size() {
        Some((rows, cols)) => WinSize {
            rows: clamp(rows),
            cols: clamp(cols),
        },
        None => SIZE,
    }
}

fn decode(message: &Message) -> Option<Notice> {
    Notice::decode(message.payload.as_ref()).ok()
}

fn show(bytes: &[u8]) {
    output::write(bytes);
    output::flush();
}

async fn answered(unanswered: &mut VecDeque<RawCall>) -> Result<Message, RpcError> {
    match unanswered.front_mut() {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

impl Pty {
    /// Carries what is typed and shown until either side has enough.
    pub(crate) async fn run(mut self) -> End {
        let mut input = Some(input::read());
        loop {
            let may_type = self.unanswered.len() < UNANSWERED_MAX;
            let end = tokio::select! {
                notice = self.notices.next() => self.on_notice(notice),
                result = answered(&mut self.unanswered) => {
                    self.unanswered.pop_front();
                    self.on_answer(result)
                }
                chunk = input::next(&mut input), if may_type => {
                    self.on_typed(&chunk, &mut input);
                    None
                }
                _ = self.resized.recv(), if self.how != How::Pipe => {
                    self.resize();
                    None
                }
                _ = self.probe.tick() => {
                    if self.unanswered.is_empty() {
                        self.send(&Order::Data(Data::new(b"")));
                    }
                    None
                }
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn on_notice(&mut self, notice: Result<Message, RpcError>) -> Option<End> {
        let notice = match notice {
            Ok(message) => decode(&message),
            Err(error) if error.errno == Errno::ENODATA => {
                return Some(self.lost("unknown reason"));
            }
            Err(error) => return Some(self.lost(&error.to_string())),
        };
        match notice {
            Some(Notice::Data(data)) => match data.bytes() {
                Some(bytes) => show(&bytes),
                None => return Some(self.lost("Protocol error")),
            },
            Some(Notice::Resize) => self.resize(),
            Some(Notice::Exit { message, status }) => {
                self.say(message.as_deref().unwrap_or("unknown reason"));
                return Some(match self.detaching {
                    true => End::Detached,
                    false => End::Exited(status),
                });
            }
            Some(Notice::Attach) => {}
            Some(Notice::Unknown) | None => return Some(self.lost("Protocol error")),
        }
        None
    }

    fn on_answer(&mut self, result: Result<Message, RpcError>) -> Option<End> {
        let error = result.err()?;
        Some(match error.errno {
            // The session has ended; its last words should be on their way.
            Errno::ENOENT | Errno::EIO if self.misses < MISSES_MAX => {
                self.misses += 1;
                return None;
            }
            Errno::ENOSYS => self.lost("remote pty disappeared"),
            _ => self.lost(&format!("error writing to remote pty: {error}")),
        })
    }

    fn on_typed(&mut self, chunk: &[u8], input: &mut Option<mpsc::Receiver<Bytes>>) {
        let ended = chunk.is_empty();
        if ended {
            *input = None;
        }
        if chunk.first() == Some(&DETACH_KEY) || (ended && self.how == How::Pipe) {
            self.detaching = true;
            self.send(&Order::Detach);
        } else if !ended {
            self.send(&Order::Data(Data::new(chunk)));
        }
    }

    fn resize(&mut self) {
        self.send(&Order::Resize { winsize: window() });
    }

    fn send(&mut self, order: &Order) {
        let payload = json_payload(order);
        let call = self.handle.call_raw(self.topic.clone(), self.dest, payload);
        self.unanswered.push_back(call);
    }

    fn lost(&self, why: &str) -> End {
        self.say(why);
        End::Lost
    }

    /// Says why the user's terminal is their own again, on its last line.
    fn say(&self, why: &str) {
        if self.how != How::Pipe {
            show(format!("\x1b[999H[detached: {why}]\x1b[K\n\r").as_bytes());
        }
    }
}

/// The user's terminal, passing every key on.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` if standard input is no terminal.
    fn set() -> Option<RawTerminal> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        raw.control_chars[Key::VLNEXT as usize] = 0;
        raw.control_chars[Key::VMIN as usize] = 1;
        raw.control_chars[Key::VTIME as usize] = 0;
        if let Err(errno) = termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw) {
            err!("failed to set up the terminal: {errno}");
            return None;
        }
        output::set_raw(true);
        Some(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        output::set_raw(false);
        // A terminal that is gone needs nothing.
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.0);
        // The program may have hidden the cursor.
        show(b"\x1b[?25h");
        let _ = std::io::stdout().flush();
    }
}

/// Runs an attached session in the foreground of a command. Returns its exit status.
pub(crate) async fn follow(pty: Pty) -> Result<i32, Fail> {
    let open = |kind| signal(kind).map_err(|error| Fail::of("signal", Errno::from_io(&error)));
    let (mut terminate, mut hangup) = (open(SignalKind::terminate())?, open(SignalKind::hangup())?);
    let number = tokio::select! {
        end = pty.run() => {
            return Ok(match end {
                End::Detached => 0,
                End::Exited(status) => crate::signal::exit_code(status),
                End::Lost => 1,
            });
        }
        _ = terminate.recv() => libc::SIGTERM,
        _ = hangup.recv() => libc::SIGHUP,
    };
    // The terminal is as it was. End as if the signal had not been handled.
    crate::signal::restore_default(number);
    crate::signal::raise(number);
    Ok(128 + number)
}
