//! Module `content`: blobs by their digest, on every rank (RFC 10).
//!
//! The leader writes back: a store is answered from memory, and the blob goes to the backing store,
//! if there is one, as fast as that takes it. The other ranks write through: a store is answered
//! when the parent has the blob. So what was stored anywhere can be loaded everywhere.
//!
//! Loads that miss go one level up, once for each digest however many wait. Misses are never
//! remembered. A dirty blob is never dropped, nor lost because the backing store refused it once:
//! it is tried again with the next flush, and once the backing store takes blobs again.

mod cache;
mod hasher;
pub(crate) mod inlet;
mod mapped;
mod service;

use std::collections::HashMap;
use std::time::Duration;

use module::{Builtin, Context, Failure, Input, Severity};
use proto::overlay::HEARTBEAT_PULSE;
use rpc::RpcError;
use spec::HashKind;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use types::{Errno, Rank};

use crate::memory::Freed;
use crate::statsd::Statsd;
use cache::{Bounds, Cache};
use hasher::Hasher;
use inlet::Inlet;
use mapped::Mapped;
use service::{Content, routes};

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "content",
        main: |context| Box::pin(run(context)),
    }
}

/// How often old blobs are dropped where no heartbeat says so.
const PURGE_PERIOD: Duration = Duration::from_secs(10);

/// The module's arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Config {
    /// The largest blob, in bytes.
    blob_size_limit: u32,
    /// The most stores under way to the backing store.
    flush_batch_limit: u32,
    /// The bytes above which old blobs are dropped.
    purge_target_size: u32,
    /// How long a blob has to be idle to be dropped, in seconds.
    purge_old_entry: u32,
}

impl Config {
    fn parse(args: &[String]) -> Result<Config, RpcError> {
        let mut config = Config {
            blob_size_limit: 1 << 30,
            flush_batch_limit: 256,
            purge_target_size: 16 << 20,
            purge_old_entry: 10,
        };
        for arg in args {
            let invalid = || RpcError::new(Errno::EINVAL, format!("{}: {arg}", Errno::EINVAL));
            let (key, text) = arg.split_once('=').ok_or_else(invalid)?;
            let value = match key {
                "blob-size-limit" => &mut config.blob_size_limit,
                "flush-batch-limit" => &mut config.flush_batch_limit,
                "purge-target-size" => &mut config.purge_target_size,
                "purge-old-entry" => &mut config.purge_old_entry,
                _ => return Err(invalid()),
            };
            *value = text.parse().map_err(|_| invalid())?;
        }
        Ok(config)
    }
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let config = Config::parse(&context.args)?;
    let hash = match context.attr("content.hash") {
        Some(name) => HashKind::from_name(&name).ok_or_else(|| {
            Failure::new(Errno::EINVAL, format!("{name}: unknown hash algorithm"))
        })?,
        None => {
            let hash = HashKind::default();
            context.host().set_attr("content.hash", hash.name());
            hash
        }
    };
    let leader = context.rank() == Rank::LEADER;
    let (done, mut done_rx) = mpsc::unbounded_channel();
    let mut content = Content {
        handle: context.handle.clone(),
        host: context.host(),
        config,
        hash,
        leader,
        started: Instant::now(),
        hasher: Hasher::default(),
        mapped: Mapped::default(),
        cache: Cache::new(match leader {
            true => Bounds::LEADER,
            false => Bounds::FOLLOWER,
        }),
        freed: Freed::default(),
        loads: HashMap::new(),
        stores: HashMap::new(),
        flushes: Vec::new(),
        backing: false,
        backing_name: context.attr("content.backing-module"),
        in_flight: 0,
        last_error: None,
        failing: None,
        probe: None,
        statsd: Statsd::open(context.host(), context.rank(), "content", "content-cache"),
        done,
    };
    let routes = routes(content.leader);
    let host = context.host();
    let mut inlet = content
        .leader
        .then(|| Inlet::<inlet::Cache>::offer(host.exchange()));
    context.subscribe(HEARTBEAT_PULSE);
    let mut purge = interval(PURGE_PERIOD);
    purge.set_missed_tick_behavior(MissedTickBehavior::Delay);
    context.ready();
    loop {
        tokio::select! {
            biased;
            input = context.next() => match input {
                Some(Input::Request(message)) => {
                    context.dispatch(&routes, &mut content, message);
                }
                Some(Input::Event(_)) => content.on_pulse(),
                None => break,
            },
            Some(delivery) = async { inlet.as_mut()?.recv().await }, if inlet.is_some() => {
                content.on_delivery(delivery);
            }
            Some(done) = done_rx.recv() => content.on_done(done),
            _ = purge.tick() => content.refresh(),
            // Only when the inbox is empty, so that what arrived together goes up together.
            () = std::future::ready(()), if content.has_work() => content.work(),
        }
    }
    host.exchange().withdraw::<Inlet<inlet::Cache>>();
    let dirty = content.cache.dirty();
    if dirty > 0 && content.leader && content.backing {
        context.log(Severity::Err, format!("{dirty} unflushables"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], expect: Result<(u32, u32), &str>) {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let config = Config::parse(&args)
            .map(|config| (config.blob_size_limit, config.purge_old_entry))
            .map_err(|error| error.to_string());
        assert_eq!(config, expect.map_err(str::to_owned), "{args:?}");
    }

    #[test]
    fn arguments_are_checked() {
        check(&[], Ok((1 << 30, 10)));
        check(
            &["blob-size-limit=1048576", "purge-old-entry=0"],
            Ok((1 << 20, 0)),
        );
        check(&["nope=1"], Err("Invalid argument: nope=1"));
        check(
            &["blob-size-limit=4294967296"],
            Err("Invalid argument: blob-size-limit=4294967296"),
        );
        check(
            &["flush-batch-limit=x"],
            Err("Invalid argument: flush-batch-limit=x"),
        );
    }
}
