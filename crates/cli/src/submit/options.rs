//! The options of the submission commands.

use super::plugins::SECTION;
use crate::options::{Family, Parser, arg, flag, maybe};

/// The options all submission commands have, and more.
macro_rules! submission_options {
    ($($extra:expr),* $(,)?) => {
        &[
            maybe('\0', "help", "TOPIC", "Show this help message and exit"),
            arg('B', "bank", "BANK", "Charge the job to this bank"),
            arg('q', "queue", "NAME", "Submit the job to this queue"),
            arg('t', "time-limit", "MIN|FSD", "Time limit: minutes, or a duration with a unit"),
            arg('\0', "urgency", "N", "Urgency 0-31, hold, default or expedite"),
            arg('\0', "job-name", "NAME", "Name the job"),
            arg('o', "setopt", "OPT", "Set a shell option: OPT or OPT=VAL (multiple use OK)"),
            arg('S', "setattr", "ATTR", "Set a job attribute: ATTR or ATTR=VAL, or the JSON in a file with ^ATTR=FILE (multiple use OK)"),
            arg('\0', "add-file", "[NAME=]PATH", "Take a file along; NAME:PERMS gives it a mode (multiple use OK)"),
            arg('\0', "dependency", "URI", "Wait for a dependency (RFC 26)"),
            arg('\0', "requires", "CONSTRAINT", "Run only where the constraint holds (RFC 35)"),
            arg('\0', "require", "CONSTRAINT", "").hidden(),
            arg('\0', "begin-time", "+FSD|TIME", "Do not start before this time"),
            arg('\0', "env", "RULE", "What of the environment the job gets: -PATTERN removes, ^FILE reads rules, PATTERN takes, VAR=VALUE sets (multiple use OK)"),
            arg('\0', "env-remove", "PATTERN", "Remove variables (multiple use OK)"),
            arg('\0', "env-file", "FILE", "Read environment rules from a file (multiple use OK)"),
            arg('\0', "rlimit", "RULE", "Which soft limits the job gets: -NAME, NAME or NAME=N (multiple use OK)"),
            arg('\0', "input", "FILE", "Standard input from a file"),
            arg('\0', "output", "TEMPLATE", "Standard output to a file"),
            arg('\0', "error", "TEMPLATE", "Standard error to a file"),
            flag('l', "label-io", "Put the task rank in front of output lines"),
            flag('u', "unbuffered", "Do not buffer input and output"),
            arg('\0', "cwd", "DIRECTORY", "Working directory of the job"),
            arg('\0', "flags", "FLAGS", "debug, waitable or novalidate"),
            arg('\0', "signal", "[SIG][@TIME]", "Signal the job before its time is up"),
            flag('\0', "dry-run", "Show the jobspec and do not submit it"),
            flag('\0', "dry", "").hidden(),
            flag('\0', "quiet", "Do not show the job id"),
            flag('\0', "list-plugins", "List command-line plugins"),
            arg('\0', "resources-shape", "SHAPE", "The resources in short form (RFC 46); other resource options are ignored").under(SECTION),
            arg('\0', "resources-json", "FILE", "The resources of a jobspec in a JSON file; other resource options are ignored").under(SECTION),
            flag('\0', "debug-emulate", "").hidden(),
            $($extra),*
        ]
    };
}

/// The options of commands that run tasks, and more.
macro_rules! task_options {
    ($($extra:expr),* $(,)?) => {
        submission_options![
            arg('\0', "taskmap", "SCHEME[:VALUE]", "How tasks are spread over nodes"),
            arg('N', "nodes", "N", "Number of nodes"),
            flag('x', "exclusive", "With --nodes, take whole nodes"),
            arg('n', "ntasks", "N", "Number of tasks"),
            arg('c', "cores-per-task", "N", "Cores of each task"),
            arg('g', "gpus-per-task", "N", "GPUs of each task"),
            arg('\0', "cores", "N", "Cores in all"),
            arg('\0', "tasks-per-node", "N", "Tasks on each node"),
            arg('\0', "tasks-per-core", "N", "Tasks on each core"),
            arg('\0', "gpus-per-node", "N", "GPUs of each node"),
            flag('v', "verbose", "Say more (multiple use OK)"),
            $($extra),*
        ]
    };
}

/// The options of commands that submit many jobs, and more.
macro_rules! many_options {
    ($($extra:expr),* $(,)?) => {
        task_options![
            arg('\0', "cc", "IDSET", "Submit a copy for each id, which replaces {cc}"),
            arg('\0', "bcc", "IDSET", "As --cc without FLUX_JOB_CC"),
            arg('\0', "log", "FILE", "Write job ids and output to a file"),
            arg('\0', "log-stderr", "FILE", "Write errors to a file"),
            arg('\0', "wait-event", "NAME", "Wait for an event of every job"),
            flag('\0', "wait", "Wait until every job has ended"),
            flag('\0', "watch", "Show the output of every job"),
            flag('\0', "progress", "Show progress on the terminal"),
            flag('\0', "jps", "Show jobs per second too"),
            $($extra),*
        ]
    };
}

/// The options of commands that start instances, and more.
macro_rules! instance_options {
    ($($extra:expr),* $(,)?) => {
        submission_options![
            arg('\0', "conf", "CONF", "Configure the new instance (multiple use OK)"),
            arg('\0', "broker-opts", "OPTS", "Options for the brokers"),
            arg('\0', "broker-opt", "OPTS", "").hidden(),
            maybe('\0', "dump", "FILE", "Archive the new instance's data when it ends"),
            arg('\0', "add-brokers", "N", "").hidden(),
            arg('n', "nslots", "N", "Number of slots"),
            arg('c', "cores-per-slot", "N", "Cores of each slot"),
            arg('g', "gpus-per-slot", "N", "GPUs of each slot"),
            arg('N', "nodes", "N", "Number of nodes"),
            flag('x', "exclusive", "With --nodes, take whole nodes"),
            $($extra),*
        ]
    };
}

pub(super) static RUN: Parser = Parser {
    name: "flux run",
    usage: "[OPTIONS...] COMMAND [ARGS...]",
    about: "run a job interactively",
    family: Family::Submit,
    opts: task_options![arg('\0', "wait-event", "NAME", "Wait for this event")],
};

pub(super) static SUBMIT: Parser = Parser {
    name: "flux submit",
    usage: "[OPTIONS...] COMMAND [ARGS...]",
    about: "enqueue a job",
    family: Family::Submit,
    opts: many_options![],
};

pub(super) static BULKSUBMIT: Parser = Parser {
    name: "flux bulksubmit",
    usage: "[OPTIONS...] COMMAND [ARGS...] [::: INPUT...]",
    about: "enqueue jobs in bulk",
    family: Family::Submit,
    opts: many_options![
        flag('\0', "shuffle", "Submit in random order"),
        arg(
            '\0',
            "sep",
            "STRING",
            "What separates inputs in files (default: new line; none: blanks)"
        ),
        arg(
            '\0',
            "define",
            "NAME=CODE",
            "Define {.NAME} as a Python expression of the input x",
        ),
    ],
};

pub(super) static BATCH: Parser = Parser {
    name: "flux batch",
    usage: "[OPTIONS...] SCRIPT [ARGS...]",
    about: "enqueue a batch script",
    family: Family::Submit,
    opts: instance_options![flag('\0', "wrap", "Make a script of the words")],
};

pub(super) static ALLOC: Parser = Parser {
    name: "flux alloc",
    usage: "[OPTIONS...] [COMMAND [ARGS...]]",
    about: "allocate a new instance for interactive use",
    family: Family::Submit,
    opts: instance_options![
        flag(
            '\0',
            "bg",
            "Wait until the instance is ready, then leave it in the background"
        ),
        flag('v', "verbose", "Say more (multiple use OK)"),
    ],
};
