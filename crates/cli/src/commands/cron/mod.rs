//! `flux cron`: commands that run by time, by event or by the calendar.
//!
//! [`create`] makes entries, [`manage`] looks after them.

mod create;
mod manage;

use super::Sub;
use crate::driver::Invocation;
use crate::err;

static SUBS: &[Sub] = &[
    ("help", "Display this help or help for a command", help),
    ("interval", "Run a command every so often", create::interval),
    ("event", "Run a command with events", create::event),
    ("tab", "Run commands as crontab(5) lines say", create::tab),
    ("at", "Run a command once at a date and time", create::at),
    ("dump", "Show all of an entry", manage::dump),
    ("list", "List entries", manage::list),
    ("delete", "Remove entries", manage::delete),
    ("stop", "Stop entries", manage::stop),
    ("start", "Start stopped entries", manage::start),
    (
        "sync",
        "Show and change the event that commands wait for",
        manage::sync,
    ),
];

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    match words.first().map(String::as_str) {
        None => {
            show_help();
            err!("flux-cron: required COMMAND missing");
            1
        }
        Some("-h" | "--help") => show_help(),
        Some(word) => match find(word) {
            Some(run) => run(&words[1..]),
            None => {
                err!("flux-cron: Unknown COMMAND `{word}'");
                1
            }
        },
    }
}

fn find(name: &str) -> Option<fn(&[String]) -> i32> {
    let found = SUBS.iter().find(|(sub, ..)| *sub == name)?;
    Some(found.2)
}

fn show_help() -> i32 {
    let mut text = "Usage: flux-cron [OPTIONS] COMMAND [OPTIONS...]\n\
                    Run commands by time, by event or by the calendar\n\
                    Options:\n  -h, --help             Display this message.\n\
                    Supported commands:\n"
        .to_owned();
    for (sub, about, _) in SUBS {
        text.push_str(&format!(" {sub:<12} {about}\n"));
    }
    crate::output::error_bytes(text.as_bytes());
    0
}

fn help(words: &[String]) -> i32 {
    match words.first() {
        None => show_help(),
        Some(word) => match find(word) {
            Some(run) if word != "help" => run(&["--help".to_owned()]),
            Some(_) => show_help(),
            None => {
                err!("flux-cron help: Unknown command {word}");
                1
            }
        },
    }
}
