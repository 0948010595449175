//! Instances that run as jobs of Slurm, found with Slurm's own commands.

use std::process::Command;

use types::{Errno, Hostlist};

use super::{of_process, output_of};
use crate::fail::Fail;

/// The URI of the instance that is the Slurm job `jobid`.
///
/// On a node of the job its processes are looked at. From elsewhere the same is done by a step on
/// the job's first node.
pub(super) fn uri(jobid: &str) -> Result<String, Fail> {
    // Parts of array and heterogeneous jobs are named with these.
    let known = |c: char| c.is_ascii_digit() || matches!(c, '.' | '_' | '+');
    if !jobid.starts_with(|c: char| c.is_ascii_digit()) || !jobid.chars().all(known) {
        return Err(Fail::new(format!("'{jobid}' is not a valid Slurm jobid")));
    }
    if let Some(uri) = of_local_processes(jobid) {
        return Ok(uri);
    }
    let node = first_node(jobid)?;
    let flux = std::env::current_exe().map_err(|error| Fail::of("flux", Errno::from_io(&error)))?;
    let jobid_option = format!("--jobid={jobid}");
    let node_option = format!("--nodelist={node}");
    let mut command = Command::new("srun");
    command
        .args(["--overlap", "-N1", "-n1", &jobid_option, &node_option])
        .arg(flux)
        .args(["uri", &format!("slurm:{jobid}")]);
    let output = output_of(&mut command)
        .map_err(|why| Fail::new(format!("Unable to resolve Slurm job {jobid}: {why}")))?;
    let uri = output.lines().last().unwrap_or_default().trim();
    if uri.is_empty() {
        let text = format!("Unable to resolve Slurm job {jobid}: no URI from node {node}");
        return Err(Fail::new(text));
    }
    Ok(uri.to_owned())
}

/// Goes through the job's processes on this host, if there are any.
fn of_local_processes(jobid: &str) -> Option<String> {
    let listing = output_of(Command::new("scontrol").args(["listpids", jobid])).ok()?;
    pids(&listing).find_map(|pid| of_process(pid).ok())
}

/// The first column of `scontrol listpids`, below its heading. Processes that have none are `-1`.
fn pids(listing: &str) -> impl Iterator<Item = &str> {
    let first = listing
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    first.filter(|word| word.parse::<u32>().is_ok_and(|pid| pid > 0))
}

fn first_node(jobid: &str) -> Result<String, Fail> {
    let mut command = Command::new("squeue");
    let nodes = output_of(command.args(["-h", "-o", "%N", "-j", jobid])).map_err(|why| {
        Fail::new(format!(
            "Unable to query nodelist for Slurm job {jobid}: {why}"
        ))
    })?;
    let nodes = nodes.trim();
    let hosts: Hostlist = nodes
        .parse()
        .map_err(|_| Fail::new(format!("Slurm job {jobid}: invalid nodelist '{nodes}'")))?;
    let first = hosts.iter().next();
    first.ok_or_else(|| Fail::new(format!("Empty nodelist for Slurm job {jobid}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heading_and_lost_processes_are_passed_over() {
        let listing = "PID      JOBID    STEPID   LOCALID GLOBALID\n\
                       -1       1234     extern   0       0\n\
                       4711     1234     0        0       0\n\n  12  1234\n";
        assert_eq!(pids(listing).collect::<Vec<_>>(), ["4711", "12"]);
    }
}
