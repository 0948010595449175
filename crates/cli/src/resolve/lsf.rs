//! Instances that run as jobs of LSF, found with IBM's Cluster System Manager.

use std::process::Command;

use types::{Errno, Hostlist};

use super::{is_broker, of_process, output_of};
use crate::fail::Fail;

/// The URI of the instance that is the LSF job `jobid`. A node of the job is asked, through ssh.
pub(super) fn uri(jobid: &str) -> Result<String, Fail> {
    let jobid = check(jobid)?;
    let node = first_node(jobid)?;
    let setting = |name| std::env::var_os(name);
    let ssh = setting("FLUX_SSH").unwrap_or_else(|| "ssh".into());
    let flux = match setting("FLUX_SSH_RCMD") {
        Some(flux) => flux,
        None => std::env::current_exe()
            .map_err(|error| Fail::of("flux", Errno::from_io(&error)))?
            .into_os_string(),
    };
    let mut command = Command::new(ssh);
    command
        .arg(&node)
        .arg(flux)
        .args(["uri", "--remote", &format!("lsf:{jobid}?is_compute")]);
    let output = output_of(&mut command)
        .map_err(|why| Fail::new(format!("Unable to resolve LSF job {jobid}: {why}")))?;
    let uri = output.lines().last().unwrap_or_default().trim();
    if uri.is_empty() {
        let text = format!("LSF Job {jobid} doesn't seem to have a FLUX_URI");
        return Err(Fail::new(text));
    }
    Ok(uri.to_owned())
}

/// The same on a node of the job: one of this user's brokers here has the job in its environment.
pub(super) fn uri_here(jobid: &str) -> Result<String, Fail> {
    let jobid = check(jobid)?;
    let mark = format!("LSB_JOBID={jobid}");
    let listing = std::fs::read_dir("/proc")
        .map_err(|error| Fail::of("/proc", Errno::from_io(&error)))?
        .flatten();
    let mut pids: Vec<u32> = listing
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // The first broker of a job is its oldest.
    pids.sort_unstable();
    let read = |pid: u32, name: &str| std::fs::read(format!("/proc/{pid}/{name}"));
    // Processes that end meanwhile, and those of others, are none of the job's.
    let is_of_job = |pid: &u32| {
        read(*pid, "cmdline").is_ok_and(|words| is_broker(&words))
            && read(*pid, "environ").is_ok_and(|all| has(&all, mark.as_bytes()))
    };
    pids.into_iter()
        .filter(is_of_job)
        .find_map(|pid| of_process(&pid.to_string()).ok())
        .ok_or_else(|| Fail::new("Unable to find a flux session attached to your job"))
}

/// The job that the first part of a path names.
fn check(path: &str) -> Result<&str, Fail> {
    let jobid = path.trim_start_matches('/').split('/').next();
    jobid
        .filter(|jobid| jobid.parse::<u64>().is_ok())
        .ok_or_else(|| Fail::new(format!("'{path}' is not a valid LSF jobid")))
}

/// Whether an environment, its settings ended by NUL, has this one.
fn has(environment: &[u8], setting: &[u8]) -> bool {
    environment
        .split(|byte| *byte == 0)
        .any(|entry| entry == setting)
}

fn first_node(jobid: &str) -> Result<String, Fail> {
    let query = std::env::var_os("CSM_ALLOCATION_QUERY")
        .unwrap_or_else(|| "/opt/ibm/csm/bin/csm_allocation_query".into());
    let unknown = |why: &str| {
        Fail::new(format!(
            "Unable to find a compute node attached to job {jobid}: {why}"
        ))
    };
    let output = output_of(Command::new(query).args(["-j", jobid])).map_err(|why| unknown(&why))?;
    let mut hosts = Hostlist::new();
    for node in compute_nodes(&output) {
        let host: Hostlist = node
            .parse()
            .map_err(|_| unknown(&format!("invalid node '{node}'")))?;
        hosts.append(&host);
    }
    hosts.sort();
    let first = hosts.iter().next();
    first.ok_or_else(|| unknown("no nodes"))
}

/// The sequence `compute_nodes` in the query's YAML.
fn compute_nodes(output: &str) -> impl Iterator<Item = &str> {
    output
        .lines()
        .skip_while(|line| line.trim_end() != "compute_nodes:")
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("- "))
        .map(|node| node.trim().trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_in_the_querys_answer() {
        let output = "---\nallocation_id: 7\ncompute_nodes:\n - lassen10\n - \"lassen9\"\nend: 1\n";
        assert_eq!(
            compute_nodes(output).collect::<Vec<_>>(),
            ["lassen10", "lassen9"]
        );
        assert_eq!(compute_nodes("compute_nodes: none\n - x\n").count(), 0);
    }

    #[test]
    fn jobs_are_numbers() {
        assert!(check("12").is_ok_and(|id| id == "12"));
        assert!(check("/12/x").is_ok_and(|id| id == "12"));
        for path in ["", "x", "-1", "$(id)"] {
            assert!(check(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_setting_is_found_whole() {
        let environment = b"A=1\0LSB_JOBID=123\0B=2\0";
        assert!(has(environment, b"LSB_JOBID=123"));
        assert!(!has(environment, b"LSB_JOBID=12"));
    }
}
