//! Which processors and GPUs the tasks use.
//!
//! Processors are bound by binding the shell before it starts a task, which inherits that.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;
use topology::{Topology, TopologyError};
use types::IdSet;

use crate::fatal::Fatal;
use crate::log::Level;
use crate::shell::Shell;

/// The name in log lines.
const CPU: Option<&str> = Some("cpu-affinity");
/// And that of the other.
const GPU: Option<&str> = Some("gpu-affinity");

/// What the `cpu-affinity` option asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    On,
    PerTask,
    Map(Vec<String>),
}

fn parse(text: &str) -> (Mode, bool, bool) {
    let (mut verbose, mut dry_run) = (false, false);
    let mut rest = text;
    loop {
        let (word, more) = rest.split_once(',').unwrap_or((rest, ""));
        match word {
            "verbose" => verbose = true,
            "dry-run" => dry_run = true,
            _ => break,
        }
        rest = more;
    }
    let mode = match rest {
        "off" => Mode::Off,
        "per-task" => Mode::PerTask,
        _ => match rest.strip_prefix("map:") {
            Some(sets) => Mode::Map(sets.split(';').map(str::to_owned).collect()),
            None => Mode::On,
        },
    };
    (mode, verbose, dry_run)
}

/// A set of processors: a list, or a mask in hexadecimal with or without commas between words.
fn parse_set(text: &str) -> Option<IdSet> {
    if !text.starts_with("0x") {
        return text.parse().ok();
    }
    if text.contains(',') {
        return topology::parse_mask(text);
    }
    let mut set = IdSet::new();
    for (at, digit) in (0u32..).zip(text[2..].chars().rev()) {
        let bits = digit.to_digit(16)?;
        for bit in (0..4).filter(|bit| bits & (1 << bit) != 0) {
            set.insert(at * 4 + bit);
        }
    }
    Some(set)
}

/// The processors this process may use. Read once: shells forked after that know them.
pub(crate) fn topology() -> Result<&'static Topology, &'static TopologyError> {
    static TOPOLOGY: OnceLock<Result<Topology, TopologyError>> = OnceLock::new();
    let read = || Topology::local(true, "").map(|(topology, _)| topology);
    TOPOLOGY.get_or_init(read).as_ref()
}

fn to_cpuset(units: &IdSet) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for unit in units.iter() {
        set.set(unit as usize).ok()?;
    }
    Some(set)
}

/// How tasks are bound while they are started.
pub(crate) struct Binding {
    /// The processors of each local task; empty if all inherit the shell's.
    tasks: Vec<IdSet>,
    all: Option<IdSet>,
    verbose: bool,
    dry_run: bool,
}

fn none() -> Binding {
    Binding {
        tasks: Vec::new(),
        all: None,
        verbose: false,
        dry_run: false,
    }
}

impl Binding {
    /// Reads the option and binds the shell.
    ///
    /// Errors: a set that names no processor.
    pub(crate) fn new(shell: &Shell) -> Result<Binding, Fatal> {
        let text = match shell.job.option("cpu-affinity") {
            None => "on",
            Some(Value::String(text)) => text,
            Some(_) => {
                shell.log.write(Level::Warn, CPU, "invalid option: on");
                "on"
            }
        };
        let (mode, verbose, dry_run) = parse(text);
        if mode == Mode::Off {
            let text = "disabling affinity due to cpu-affinity=off";
            shell.log.write(Level::Debug, CPU, text);
            return Ok(none());
        }
        let node = &shell.job.nodes[shell.rank as usize];
        let allowed = sched_getaffinity(Pid::from_raw(0));
        let allowed = allowed.map_or(0, |set| {
            let is_set = |at: &usize| set.is_set(*at).unwrap_or(false);
            (0..CpuSet::count()).filter(is_set).count()
        });
        if mode == Mode::On && !verbose && !dry_run && node.cores.len() >= allowed {
            // The job has every processor the shell may use: nothing to restrict.
            return Ok(none());
        }
        let topology = match topology() {
            Ok(topology) => topology,
            Err(error) => {
                let text = format!("unable to read topology: {error}. Disabling affinity");
                shell.log.write(Level::Warn, CPU, &text);
                return Ok(none());
            }
        };
        let units = topology.units_of(&node.cores);
        if units.is_empty() || !node.cores.is_subset(&topology.core_ids()) {
            let text = format!(
                "unable to get cpuset for cores {}. Disabling affinity",
                node.cores
            );
            shell.log.write(Level::Warn, CPU, &text);
            return Ok(none());
        }
        let ntasks = node.taskids.len();
        let tasks = match &mode {
            Mode::PerTask => per_task(topology, &node.cores, ntasks),
            Mode::Map(sets) => map(sets, ntasks)?,
            Mode::On | Mode::Off => Vec::new(),
        };
        let binding = Binding {
            tasks,
            all: Some(units),
            verbose: verbose || dry_run,
            dry_run,
        };
        binding.bind_all(shell);
        Ok(binding)
    }

    fn bind_all(&self, shell: &Shell) {
        let Some(all) = &self.all else { return };
        if self.tasks.is_empty() && self.verbose {
            shell.log.write(Level::Notice, CPU, &format!("cpus: {all}"));
        }
        if !self.dry_run {
            set(shell, all);
        }
    }

    /// Binds the shell as its next task shall be.
    pub(crate) fn bind(&self, shell: &Shell, rank: u32, local: u32) -> Result<(), Fatal> {
        let Some(units) = self.tasks.get(local as usize) else {
            return Ok(());
        };
        if self.verbose {
            let text = format!("task {rank}: cpus: {units}");
            shell.log.write(Level::Notice, CPU, &text);
        }
        if !self.dry_run {
            set(shell, units);
        }
        Ok(())
    }

    /// Gives the shell all of the job's processors again.
    pub(crate) fn restore(&self) {
        if let Some(all) = &self.all
            && !self.tasks.is_empty()
            && !self.dry_run
            && let Some(set) = to_cpuset(all)
        {
            // The tasks are started; where the shell itself runs matters little.
            let _ = sched_setaffinity(Pid::from_raw(0), &set);
        }
    }
}

fn set(shell: &Shell, units: &IdSet) {
    let result = to_cpuset(units).map(|set| sched_setaffinity(Pid::from_raw(0), &set));
    if let Some(Err(errno)) = result {
        let text = format!("unable to bind to cpus {units}: {}", errno.desc());
        shell.log.write(Level::Warn, CPU, &text);
    }
}

/// Shares the cores out evenly, neighbours together; with more tasks than cores they share.
fn per_task(topology: &Topology, cores: &IdSet, ntasks: usize) -> Vec<IdSet> {
    let cores: Vec<u32> = cores.iter().collect();
    (0..ntasks)
        .map(|task| {
            let first = task * cores.len() / ntasks;
            let last = ((task + 1) * cores.len() / ntasks).max(first + 1);
            let mine: IdSet = cores[first..last.min(cores.len())]
                .iter()
                .copied()
                .collect();
            topology.units_of(&mine)
        })
        .collect()
}

fn map(sets: &[String], ntasks: usize) -> Result<Vec<IdSet>, Fatal> {
    let parse = |text: &String| {
        parse_set(text)
            .filter(|set| !set.is_empty())
            .ok_or_else(|| Fatal::new(format!("cpuset {text} contains no cores or is invalid")))
    };
    let sets: Vec<IdSet> = sets.iter().map(parse).collect::<Result<_, _>>()?;
    Ok(sets.into_iter().cycle().take(ntasks).collect())
}

/// How many slots each node has that is shared with other jobs. With fewer tasks than that on some
/// node, these get no more there.
fn slots(shell: &Shell) -> usize {
    let slots = shell.job.jobspec.slots().ok();
    let shared = slots.filter(|slots| slots.nodes.is_some() && !slots.exclusive);
    let count = shared.and_then(|slots| slots.count.fixed());
    count
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(0)
}

/// Tells a task its GPUs.
pub(crate) fn set_gpus(shell: &Shell, local: u32, env: &mut BTreeMap<String, String>) {
    let mode = match shell.job.option("gpu-affinity") {
        None => "on",
        Some(Value::String(mode)) => mode,
        Some(other) => {
            if local == 0 {
                let text = format!("Failed to get gpu-affinity shell option: {other} is no text");
                shell.log.write(Level::Warn, GPU, &text);
            }
            "on"
        }
    };
    if mode == "off" {
        return;
    }
    let node = &shell.job.nodes[shell.rank as usize];
    let list = |gpus: &IdSet| {
        let ids: Vec<String> = gpus.iter().map(|gpu| gpu.to_string()).collect();
        ids.join(",")
    };
    let visible = if node.gpus.is_empty() {
        "-1".to_owned()
    } else if mode == "per-task" {
        let each = node.gpus.len() / slots(shell).max(node.taskids.len()).max(1);
        let gpus: IdSet = node
            .gpus
            .iter()
            .skip(each * local as usize)
            .take(each)
            .collect();
        list(&gpus)
    } else if let Some(sets) = mode.strip_prefix("map:") {
        let sets: Vec<&str> = sets.split(';').collect();
        let text = sets[local as usize % sets.len()];
        parse_set(text).map_or_else(|| list(&node.gpus), |gpus| list(&gpus))
    } else {
        list(&node.gpus)
    };
    env.insert("CUDA_VISIBLE_DEVICES".into(), visible);
    env.entry("CUDA_DEVICE_ORDER".into())
        .or_insert_with(|| "PCI_BUS_ID".into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_sets_are_read() {
        assert_eq!(
            parse("verbose,dry-run,per-task"),
            (Mode::PerTask, true, true)
        );
        assert_eq!(parse("off"), (Mode::Off, false, false));
        assert_eq!(parse("whatever"), (Mode::On, false, false));
        let map = Mode::Map(vec!["0-1".into(), "0x4".into()]);
        assert_eq!(parse("map:0-1;0x4"), (map, false, false));
        let set = |text| parse_set(text).map(|set| set.to_string());
        assert_eq!(set("0-3,7").as_deref(), Some("0-3,7"));
        assert_eq!(set("0x11").as_deref(), Some("0,4"));
        assert_eq!(set("0x1,0x00000001").as_deref(), Some("0,32"));
        assert_eq!(set("0xg"), None);
    }
}
