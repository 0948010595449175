//! Bootstrap: learning rank and size, and exchanging business cards with the other brokers.

use std::collections::HashMap;
use std::net::IpAddr;

use pmi::{Client, Launch};
use serde::{Deserialize, Serialize};
use spec::Taskmap;
use types::{Hostlist, Rank};

use crate::boot_config::{self, ConfigBoot};
use crate::config::Config;

/// What a broker tells the others about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Card {
    /// Its host.
    pub(crate) host: String,
    /// Where its children connect.
    pub(crate) uri: Vec<String>,
    /// Its public key in Z85.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pubkey: Option<String>,
}

/// How this broker was started, and what it knows from that.
pub(crate) struct Boot {
    pub(crate) method: &'static str,
    pub(crate) rank: Rank,
    pub(crate) size: u32,
    /// The job this instance is, if Flux launched it.
    pub(crate) jobid: Option<String>,
    pub(crate) level: u32,
    pub(crate) mapping: Option<String>,
    pub(crate) interface_hint: Option<String>,
    client: Option<Client>,
    /// What the configuration says, if it is the method.
    pub(crate) config: Option<ConfigBoot>,
}

impl Boot {
    /// Finds out rank and size: from the configuration, by PMI if a launcher offers it, else this
    /// broker is alone.
    pub(crate) fn start(
        method: Option<&str>,
        config: &Config,
        hostname: &str,
    ) -> Result<Boot, String> {
        let wanted = |name: &str| method.is_none_or(|method| method.split(' ').any(|m| m == name));
        if let Some(unknown) = method
            .into_iter()
            .flat_map(|method| method.split(' '))
            .find(|name| !["config", "simple", "libpmi2", "libpmi", "single"].contains(name))
        {
            return Err(format!("plugin matching '{unknown}' not found"));
        }
        if wanted("config")
            && let Some(config) = boot_config::read(config, hostname)?
        {
            return Ok(Boot::configured(config));
        }
        if wanted("simple")
            && let Some(launch) = Launch::inherited().map_err(|error| error.to_string())?
        {
            return Boot::simple(launch);
        }
        if !wanted("single") {
            let method = method.unwrap_or_default();
            return Err(format!("{method}: this way of bootstrap is not built yet"));
        }
        Ok(Boot {
            method: "single",
            rank: Rank::LEADER,
            size: 1,
            jobid: None,
            level: 0,
            mapping: Some("[[0,1,1,1]]".into()),
            interface_hint: None,
            client: None,
            config: None,
        })
    }

    fn configured(config: ConfigBoot) -> Boot {
        let size = config.cards.len() as u32;
        Boot {
            method: "config",
            rank: config.rank,
            size,
            jobid: None,
            level: 0,
            mapping: Some(format!("[[0,{size},1,1]]")),
            interface_hint: None,
            client: None,
            config: Some(config),
        }
    }

    fn simple(launch: Launch) -> Result<Boot, String> {
        let Launch { socket, rank, size } = launch;
        let mut client = Client::connect(socket).map_err(|error| error.to_string())?;
        let mut get = |key: &str| client.get(key).map_err(|error| error.to_string());
        let level = get("flux.instance-level")?;
        let mapping = match get("flux.taskmap")? {
            Some(mapping) => Some(mapping),
            None => get("PMI_process_mapping")?,
        };
        let interface_hint = get("flux.tbon-interface-hint")?;
        Ok(Boot {
            method: "simple",
            rank: Rank(rank),
            size,
            jobid: level.as_ref().map(|_| client.kvsname().to_owned()),
            level: level.and_then(|level| level.parse().ok()).unwrap_or(0),
            mapping: if size == 1 {
                Some("[[0,1,1,1]]".into())
            } else {
                map_text(mapping.as_deref())
            },
            interface_hint,
            client: Some(client),
            config: None,
        })
    }

    /// Publishes this broker's card and returns everybody's, by rank.
    pub(crate) fn exchange(mut self, card: &Card) -> Result<Vec<Card>, String> {
        if let Some(config) = self.config {
            return Ok(config.cards);
        }
        let Some(mut client) = self.client.take() else {
            return Ok(vec![card.clone()]);
        };
        let text = serde_json::to_string(card).map_err(|error| error.to_string())?;
        let error = |error: pmi::ClientError| error.to_string();
        if self.size > 1 {
            client.put(&self.rank.to_string(), &text).map_err(error)?;
            client.barrier().map_err(error)?;
        }
        let mut cards = Vec::with_capacity(self.size as usize);
        for rank in 0..self.size {
            if rank == self.rank.0 {
                cards.push(card.clone());
                continue;
            }
            let text = client
                .get(&rank.to_string())
                .map_err(error)?
                .ok_or_else(|| format!("rank {rank} published no business card"))?;
            let card = serde_json::from_str(&text)
                .map_err(|error| format!("business card of rank {rank}: {error}"))?;
            cards.push(card);
        }
        client.finalize().map_err(error)?;
        Ok(cards)
    }
}

/// The mapping as an RFC 34 map, whatever form it came in.
fn map_text(mapping: Option<&str>) -> Option<String> {
    let map: Taskmap = mapping?.parse().ok()?;
    if map.is_unknown() {
        None
    } else {
        Some(map.to_value().to_string())
    }
}

/// Which brokers share a node with a given one.
pub(crate) struct Nodes(Option<HashMap<u32, u32>>);

impl Nodes {
    /// Reads an RFC 34 map. Without one, every broker is taken to be on a node of its own.
    pub(crate) fn new(mapping: Option<&str>, size: u32) -> Nodes {
        let Some(map) = mapping.and_then(|text| text.parse::<Taskmap>().ok()) else {
            return Nodes(None);
        };
        Nodes(Some(
            (0..size)
                .filter_map(|rank| Some((rank, map.nodeid(rank)?)))
                .collect(),
        ))
    }

    /// Whether two brokers share a node.
    pub(crate) fn share(&self, a: Rank, b: Rank) -> bool {
        self.0.as_ref().is_some_and(|nodes| {
            nodes
                .get(&a.0)
                .is_some_and(|node| nodes.get(&b.0) == Some(node))
        })
    }
}

/// The hosts of all brokers, in rank order.
pub(crate) fn hostlist(cards: &[Card]) -> Hostlist {
    let mut hosts = Hostlist::new();
    for card in cards {
        hosts.push(&card.host);
    }
    hosts
}

/// The address children on other nodes connect to.
pub(crate) fn address(hint: &str, hostname: &str) -> Result<IpAddr, String> {
    let not_found = || format!("could not find address associated with {hint}");
    let interfaces = nix::ifaddrs::getifaddrs().map_err(|errno| errno.to_string())?;
    let addresses: Vec<(String, IpAddr)> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let ip = address.as_sockaddr_in()?.ip();
            Some((interface.interface_name, IpAddr::V4(ip)))
        })
        .collect();
    match hint {
        "default-route" | "hostname" => {
            let device = if hint == "default-route" {
                default_route_device()
            } else {
                None
            };
            if let Some((_, ip)) = addresses
                .iter()
                .find(|(name, _)| Some(name) == device.as_ref())
            {
                return Ok(*ip);
            }
            resolve(hostname)
                .or_else(|| {
                    addresses
                        .iter()
                        .map(|(_, ip)| *ip)
                        .find(|ip| !ip.is_loopback())
                })
                .or_else(|| addresses.first().map(|(_, ip)| *ip))
                .ok_or_else(not_found)
        }
        name => addresses
            .iter()
            .find(|(interface, ip)| interface == name || in_network(*ip, name))
            .map(|(_, ip)| *ip)
            .ok_or_else(not_found),
    }
}

fn resolve(hostname: &str) -> Option<IpAddr> {
    use std::net::ToSocketAddrs;
    (hostname, 0)
        .to_socket_addrs()
        .ok()?
        .map(|address| address.ip())
        .find(IpAddr::is_ipv4)
}

/// The device of the default route, from the kernel's table.
fn default_route_device() -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/route").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let device = fields.next()?;
        (fields.next()? == "00000000").then(|| device.to_owned())
    })
}

/// Whether an address lies in a network such as `10.0.0.0/8`.
fn in_network(ip: IpAddr, network: &str) -> bool {
    let Some((base, bits)) = network.split_once('/') else {
        return false;
    };
    let (Ok(IpAddr::V4(base)), Ok(bits), IpAddr::V4(ip)) = (base.parse(), bits.parse::<u32>(), ip)
    else {
        return false;
    };
    let mask = u32::MAX
        .checked_shl(32u32.saturating_sub(bits))
        .unwrap_or(0);
    bits <= 32 && u32::from(base) & mask == u32::from(ip) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_match_by_prefix() {
        let check = |network: &str| in_network(IpAddr::from([10, 1, 2, 3]), network);
        assert!(check("10.0.0.0/8"));
        assert!(check("10.1.2.3/32"));
        assert!(check("0.0.0.0/0"));
        assert!(!check("10.2.0.0/16"));
        assert!(!check("10.0.0.0/40"));
        assert!(!check("eth0"));
    }

    #[test]
    fn brokers_share_nodes_as_the_map_says() {
        let nodes = Nodes::new(Some("[[0,2,2,1]]"), 4);
        assert!(nodes.share(Rank(0), Rank(1)));
        assert!(!nodes.share(Rank(1), Rank(2)));
        assert!(!Nodes::new(None, 4).share(Rank(0), Rank(1)));
    }
}
