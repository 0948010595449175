//! `flux dmesg` and `flux logger`.

use std::io::BufRead;

use proto::log::{Dmesg, LogAppend, LogClear, LogDmesg, Record, Severity};
use proto::{Empty, Raw};
use rpc::Dest;

use crate::color::{self, paint};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg, flag, maybe};
use crate::timefmt::{self, Human};
use crate::{err, outln, output};

/// Severities by number (RFC 5424).
const SEVERITIES: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
];

static DMESG: Parser = Parser {
    name: "flux dmesg",
    usage: "[OPTIONS...]",
    about: "Print or clear the broker ring buffer",
    family: Family::G,
    opts: &[
        flag('C', "clear", "Clear the ring buffer"),
        flag('c', "read-clear", "Clear the ring buffer after printing it"),
        flag('f', "follow", "Go on with new records"),
        flag('n', "new", "Leave out old records"),
        flag('H', "human", "Show times for people"),
        flag(
            'd',
            "delta",
            "With --human, show the time since the line before",
        ),
        maybe('L', "color", "WHEN", "Use colour: never, always or auto"),
    ],
};

struct Printer {
    human: Option<Human>,
    color: bool,
}

impl Printer {
    fn print(&mut self, line: &str) {
        let Some(record) = Record::parse(line) else {
            return outln!("{line}");
        };
        let seconds = record
            .timestamp
            .parse::<jiff::Timestamp>()
            .map(|time| time.as_microsecond() as f64 / 1e6);
        let (time, fresh) = match (&mut self.human, seconds) {
            (Some(human), Ok(seconds)) => human.next(seconds),
            (None, Ok(seconds)) => (timefmt::iso(seconds), false),
            (_, Err(_)) => (record.timestamp.to_owned(), false),
        };
        let green = if fresh {
            color::BOLD_GREEN
        } else {
            color::GREEN
        };
        let name = format!("{}.{}[{}]", record.appname, record.severity, record.host);
        let text_color = match record.severity as usize {
            0 | 1 => color::REVERSE_RED,
            2 => color::BOLD_RED,
            3 => color::RED,
            4 => color::BOLD,
            7 => color::BLUE,
            _ => "",
        };
        outln!(
            "{} {}: {}",
            paint(self.color, green, &time),
            paint(self.color, color::YELLOW, &name),
            paint(
                self.color && !text_color.is_empty(),
                text_color,
                record.text
            )
        );
    }
}

pub(crate) fn dmesg(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match DMESG.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        err!("flux-dmesg: flux-dmesg accepts no free arguments");
        return 1;
    }
    if args.has("delta") && !args.has("human") {
        err!("flux-dmesg: --delta can only be used with --human");
        return 1;
    }
    let color = match color::wanted_g(&args) {
        Ok(color) => color,
        Err(status) => return status,
    };
    fail::run("flux-dmesg", async {
        let client = fail::connect_builtin().await?;
        let handle = client.handle();
        if !args.has("clear") {
            let request = Dmesg {
                follow: args.has("follow"),
                nobacklog: args.has("new"),
            };
            let mut printer = Printer {
                human: args.has("human").then(|| Human::new(args.has("delta"))),
                color,
            };
            let mut records = handle.stream::<LogDmesg>(Dest::Any, &request);
            while let Some(Raw(record)) = records
                .next()
                .await
                .map_err(|error| Fail::of("log.dmesg", error))?
            {
                printer.print(String::from_utf8_lossy(&record).trim_end_matches(['\0', '\n']));
                if request.follow {
                    output::flush();
                }
            }
        }
        if args.has("clear") || args.has("read-clear") {
            let call = handle.call::<LogClear>(Dest::Any, &Empty {});
            call.await.map_err(|error| Fail::of("log.clear", error))?;
        }
        Ok(0)
    })
}

static LOGGER: Parser = Parser {
    name: "flux-logger",
    usage: "[--severity LEVEL] [--appname NAME] message ...",
    about: "",
    family: Family::G,
    opts: &[
        flag('h', "help", ""),
        arg('s', "severity", "LEVEL", "Severity of the message"),
        arg('n', "appname", "NAME", "Who says it"),
    ],
};

pub(crate) fn logger(_: &Invocation<'_>, words: &[String]) -> i32 {
    let usage = || {
        err!("Usage: {} {}", LOGGER.name, LOGGER.usage);
        1
    };
    if words.iter().any(|word| word == "-h" || word == "--help") {
        return usage();
    }
    let Ok(args) = LOGGER.parse(words) else {
        return usage();
    };
    let severity = args.get("severity").unwrap_or("notice");
    let Ok(severity) = severity.parse::<Severity>() else {
        err!(
            "flux-logger: invalid severity: Use {}",
            SEVERITIES.join("|")
        );
        return 1;
    };
    let app = args.get("appname").unwrap_or("logger");
    fail::run("flux-logger", async {
        let client = fail::connect().await?;
        let rank = client.rank().await?;
        let rank = rank.to_string();
        let process = std::process::id().to_string();
        let append = |text: &str| {
            for line in text.split('\n').filter(|line| !line.is_empty()) {
                let now = format!("{:.6}", jiff::Timestamp::now());
                let record = Record {
                    severity,
                    timestamp: &now,
                    host: &rank,
                    appname: app,
                    process: &process,
                    text: line,
                };
                let request = Raw(record.to_string().into());
                client.handle().notify::<LogAppend>(Dest::Any, &request);
            }
        };
        if args.words.is_empty() {
            for line in std::io::stdin().lock().lines() {
                append(&line.map_err(|error| Fail::of("stdin", error))?);
            }
        } else {
            append(&args.words.join(" "));
        }
        client.flush().await;
        // The record has arrived once a later request is answered.
        client.attr("rank").await?;
        Ok(0)
    })
}
