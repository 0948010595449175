//! The fields of job formats: headings, and what to ask the service for.

/// Fields with their headings.
const HEADINGS: &[(&str, &str)] = &[
    ("id", "JOBID"),
    ("id.dec", "JOBID"),
    ("id.hex", "JOBID"),
    ("id.dothex", "JOBID"),
    ("id.kvs", "JOBID"),
    ("id.words", "JOBID"),
    ("id.f58", "JOBID"),
    ("id.f58plain", "JOBID"),
    ("id.emoji", "JOBID"),
    ("userid", "UID"),
    ("username", "USER"),
    ("urgency", "URG"),
    ("priority", "PRI"),
    ("state", "STATE"),
    ("state_single", "S"),
    ("state_emoji", "STATE"),
    ("name", "NAME"),
    ("cwd", "CWD"),
    ("queue", "QUEUE"),
    ("project", "PROJECT"),
    ("bank", "BANK"),
    ("ntasks", "NTASKS"),
    ("ncores", "NCORES"),
    ("nnodes", "NNODES"),
    ("duration", "DURATION"),
    ("ranks", "RANKS"),
    ("nodelist", "NODELIST"),
    ("success", "SUCCESS"),
    ("waitstatus", "WSTATUS"),
    ("returncode", "RC"),
    ("exception.occurred", "EXCEPTION-OCCURRED"),
    ("exception.severity", "EXCEPTION-SEVERITY"),
    ("exception.type", "EXCEPTION-TYPE"),
    ("exception.note", "EXCEPTION-NOTE"),
    ("result", "RESULT"),
    ("result_abbrev", "RS"),
    ("result_emoji", "RESULT"),
    ("t_submit", "T_SUBMIT"),
    ("t_depend", "T_DEPEND"),
    ("t_priority", "T_PRIORITY"),
    ("t_sched", "T_SCHED"),
    ("t_run", "T_RUN"),
    ("t_cleanup", "T_CLEANUP"),
    ("t_inactive", "T_INACTIVE"),
    ("runtime", "RUNTIME"),
    ("status", "STATUS"),
    ("status_abbrev", "ST"),
    ("status_emoji", "STATUS"),
    ("expiration", "EXPIRATION"),
    ("t_remaining", "T_REMAINING"),
    ("annotations", "ANNOTATIONS"),
    ("dependencies", "DEPENDENCIES"),
    ("contextual_info", "INFO"),
    ("contextual_time", "TIME"),
    ("inactive_reason", "INACTIVE-REASON"),
    ("sched", "SCHED"),
    ("user", "USER"),
    ("sched.t_estimate", "T_ESTIMATE"),
    ("sched.reason_pending", "REASON"),
    ("sched.resource_summary", "RESOURCES"),
    ("uri", "URI"),
    ("uri.local", "URI"),
    ("instance.stats", "STATS"),
    ("instance.stats.total", "NJOBS"),
    ("instance.utilization", "CORE%"),
    ("instance.gpu_utilization", "GPU%"),
    ("instance.progress", "PROG"),
    ("instance.resources.all.nnodes", "NODES"),
    ("instance.resources.all.ncores", "CORES"),
    ("instance.resources.all.ngpus", "GPUS"),
    ("instance.resources.up.nnodes", "UP"),
    ("instance.resources.up.ncores", "UP"),
    ("instance.resources.up.ngpus", "UP"),
    ("instance.resources.down.nnodes", "DOWN"),
    ("instance.resources.down.ncores", "DOWN"),
    ("instance.resources.down.ngpus", "DOWN"),
    ("instance.resources.allocated.nnodes", "USED"),
    ("instance.resources.allocated.ncores", "USED"),
    ("instance.resources.allocated.ngpus", "USED"),
    ("instance.resources.free.nnodes", "FREE"),
    ("instance.resources.free.ncores", "FREE"),
    ("instance.resources.free.ngpus", "FREE"),
];

/// A field's heading, `None` if there is no such field.
pub(crate) fn heading(name: &str) -> Option<String> {
    if let Some((_, heading)) = HEADINGS.iter().find(|(known, _)| *known == name) {
        return Some((*heading).to_owned());
    }
    if let Some(rest) = name.strip_prefix("annotations.") {
        return Some(heading(rest).unwrap_or_else(|| rest.to_uppercase()));
    }
    let prefixed = ["sched.", "user.", "instance.stats."];
    prefixed
        .iter()
        .any(|prefix| name.starts_with(prefix))
        .then(|| name.to_uppercase())
}

/// The service's attributes that fields need.
pub(crate) fn attributes<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut attrs: Vec<&str> = Vec::new();
    for name in names {
        let needed: &[&str] = match name {
            "userid" | "username" => &["userid"],
            "state" | "state_single" | "state_emoji" => &["state"],
            "status" | "status_abbrev" | "status_emoji" => &["state", "result"],
            "result" | "result_abbrev" | "result_emoji" => &["result"],
            "runtime" => &["t_run", "t_cleanup", "state"],
            "contextual_time" => &["state", "duration", "t_run", "t_cleanup"],
            "contextual_info" => &[
                "state",
                "priority",
                "urgency",
                "dependencies",
                "annotations",
                "nodelist",
            ],
            "inactive_reason" => &[
                "state",
                "result",
                "waitstatus",
                "exception_occurred",
                "exception_type",
                "exception_severity",
                "exception_note",
            ],
            "returncode" => &["waitstatus", "result", "state"],
            "t_remaining" => &["expiration", "state", "result"],
            "exception.occurred" => &["exception_occurred"],
            "exception.severity" => &["exception_severity"],
            "exception.type" => &["exception_type"],
            "exception.note" => &["exception_note"],
            "priority" | "urgency" | "name" | "cwd" | "queue" | "project" | "bank" | "ntasks"
            | "ncores" | "nnodes" | "duration" | "ranks" | "nodelist" | "success"
            | "waitstatus" | "t_submit" | "t_depend" | "t_priority" | "t_sched" | "t_run"
            | "t_cleanup" | "t_inactive" | "expiration" | "dependencies" => &[name],
            name if name == "id" || name.starts_with("id.") => &[],
            name if name.starts_with("instance.") => &[
                "annotations",
                "state",
                "userid",
                "t_run",
                "duration",
                "expiration",
            ],
            _ => &["annotations"],
        };
        for attr in needed {
            if !attrs.contains(attr) {
                attrs.push(attr);
            }
        }
    }
    attrs.into_iter().map(str::to_owned).collect()
}
