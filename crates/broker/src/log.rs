//! The broker's log: a ring of RFC 5424 records, and where else they go.
//!
//! A rank's ring holds only its own records. Records at or below `log-forward-level` also travel
//! up the tree; the leader prints what reaches it at or below `log-stderr-level`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::rc::Rc;

use bytes::Bytes;
use jiff::{Timestamp, Zoned};
use module::Severity;
use proto::Raw;
use proto::log::{LogDmesg, Record};
use rpc::{Request, RpcError};
use types::{Errno, Rank};
use wire::Message;

/// The settings of the `log-` attributes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) ring_size: usize,
    pub(crate) level: i32,
    pub(crate) forward_level: i32,
    pub(crate) critical_level: i32,
    pub(crate) stderr_level: i32,
    pub(crate) stderr_local: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            ring_size: 1024,
            level: 7,
            forward_level: 3,
            critical_level: 2,
            stderr_level: 3,
            stderr_local: false,
        }
    }
}

/// Parses a level: any number up to 7, negative ones meaning nothing at all.
pub(crate) fn parse_level(text: &str) -> Option<i32> {
    text.parse().ok().filter(|level| *level <= 7)
}

/// One follower of the whole log on the way down, with the highest severity number it wants.
pub(crate) type Tap = Box<dyn Fn(&str)>;

/// Sends a record towards the leader.
pub(crate) type Forward = Rc<dyn Fn(Bytes)>;

/// The log of one broker.
pub(crate) struct Log {
    rank: Cell<Option<Rank>>,
    hostname: RefCell<String>,
    settings: RefCell<Settings>,
    ring: RefCell<VecDeque<Bytes>>,
    followers: RefCell<Vec<Request<LogDmesg>>>,
    taps: RefCell<Vec<(i32, Tap)>>,
    file: RefCell<Option<File>>,
    forward: RefCell<Option<Forward>>,
    count: Cell<u64>,
    local: Cell<u64>,
    remote: Cell<u64>,
}

impl Log {
    pub(crate) fn new() -> Log {
        Log {
            rank: Cell::new(None),
            hostname: RefCell::new("-".into()),
            settings: RefCell::default(),
            ring: RefCell::default(),
            followers: RefCell::default(),
            taps: RefCell::default(),
            file: RefCell::default(),
            forward: RefCell::default(),
            count: Cell::new(0),
            local: Cell::new(0),
            remote: Cell::new(0),
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    pub(crate) fn set_settings(&self, settings: Settings) {
        *self.settings.borrow_mut() = settings;
        self.trim();
    }

    /// What stands for this host until the rank is known.
    pub(crate) fn set_hostname(&self, hostname: &str) {
        *self.hostname.borrow_mut() = hostname.to_owned();
    }

    /// Makes the rank known, and the way to the parent.
    pub(crate) fn set_rank(&self, rank: Rank, forward: Option<Forward>) {
        self.rank.set(Some(rank));
        *self.forward.borrow_mut() = forward;
    }

    /// Sends everything that reaches the leader to a file as well.
    pub(crate) fn set_file(&self, path: &str) -> std::io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        *self.file.borrow_mut() = Some(file);
        Ok(())
    }

    /// Adds a record of this broker's own, one for each line of the text.
    pub(crate) fn add(&self, severity: Severity, appname: &str, text: &str) {
        let host = match self.rank.get() {
            Some(rank) => rank.to_string(),
            None => self.hostname.borrow().clone(),
        };
        let now = Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
            .to_string();
        let process = std::process::id().to_string();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let record = Record {
                severity,
                timestamp: &now,
                host: &host,
                appname,
                process: &process,
                text: line,
            };
            self.append(record.to_string().into());
        }
    }

    /// Takes a record, own or from below. What is no record is dropped: there is nobody to tell.
    pub(crate) fn append(&self, record: Bytes) {
        let Ok(text) = std::str::from_utf8(&record) else {
            return;
        };
        let text = text.trim_end_matches('\0');
        let Some(parsed) = Record::parse(text) else {
            return;
        };
        let settings = self.settings.borrow().clone();
        let level = parsed.severity as i32;
        let own = self.is_own(parsed.host);
        if own {
            self.local.set(self.local.get() + 1);
            if level <= settings.level {
                self.keep(text);
            }
        } else {
            self.remote.set(self.remote.get() + 1);
        }
        self.tell_taps(&parsed);
        let forward = self.forward.borrow().clone();
        match forward {
            Some(forward) => {
                if level <= settings.forward_level {
                    forward(record.slice_ref(text.as_bytes()));
                }
            }
            None => self.write_file(&parsed),
        }
        self.print(&parsed, own, &settings);
    }

    fn is_own(&self, host: &str) -> bool {
        match self.rank.get() {
            Some(rank) => host.parse() == Ok(rank.0) || host == *self.hostname.borrow(),
            None => host == *self.hostname.borrow(),
        }
    }

    /// Readers take records as text, so they are kept with the NUL of text payloads.
    fn keep(&self, text: &str) {
        let mut record = Vec::with_capacity(text.len() + 1);
        record.extend_from_slice(text.as_bytes());
        record.push(0);
        let record = Bytes::from(record);
        self.count.set(self.count.get() + 1);
        for follower in self.followers.borrow().iter() {
            follower.reply(&Raw(record.clone()));
        }
        self.ring.borrow_mut().push_back(record);
        self.trim();
    }

    fn trim(&self) {
        let size = self.settings.borrow().ring_size;
        let mut ring = self.ring.borrow_mut();
        while ring.len() > size {
            ring.pop_front();
        }
    }

    fn tell_taps(&self, record: &Record<'_>) {
        for (level, tap) in self.taps.borrow().iter() {
            if record.severity as i32 <= *level {
                tap(&format!("{}\n", record.line()));
            }
        }
    }

    fn write_file(&self, record: &Record<'_>) {
        let mut slot = self.file.borrow_mut();
        let Some(file) = slot.as_mut() else { return };
        let line = format!("{} {}\n", record.timestamp, record.line());
        if let Err(error) = file.write_all(line.as_bytes()) {
            // Logging the failure would come back here; say it once where a person may see it.
            types::complain!("flux-broker: log-filename: {error}");
            *slot = None;
        }
    }

    fn print(&self, record: &Record<'_>, own: bool, settings: &Settings) {
        let level = record.severity as i32;
        let leader = self.rank.get().is_none_or(|rank| rank == Rank::LEADER);
        let shown = if settings.stderr_local {
            own && level <= settings.stderr_level
        } else {
            leader && level <= settings.stderr_level
        };
        let critical = own && level <= settings.critical_level;
        if !shown && !critical {
            return;
        }
        if settings.stderr_local {
            types::complain!("<{level}>{}", record.line());
        } else {
            let time = record
                .timestamp
                .parse::<Timestamp>()
                .ok()
                .map_or_else(Zoned::now, |time| {
                    time.to_zoned(jiff::tz::TimeZone::system())
                });
            types::complain!(
                "{} {}",
                time.strftime("%b %d %H:%M:%S.%6f %Z %Y"),
                record.line()
            );
        }
    }

    /// Serves `log.dmesg`.
    pub(crate) fn on_dmesg(&self, request: Request<LogDmesg>, follow: bool, backlog: bool) {
        if !request.is_streaming() {
            return request.fail(Errno::EPROTO);
        }
        if backlog {
            for record in self.ring.borrow().iter() {
                request.reply(&Raw(record.clone()));
            }
        }
        if follow {
            self.followers.borrow_mut().push(request);
        } else {
            request.end();
        }
    }

    /// Ends the streams of a client that went away or cancelled one.
    pub(crate) fn on_cancel(&self, cancel: &Message, matchtag: Option<u32>) {
        self.followers.borrow_mut().retain(|follower| {
            let cancelled = match matchtag {
                Some(matchtag) => follower.is_cancelled_by(cancel, matchtag),
                None => follower.is_from_sender_of(cancel),
            };
            if cancelled && matchtag.is_some() {
                follower.end();
            }
            !cancelled
        });
    }

    /// Ends every stream: the broker is about to go.
    pub(crate) fn end_followers(&self) {
        for follower in self.followers.take() {
            follower.end();
        }
        self.taps.take();
    }

    pub(crate) fn clear(&self) {
        self.ring.borrow_mut().clear();
    }

    /// Calls `tap` with each line at or below `level` from now on.
    pub(crate) fn tap(&self, level: i32, tap: Tap) {
        self.taps.borrow_mut().push((level, tap));
    }

    /// Counters for `log.stats-get`.
    pub(crate) fn stats(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut stats = serde_json::Map::new();
        stats.insert("ring-used".into(), self.ring.borrow().len().into());
        stats.insert("count".into(), self.count.get().into());
        stats.insert("local".into(), self.local.get().into());
        stats.insert("remote".into(), self.remote.get().into());
        stats
    }

    /// Changes the setting behind a `log-` attribute. Errors: `EINVAL`, `ENOENT`.
    pub(crate) fn set_attr(&self, name: &str, value: &str) -> Result<(), RpcError> {
        let mut settings = self.settings();
        let level = || parse_level(value).ok_or(RpcError::new(Errno::EINVAL, "invalid level"));
        match name {
            "log-level" => settings.level = level()?,
            "log-forward-level" => settings.forward_level = level()?,
            "log-critical-level" => settings.critical_level = level()?,
            "log-stderr-level" => settings.stderr_level = level()?,
            "log-stderr-mode" => {
                settings.stderr_local = match value {
                    "local" => true,
                    "leader" => false,
                    _ => return Err(RpcError::new(Errno::EINVAL, "invalid mode")),
                }
            }
            "log-ring-size" => {
                settings.ring_size = value
                    .parse()
                    .map_err(|_| RpcError::new(Errno::EINVAL, "invalid value"))?;
            }
            "log-syslog-enable" if value != "0" => {
                return Err(RpcError::new(
                    Errno::ENOSYS,
                    "logging to syslog is not built yet",
                ));
            }
            "log-syslog-enable" | "log-syslog-level" => {}
            "log-filename" => self.set_file(value).map_err(|error| {
                RpcError::new(Errno::from_io(&error), format!("{value}: {error}"))
            })?,
            _ => return Err(RpcError::new(Errno::ENOENT, "unknown log attribute")),
        }
        self.set_settings(settings);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_records_stay_in_a_bounded_ring() {
        let log = Log::new();
        log.set_rank(Rank(0), None);
        log.set_settings(Settings {
            ring_size: 2,
            stderr_level: -1,
            ..Settings::default()
        });
        log.add(Severity::Info, "test", "one\ntwo\n\nthree");
        log.append("<48>1 2026-01-01T00:00:00.000000Z 7 other - - - elsewhere".into());
        log.append("no record at all".into());
        let lines: Vec<_> = log
            .ring
            .borrow()
            .iter()
            .map(|record| {
                let text = std::str::from_utf8(record)
                    .expect("own text")
                    .trim_end_matches('\0');
                Record::parse(text).expect("own record").line()
            })
            .collect();
        assert_eq!(lines, ["test.info[0]: two", "test.info[0]: three"]);
        assert_eq!(
            (log.local.get(), log.remote.get(), log.count.get()),
            (3, 1, 3)
        );
    }

    #[test]
    fn levels_end_at_seven() {
        assert_eq!(parse_level("7"), Some(7));
        assert_eq!(parse_level("-1"), Some(-1));
        assert_eq!(parse_level("8"), None);
        assert_eq!(parse_level("x"), None);
    }
}
