//! What scripts and plugins see of the shell and change in it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::fatal::Fatal;
use crate::log::Log;

/// The variables of a process.
pub(crate) type Environment = BTreeMap<String, String>;

/// The task a `task.*` topic is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Current {
    /// Task info object.
    pub(crate) info: Map<String, Value>,
    /// What the task will be started with.
    pub(crate) env: Environment,
}

/// Facts that do not change.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Info object of the shell, without its options.
    pub(crate) info: Map<String, Value>,
    /// Rank info objects, by shell rank.
    pub(crate) ranks: Vec<Map<String, Value>>,
    /// This shell's.
    pub(crate) rank: u32,
    /// What plugins see of the jobspec without reading it.
    pub(crate) jobspec_info: Value,
    /// The directory of the first script.
    pub(crate) rcpath: String,
    /// Where further scripts are looked for, separated by colons.
    pub(crate) rcdirs: String,
}

/// What scripts and plugins work on.
pub(crate) struct State {
    pub(crate) facts: Facts,
    pub(crate) log: Rc<Log>,
    /// The shell options. Those that the shell itself reads after the scripts have run are read
    /// from a copy made then.
    pub(crate) options: RefCell<Value>,
    /// The environment all tasks share.
    pub(crate) env: RefCell<Environment>,
    /// Set while a topic is about a task.
    pub(crate) task: RefCell<Option<Current>>,
    /// Where plugins are looked for, separated by colons.
    pub(crate) searchpath: RefCell<String>,
    /// Set by what wants the job to end.
    pub(crate) fatal: RefCell<Option<Fatal>>,
    /// What plugins add to the contexts of events, by the events' names.
    pub(crate) contexts: RefCell<BTreeMap<String, Map<String, Value>>>,
    verbosity: Cell<i64>,
}

impl State {
    pub(crate) fn new(
        facts: Facts,
        options: Map<String, Value>,
        env: Environment,
        log: Rc<Log>,
        searchpath: String,
    ) -> State {
        let verbosity = options.get("verbose").and_then(Value::as_i64).unwrap_or(0);
        State {
            facts,
            log,
            options: RefCell::new(Value::Object(options)),
            env: RefCell::new(env),
            task: RefCell::new(None),
            searchpath: RefCell::new(searchpath),
            fatal: RefCell::new(None),
            contexts: RefCell::default(),
            verbosity: Cell::new(verbosity),
        }
    }

    /// A shell option by dotted path.
    pub(crate) fn option(&self, path: &str) -> Option<Value> {
        let options = self.options.borrow();
        path.split('.')
            .try_fold(&*options, |value, key| value.get(key))
            .cloned()
    }

    /// Sets a shell option by dotted path; `None` removes it.
    ///
    /// Errors: the path leads through something that is not an object.
    pub(crate) fn set_option(&self, path: &str, value: Option<Value>) -> Result<(), String> {
        let mut options = self.options.borrow_mut();
        let Some(value) = value else {
            let (parent, key) = match path.rsplit_once('.') {
                Some((parent, key)) => (format!("/{}", parent.replace('.', "/")), key),
                None => (String::new(), path),
            };
            let parent = options.pointer_mut(&parent);
            if let Some(object) = parent.and_then(Value::as_object_mut) {
                object.shift_remove(key);
            }
            return Ok(());
        };
        let options = options.as_object_mut().ok_or("options are no mapping")?;
        spec::jobspec::set_path(options, path, value).map_err(|error| error.to_string())
    }

    /// The shell's info object.
    pub(crate) fn info(&self) -> Map<String, Value> {
        let mut info = self.facts.info.clone();
        let mut options = self
            .options
            .borrow()
            .as_object()
            .cloned()
            .unwrap_or_default();
        options.insert("verbose".into(), (self.verbosity.get() > 0).into());
        info.insert("options".into(), options.into());
        info
    }

    pub(crate) fn verbosity(&self) -> i64 {
        self.verbosity.get()
    }

    pub(crate) fn set_verbosity(&self, verbosity: i64) {
        self.verbosity.set(verbosity);
        self.log.set_verbosity(verbosity);
    }

    /// Ends the job.
    pub(crate) fn die(&self, fatal: Fatal) {
        self.fatal.borrow_mut().get_or_insert(fatal);
    }
}

/// Sets a variable, or not if it is set and shall stay.
pub(crate) fn set_variable(env: &mut Environment, name: &str, value: String, overwrite: bool) {
    if overwrite || !env.contains_key(name) {
        env.insert(name.to_owned(), value);
    }
}
