//! The figures, one row each.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::instance::Instance;
use crate::{archive, probe};

/// What a figure counts.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Seconds,
    PerSecond,
    Megabytes,
    MegabytesPerSecond,
}

/// A figure that can be taken again and again.
pub(crate) trait Bench {
    /// Takes it once. Errors: what went wrong.
    fn run(&mut self) -> Result<f64, String>;
}

impl<F: FnMut() -> Result<f64, String>> Bench for F {
    fn run(&mut self) -> Result<f64, String> {
        self()
    }
}

pub(crate) type Prepared = Result<Box<dyn Bench>, String>;

/// A figure and how it is taken.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    /// Long ones are not taken as often.
    pub(crate) runs_max: usize,
    pub(crate) prepare: fn(&Path) -> Prepared,
}

const fn row(name: &'static str, unit: Unit, prepare: fn(&Path) -> Prepared) -> Row {
    Row {
        name,
        unit,
        runs_max: usize::MAX,
        prepare,
    }
}

const fn long(name: &'static str, unit: Unit, prepare: fn(&Path) -> Prepared) -> Row {
    Row {
        name,
        unit,
        runs_max: 3,
        prepare,
    }
}

/// Every figure, in the order it is printed.
pub(crate) const ROWS: &[Row] = &[
    row("flux start true", Unit::Seconds, |flux| {
        cold(flux, &["start", "true"])
    }),
    long("flux start --test-size=16 true", Unit::Seconds, |flux| {
        cold(flux, &["start", "--test-size=16", "true"])
    }),
    row("flux run true", Unit::Seconds, |flux| {
        warm(flux, 1, &["run", "true"])
    }),
    row("flux submit true", Unit::Seconds, |flux| {
        warm(flux, 1, &["submit", "true"])
    }),
    row("flux jobs -a", Unit::Seconds, |flux| {
        warm(flux, 1, &["jobs", "-a"])
    }),
    row("flux resource list", Unit::Seconds, |flux| {
        warm(flux, 1, &["resource", "list"])
    }),
    row("flux kvs get resource.R", Unit::Seconds, |flux| {
        warm(flux, 1, &["kvs", "get", "resource.R"])
    }),
    row("flux uptime", Unit::Seconds, |flux| {
        warm(flux, 1, &["uptime"])
    }),
    row("flux exec -r all true, 16 brokers", Unit::Seconds, |flux| {
        warm(flux, 16, &["exec", "-r", "all", "true"])
    }),
    long(
        "flux submit --cc=1-512 --wait --quiet true",
        Unit::PerSecond,
        |flux| {
            jobs(
                flux,
                512,
                &["submit", "--cc=1-512", "--wait", "--quiet", "true"],
            )
        },
    ),
    long("the same, mock execution, 4096", Unit::PerSecond, |flux| {
        let words = [
            "submit",
            "--cc=1-4096",
            "--wait",
            "--quiet",
            "--setattr=exec.test.run_duration=0.001s",
            "true",
        ];
        jobs(flux, 4096, &words)
    }),
    long("flux run seq 1 100000", Unit::Seconds, |flux| {
        warm(flux, 1, &["run", "seq", "1", "100000"])
    }),
    row("round trip client, module, client", Unit::Seconds, |flux| {
        probed(flux, probe::round_trip)
    }),
    long("kvs commits, one client", Unit::PerSecond, |flux| {
        probed(flux, probe::kvs_puts)
    }),
    long("kvs lookups, one client", Unit::PerSecond, |flux| {
        probed(flux, probe::kvs_lookups)
    }),
    long("kvs keys, 64 committers", Unit::PerSecond, |flux| {
        probed(flux, probe::kvs_concurrent)
    }),
    long(
        "archive create, 1 GiB",
        Unit::MegabytesPerSecond,
        archive::creation,
    ),
    long(
        "archive extract, 1 GiB",
        Unit::MegabytesPerSecond,
        archive::extraction,
    ),
    long(
        "archive extract, 256 MiB, 16 brokers",
        Unit::Seconds,
        archive::distribution,
    ),
    long("kvs look-up among 1 M keys", Unit::Seconds, |flux| {
        let instance = Instance::start(flux, 1)?;
        probe::kvs_fill(&instance.uri)?;
        Ok(Box::new(move || probe::kvs_scattered(&instance.uri)))
    }),
    long("rank 0 memory with 1 M keys", Unit::Megabytes, |flux| {
        let flux = flux.to_owned();
        Ok(Box::new(move || {
            let instance = Instance::start(&flux, 1)?;
            probe::kvs_fill(&instance.uri)?;
            resident(&instance)
        }))
    }),
    long("start with 10 k inactive jobs", Unit::Seconds, |flux| {
        restart(flux, 10_000)
    }),
    // Most of a minute goes by before it is taken: its first start reads every eventlog.
    long("start with 100 k inactive jobs", Unit::Seconds, |flux| {
        restart(flux, 100_000)
    }),
    long("rank 0 memory after 512 jobs", Unit::Megabytes, memory),
];

/// A whole program without an instance to begin with.
fn cold(flux: &Path, words: &'static [&'static str]) -> Prepared {
    let flux = flux.to_owned();
    Ok(Box::new(move || {
        let started = Instant::now();
        let status = Command::new(&flux)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(|error| error.to_string())?;
        let elapsed = started.elapsed().as_secs_f64();
        if status.success() {
            Ok(elapsed)
        } else {
            Err(format!("{}: {status}", words.join(" ")))
        }
    }))
}

/// A command in an instance that has run it before.
fn warm(flux: &Path, size: u32, words: &'static [&'static str]) -> Prepared {
    let instance = Instance::start(flux, size)?;
    instance.flux(&["run", "true"])?;
    instance.flux(words)?;
    Ok(Box::new(move || {
        let started = Instant::now();
        instance.flux(words)?;
        Ok(started.elapsed().as_secs_f64())
    }))
}

/// Jobs a second of one command.
fn jobs(flux: &Path, count: u32, words: &[&'static str]) -> Prepared {
    let instance = Instance::start(flux, 1)?;
    instance.flux(&["run", "true"])?;
    let words = words.to_vec();
    Ok(Box::new(move || {
        let started = Instant::now();
        instance.flux(&words)?;
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    }))
}

fn probed(flux: &Path, probe: fn(&str) -> Result<f64, String>) -> Prepared {
    let instance = Instance::start(flux, 1)?;
    Ok(Box::new(move || probe(&instance.uri)))
}

/// The resident memory of the leader after jobs.
fn memory(flux: &Path) -> Prepared {
    let flux = flux.to_owned();
    Ok(Box::new(move || {
        let instance = Instance::start(&flux, 1)?;
        instance.flux(&["submit", "--cc=1-512", "--wait", "--quiet", "true"])?;
        resident(&instance)
    }))
}

/// The megabytes its leader has now.
fn resident(instance: &Instance) -> Result<f64, String> {
    let pid = instance.flux(&["getattr", "broker.pid"])?;
    let pid = String::from_utf8_lossy(&pid.stdout).trim().to_owned();
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
        .map(|kilobytes| kilobytes / 1024.0)
        .ok_or_else(|| format!("{path}: no VmRSS"))
}

/// A directory that goes away.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("bench: {}: {error}", self.0.display());
        }
    }
}

/// An instance on a state directory with the jobs of earlier ones, until it lists them.
fn restart(flux: &Path, count: u64) -> Prepared {
    let name = format!("bench-{count}-{}", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(name));
    std::fs::create_dir(&scratch.0).map_err(|error| error.to_string())?;
    let filled = Instance::start_on(flux, &scratch.0)?;
    probe::jobs_fill(&filled.uri, count)?;
    drop(filled);
    let flux = flux.to_owned();
    let start = move |words: &[&str]| {
        // That there are more jobs than are shown is no news.
        let output = Command::new(&flux)
            .arg("start")
            .arg(format!("-Sstatedir={}", scratch.0.display()))
            .arg(&flux)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {}: {said}", words.join(" "), output.status))
    };
    start(&["jobs", "-a", "-c", "1"])?;
    Ok(Box::new(move || {
        let started = Instant::now();
        start(&["jobs", "-a", "-c", "1"])?;
        Ok(started.elapsed().as_secs_f64())
    }))
}
