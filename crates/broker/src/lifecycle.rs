//! The broker's life: states, the events that move it on, and what each state does on entry.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use proto::broker::{StateMonitor, StateNumber, StateWait};
use rpc::{Request, RpcError};
use types::Errno;

/// A broker's state. The numbers travel between brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// The broker's own services start.
    LoadBuiltins = 0,
    /// It joins its parent.
    Join = 1,
    /// It takes over the parent's configuration.
    ConfigSync = 2,
    /// It runs rc1.
    Init = 3,
    /// It waits for the others.
    Quorum = 4,
    /// The instance runs.
    Run = 5,
    /// It runs the cleanup commands.
    Cleanup = 6,
    /// It waits for its children to leave.
    Shutdown = 7,
    /// It runs rc3.
    Finalize = 8,
    /// It takes leave of its parent.
    Goodbye = 9,
    /// The broker's own services stop.
    UnloadBuiltins = 10,
    /// It ends.
    Exit = 11,
}

impl State {
    /// The word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::LoadBuiltins => "load-builtins",
            State::Join => "join",
            State::ConfigSync => "config-sync",
            State::Init => "init",
            State::Quorum => "quorum",
            State::Run => "run",
            State::Cleanup => "cleanup",
            State::Shutdown => "shutdown",
            State::Finalize => "finalize",
            State::Goodbye => "goodbye",
            State::UnloadBuiltins => "unload-builtins",
            State::Exit => "exit",
        }
    }

    /// The state after `event`; `None` if the event means nothing here.
    pub(crate) fn after(self, event: &str) -> Option<State> {
        use State::*;
        let next = match (self, event) {
            (LoadBuiltins, "builtins-success") => Join,
            (LoadBuiltins, "builtins-fail") => UnloadBuiltins,
            (Join, "parent-ready" | "parent-none") => ConfigSync,
            (Join, "parent-fail") => Shutdown,
            (ConfigSync, "sync-success" | "sync-none") => Init,
            (ConfigSync, "sync-fail" | "parent-fail") => Shutdown,
            (Init, "rc1-success" | "rc1-none" | "rc1-ignorefail") => Quorum,
            (Init, "rc1-fail" | "panic" | "parent-fail") => Shutdown,
            (Quorum, "quorum-full") => Run,
            (Quorum, "quorum-fail" | "panic" | "parent-fail") => Shutdown,
            (Run, "rc2-success" | "rc2-fail" | "shutdown" | "parent-fail") => Cleanup,
            (Run, "panic") => Shutdown,
            (Cleanup, "cleanup-success" | "cleanup-none" | "cleanup-fail") => Shutdown,
            (Shutdown, "children-complete" | "children-none") => Finalize,
            (Finalize, "rc3-success" | "rc3-none" | "rc3-fail") => Goodbye,
            (Goodbye, "goodbye") => UnloadBuiltins,
            (UnloadBuiltins, "builtins-done" | "builtins-unload-fail") => Exit,
            _ => return None,
        };
        Some(next)
    }
}

/// The state in force, and those who follow it.
pub(crate) struct StateMachine {
    state: Cell<State>,
    since: Cell<Instant>,
    monitors: RefCell<Vec<(Request<StateMonitor>, Option<i32>)>>,
    waiters: RefCell<Vec<Request<StateWait>>>,
}

impl StateMachine {
    pub(crate) fn new() -> StateMachine {
        StateMachine {
            state: Cell::new(State::LoadBuiltins),
            since: Cell::new(Instant::now()),
            monitors: RefCell::default(),
            waiters: RefCell::default(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    /// How long the state has lasted.
    pub(crate) fn duration(&self) -> Duration {
        self.since.get().elapsed()
    }

    /// Enters a state and tells the followers. Returns how long the last one took.
    pub(crate) fn enter(&self, state: State) -> Duration {
        let duration = self.duration();
        self.state.set(state);
        self.since.set(Instant::now());
        for (monitor, _) in self.monitors.borrow().iter() {
            monitor.reply(&StateNumber {
                state: state as i32,
            });
        }
        self.monitors.borrow_mut().retain(|(monitor, last)| {
            let goes_on = last.is_none_or(|last| (state as i32) <= last);
            if !goes_on {
                monitor.end();
            }
            goes_on
        });
        if state >= State::Run {
            for waiter in self.waiters.take() {
                answer_wait(&waiter, state);
            }
        }
        duration
    }

    /// Serves `state-machine.monitor`.
    pub(crate) fn on_monitor(&self, request: Request<StateMonitor>, last: Option<i32>) {
        let state = self.state() as i32;
        if !request.is_streaming() {
            return request.reply(&StateNumber { state });
        }
        if last.is_some_and(|last| state > last) {
            return request.end();
        }
        request.reply(&StateNumber { state });
        self.monitors.borrow_mut().push((request, last));
    }

    /// Serves `state-machine.wait`.
    pub(crate) fn on_wait(&self, request: Request<StateWait>) {
        if self.state() >= State::Run {
            answer_wait(&request, self.state());
        } else {
            self.waiters.borrow_mut().push(request);
        }
    }

    /// Forgets the requests of a client that went away.
    pub(crate) fn on_disconnect(&self, notice: &wire::Message) {
        self.monitors
            .borrow_mut()
            .retain(|(request, _)| !request.is_from_sender_of(notice));
        self.waiters
            .borrow_mut()
            .retain(|request| !request.is_from_sender_of(notice));
    }
}

fn answer_wait(request: &Request<StateWait>, state: State) {
    if state == State::Run {
        request.reply(&proto::Empty {});
    } else {
        request.fail(RpcError::new(
            Errno::ENOENT,
            "broker has surpassed RUN state",
        ));
    }
}

/// How long a transition took, as the log shows it.
pub(crate) fn duration_text(duration: Duration) -> String {
    types::fsd::format_compiled(duration.as_secs_f64(), 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_life_passes_every_state() {
        let events = [
            "builtins-success",
            "parent-none",
            "sync-none",
            "rc1-success",
            "quorum-full",
            "rc2-success",
            "cleanup-none",
            "children-none",
            "rc3-success",
            "goodbye",
            "builtins-done",
        ];
        let mut state = State::LoadBuiltins;
        for (number, event) in events.iter().enumerate() {
            assert_eq!(state as usize, number);
            state = state.after(event).expect("the event means something here");
        }
        assert_eq!(state, State::Exit);
        assert_eq!(State::Run.after("goodbye"), None);
    }
}
