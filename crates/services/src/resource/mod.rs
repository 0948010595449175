//! Module `resource`: which resources the instance has, and in what state they are (RFC 28,
//! RFC 44).
//!
//! Every rank reports what it finds on its host up the tree; the leader gathers that, unless the
//! configuration or an earlier run says what there is, and hands it to the scheduler with the
//! ranks that are up. Drained ranks and the method by which resources were found are kept in the
//! KVS eventlog `resource.eventlog`; an event takes effect once its commit has succeeded.
//!
//! An instance that is a job takes R of that job from the enclosing instance and follows its
//! expiration. Where R came from elsewhere than discovery, each rank compares its share of it with
//! what it finds and drains itself if they differ.
//!
//! Absent for now: taking the topology itself from the enclosing instance.

mod config;
mod follower;
mod hwloc;
mod parent;
mod service;
mod state;

use module::{Builtin, Context, Failure, Input, Severity};
use proto::overlay::{Group, GroupsGet};
use rpc::{Handle, Stream};
use spec::r::Children;
use spec::{Entry, ResourceSet};
use tokio::sync::mpsc;
use topology::Topology;
use types::{Errno, Hostlist, IdSet, Rank};

use crate::store;
use config::Config;
use follower::Follower;
use parent::Parent;
use service::{Leader, Posted};

/// Where the resources are stored.
const KEY_RESOURCES: &str = "resource.R";
/// Where events are stored.
const KEY_EVENTLOG: &str = "resource.eventlog";

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "resource",
        main: |context| Box::pin(run(context)),
    }
}

async fn run(context: Context) -> Result<(), Failure> {
    let config =
        Config::parse(&context.config()).map_err(|text| Failure::new(Errno::EINVAL, text))?;
    let (noverify, force_up) = arguments(&context)?;
    let config = Config {
        noverify: config.noverify || noverify,
        ..config
    };
    let hosts: Hostlist = context
        .attr("hostlist")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::new(Errno::EINVAL, "attribute hostlist is not valid"))?;
    let rank = context.rank();
    let host = hosts.nth(rank.0 as usize).unwrap_or_default();
    let (topology, xml) = Topology::local(!config.norestrict, &host)
        .map_err(|error| Failure::new(Errno::EIO, error.to_string()))?;
    let own = own_resources(rank, &hosts, &topology);
    if rank == Rank::LEADER {
        run_leader(context, config, hosts, own, xml, force_up).await
    } else {
        run_follower(context, config, own, xml).await
    }
}

fn is_recovering(context: &Context) -> bool {
    context
        .attr("broker.recovery-mode")
        .is_some_and(|mode| mode != "0")
}

/// The R of the job this instance is, if it is one.
async fn parent_of(context: &Context, watch: bool) -> Option<(ResourceSet, Option<Parent>)> {
    let (uri, jobid) = (context.attr("parent-uri")?, context.attr("jobid")?);
    match parent::ask(&uri, &jobid, watch).await {
        Ok((set, parent)) => {
            if parent.is_none() {
                let text = "R of the enclosing instance is not watched: \
                            falling back to job-info.lookup";
                context.log(Severity::Info, text);
            }
            Some((set, parent))
        }
        Err(text) => {
            let text = format!("cannot get R from the enclosing instance: {text}");
            context.log(Severity::Warning, text);
            None
        }
    }
}

fn arguments(context: &Context) -> Result<(bool, bool), Failure> {
    let (mut noverify, mut force_up) = (false, false);
    for arg in &context.args {
        match arg.as_str() {
            "noverify" => noverify = true,
            "monitor-force-up" => force_up = true,
            "notruncate" => {}
            other => {
                return Err(Failure::new(
                    Errno::EINVAL,
                    format!("unknown option: {other}"),
                ));
            }
        }
    }
    Ok((noverify, force_up))
}

/// What this rank has.
fn own_resources(rank: Rank, hosts: &Hostlist, topology: &Topology) -> ResourceSet {
    let mut set = ResourceSet::new();
    let host = hosts.nth(rank.0 as usize);
    let children = Children::new(topology.core_ids(), topology.gpu_ids());
    set.insert(rank.0, host.as_deref(), &children);
    set
}

async fn run_follower(
    mut context: Context,
    config: Config,
    own: ResourceSet,
    xml: String,
) -> Result<(), Failure> {
    let verify = config.verification(is_recovering(&context));
    let check = follower::verify(
        context.handle.clone(),
        context.host(),
        context.rank(),
        verify,
        config.resources.clone(),
        own.clone(),
    );
    let descendants = context
        .attr("tbon.descendants")
        .and_then(|text| text.parse().ok());
    let mut follower = Follower::new(own, xml, descendants.unwrap_or(0));
    let routes = follower::routes();
    context.ready();
    follower.report(&context.handle);
    tokio::task::spawn_local(check);
    while let Some(input) = context.next().await {
        if let Input::Request(message) = input {
            context.dispatch(&routes, &mut follower, message);
        }
    }
    Ok(())
}

async fn run_leader(
    mut context: Context,
    config: Config,
    hosts: Hostlist,
    own: ResourceSet,
    xml: String,
    force_up: bool,
) -> Result<(), Failure> {
    let (posts, mut posted) = mpsc::unbounded_channel();
    let handle = context.handle.clone();
    let size = context.size();
    let host = context.host();
    let verification = config.verification(is_recovering(&context));
    let (rediscover, update_watch) = (config.rediscover, config.update_watch);
    let configured = config.resources.as_ref().map(ResourceSet::ranks);
    let mut leader = Leader::new(
        handle.clone(),
        host,
        posts.clone(),
        size,
        hosts.clone(),
        config,
        verification,
        own,
        xml,
    )
    .map_err(|text| Failure::new(Errno::EINVAL, text))?;
    let log = store::get(&handle, KEY_EVENTLOG).await?.unwrap_or_default();
    leader.replay(
        &spec::eventlog::decode(&log)
            .map_err(|error| Failure::new(Errno::EINVAL, format!("{KEY_EVENTLOG}: {error}")))?,
    );
    let stored =
        match store::get(&handle, KEY_RESOURCES).await? {
            Some(text) => Some(ResourceSet::decode(&text).map_err(|error| {
                Failure::new(Errno::EINVAL, format!("{KEY_RESOURCES}: {error}"))
            })?),
            None => None,
        };
    let (mut given, mut expiration) = (None, None);
    if let Some((set, parent)) = parent_of(&context, update_watch).await {
        expiration = Some(set.expiration);
        if let Some(parent) = parent {
            parent.follow(set.expiration, posts.clone());
        }
        if configured.is_none() && stored.is_none() && !rediscover {
            given = parent::renumbered(set, &hosts);
            if given.is_none() {
                let text = "R of the enclosing instance has another number of ranks: discovering";
                context.log(Severity::Info, text);
            }
        }
    }
    // Ranks without a broker are up as well: R may be of a machine that is not there.
    let known = configured.or_else(|| stored.as_ref().map(ResourceSet::ranks));
    leader.start(stored, given, expiration);
    if force_up {
        leader.on_online(IdSet::first_n(size).union(&known.unwrap_or_default()));
    } else {
        follow_group(&handle, "broker.online", posts.clone(), Posted::Online);
        follow_group(&handle, "broker.torpid", posts, Posted::Torpid);
    }
    let routes = service::leader_routes();
    context.ready();
    loop {
        tokio::select! {
            input = context.next() => match input {
                None => break,
                Some(Input::Request(message)) => {
                    context.dispatch(&routes, &mut leader, message);
                }
                Some(Input::Event(_)) => {}
            },
            Some(post) = posted.recv() => leader.on_posted(post),
        }
    }
    leader.finish();
    Ok(())
}

/// Posts a broker group's members whenever they change.
fn follow_group(
    handle: &Handle,
    name: &str,
    posts: mpsc::UnboundedSender<Posted>,
    post: fn(IdSet) -> Posted,
) {
    let group = Group {
        name: name.to_owned(),
    };
    let mut members: Stream<_> = handle.stream::<GroupsGet>(Rank::LEADER, &group);
    tokio::task::spawn_local(async move {
        while let Ok(Some(update)) = members.next().await {
            let Ok(ranks) = update.members.parse() else {
                break;
            };
            if posts.send(post(ranks)).is_err() {
                break;
            }
        }
    });
}

/// Logs an event that concerns people.
fn log_event(context: &dyn module::Host, entry: &Entry) {
    if entry.name == "drain" || entry.name == "undrain" {
        let text = |key: &str| entry.get_str(key).unwrap_or_default().to_owned();
        let overwrite = entry.get_i64("overwrite").unwrap_or(0);
        let line = format!(
            "{} idset={} nodelist={} overwrite={overwrite} reason={}",
            entry.name,
            text("idset"),
            text("nodelist"),
            text("reason"),
        );
        context.log(Severity::Info, "resource", &line);
    }
}
