//! What an eventlog says about a job: the state machine of RFC 21 as a fold.
//!
//! Job manager, listing and commands all read eventlogs with this. Applying an event changes the
//! fold and nothing else, so replaying a log at restart gives the state the job had.

use serde_json::Value;
use spec::Entry;
use types::UserId;

use crate::Object;

/// A job's state (RFC 21). The numbers are bits of state masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Not accepted yet.
    New = 1,
    /// Waits for dependencies.
    Depend = 2,
    /// Waits for a priority.
    Priority = 4,
    /// Waits for resources.
    Sched = 8,
    /// Has resources.
    Run = 16,
    /// Gives them back.
    Cleanup = 32,
    /// Over.
    Inactive = 64,
}

impl State {
    /// Every state, in order of life.
    pub const ALL: [State; 7] = [
        State::New,
        State::Depend,
        State::Priority,
        State::Sched,
        State::Run,
        State::Cleanup,
        State::Inactive,
    ];

    /// The bit in state masks.
    pub fn bit(self) -> i32 {
        self as i32
    }

    /// The position in [`State::ALL`].
    pub fn index(self) -> usize {
        self.bit().trailing_zeros() as usize
    }

    /// The name as commands show it.
    pub fn name(self) -> &'static str {
        match self {
            State::New => "NEW",
            State::Depend => "DEPEND",
            State::Priority => "PRIORITY",
            State::Sched => "SCHED",
            State::Run => "RUN",
            State::Cleanup => "CLEANUP",
            State::Inactive => "INACTIVE",
        }
    }

    /// The mask of a state, or of `pending`, `running`, `active`, by name in any case.
    pub fn mask_from_name(name: &str) -> Option<i32> {
        let name = name.to_ascii_lowercase();
        Some(match name.as_str() {
            "pending" => 14,
            "running" => 48,
            "active" => 62,
            _ => {
                let found = State::ALL
                    .iter()
                    .find(|state| state.name().eq_ignore_ascii_case(&name));
                return found.map(|state| state.bit());
            }
        })
    }
}

/// How a job ended. The numbers are bits of result masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Completed = 1,
    /// Badly.
    Failed = 2,
    /// Somebody canceled it.
    Canceled = 4,
    /// Its time was over.
    Timeout = 8,
}

impl Outcome {
    /// The bit in result masks.
    pub fn bit(self) -> i32 {
        self as i32
    }

    /// The mask of a result by name in any case.
    pub fn mask_from_name(name: &str) -> Option<i32> {
        Some(match name.to_ascii_lowercase().as_str() {
            "completed" => 1,
            "failed" => 2,
            "canceled" | "cancelled" => 4,
            "timeout" => 8,
            _ => return None,
        })
    }
}

/// The exception that counts: the most severe, and of these the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its type.
    pub kind: Box<str>,
    /// 0 to 7, 0 is fatal.
    pub severity: i32,
    /// More about it.
    pub note: Box<str>,
}

/// Why an event cannot follow those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The first event is another than `submit`, or there is a second `submit`.
    #[error("eventlog does not begin with one submit event")]
    Submit,
    /// The event does not belong in this state.
    #[error("{event} event in state {state}")]
    State {
        /// The event.
        event: String,
        /// The state.
        state: &'static str,
    },
    /// The context lacks something.
    #[error("invalid context in {0} event")]
    Context(String),
    /// The log is closed.
    #[error("job is inactive")]
    Inactive,
}

/// What an eventlog says about a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    /// The state.
    pub state: State,
    /// Whose it is.
    pub userid: UserId,
    /// 0 to 31.
    pub urgency: i32,
    /// The submit flags.
    pub flags: i32,
    /// The priority; `None` while there is none.
    pub priority: Option<u32>,
    /// Whether it holds resources.
    pub has_resources: bool,
    /// Whether its resources did not come from the scheduler.
    pub bypass: bool,
    /// Whether its user may not change it any more.
    pub immutable: bool,
    /// Whether debug events are posted.
    pub debug: bool,
    /// Whether its tasks were started.
    pub started: bool,
    /// Whether its resources were given back.
    pub freed: bool,
    /// Prologs under way.
    pub prologs: u32,
    /// Epilogs under way.
    pub epilogs: u32,
    /// How its tasks ended, as of `wait(2)`.
    pub status: Option<i32>,
    /// Descriptions of dependencies it still has.
    pub dependencies: Vec<Box<str>>,
    /// What users see beside it.
    pub annotations: Option<Box<Object>>,
    /// The exception that counts.
    pub exception: Option<Box<Exception>>,
    /// The end of its resources, if that was moved.
    pub expiration: Option<f64>,
    /// When it was first in each state after [`State::New`], in order; the submission first.
    /// Depend, run, cleanup and inactive happen once; of priority and sched the first counts.
    pub times: [f64; 7],
}

impl Fold {
    /// The fold of a log that has one event: `submit`. Without a version it is of a time when jobs
    /// were not validated after that.
    ///
    /// Errors: [`FoldError::Submit`], [`FoldError::Context`].
    pub fn submitted(entry: &Entry) -> Result<Fold, FoldError> {
        if entry.name != "submit" {
            return Err(FoldError::Submit);
        }
        let number = |key: &str| {
            let number = entry.get_i64(key);
            number.ok_or_else(|| FoldError::Context(entry.name.clone()))
        };
        let flags = number("flags")? as i32;
        let mut times = [0.0; 7];
        times[0] = entry.timestamp;
        let mut fold = Fold {
            state: State::New,
            userid: UserId(number("userid")? as u32),
            urgency: number("urgency")? as i32,
            flags,
            priority: None,
            has_resources: false,
            bypass: false,
            immutable: false,
            debug: flags & crate::flags::DEBUG != 0,
            started: false,
            freed: false,
            prologs: 0,
            epilogs: 0,
            status: None,
            dependencies: Vec::new(),
            annotations: None,
            exception: None,
            expiration: None,
            times,
        };
        if entry.get_i64("version").is_none() {
            fold.enter(State::Depend, entry.timestamp);
        }
        Ok(fold)
    }

    /// The fold of a whole log. Errors: see [`FoldError`].
    pub fn replay<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<Fold, FoldError> {
        let mut entries = entries.into_iter();
        let mut fold = Fold::submitted(entries.next().ok_or(FoldError::Submit)?)?;
        for entry in entries {
            fold.apply(entry)?;
        }
        Ok(fold)
    }

    /// When it was submitted.
    pub fn t_submit(&self) -> f64 {
        self.times[0]
    }

    /// When it first reached a state; `None` if it did not.
    pub fn time_of(&self, state: State) -> Option<f64> {
        let time = self.times[state.index()];
        (time != 0.0).then_some(time)
    }

    /// Whether a fatal exception was raised.
    pub fn is_excepted(&self) -> bool {
        self.exception
            .as_ref()
            .is_some_and(|exception| exception.severity == 0)
    }

    /// Whether all went well, once the job is over.
    pub fn is_success(&self) -> bool {
        self.status == Some(0) && !self.is_excepted()
    }

    /// How it ended; meaningful once the job is over.
    pub fn outcome(&self) -> Outcome {
        if self.is_success() {
            return Outcome::Completed;
        }
        match self.exception.as_ref().map(|exception| &*exception.kind) {
            Some("cancel") => Outcome::Canceled,
            Some("timeout") => Outcome::Timeout,
            _ => Outcome::Failed,
        }
    }

    /// Takes in the next event.
    ///
    /// Events nobody knows are allowed: anybody may add some. Errors: see [`FoldError`]; the fold
    /// is then unchanged.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        if self.state == State::Inactive {
            return Err(FoldError::Inactive);
        }
        let context = || FoldError::Context(entry.name.clone());
        match entry.name.as_str() {
            "submit" => return Err(FoldError::Submit),
            "validate" => self.advance(entry, State::New, State::Depend)?,
            "depend" => self.advance(entry, State::Depend, State::Priority)?,
            "priority" => {
                let priority = entry.get_i64("priority").ok_or_else(context)?;
                let priority = u32::try_from(priority).map_err(|_| context())?;
                if self.state == State::Priority {
                    self.enter(State::Sched, entry.timestamp);
                } else if self.state != State::Sched {
                    return Err(self.wrong_state(entry));
                }
                self.priority = Some(priority);
            }
            "urgency" => {
                self.urgency = entry.get_i64("urgency").ok_or_else(context)? as i32;
                self.reconsider(entry.timestamp);
            }
            "jobspec-update" | "flux-restart" => self.reconsider(entry.timestamp),
            "dependency-add" => {
                let description = entry.get_str("description").ok_or_else(context)?;
                if !self
                    .dependencies
                    .iter()
                    .any(|known| **known == *description)
                {
                    self.dependencies.push(description.into());
                }
            }
            "dependency-remove" => {
                let description = entry.get_str("description").ok_or_else(context)?;
                self.dependencies.retain(|known| **known != *description);
            }
            "alloc" => {
                self.advance(entry, State::Sched, State::Run)?;
                self.has_resources = true;
                self.bypass = entry.get("bypass") == Some(&Value::Bool(true));
                // The event has all there are, what was said before included.
                if let Some(Value::Object(annotations)) = entry.get("annotations") {
                    self.annotations = Some(Box::new(annotations.clone()));
                }
            }
            "start" => self.started = true,
            "finish" => {
                let status = entry.get_i64("status").ok_or_else(context)?;
                self.status = Some(status as i32);
                if self.state == State::Run {
                    self.enter(State::Cleanup, entry.timestamp);
                }
            }
            "exception" => self.except(entry).ok_or_else(context)?,
            "free" => {
                self.has_resources = false;
                self.freed = true;
            }
            "clean" => self.advance(entry, State::Cleanup, State::Inactive)?,
            "prolog-start" => self.prologs += 1,
            "prolog-finish" => self.prologs = self.prologs.saturating_sub(1),
            "epilog-start" => self.epilogs += 1,
            "epilog-finish" => self.epilogs = self.epilogs.saturating_sub(1),
            "resource-update" => {
                self.expiration = entry.get_f64("expiration").or(self.expiration);
            }
            "annotations" => match entry.get("annotations") {
                Some(Value::Object(annotations)) => {
                    self.annotations = Some(Box::new(annotations.clone()));
                }
                _ => self.annotations = None,
            },
            "memo" => {
                if let Some(memo) = &entry.context {
                    self.note(memo);
                }
            }
            "set-flags" => {
                let flags = entry.get("flags").and_then(Value::as_array);
                for flag in flags.into_iter().flatten().filter_map(Value::as_str) {
                    match flag {
                        "alloc-bypass" => self.bypass = true,
                        "debug" => self.debug = true,
                        "immutable" => self.immutable = true,
                        "waitable" => self.flags |= crate::flags::WAITABLE,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn wrong_state(&self, entry: &Entry) -> FoldError {
        FoldError::State {
            event: entry.name.clone(),
            state: self.state.name(),
        }
    }

    fn advance(&mut self, entry: &Entry, from: State, to: State) -> Result<(), FoldError> {
        if self.state != from {
            return Err(self.wrong_state(entry));
        }
        self.enter(to, entry.timestamp);
        Ok(())
    }

    fn enter(&mut self, state: State, now: f64) {
        self.state = state;
        let time = &mut self.times[state.index()];
        if *time == 0.0 {
            *time = now;
        }
    }

    /// The priority has to be found anew.
    fn reconsider(&mut self, now: f64) {
        if self.state == State::Sched {
            self.enter(State::Priority, now);
        }
    }

    fn except(&mut self, entry: &Entry) -> Option<()> {
        let severity = entry.get_i64("severity")? as i32;
        let kind = entry.get_str("type")?;
        let counts = match &self.exception {
            Some(known) => severity < known.severity,
            None => true,
        };
        if counts {
            self.exception = Some(Box::new(Exception {
                kind: kind.into(),
                severity,
                note: entry.get_str("note").unwrap_or_default().into(),
            }));
        }
        if severity == 0 {
            if kind == "scheduler-restart" {
                self.has_resources = false;
            }
            if matches!(
                self.state,
                State::Depend | State::Priority | State::Sched | State::Run
            ) {
                self.enter(State::Cleanup, entry.timestamp);
            }
        }
        Some(())
    }

    /// Merges annotations into those there are; `null` deletes.
    pub fn annotate(&mut self, update: &Object) {
        let annotations = self.annotations.get_or_insert_default();
        merge(annotations, update);
        if annotations.is_empty() {
            self.annotations = None;
        }
    }

    /// Merges a memo into the user's annotations; `null` deletes.
    fn note(&mut self, memo: &Object) {
        let user = ("user".to_owned(), Value::Object(memo.clone()));
        self.annotate(&Object::from_iter([user]));
    }
}

/// Merges objects recursively; `null` deletes, and what becomes empty goes too.
fn merge(into: &mut Object, update: &Object) {
    for (key, value) in update {
        match value {
            Value::Null => drop(into.shift_remove(key)),
            Value::Object(update) => {
                let below = into
                    .entry(key.clone())
                    .or_insert_with(|| Value::Object(Object::new()));
                if !below.is_object() {
                    *below = Value::Object(Object::new());
                }
                if let Value::Object(below) = below {
                    merge(below, update);
                    if below.is_empty() {
                        into.shift_remove(key);
                    }
                }
            }
            value => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn log(text: &str) -> Result<Fold, FoldError> {
        let entries: Vec<_> = text
            .split_whitespace()
            .enumerate()
            .map(|(at, word)| {
                let now = 100.0 + at as f64;
                let (name, value) = word.split_once('=').unwrap_or((word, ""));
                let context = match name {
                    "submit" => json!({"userid": 5, "urgency": 16, "flags": 0, "version": 1}),
                    "priority" => json!({"priority": value.parse::<u32>().unwrap()}),
                    "urgency" => json!({"userid": 5, "urgency": value.parse::<i32>().unwrap()}),
                    "finish" => json!({"status": value.parse::<i32>().unwrap()}),
                    "exception" => json!({"type": value, "severity": 0, "note": "", "userid": 5}),
                    "warning" => json!({"type": value, "severity": 3, "note": "", "userid": 5}),
                    "dependency-add" | "dependency-remove" => json!({ "description": value }),
                    _ => Value::Null,
                };
                let name = if name == "warning" { "exception" } else { name };
                match context {
                    Value::Object(context) => Entry::with_context(now, name, context),
                    _ => Entry::new(now, name),
                }
            })
            .collect();
        Fold::replay(&entries)
    }

    fn check(text: &str, state: State, outcome: Outcome) {
        let fold = log(text).expect("legal log");
        assert_eq!((fold.state, fold.outcome()), (state, outcome), "{text}");
    }

    #[test]
    fn logs_lead_to_states_and_results() {
        const A: &str = "submit validate depend priority=16 ";
        let all = |rest: &str| format!("{A}{rest}");
        check(
            &all("alloc start finish=0 release free clean"),
            State::Inactive,
            Outcome::Completed,
        );
        check(
            &all("alloc start finish=768 release free clean"),
            State::Inactive,
            Outcome::Failed,
        );
        check(
            &all("exception=cancel clean"),
            State::Inactive,
            Outcome::Canceled,
        );
        check(
            &all("alloc start exception=timeout finish=36352 release free clean"),
            State::Inactive,
            Outcome::Timeout,
        );
        check(
            &all("warning=w alloc start exception=cancel finish=15"),
            State::Cleanup,
            Outcome::Canceled,
        );
        check(&all("urgency=0"), State::Priority, Outcome::Failed);
        check(&all("urgency=0 priority=0"), State::Sched, Outcome::Failed);
        check(
            "submit dependency-add=x validate",
            State::Depend,
            Outcome::Failed,
        );
    }

    #[test]
    fn jobs_of_old_were_not_validated() {
        let context = json!({"userid": 5, "urgency": 16, "flags": 0});
        let context = context.as_object().expect("an object").clone();
        let submit = Entry::with_context(100.0, "submit", context);
        let depend = crate::event::plain(101.0, "depend");
        let fold = Fold::replay([&submit, &depend]).expect("valid");
        assert_eq!(fold.state, State::Priority);
        assert_eq!(fold.times[State::Depend.index()], fold.t_submit());
    }

    #[test]
    fn impossible_logs_are_refused() {
        for text in [
            "validate",
            "submit submit",
            "submit depend",
            "submit validate alloc",
            "submit validate depend priority=1 clean",
            "submit validate exception=cancel clean start",
        ] {
            assert!(log(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_time_in_sched_counts() {
        let fold = log("submit validate depend priority=1 urgency=2 priority=2").expect("legal");
        assert_eq!(fold.time_of(State::Sched), Some(103.0));
        assert_eq!(fold.time_of(State::Priority), Some(102.0));
        assert_eq!(fold.time_of(State::Run), None);
    }

    #[test]
    fn annotations_merge_and_vanish() {
        let mut fold = log("submit").expect("legal");
        let object = |value: Value| value.as_object().cloned().expect("an object");
        fold.annotate(&object(json!({"sched": {"a": 1, "b": 2}})));
        fold.annotate(&object(json!({"sched": {"a": null}, "x": 1})));
        fold.note(&object(json!({"y": 1})));
        let expect = json!({"sched": {"b": 2}, "x": 1, "user": {"y": 1}});
        assert_eq!(fold.annotations.as_deref(), Some(&object(expect)));
        fold.annotate(&object(json!({"sched": null, "x": null})));
        fold.note(&object(json!({"y": null})));
        assert_eq!(fold.annotations, None);
    }
}
