//! The attributes of a listed job.

use serde_json::{Value, json};

use super::Listed;
use crate::Object;
use crate::fold::State;

/// Writes one attribute of a job, or `None` while it has none.
type Read = fn(&Listed) -> Option<Value>;

/// An attribute: name and how to read it.
pub type Attribute = (&'static str, Read);

fn text(text: &Option<Box<str>>) -> Option<Value> {
    text.as_ref().map(|text| Value::from(&**text))
}

fn time(job: &Listed, state: State) -> Option<Value> {
    job.fold.time_of(state).map(Value::from)
}

/// An attribute of the exception that counts, once the job is over.
fn exception(job: &Listed, read: fn(&crate::fold::Exception) -> Value) -> Option<Value> {
    let over = job.fold.state == State::Inactive;
    job.fold.exception.as_deref().filter(|_| over).map(read)
}

fn over(job: &Listed, value: impl Into<Value>) -> Option<Value> {
    (job.fold.state == State::Inactive).then(|| value.into())
}

/// Every attribute beside `id`, in the order of answers.
pub const ATTRIBUTES: &[Attribute] = &[
    ("userid", |job| Some(job.fold.userid.0.into())),
    ("urgency", |job| Some(job.fold.urgency.into())),
    ("priority", |job| job.fold.priority.map(Value::from)),
    ("t_submit", |job| Some(job.fold.t_submit().into())),
    ("t_depend", |job| time(job, State::Depend)),
    ("t_priority", |job| time(job, State::Priority)),
    ("t_sched", |job| time(job, State::Sched)),
    ("t_run", |job| time(job, State::Run)),
    ("t_cleanup", |job| time(job, State::Cleanup)),
    ("t_inactive", |job| time(job, State::Inactive)),
    ("state", |job| Some(job.fold.state.bit().into())),
    ("name", |job| text(&job.described.name)),
    ("cwd", |job| text(&job.described.cwd)),
    ("queue", |job| text(&job.described.queue)),
    ("project", |job| text(&job.described.project)),
    ("bank", |job| text(&job.described.bank)),
    ("ntasks", |job| job.ntasks().map(Value::from)),
    ("ncores", |job| {
        let placed = job.placed.as_ref().map(|placed| placed.ncores);
        placed.or(job.described.ncores).map(Value::from)
    }),
    ("duration", |job| job.described.duration().map(Value::from)),
    ("nnodes", |job| {
        let placed = job.placed.as_ref().map(|placed| placed.nnodes);
        placed.or(job.described.nnodes).map(Value::from)
    }),
    ("ranks", |job| {
        job.placed
            .as_ref()
            .map(|placed| Value::from(&*placed.ranks))
    }),
    ("nodelist", |job| {
        job.placed
            .as_ref()
            .map(|placed| Value::from(&*placed.nodelist))
    }),
    ("success", |job| over(job, job.fold.is_success())),
    ("exception_occurred", |job| {
        over(job, job.fold.exception.is_some())
    }),
    ("exception_type", |job| {
        exception(job, |e| Value::from(&*e.kind))
    }),
    ("exception_severity", |job| {
        exception(job, |e| e.severity.into())
    }),
    ("exception_note", |job| {
        exception(job, |e| Value::from(&*e.note))
    }),
    ("result", |job| over(job, job.fold.outcome().bit())),
    ("expiration", |job| job.expiration.map(Value::from)),
    ("annotations", |job| {
        let annotations = job.fold.annotations.as_deref();
        annotations.cloned().map(Value::Object)
    }),
    ("waitstatus", |job| job.fold.status.map(Value::from)),
    ("dependencies", |job| {
        let held = &job.fold.dependencies;
        (!held.is_empty()).then(|| json!(held))
    }),
];

impl Listed {
    /// The job with the given attributes that it has, `id` first.
    pub fn render(&self, attributes: &[Attribute]) -> Object {
        let mut object = Object::new();
        object.insert("id".into(), self.id.0.into());
        for (name, read) in attributes {
            if let Some(value) = read(self) {
                object.insert((*name).into(), value);
            }
        }
        object
    }

    /// Finds attributes by name; `all` means all, and `id` is always there.
    /// Errors: the first name that is none.
    pub fn select(names: &[String]) -> Result<Vec<Attribute>, String> {
        if names.iter().any(|name| name == "all") {
            return Ok(ATTRIBUTES.to_vec());
        }
        let mut found = Vec::with_capacity(names.len());
        for name in names.iter().filter(|name| *name != "id") {
            let attribute = ATTRIBUTES.iter().find(|(known, _)| known == name);
            found.push(*attribute.ok_or_else(|| name.clone())?);
        }
        Ok(found)
    }
}
