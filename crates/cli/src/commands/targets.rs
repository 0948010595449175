//! Targets on a command line: brokers by rank or by host.

use client::Client;
use types::{Hostlist, IdSet};

use crate::fail::Fail;

/// Why there are no such targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetsError {
    /// Neither an idset nor a hostlist.
    Invalid(String),
    /// No broker runs on this host.
    Unknown(String),
}

impl From<TargetsError> for Fail {
    fn from(error: TargetsError) -> Fail {
        Fail::new(match error {
            TargetsError::Invalid(text) => format!("invalid targets {text}"),
            TargetsError::Unknown(host) => format!("host '{host}' not found"),
        })
    }
}

/// The hosts of an instance, by rank.
pub(crate) async fn hosts(client: &Client) -> Result<Hostlist, Fail> {
    let text = client.attr("hostlist").await?;
    text.parse().map_err(|error| Fail::of("hostlist", error))
}

/// The ranks an idset or a list of hosts means; those of an idset need not be there.
pub(crate) fn targets(text: &str, hosts: &Hostlist) -> Result<IdSet, TargetsError> {
    if let Ok(ranks) = text.parse::<IdSet>() {
        return Ok(ranks);
    }
    let wanted: Hostlist = text
        .parse()
        .map_err(|_| TargetsError::Invalid(text.to_owned()))?;
    let mut ranks = IdSet::new();
    for host in wanted.iter() {
        let found: IdSet = hosts
            .positions(&host)
            .filter_map(|at| u32::try_from(at).ok())
            .collect();
        if found.is_empty() {
            return Err(TargetsError::Unknown(host));
        }
        ranks.insert_all(&found);
    }
    Ok(ranks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_ranks_or_hosts() {
        let hosts: Hostlist = "h[0-3],h1".parse().expect("hosts");
        for (text, expect) in [
            ("1-2", Ok("1-2")),
            ("99", Ok("99")),
            ("", Ok("")),
            ("h0,h3", Ok("0,3")),
            ("h1", Ok("1,4")),
            ("h0,x", Err(TargetsError::Unknown("x".to_owned()))),
            ("[[", Err(TargetsError::Invalid("[[".to_owned()))),
        ] {
            let found = targets(text, &hosts).map(|ranks| ranks.to_string());
            assert_eq!(found, expect.map(str::to_owned), "{text}");
        }
    }
}
