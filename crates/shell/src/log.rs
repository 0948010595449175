//! The shell's log: lines for the user in the job's output.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::panic::Location;
use std::rc::Rc;

use serde_json::{Map, Value, json};

/// Bytes of a message that are kept.
const MESSAGE_MAX: usize = 4096;

/// How bad a message is; the numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Fatal = 0,
    Error = 3,
    Warn = 4,
    Notice = 5,
    Debug = 6,
    Trace = 7,
}

impl Level {
    /// The level of a number; numbers that mean nothing have none.
    pub(crate) fn from_number(number: i32) -> Option<Level> {
        Some(match number {
            0 => Level::Fatal,
            3 => Level::Error,
            4 => Level::Warn,
            5 => Level::Notice,
            6 => Level::Debug,
            7 => Level::Trace,
            _ => return None,
        })
    }

    fn label(self) -> &'static str {
        match self {
            Level::Fatal => "FATAL: ",
            Level::Error => "ERROR: ",
            Level::Warn => "WARN: ",
            Level::Notice => "",
            Level::Debug => "DEBUG: ",
            Level::Trace => "TRACE: ",
        }
    }
}

/// Where in a program or script a message comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) file: &'a str,
    pub(crate) line: u32,
}

type Sink = Rc<dyn Fn(Map<String, Value>)>;

/// Where log lines go, and which.
pub(crate) struct Log {
    rank: Cell<Option<u32>>,
    max: Cell<Level>,
    sink: RefCell<Option<Sink>>,
    file: RefCell<Option<Rc<File>>>,
    /// Lines from the time before there is a sink.
    held: RefCell<Vec<Map<String, Value>>>,
}

impl Log {
    pub(crate) fn new() -> Log {
        Log {
            rank: Cell::new(None),
            max: Cell::new(Level::Notice),
            sink: RefCell::new(None),
            file: RefCell::new(None),
            held: RefCell::default(),
        }
    }

    /// 1 adds debug messages, 2 traces.
    pub(crate) fn set_verbosity(&self, verbosity: i64) {
        self.max.set(match verbosity {
            i64::MIN..=0 => Level::Notice,
            1 => Level::Debug,
            _ => Level::Trace,
        });
    }

    /// Holds lines back from now on: they belong into the job's output, which is not ready.
    pub(crate) fn hold(&self, rank: u32) {
        self.rank.set(Some(rank));
    }

    /// The rank of this shell, once that is known.
    pub(crate) fn rank(&self) -> Option<u32> {
        self.rank.get()
    }

    /// The lines held back.
    pub(crate) fn take_held(&self) -> Vec<Map<String, Value>> {
        self.held.take()
    }

    /// Whether lines go to the job's output already.
    pub(crate) fn is_open(&self) -> bool {
        self.sink.borrow().is_some()
    }

    /// Sends lines to the job's output from now on, those held back first.
    pub(crate) fn set_sink(&self, sink: impl Fn(Map<String, Value>) + 'static) {
        for context in self.take_held() {
            sink(context);
        }
        *self.sink.borrow_mut() = Some(Rc::new(sink));
    }

    /// Sends lines to the file that takes the job's standard error.
    pub(crate) fn set_file(&self, file: Rc<File>) {
        *self.file.borrow_mut() = Some(file);
    }

    /// Sends lines to standard error from now on: this process is about to become a task.
    pub(crate) fn set_direct(&self) {
        match std::io::stderr().as_fd().try_clone_to_owned() {
            Ok(fd) => self.set_file(Rc::new(fd.into())),
            Err(error) => self.error(types::Errno::from_io(&error).to_string()),
        }
    }

    /// Logs a message of a component.
    #[track_caller]
    pub(crate) fn write(&self, level: Level, component: Option<&str>, message: &str) {
        let caller = Location::caller();
        let place = Place {
            file: caller.file(),
            line: caller.line(),
        };
        self.write_at(level, component, place, message);
    }

    /// Logs a message of a component from this place.
    pub(crate) fn write_at(
        &self,
        level: Level,
        component: Option<&str>,
        place: Place<'_>,
        message: &str,
    ) {
        if level > self.max.get() {
            return;
        }
        let mut message = message.to_owned();
        if message.len() > MESSAGE_MAX {
            let cut = (0..MESSAGE_MAX)
                .rev()
                .find(|at| message.is_char_boundary(*at));
            message.truncate(cut.unwrap_or(0));
            message.push('+');
        }
        let prefix = component
            .map(|name| format!("{name}: "))
            .unwrap_or_default();
        let file = self.file.borrow().clone();
        let sink = self.sink.borrow().clone();
        let Some(rank) = self.rank.get() else {
            let Place { file, line } = place;
            let label = level.label();
            types::complain!("flux-shell: {label}{prefix}{file}:{line}: {message}");
            return;
        };
        if let Some(mut file) = file.as_deref() {
            let line = format!("flux-shell[{rank}]: {}{prefix}{message}\n", level.label());
            // Nowhere is left to complain about the file that takes the complaints.
            drop(file.write_all(line.as_bytes()));
            return;
        }
        let mut context = Map::new();
        context.insert("rank".into(), rank.into());
        context.insert("level".into(), (level as i32).into());
        if let Some(component) = component {
            context.insert("component".into(), component.into());
        }
        context.insert("message".into(), message.into());
        context.insert("file".into(), place.file.into());
        context.insert("line".into(), json!(place.line));
        match sink {
            Some(sink) => sink(context),
            None => self.held.borrow_mut().push(context),
        }
    }

    #[track_caller]
    pub(crate) fn warn(&self, message: impl AsRef<str>) {
        self.write(Level::Warn, None, message.as_ref());
    }

    #[track_caller]
    pub(crate) fn error(&self, message: impl AsRef<str>) {
        self.write(Level::Error, None, message.as_ref());
    }

    #[track_caller]
    pub(crate) fn debug(&self, message: impl AsRef<str>) {
        self.write(Level::Debug, None, message.as_ref());
    }
}
