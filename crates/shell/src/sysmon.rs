//! The `sysmon` option: what a job uses of this host, as its control group tells.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;
use types::fsd;

use crate::fatal::Fatal;
use crate::job::Job;
use crate::log::{Level, Log};

const COMPONENT: &str = "sysmon";
const OPTION: &str = "sysmon";
/// The event whose pulse is followed if no period is given.
pub(crate) const HEARTBEAT: &str = "heartbeat.pulse";

/// The usage of a control group from some time on.
pub(crate) struct Sysmon {
    cgroup: PathBuf,
    log: Rc<Log>,
    memory: bool,
    /// The processor time when it began, if the kernel counts it.
    begin: Option<Usage>,
    last: Cell<Option<Usage>>,
    /// How often usage is told; with the heartbeat if `None`.
    pub(crate) period: Option<Duration>,
}

/// Processor time that was used, and when.
#[derive(Clone, Copy, Debug)]
struct Usage {
    at: Instant,
    microseconds: u64,
}

impl Usage {
    /// Processors that were busy on average since `earlier`.
    fn load_since(&self, earlier: &Usage) -> f64 {
        let wall = self.at.duration_since(earlier.at).as_secs_f64();
        let used = self.microseconds.saturating_sub(earlier.microseconds);
        if wall > 0.0 {
            used as f64 / 1e6 / wall
        } else {
            0.0
        }
    }
}

/// The processor time a group's `cpu.stat` tells of, in microseconds.
fn usage_usec(text: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix("usage_usec ")?.trim().parse().ok();
    text.lines().find_map(value)
}

/// Bytes for people.
fn size_text(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["", "K", "M", "G", "T", "P"].iter().peekable();
    while value >= 1024.0 && units.len() > 1 {
        value /= 1024.0;
        units.next();
    }
    let unit = units.next().unwrap_or(&"");
    format!("{}{unit}", fsd::format_g(value, 7))
}

/// The period a job asks for.
fn period(option: &Value) -> Result<Option<Duration>, Fatal> {
    let Value::Object(settings) = option else {
        return Ok(None);
    };
    if let Some(key) = settings.keys().find(|key| *key != "period") {
        return Err(Fatal::new(format!(
            "sysmon: option parse error: unknown key {key}"
        )));
    }
    let invalid = || Fatal::new("sysmon: sysmon.period is not a valid FSD");
    let seconds = match settings.get("period") {
        None => return Ok(None),
        Some(Value::String(text)) => fsd::parse(text).map_err(|_| invalid())?,
        Some(value) => value.as_f64().ok_or_else(invalid)?,
    };
    let period = Duration::try_from_secs_f64(seconds).map_err(|_| invalid())?;
    Ok((!period.is_zero()).then_some(period))
}

impl Sysmon {
    /// Begins to watch, if the job asks for it. Errors: options that make no sense.
    pub(crate) fn new(job: &Job, log: &Rc<Log>) -> Result<Option<Rc<Sysmon>>, Fatal> {
        let Some(option) = job.option(OPTION) else {
            return Ok(None);
        };
        let period = period(option)?;
        let warn = |text: &str| log.write(Level::Warn, Some(COMPONENT), text);
        let cgroup = match topology::cgroup::own() {
            Ok(cgroup) => cgroup,
            Err(error) => {
                warn(&format!(
                    "incompatible cgroup configuration (disabled): {error}"
                ));
                return Ok(None);
            }
        };
        let mut sysmon = Sysmon {
            memory: ["memory.peak", "memory.current"]
                .iter()
                .all(|name| cgroup.join(name).exists()),
            cgroup,
            log: log.clone(),
            begin: None,
            last: Cell::new(None),
            period,
        };
        sysmon.begin = sysmon.usage();
        sysmon.last.set(sysmon.begin);
        if !sysmon.memory {
            warn("no memory.peak/memory.current (disabled)");
        }
        if sysmon.begin.is_none() {
            warn("no cpu.stat (disabled)");
        }
        log.write(Level::Debug, Some(COMPONENT), "sysmon is enabled");
        Ok(Some(Rc::new(sysmon)))
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.cgroup.join(name)).ok()
    }

    fn usage(&self) -> Option<Usage> {
        Some(Usage {
            at: Instant::now(),
            microseconds: usage_usec(&self.read("cpu.stat")?)?,
        })
    }

    fn tell_memory(&self, level: Level, name: &str) {
        let bytes = self.memory.then(|| self.read(name)).flatten();
        if let Some(bytes) = bytes.and_then(|text| text.trim().parse().ok()) {
            self.tell(level, &format!("{name}={}", size_text(bytes)));
        }
    }

    fn tell(&self, level: Level, text: &str) {
        self.log.write(level, Some(COMPONENT), text);
    }

    /// Tells what is used now.
    pub(crate) fn sample(&self) {
        self.tell_memory(Level::Trace, "memory.current");
        let Some(usage) = self.usage() else { return };
        if let Some(last) = self.last.replace(Some(usage)) {
            self.tell(
                Level::Trace,
                &format!("loadavg={:.2}", usage.load_since(&last)),
            );
        }
    }

    /// Tells what was used in all.
    pub(crate) fn summary(&self) {
        self.tell_memory(Level::Notice, "memory.peak");
        if let (Some(begin), Some(usage)) = (self.begin, self.usage()) {
            let load = usage.load_since(&begin);
            self.tell(Level::Notice, &format!("loadavg-overall={load:.2}"));
        }
    }

    /// Samples once a period, for ever.
    pub(crate) async fn watch(self: Rc<Self>, period: Duration) {
        let mut ticks = tokio::time::interval(period);
        // The first tick comes at once.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.sample();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn load_is_processor_time_by_time() {
        let text = "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n";
        let at = Instant::now();
        let begin = Usage {
            at,
            microseconds: 500_000,
        };
        let end = Usage {
            at: at + Duration::from_secs(4),
            microseconds: usage_usec(text).unwrap(),
        };
        assert!((end.load_since(&begin) - 0.5).abs() < 1e-9);
        assert!(begin.load_since(&begin).abs() < 1e-9, "no time has passed");
        assert_eq!(usage_usec("nr_periods 3\n"), None);
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size_text(0), "0");
        assert_eq!(size_text(1023), "1023");
        assert_eq!(size_text(1536), "1.5K");
        assert_eq!(size_text(3 << 30), "3G");
        assert_eq!(size_text(u64::MAX), "16384P");
    }

    #[test]
    fn options_are_checked() {
        let seconds = |value: Value| period(&value).map(|period| period.map(|p| p.as_secs_f64()));
        assert_eq!(seconds(json!(1)), Ok(None));
        assert_eq!(seconds(json!({"period": "100ms"})), Ok(Some(0.1)));
        assert_eq!(seconds(json!({"period": 30})), Ok(Some(30.0)));
        let text = |value: Value| seconds(value).unwrap_err().message;
        let invalid = "sysmon: sysmon.period is not a valid FSD";
        assert_eq!(text(json!({"period": "x"})), invalid);
        assert_eq!(text(json!({"period": -1})), invalid);
        assert_eq!(text(json!({"period": []})), invalid);
        let unknown = "sysmon: option parse error: unknown key badopt";
        assert_eq!(text(json!({"badopt": 1})), unknown);
    }
}
