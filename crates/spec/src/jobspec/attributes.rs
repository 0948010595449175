//! Accessors for `attributes.system` (RFC 14). Values of the wrong type read as absent, because
//! submission does not check most of them.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Jobspec, JobspecError};
use crate::constraint::Constraint;

impl Jobspec {
    /// A value by dotted path from the document's root, such as `attributes.system.cwd`.
    pub fn get_path(&self, path: &str) -> Option<&Value> {
        path.split('.')
            .try_fold(&self.document, |value, key| value.get(key))
    }

    /// Replaces a value by dotted path and validates the result, as job updates do.
    ///
    /// Errors: [`JobspecError`] if the result is no jobspec; the jobspec is then unchanged.
    pub fn with_path(&self, path: &str, value: Value) -> Result<Jobspec, JobspecError> {
        let mut document = self.document.clone();
        let object = document.as_object_mut().ok_or_else(|| JobspecError::Type {
            key: path.into(),
            expected: "inside mappings",
        })?;
        set_path(object, path, value)?;
        Jobspec::from_value(document)
    }

    /// A system attribute by name, or dotted path below `attributes.system`.
    pub fn system(&self, name: &str) -> Option<&Value> {
        let system = self.document.get("attributes")?.get("system")?;
        name.split('.')
            .try_fold(system, |value, key| value.get(key))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.system(name)?.as_str()
    }

    /// Seconds the job may run; 0 for no limit of its own.
    pub fn duration_seconds(&self) -> f64 {
        self.system("duration")
            .and_then(Value::as_f64)
            .unwrap_or(0.0)
    }

    /// The time the job may run; `None` for no limit of its own.
    pub fn duration(&self) -> Option<Duration> {
        let duration = Duration::try_from_secs_f64(self.duration_seconds()).ok();
        duration.filter(|duration| !duration.is_zero())
    }

    /// The working directory.
    pub fn cwd(&self) -> Option<&str> {
        self.text("cwd")
    }

    /// The queue.
    pub fn queue(&self) -> Option<&str> {
        self.text("queue")
    }

    /// The accounting bank.
    pub fn bank(&self) -> Option<&str> {
        self.text("bank")
    }

    /// The accounting project.
    pub fn project(&self) -> Option<&str> {
        self.text("project")
    }

    /// The job's name: as given, else the last path component of the command.
    pub fn name(&self) -> Option<&str> {
        let command = || {
            self.command().first().map(|word| {
                let last = word.rsplit('/').next().unwrap_or_default();
                if last.is_empty() { word } else { last }
            })
        };
        self.text("job.name").or_else(command)
    }

    /// The environment; a null value unsets a variable.
    pub fn environment(&self) -> Option<&Map<String, Value>> {
        self.system("environment")?.as_object()
    }

    /// All options for the job shell.
    pub fn shell_options(&self) -> Option<&Map<String, Value>> {
        self.system("shell.options")?.as_object()
    }

    /// An option for the job shell.
    pub fn shell_option(&self, name: &str) -> Option<&Value> {
        self.shell_options()?.get(name)
    }

    /// Files the job brings along (RFC 37).
    pub fn files(&self) -> Option<&Value> {
        self.system("files")
    }

    /// Dependencies (RFC 26), each an object with `scheme` and `value`.
    pub fn dependencies(&self) -> &[Value] {
        let dependencies = self.system("dependencies").and_then(Value::as_array);
        dependencies.map_or(&[], |list| list.as_slice())
    }

    /// The constraints (RFC 31), if there are any.
    pub fn constraints(&self) -> Option<Constraint> {
        // Validation has decoded them once already.
        Constraint::from_value(self.system("constraints")?).ok()
    }

    /// Removes the environment, as the stored copy of a jobspec has none.
    pub fn strip_environment(&mut self) {
        let system = self.document.pointer_mut("/attributes/system");
        if let Some(system) = system.and_then(Value::as_object_mut) {
            // Shifting keeps the order of the other keys.
            system.shift_remove("environment");
        }
    }
}

/// Sets a value by dotted path, making objects on the way.
///
/// Errors: [`JobspecError::Type`] if the path runs through something that is not an object.
pub fn set_path(
    object: &mut Map<String, Value>,
    path: &str,
    value: Value,
) -> Result<(), JobspecError> {
    let mut at = object;
    let mut rest = path;
    while let Some((key, inner)) = rest.split_once('.') {
        let next = at.entry(key).or_insert_with(|| Value::Object(Map::new()));
        at = next.as_object_mut().ok_or_else(|| JobspecError::Type {
            key: path.into(),
            expected: "inside mappings",
        })?;
        rest = inner;
    }
    at.insert(rest.into(), value);
    Ok(())
}
