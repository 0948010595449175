//! The commands `flux` has built in, one file each.

pub(crate) mod admin;
mod archive;
pub(crate) mod attr;
pub(crate) mod cancel;
mod cgroup;
pub(crate) mod config;
pub(crate) mod content;
mod cron;
pub(crate) mod event;
pub(crate) mod exec;
mod fortune;
pub(crate) mod heaptrace;
pub(crate) mod hostlist;
pub(crate) mod housekeeping;
mod imp_exec_helper;
mod ingest;
pub(crate) mod job;
mod job_exec_override;
pub(crate) mod jobs;
pub(crate) mod jobtap;
pub(crate) mod keygen;
pub(crate) mod kvs;
pub(crate) mod log;
mod lptest;
pub(crate) mod modprobe;
pub(crate) mod module;
mod module_exec;
mod multi_prog;
pub(crate) mod overlay;
pub(crate) mod pgrep;
pub(crate) mod ping;
mod pmi;
mod post_job_event;
mod proxy;
mod pstree;
pub(crate) mod python;
pub(crate) mod queue;
pub(crate) mod r;
mod relay;
pub(crate) mod resource;
pub(crate) mod shutdown;
pub(crate) mod slurm_expiration_sync;
pub(crate) mod sproc;
pub(crate) mod startlog;
pub(crate) mod storage;
mod targets;
pub(crate) mod terminus;
pub(crate) mod top;
mod trace;
pub(crate) mod update;
pub(crate) mod uptime;
pub(crate) mod uri;
pub(crate) mod version;
pub(crate) mod watch;

use crate::driver::Invocation;
use crate::submit;

/// A command's entry point: its words without its name; returns the exit status.
pub(crate) type Run = fn(&Invocation<'_>, &[String]) -> i32;

/// Every command: name, what it does for the listing (empty: not listed), entry point.
static COMMANDS: &[(&str, &str, Run)] = &[
    (
        "archive",
        "Carry files through the key-value store",
        archive::run,
    ),
    ("filemap", "", archive::filemap),
    ("getattr", "Read a broker attribute", attr::getattr),
    ("setattr", "Change a broker attribute", attr::setattr),
    ("lsattr", "List broker attributes", attr::lsattr),
    ("alloc", "Start an instance to work in", submit::alloc),
    (
        "batch",
        "Submit a script that gets an instance",
        submit::batch,
    ),
    (
        "bulksubmit",
        "Submit many jobs from a template",
        submit::bulksubmit,
    ),
    ("run", "Run a job and wait for it", submit::run),
    ("submit", "Submit jobs", submit::submit),
    ("admin", "Administer the instance", admin::run),
    ("content", "Store and load blobs", content::run),
    (
        "terminus",
        "Keep terminal sessions to attach to",
        terminus::run,
    ),
    ("cron", "Run commands by time or event", cron::run),
    ("dmesg", "Show the broker log", log::dmesg),
    (
        "env",
        "Show the environment, or run a command in it",
        version::env,
    ),
    (
        "dump",
        "Write the key-value store to an archive",
        storage::dump::run,
    ),
    (
        "restore",
        "Read the key-value store from an archive",
        storage::restore::run,
    ),
    (
        "fsck",
        "Check the stored key-value tree",
        storage::fsck::run,
    ),
    (
        "gc",
        "Delete stored blobs nothing refers to",
        storage::gc::run,
    ),
    ("event", "Publish and follow events", event::run),
    ("heaptrace", "", heaptrace::run),
    (
        "housekeeping",
        "List and signal what runs after jobs",
        housekeeping::run,
    ),
    (
        "slurm-expiration-sync",
        "Keep the end of this instance that of a Slurm job",
        slurm_expiration_sync::run,
    ),
    (
        "sproc",
        "List, signal and wait for subprocesses",
        sproc::run,
    ),
    ("startlog", "Show when the instance ran", startlog::run),
    ("update", "Change a job's jobspec", update::run),
    ("uri", "Find the URI of an instance", uri::run),
    ("watch", "Watch the output of jobs", watch::run),
    ("hostlist", "Combine lists of hosts", hostlist::run),
    (
        "jobtap",
        "Load and remove plugins of the job manager",
        jobtap::run,
    ),
    ("keygen", "Make a certificate for brokers", keygen::run),
    ("R", "Read, make and combine resource sets", r::run),
    ("help", "Show a manual page", version::help),
    ("config", "Read and change the configuration", config::run),
    ("exec", "Run commands on many ranks", exec::run),
    ("overlay", "Look into the tree of brokers", overlay::run),
    ("queue", "Manage queues", queue::run),
    (
        "resource",
        "Look into resources, drain and undrain",
        resource::run,
    ),
    ("shutdown", "Shut the instance down", shutdown::run),
    ("pgrep", "Find jobs by name", pgrep::pgrep),
    ("pstree", "Show jobs as a tree", pstree::run),
    ("pkill", "Cancel jobs by name", pgrep::pkill),
    ("cancel", "Cancel jobs", cancel::run),
    ("job", "Follow, signal and look into jobs", job::run),
    (
        "job-exec-override",
        "Start and finish mock jobs by hand",
        job_exec_override::run,
    ),
    (
        "job-frobnicator",
        "Fill in jobspecs as on submission",
        ingest::frobnicator,
    ),
    (
        "job-validator",
        "Check jobspecs as on submission",
        ingest::validator,
    ),
    (
        "top",
        "Show the instance and its running jobs as they change",
        top::run,
    ),
    ("uptime", "Show how long the instance runs", uptime::run),
    ("jobs", "List jobs", jobs::run),
    ("kvs", "Use the key-value store", kvs::run),
    ("logger", "Write to the broker log", log::logger),
    ("lptest", "", lptest::run),
    (
        "modprobe",
        "Load and remove modules with what they need",
        modprobe::run,
    ),
    (
        "multi-prog",
        "Run another program in each task",
        multi_prog::run,
    ),
    ("pmi", "Try the process management interface", pmi::run),
    ("module", "Manage broker modules", module::run),
    ("module-exec", "", module_exec::run),
    ("module-python-exec", "", module_exec::run_python),
    ("ping", "Measure the round trip to a service", ping::run),
    (
        "proxy",
        "Use another instance in a command or shell",
        proxy::run,
    ),
    ("python", "Run Python with the Flux bindings", python::run),
    ("relay", "", relay::run),
    ("cgroup", "", cgroup::run),
    ("fortune", "", fortune::run),
    ("imp_exec_helper", "", imp_exec_helper::run),
    (
        "post-job-event",
        "Post an event to a job's eventlog",
        post_job_event::run,
    ),
    ("version", "Show version information", version::version),
];

/// The entry point of a command.
pub(crate) fn find(name: &str) -> Option<Run> {
    let command = COMMANDS.iter().find(|(known, ..)| *known == name)?;
    Some(command.2)
}

/// The names suggestions are made from.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|(name, ..)| *name)
}

/// The listing for help.
pub(crate) fn summary() -> impl Iterator<Item = (&'static str, &'static str)> {
    COMMANDS
        .iter()
        .filter(|(_, about, _)| !about.is_empty())
        .map(|(name, about, _)| (*name, *about))
}

/// A subcommand: name, what it does, entry point.
pub(crate) type Sub = (&'static str, &'static str, fn(&[String]) -> i32);

/// Runs a subcommand of a program of family G that lists its subcommands in its own way.
pub(crate) fn dispatch_listed(name: &str, title: &str, subs: &[Sub], words: &[String]) -> i32 {
    match words.first() {
        Some(word) if !word.starts_with('-') => {
            if let Some((.., run)) = subs.iter().find(|(sub, ..)| sub == word) {
                return run(&words[1..]);
            }
        }
        Some(word) if word != "-h" && word != "--help" => {
            crate::err!("{name}: unrecognized option '{word}'");
            crate::err!("Try `{name} --help' for more information.");
            return 1;
        }
        _ => {}
    }
    let mut text = format!(
        "Usage: {name} [OPTIONS] COMMAND ARGS\n  -h, --help             Display this message.\n\n{title}\n"
    );
    for (sub, about, _) in subs.iter().filter(|(_, about, _)| !about.is_empty()) {
        text.push_str(&format!("   {sub:<15} {about}\n"));
    }
    crate::output::error_bytes(text.as_bytes());
    1
}

/// Runs a subcommand of a program of family G whose usage lists the forms of each.
pub(crate) fn dispatch_forms(name: &str, about: &str, subs: &[Sub], words: &[String]) -> i32 {
    let mut status = 1;
    match words.first().map(String::as_str) {
        Some("-h" | "--help") => status = 0,
        Some(word) if word.starts_with('-') => {
            crate::err!("{name}: unrecognized option '{word}'");
            crate::err!("Try `{name} --help' for more information.");
            return 1;
        }
        Some(word) => {
            if let Some((.., run)) = subs.iter().find(|(sub, ..)| *sub == word) {
                return run(&words[1..]);
            }
            crate::err!("{name}: Unknown subcommand: {word}");
        }
        None => crate::err!("{name}: missing subcommand"),
    }
    let mut text = String::new();
    for (index, (sub, usage, _)) in subs
        .iter()
        .filter(|(_, usage, _)| !usage.is_empty())
        .enumerate()
    {
        let word = if index == 0 { "Usage" } else { "   or" };
        text.push_str(&format!("{word}: {name} {sub} {usage}\n"));
    }
    if !about.is_empty() {
        text.push_str(about);
        text.push('\n');
    }
    text.push_str("  -h, --help             Display this message.\n");
    crate::output::error_bytes(text.as_bytes());
    status
}

/// A subcommand of family P: name and entry point.
pub(crate) type PlainSub = (&'static str, fn(&[String]) -> i32);

/// Runs a subcommand of a program of family P.
pub(crate) fn dispatch_argparse(name: &str, subs: &[PlainSub], words: &[String]) -> i32 {
    let list = |separator: &str, quote: &str| {
        let names = subs.iter().map(|(sub, _)| format!("{quote}{sub}{quote}"));
        names.collect::<Vec<_>>().join(separator)
    };
    let usage = format!("usage: {name} [-h] {{{}}} ...", list(",", ""));
    match words.first().map(String::as_str) {
        Some("-h" | "--help") => {
            crate::outln!("{usage}\n\noptions:");
            crate::outln!("  -h, --help      show this help message and exit\n");
            crate::outln!("supported subcommands:\n\n  {{{}}}", list(",", ""));
            0
        }
        Some(word) => match subs.iter().find(|(sub, _)| *sub == word) {
            Some((_, run)) => run(&words[1..]),
            None => {
                crate::err!("{usage}");
                crate::err!(
                    "{name}: error: argument subcommand: invalid choice: '{word}' (choose from {})",
                    list(", ", "'")
                );
                2
            }
        },
        None => {
            crate::err!("{usage}");
            crate::err!("{name}: error: the following arguments are required: subcommand");
            2
        }
    }
}
