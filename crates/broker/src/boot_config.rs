//! Bootstrap from configuration: the `[bootstrap]` table lists the hosts, in rank order.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use types::{Hostlist, Rank};
use zmtp::{Certificate, CurveKeypair};

use crate::boot::Card;
use crate::config::Config;

/// Where a host listens, where its children connect, and whose child it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Host {
    name: String,
    bind: Option<String>,
    connect: Option<String>,
    parent: Option<String>,
}

/// What the table says about an instance of more than one broker.
pub(crate) struct ConfigBoot {
    /// The keys all brokers share.
    pub(crate) keypair: CurveKeypair,
    /// Where this broker listens for children.
    pub(crate) bind: Option<String>,
    /// What every broker's card would say.
    pub(crate) cards: Vec<Card>,
    /// The parents given, by rank.
    pub(crate) parents: Vec<Option<Rank>>,
    /// This broker.
    pub(crate) rank: Rank,
}

/// Reads the table. `None` if there is none, or it lists no hosts: the broker is alone then.
pub(crate) fn read(config: &Config, hostname: &str) -> Result<Option<ConfigBoot>, String> {
    let Some(table) = config.get("bootstrap") else {
        return Ok(None);
    };
    let bad = |text: &str| format!("Config file error [bootstrap]: {text}");
    let table = table.as_object().ok_or_else(|| bad("not a table"))?;
    let text = |key: &str| match table.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(bad(&format!("{key}: not a string"))),
    };
    const KEYS: [&str; 6] = [
        "curve_cert",
        "default_port",
        "default_bind",
        "default_connect",
        "enable_ipv6",
        "hosts",
    ];
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(bad(&format!("unknown key {key}")));
    }
    let hosts = hosts(table.get("hosts")).map_err(|text| bad(&text))?;
    if hosts.is_empty() {
        return Ok(None);
    }
    let own = hosts
        .iter()
        .position(|host| host.name == hostname)
        .ok_or_else(|| format!("{hostname} not found in hosts"))?;
    let port = match table.get("default_port") {
        None => None,
        Some(value) => Some(
            value
                .as_u64()
                .ok_or_else(|| bad("default_port: not a port"))?,
        ),
    };
    let uris = Defaults {
        port,
        bind: text("default_bind")?,
        connect: text("default_connect")?,
    };
    let keypair = match text("curve_cert")? {
        Some(path) => {
            Certificate::read(Path::new(&path))
                .map_err(|e| e.to_string())?
                .keypair
        }
        None if hosts.len() == 1 => CurveKeypair::generate(),
        None => return Err("curve_cert must be defined for size > 1".into()),
    };
    let parents = parents(&hosts)?;
    let pubkey = keypair.public.to_z85();
    let cards = hosts
        .iter()
        .map(|host| Card {
            host: host.name.clone(),
            uri: uris
                .of(host, &uris.connect, &host.connect)
                .into_iter()
                .collect(),
            pubkey: Some(pubkey.clone()),
        })
        .collect();
    Ok(Some(ConfigBoot {
        bind: uris.of(&hosts[own], &uris.bind, &hosts[own].bind),
        keypair,
        cards,
        parents,
        rank: Rank(own as u32),
    }))
}

/// What holds for hosts that say nothing of their own.
struct Defaults {
    port: Option<u64>,
    bind: Option<String>,
    connect: Option<String>,
}

impl Defaults {
    /// A host's URI: its own or the default, with its name and the port filled in.
    fn of(&self, host: &Host, default: &Option<String>, own: &Option<String>) -> Option<String> {
        let port = self
            .port
            .map_or_else(|| "%p".to_owned(), |port| port.to_string());
        let uri = own.as_ref().or(default.as_ref())?;
        Some(uri.replace("%h", &host.name).replace("%p", &port))
    }
}

/// Expands the host array. Entries of the same host add up.
fn hosts(value: Option<&Value>) -> Result<Vec<Host>, String> {
    let mut hosts: Vec<Host> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let Some(value) = value else { return Ok(hosts) };
    for entry in value.as_array().ok_or("hosts: not an array")? {
        let entry = entry.as_object().ok_or("hosts: not an array of tables")?;
        let text = |key: &str| match entry.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("hosts: {key}: not a string")),
        };
        const KEYS: [&str; 4] = ["host", "bind", "connect", "parent"];
        if let Some(key) = entry.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("hosts: unknown key {key}"));
        }
        let names = text("host")?.ok_or("hosts: entry without host")?;
        let list: Hostlist = names
            .parse()
            .map_err(|_| format!("hosts: invalid hostlist '{names}'"))?;
        for name in list.iter() {
            let at = *known.entry(name.clone()).or_insert_with(|| {
                hosts.push(Host {
                    name,
                    ..Host::default()
                });
                hosts.len() - 1
            });
            let host = &mut hosts[at];
            host.bind = text("bind")?.or(host.bind.take());
            host.connect = text("connect")?.or(host.connect.take());
            host.parent = text("parent")?.or(host.parent.take());
        }
    }
    Ok(hosts)
}

fn parents(hosts: &[Host]) -> Result<Vec<Option<Rank>>, String> {
    hosts
        .iter()
        .enumerate()
        .map(|(rank, host)| {
            let Some(parent) = &host.parent else {
                return Ok((rank > 0).then_some(Rank::LEADER));
            };
            if *parent == host.name {
                return Err(format!("{}: parent key refers to self", host.name));
            }
            let found = hosts.iter().position(|other| other.name == *parent);
            let found =
                found.ok_or_else(|| format!("{}: parent key refers to unknown host", host.name))?;
            Ok(Some(Rank(found as u32)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, hostname: &str) -> Result<Option<ConfigBoot>, String> {
        let text = format!("{{\"bootstrap\":{json}}}");
        read(
            &crate::config::load_argument(&text).expect("valid JSON"),
            hostname,
        )
    }

    fn error(json: &str, hostname: &str) -> String {
        match check(json, hostname) {
            Err(error) => error,
            Ok(_) => panic!("{json} is accepted"),
        }
    }

    #[test]
    fn a_table_without_hosts_means_alone() {
        assert!(check("{}", "a").is_ok_and(|boot| boot.is_none()));
        assert!(check(r#"{"hosts":[]}"#, "a").is_ok_and(|boot| boot.is_none()));
    }

    #[test]
    fn ranks_follow_the_order_of_hosts() {
        let cert = std::env::temp_dir().join(format!("boot-config-{}", std::process::id()));
        Certificate::generate().write(&cert).expect("writable");
        let json = format!(
            r#"{{"curve_cert":"{}","default_port":8050,"default_bind":"tcp://*:%p",
                "default_connect":"tcp://%h:%p","hosts":[{{"host":"a[0-2]"}},
                {{"host":"a1","bind":"tcp://eth0:1"}},{{"host":"b","parent":"a1"}}]}}"#,
            cert.display()
        );
        let boot = check(&json, "a1")
            .expect("valid")
            .expect("hosts are listed");
        std::fs::remove_file(&cert).expect("own file");
        assert_eq!((boot.rank, boot.cards.len()), (Rank(1), 4));
        assert_eq!(boot.bind.as_deref(), Some("tcp://eth0:1"));
        assert_eq!(boot.cards[2].uri, ["tcp://a2:8050"]);
        let parents: Vec<_> = boot.parents.iter().map(|p| p.map(|rank| rank.0)).collect();
        assert_eq!(parents, [None, Some(0), Some(0), Some(1)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let two = r#"{"hosts":[{"host":"a,b"}]}"#;
        assert_eq!(error(two, "a"), "curve_cert must be defined for size > 1");
        assert_eq!(error(two, "c"), "c not found in hosts");
        let parent = r#"{"hosts":[{"host":"a","parent":"x"}]}"#;
        assert!(error(parent, "a").contains("parent key refers to unknown host"));
        let parent = r#"{"hosts":[{"host":"a","parent":"a"}]}"#;
        assert!(error(parent, "a").contains("parent key refers to self"));
        assert!(error(r#"{"foo":1}"#, "a").contains("unknown key foo"));
    }
}
