//! What the job manager and the process that runs its plugins in files say to each other: one JSON
//! object a line, over a socket pair.
//!
//! Each [`Order`] that has a [`Report`] gets exactly one, in order. Meanwhile the plugins may
//! [`Ask`], and each of these gets exactly one [`Order::Answer`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::JobId;

/// From the job manager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Load a plugin. Reported by [`Report::Loaded`].
    Load {
        /// What it is called here: its file's name.
        name: String,
        /// Its file.
        path: String,
        /// Its configuration.
        conf: Option<Map<String, Value>>,
    },
    /// Remove a plugin. Reported by [`Report::Loaded`].
    Remove {
        /// Which.
        name: String,
    },
    /// Call plugins, in the order they were loaded. Reported by [`Report::Called`].
    Call {
        /// The job it is about; `None` for none.
        id: Option<JobId>,
        /// The topic.
        topic: String,
        /// Which is called; `None` for all.
        plugin: Option<String>,
        /// What they are told.
        args: Map<String, Value>,
    },
    /// A request for a service of a plugin. Not reported.
    Message {
        /// The service: topic without the job manager's name.
        service: String,
        /// The message as the local connector frames it, in base64.
        data: String,
    },
    /// The answer to an [`Ask`].
    Answer {
        /// Which.
        number: u64,
        /// What it is.
        #[serde(default)]
        value: Value,
        /// 0, or why there is none.
        errnum: i32,
    },
}

impl Order {
    /// What plugins are doing when they carry it out, for people.
    pub fn what(&self) -> &str {
        match self {
            Order::Load { .. } => "loading",
            Order::Remove { .. } => "removing",
            Order::Call { topic, .. } => topic,
            Order::Message { service, .. } => service,
            Order::Answer { .. } => "an answer",
        }
    }
}

/// To the job manager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// A plugin was loaded or removed.
    Loaded {
        /// Why it was not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// The topics that plugins are there for now, of those nobody has to ask for.
        topics: Vec<String>,
        /// In which order it is told of jobs: `state` or `-state`; `None` for any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        order: Option<String>,
    },
    /// Plugins were called.
    Called {
        /// Whether one is there for the topic.
        handled: bool,
        /// Whether one failed; those after it were not called.
        failed: bool,
        /// What they put out.
        out: Map<String, Value>,
    },
    /// A plugin asks.
    Ask {
        /// To know the answer by.
        number: u64,
        /// What.
        ask: Ask,
    },
}

/// What a plugin asks of the job manager (flux-jobtap-plugins(7)).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    /// What plugins are told of a job.
    Lookup {
        /// The job.
        id: JobId,
    },
    /// New priorities for all pending jobs.
    ReprioritizeAll,
    /// A priority.
    Reprioritize {
        /// The job.
        id: JobId,
        /// The priority.
        priority: u32,
    },
    /// A dependency more.
    DependencyAdd {
        /// The job.
        id: JobId,
        /// What it is called.
        description: String,
    },
    /// A dependency less.
    DependencyRemove {
        /// The job.
        id: JobId,
        /// What it is called.
        description: String,
    },
    /// A flag.
    SetFlag {
        /// The job.
        id: JobId,
        /// The flag.
        flag: String,
    },
    /// An exception.
    Raise {
        /// The job.
        id: JobId,
        /// Its type.
        kind: String,
        /// 0 to 7, 0 is fatal.
        severity: i32,
        /// More about it.
        note: String,
    },
    /// An event.
    PostEvent {
        /// The job.
        id: JobId,
        /// Its name.
        name: String,
        /// Its context.
        context: Option<Map<String, Value>>,
    },
    /// A change of the jobspec.
    UpdateJobspec {
        /// The job.
        id: JobId,
        /// New values by dotted key.
        updates: Map<String, Value>,
    },
    /// How a job ended, as a bit of result masks.
    Result {
        /// The job.
        id: JobId,
    },
    /// Whether an event was posted.
    HasEvent {
        /// The job.
        id: JobId,
        /// Its name.
        name: String,
    },
    /// To be told of a job's events.
    Subscribe {
        /// Who.
        plugin: String,
        /// The job.
        id: JobId,
    },
    /// Not to be told any more.
    Unsubscribe {
        /// Who.
        plugin: String,
        /// The job.
        id: JobId,
    },
    /// A prolog or epilog begins.
    ActionStart {
        /// The job.
        id: JobId,
        /// Whether it is an epilog.
        epilog: bool,
        /// What it is called.
        description: String,
    },
    /// A prolog or epilog is over.
    ActionFinish {
        /// The job.
        id: JobId,
        /// Whether it is an epilog.
        epilog: bool,
        /// What it is called.
        description: String,
        /// How it ended.
        status: i32,
    },
    /// To get requests for a service.
    RegisterService {
        /// Who.
        plugin: String,
        /// The service: topic without the job manager's name.
        service: String,
        /// The roles of which a sender needs one.
        rolemask: u32,
    },
}

/// One line.
///
pub fn encode<T: Serialize>(line: &T) -> String {
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}
