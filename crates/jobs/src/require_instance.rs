//! Sites that want large jobs to bring their own instance (RFC 14 `batch`).

use spec::Jobspec;

/// From which size on jobs must be instances; all of them without limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequireInstance {
    /// The fewest nodes.
    pub minnodes: Option<u64>,
    /// The fewest cores; 16 a node if only nodes are given.
    pub mincores: Option<u64>,
}

impl RequireInstance {
    /// Refuses a large job that is no instance. Errors are texts for people.
    pub fn check(&self, jobspec: &Jobspec) -> Result<(), String> {
        let is_instance = jobspec.system("batch").is_some()
            || matches!(jobspec.command(), [flux, verb, ..]
                if flux.rsplit('/').next() == Some("flux")
                    && matches!(verb.as_str(), "broker" | "start"));
        if is_instance {
            return Ok(());
        }
        let which = match (self.minnodes, self.mincores) {
            (None, None) => " for all jobs in this instance".to_owned(),
            (nodes, cores) => {
                let cores = cores.or(nodes.map(|nodes| nodes.saturating_mul(16)));
                let reaches = |count: Option<u64>, limit: Option<u64>| matches!((count, limit), (Some(count), Some(limit)) if count >= limit);
                if !reaches(jobspec.nnodes(), nodes) && !reaches(jobspec.ncores(), cores) {
                    return Ok(());
                }
                let (nodes, cores) = (nodes.unwrap_or(0), cores.unwrap_or(0));
                format!(" for jobs >= {nodes} nodes or {cores} cores")
            }
        };
        Err(format!(
            "Direct job submission disabled{which}. Please use flux-batch(1) or flux-alloc(1)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn jobspec(command: &[&str], nodes: u64) -> Jobspec {
        Jobspec::from_value(json!({
            "version": 1,
            "resources": [{"type": "node", "count": nodes, "with": [
                {"type": "slot", "label": "task", "count": 1, "with": [
                    {"type": "core", "count": 1}]}]}],
            "tasks": [{"command": command, "slot": "task", "count": {"per_slot": 1}}],
            "attributes": {"system": {"duration": 0}},
        }))
        .expect("valid")
    }

    #[test]
    fn large_jobs_must_be_instances() {
        let all = RequireInstance::default();
        let large = RequireInstance {
            minnodes: Some(2),
            mincores: None,
        };
        for (rule, command, nodes, expect) in [
            (
                all,
                &["hostname"][..],
                1,
                Some(" for all jobs in this instance"),
            ),
            (all, &["/usr/bin/flux", "start"], 1, None),
            (all, &["flux", "broker"], 1, None),
            (
                all,
                &["flux", "getattr"],
                1,
                Some(" for all jobs in this instance"),
            ),
            (large, &["hostname"], 1, None),
            (
                large,
                &["hostname"],
                2,
                Some(" for jobs >= 2 nodes or 32 cores"),
            ),
        ] {
            let expect = expect.map(|which| {
                format!(
                    "Direct job submission disabled{which}. Please use flux-batch(1) or flux-alloc(1)"
                )
            });
            assert_eq!(rule.check(&jobspec(command, nodes)).err(), expect);
        }
    }
}
