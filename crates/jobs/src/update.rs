//! What the events of a job change of its documents, the jobspec and R (RFC 21).

use serde_json::Value;
use spec::eventlog::Entry;

use crate::Object;

/// Applies the updates an eventlog tells of to documents as they were stored.
pub fn apply_updates(
    log: &[Entry],
    mut jobspec: Option<&mut Object>,
    mut resources: Option<&mut Object>,
) {
    for entry in log {
        match (entry.name.as_str(), &entry.context) {
            ("jobspec-update", Some(updates)) => {
                if let Some(jobspec) = &mut jobspec {
                    update_jobspec(jobspec, updates);
                }
            }
            ("resource-update", Some(updates)) => {
                if let Some(resources) = &mut resources {
                    update_resources(resources, updates);
                }
            }
            _ => {}
        }
    }
}

/// Applies the context of a `jobspec-update`: values by dotted key.
pub(crate) fn update_jobspec(jobspec: &mut Object, updates: &Object) {
    for (key, value) in updates {
        // A path through something that is no object cannot be followed; the key is ignored, as
        // every reader of the log must do the same with it.
        let _unreachable_path = spec::jobspec::set_path(jobspec, key, value.clone());
    }
}

/// Applies the context of a `resource-update`: a new expiration.
pub(crate) fn update_resources(resources: &mut Object, updates: &Object) {
    if let Some(expiration) = updates.get("expiration")
        && let Some(Value::Object(execution)) = resources.get_mut("execution")
    {
        execution.insert("expiration".into(), expiration.clone());
    }
}
