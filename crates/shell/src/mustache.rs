//! Templates: `{{tag}}` in arguments, paths and variables.

use std::path::Path;

use serde_json::Value;
use types::fluid::Encoding;

use crate::job::Job;

/// For whom a template is rendered.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) job: &'a Job,
    pub(crate) tmpdir: Option<&'a Path>,
    /// The node; `None` leaves `node` tags as they are.
    pub(crate) shell_rank: Option<u32>,
    /// Global rank and local index of the task; `None` leaves `task` tags as they are.
    pub(crate) task: Option<(u32, u32)>,
}

/// Renders a template. Tags nobody knows stay as they are.
pub(crate) fn render(template: &str, scope: &Scope<'_>) -> String {
    let mut result = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        let Some(length) = rest[start..].find("}}") else {
            break;
        };
        result.push_str(&rest[..start]);
        let tag = &rest[start + 2..start + length];
        match value(tag, scope) {
            Some(text) => result.push_str(&text),
            None => result.push_str(&rest[start..start + length + 2]),
        }
        rest = &rest[start + length + 2..];
    }
    result.push_str(rest);
    result
}

fn value(tag: &str, scope: &Scope<'_>) -> Option<String> {
    let job = scope.job;
    match tag {
        "id" | "jobid" => return Some(job.f58.clone()),
        "name" => return Some(job.name().to_owned()),
        "nnodes" => return Some(job.size().to_string()),
        "ntasks" | "size" => return Some(job.ntasks.to_string()),
        "tmpdir" => return Some(scope.tmpdir?.to_string_lossy().into_owned()),
        "taskid" | "task.id" | "task.rank" => return Some(scope.task?.0.to_string()),
        "task.index" | "task.localid" => return Some(scope.task?.1.to_string()),
        _ => {}
    }
    let (family, key) = tag.split_once('.')?;
    match family {
        "id" | "jobid" => {
            let encoding = Encoding::from_name(key)?;
            match key {
                "f58" => Some(job.f58.clone()),
                _ => Some(job.id.encode(encoding)),
            }
        }
        "node" => {
            let info = job.rank_info(scope.shell_rank?);
            let key = key.strip_prefix("resources.").unwrap_or(key);
            let shorthand = || info.get("resources")?.get(key);
            match info.get(key).or_else(shorthand)? {
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            }
        }
        _ => None,
    }
}

/// Whether a template means different things on different shells.
pub(crate) fn is_per_rank(template: &str, scope: &Scope<'_>) -> bool {
    if scope.job.size() < 2 {
        return false;
    }
    if template.contains("{{tmpdir}}") {
        return true;
    }
    let of = |rank: u32| {
        let first = scope.job.nodes[rank as usize].taskids.first().unwrap_or(0);
        let scope = Scope {
            shell_rank: Some(rank),
            task: Some((first, 0)),
            ..*scope
        };
        render(template, &scope)
    };
    of(0) != of(1)
}
