//! A broker's place in the tree: what bootstrap says of it, the shape of the tree, and the
//! endpoints and keys that its neighbours find each other by.
//!
//! Nothing is connected here. When [`join_tree`] returns, children can connect, and the way to the
//! parent is known.

use std::rc::Rc;

use tbon::{Scheme, Topology};
use types::Rank;
use wire::RouteId;
use zmtp::CurveKeypair;
use zmtp::transport::Endpoint;

use crate::attrs::Attrs;
use crate::boot::{self, Boot, Card, Nodes};
use crate::overlay::{Listener, Overlay, ParentCard};
use crate::tbon_settings::Torpid;

/// The attributes that bootstrap fixes.
pub(crate) fn describe_place(attrs: &mut Attrs, boot: &Boot) -> Result<(), String> {
    attrs.put("rank", boot.rank.to_string());
    attrs.put("size", boot.size.to_string());
    attrs.put("instance-level", boot.level.to_string());
    if let Some(mapping) = &boot.mapping {
        attrs.put("broker.mapping", mapping.clone());
    }
    match &boot.jobid {
        Some(jobid) => {
            attrs.put("jobid", jobid.clone());
            if let Ok(uri) = std::env::var("FLUX_URI") {
                attrs.put("parent-uri", uri);
            }
            if let Ok(namespace) = std::env::var("FLUX_KVS_NAMESPACE") {
                attrs.put("parent-kvs-namespace", namespace);
            }
        }
        None => attrs.put_empty("parent-uri"),
    }
    let hint = boot
        .interface_hint
        .clone()
        .unwrap_or("default-route".into());
    attrs.put_default("tbon.interface-hint", hint);
    let quorum = match attrs.get("broker.quorum") {
        None => boot.size.to_string(),
        Some("0") => "1".into(),
        Some(text) if text == format!("0-{}", boot.size.saturating_sub(1)) => {
            types::complain!(
                "flux-broker: broker.quorum is now a size - assuming {}",
                boot.size
            );
            boot.size.to_string()
        }
        Some(text) => {
            let quorum: u32 = text
                .parse()
                .map_err(|_| "Error parsing broker.quorum attribute".to_owned())?;
            if quorum == 0 || quorum > boot.size {
                return Err("Error parsing broker.quorum attribute: out of range".into());
            }
            text.to_owned()
        }
    };
    attrs.put("broker.quorum", quorum);
    Ok(())
}

/// The shape of the tree, from the attributes.
pub(crate) fn plan_tree(attrs: &mut Attrs, boot: &Boot) -> Result<Topology, String> {
    let size = boot.size;
    if let Some(fanout) = attrs.get("tbon.fanout").map(str::to_owned) {
        attrs.put_default("tbon.topo", format!("kary:{fanout}"));
    }
    let default = if boot.config.is_some() {
        "custom"
    } else {
        "kary:32"
    };
    attrs.put_default("tbon.topo", default);
    let scheme: Scheme = attrs
        .get("tbon.topo")
        .unwrap_or_default()
        .parse()
        .map_err(|error| format!("{error}"))?;
    let topology = match (&boot.config, scheme) {
        (Some(config), Scheme::Custom) => Topology::from_parents(&config.parents),
        _ => Topology::new(scheme, size),
    };
    let topology = topology.map_err(|error| error.to_string())?;
    let critical: types::IdSet = (0..size)
        .filter(|rank| *rank == 0 || !topology.children(Rank(*rank)).is_empty())
        .collect();
    attrs.put_default("broker.critical-ranks", critical.to_string());
    let text = attrs.get("broker.critical-ranks").unwrap_or_default();
    let valid = text
        .parse::<types::IdSet>()
        .is_ok_and(|ranks| ranks.last().is_none_or(|r| r < size));
    if !valid {
        return Err(format!("invalid value for broker.critical-ranks='{text}'"));
    }
    Ok(topology)
}

/// The tree around this broker once everybody has published a card.
pub(crate) struct Joined {
    pub(crate) overlay: Rc<Overlay>,
    pub(crate) parent: Option<ParentCard>,
    pub(crate) hostlist: types::Hostlist,
}

pub(crate) async fn join_tree(
    attrs: &mut Attrs,
    boot: Boot,
    topology: &Rc<Topology>,
    id: RouteId,
) -> Result<Joined, String> {
    let (rank, size) = (boot.rank, boot.size);
    let hostname = attrs.get("hostname").unwrap_or_default().to_owned();
    let nodes = Nodes::new(attrs.get("broker.mapping"), size);
    let keypair = match &boot.config {
        Some(config) => config.keypair.clone(),
        None => CurveKeypair::generate(),
    };
    let endpoints = match &boot.config {
        Some(config) => configured_endpoints(config.bind.as_deref(), topology, rank)?,
        None => child_endpoints(attrs, &nodes, topology, rank)?,
    };
    let pubkey = keypair.public.to_z85();
    let parent_rank = topology.parent(rank);
    let children = topology.children(rank).to_vec();
    let listener = match endpoints.is_empty() {
        true => None,
        false => Some(Listener::bind(&id, &keypair, &endpoints).await?),
    };
    let uri = listener.as_ref().map(Listener::uris).unwrap_or_default();
    if !uri.is_empty() {
        attrs.put("tbon.endpoint", uri.join(","));
    }
    let card = Card {
        host: hostname.clone(),
        uri,
        pubkey: Some(pubkey),
    };
    let cards = boot.exchange(&card)?;
    let host_of = |rank: Rank| cards[rank.0 as usize].host.clone();
    let torpid = Torpid::from_attributes(attrs)?;
    let config = tbon::health::Config {
        rank,
        topology: topology.clone(),
        version: version_number(),
        parent_host: parent_rank.map(host_of).unwrap_or_default(),
        child_hosts: children.iter().map(|child| host_of(*child)).collect(),
        torpid_min: torpid.min,
        torpid_max: torpid.max,
    };
    let overlay = Overlay::new(id, hostname, config, keypair, listener);
    for child in &children {
        overlay.allow(key_of(&cards, *child)?);
    }
    let parent = match parent_rank {
        Some(parent) => {
            let card = &cards[parent.0 as usize];
            if card.uri.is_empty() {
                return Err(format!("connect URI is undefined for rank {parent}"));
            }
            let uri = parent_uri(card, nodes.share(rank, parent))?;
            attrs.put("tbon.parent-endpoint", uri.to_string());
            Some(ParentCard {
                endpoint: uri,
                key: key_of(&cards, parent)?,
            })
        }
        None => None,
    };
    let hostlist = boot::hostlist(&cards);
    attrs.put_default("hostlist", hostlist.to_string());
    Ok(Joined {
        overlay,
        parent,
        hostlist,
    })
}

fn version_number() -> tbon::Version {
    let mut parts = proto::VERSION
        .split('.')
        .map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    tbon::Version {
        major: next(),
        minor: next(),
        patch: next(),
    }
}

fn key_of(cards: &[Card], rank: Rank) -> Result<zmtp::PublicKey, String> {
    let text = cards[rank.0 as usize].pubkey.as_deref();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("rank {rank} has no valid public key"))
}

/// Where children will connect: a unix socket for those on this node, TCP for others.
fn child_endpoints(
    attrs: &Attrs,
    nodes: &Nodes,
    topology: &Topology,
    rank: Rank,
) -> Result<Vec<Endpoint>, String> {
    let children = topology.children(rank);
    if children.is_empty() {
        return Ok(Vec::new());
    }
    let tcp_only = attrs
        .get("tbon.prefertcp")
        .is_some_and(|value| value != "0");
    let local = children
        .iter()
        .filter(|child| nodes.share(rank, **child))
        .count();
    let mut endpoints = Vec::new();
    if tcp_only || local < children.len() {
        let hint = attrs.get("tbon.interface-hint").unwrap_or("default-route");
        let host = boot::address(hint, attrs.get("hostname").unwrap_or_default())?;
        endpoints.push(Endpoint::Tcp {
            host: host.to_string(),
            port: 0,
        });
    }
    if !tcp_only && local > 0 {
        let rundir = attrs.get("rundir").unwrap_or_default();
        endpoints.push(Endpoint::Ipc(format!("{rundir}/tbon-{rank}").into()));
    }
    Ok(endpoints)
}

/// Where children will connect, as the configuration says.
fn configured_endpoints(
    bind: Option<&str>,
    topology: &Topology,
    rank: Rank,
) -> Result<Vec<Endpoint>, String> {
    if topology.children(rank).is_empty() {
        return Ok(Vec::new());
    }
    let uri = bind.ok_or_else(|| format!("bind URI is undefined for rank {rank}"))?;
    Ok(vec![uri.parse().map_err(|error| format!("{error}"))?])
}

fn parent_uri(card: &Card, same_node: bool) -> Result<Endpoint, String> {
    let scheme = if same_node { "ipc://" } else { "tcp://" };
    let uri = card
        .uri
        .iter()
        .find(|uri| uri.starts_with(scheme))
        .or_else(|| card.uri.first())
        .ok_or_else(|| format!("parent on {} offers no endpoint", card.host))?;
    uri.parse().map_err(|error| format!("{error}"))
}
