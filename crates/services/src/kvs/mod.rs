//! Module `kvs`: the key-value store, on every rank (RFC 11).
//!
//! The leader applies transactions, one batch at a time in each namespace; whatever arrives
//! meanwhile makes the next batch. A batch's new blobs go to `content`; when that has them all the
//! root moves on, the event `setroot` tells everybody, and the transactions that entered here are
//! answered in the same turn. The other ranks pass transactions on, follow the events, and answer
//! when one names a transaction of theirs; they move their root first, so that whoever got an
//! answer sees what it is about.
//!
//! Look-ups work on a cache of blobs; what is missing is loaded and the look-up tried again.
//! A rank that meets a namespace it does not know subscribes to its events, then asks its parent
//! for the root. Roots only move forward.
//!
//! The engine is the crate `kvs`; here are the messages.

mod commit;
mod namespace;
mod read;
mod state;

use std::collections::HashMap;
use std::time::Duration;

use module::{Builtin, Context, Failure, Input, Severity};
use proto::content::{
    Checkpoint, ContentCheckpointGet, ContentCheckpointPut, ContentStore, PutCheckpoint,
};
use proto::kvs::{EVENTS, PRIMARY};
use proto::overlay::HEARTBEAT_PULSE;
use proto::{Empty, Raw};
use rpc::{Dest, RpcError};
use serde_json::{Map, Value};
use spec::{BlobRef, HashKind};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use types::{Errno, Rank, UserId, fsd};

use state::{Kvs, Space, routes};

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "kvs",
        main: |context| Box::pin(run(context)),
    }
}

/// The module's arguments.
#[derive(Debug, PartialEq)]
struct Args {
    /// Whether neighbouring transactions are committed together.
    merge: bool,
    initial_rootref: Option<BlobRef>,
}

impl Args {
    fn parse(args: &[String]) -> Result<Args, RpcError> {
        let mut parsed = Args {
            merge: true,
            initial_rootref: None,
        };
        for arg in args {
            let invalid = || RpcError::new(Errno::EINVAL, format!("{}: {arg}", Errno::EINVAL));
            match arg.split_once('=') {
                Some(("transaction-merge", text)) => {
                    parsed.merge = text.parse::<u32>().map_err(|_| invalid())? != 0;
                }
                Some(("initial-rootref", text)) => {
                    parsed.initial_rootref = Some(text.parse().map_err(|_| invalid())?);
                }
                _ => return Err(invalid()),
            }
        }
        Ok(parsed)
    }
}

/// Reads the period of checkpoints from a configuration; `None` for no checkpoints.
fn checkpoint_period(config: &Map<String, Value>) -> Result<Option<Duration>, RpcError> {
    let table = match config.get("kvs") {
        None => return Ok(None),
        Some(Value::Object(table)) => table,
        Some(other) => {
            let reason = spec::config::wrong_type("object", other);
            let text = format!("error reading config for kvs: {reason}");
            return Err(RpcError::new(Errno::EINVAL, text));
        }
    };
    let Some(value) = table.get("checkpoint-period") else {
        return Ok(None);
    };
    let shown = value.as_str().map_or(value.to_string(), str::to_owned);
    let invalid = || {
        let text = format!("invalid checkpoint-period config: {shown}");
        RpcError::new(Errno::EINVAL, text)
    };
    let text = value.as_str().ok_or_else(invalid)?;
    let period = fsd::parse_duration(text).map_err(|_| invalid())?;
    Ok(period.filter(|period| !period.is_zero()))
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let args = Args::parse(&context.args)?;
    let checkpoint_period = checkpoint_period(&context.config())?;
    let hash = context
        .attr("content.hash")
        .and_then(|name| HashKind::from_name(&name))
        .ok_or_else(|| Failure::new(Errno::EINVAL, "content.hash is not set"))?;
    let leader = context.rank() == Rank::LEADER;
    let (done, mut done_rx) = mpsc::unbounded_channel();
    let mut kvs = Kvs {
        handle: context.handle.clone(),
        host: context.host(),
        id: context.id().clone(),
        leader,
        hash,
        merge: args.merge,
        checkpoint_period,
        checkpoint_at: checkpoint_period.map(|period| Instant::now() + period),
        checkpoint_seq: 0,
        started: Instant::now(),
        cache: ::kvs::Cache::new(),
        freed: crate::memory::Freed::default(),
        spaces: state::Spaces::default(),
        fetching: HashMap::new(),
        replays: Vec::new(),
        loading: HashMap::new(),
        parked: HashMap::new(),
        commits: HashMap::new(),
        last_id: 0,
        faults: 0,
        opcount: crate::tally::Tally::default(),
        ready: Vec::new(),
        done,
    };
    if leader {
        let root = initial_root(&context, &args, hash).await?;
        kvs.checkpoint_seq = root.1;
        let space = Space::new(owner(), root.0, root.1);
        kvs.spaces.insert(PRIMARY.to_owned(), space);
    }
    let routes = routes();
    context.subscribe(HEARTBEAT_PULSE);
    context.ready();
    loop {
        let checkpoint_at = kvs.checkpoint_at;
        tokio::select! {
            biased;
            input = context.next() => match input {
                Some(Input::Request(message)) => context.dispatch(&routes, &mut kvs, message),
                Some(Input::Event(message)) => kvs.on_event(&message),
                None => break,
            },
            Some(done) = done_rx.recv() => {
                kvs.on_done(done);
                for message in std::mem::take(&mut kvs.replays) {
                    context.dispatch(&routes, &mut kvs, message);
                }
            }
            () = sleep_until(checkpoint_at.unwrap_or_else(Instant::now)),
                if checkpoint_at.is_some() => kvs.checkpoint(),
            // Only when the inbox is empty and others had their turn, so that what arrives together
            // is one commit.
            () = tokio::task::yield_now(), if !kvs.ready.is_empty() => kvs.process(),
        }
    }
    kvs.fail_all();
    if leader && let Some(space) = kvs.spaces.get(PRIMARY) {
        let root = (space.namespace.root, space.namespace.seq);
        finish(&context, root).await?;
    }
    Ok(())
}

/// The user the broker runs as.
fn owner() -> UserId {
    UserId(nix::unistd::getuid().as_raw())
}

/// Stores the empty directory, which clients expect to be there, and finds the root to start from.
async fn initial_root(
    context: &Context,
    args: &Args,
    hash: HashKind,
) -> Result<(BlobRef, i64), Failure> {
    let empty = ::kvs::Dir::default().encode();
    let blobref = BlobRef::hash(hash, &empty);
    let store = context
        .handle
        .call::<ContentStore>(Dest::Rank(context.rank()), &Raw(empty));
    if store.await?.0[..] != *blobref.digest() {
        return Err(Failure::new(
            Errno::EPROTO,
            "content and kvs use different hash algorithms",
        ));
    }
    if let Some(root) = args.initial_rootref {
        return Ok((root, 0));
    }
    let get = context
        .handle
        .call::<ContentCheckpointGet>(Dest::Rank(context.rank()), &Empty {});
    let checkpoints = match get.await {
        Ok(checkpoints) => checkpoints,
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOSYS) => {
            return Ok((blobref, 0));
        }
        // To begin anew would hide everything that is stored.
        Err(error) => {
            let text = format!("error reading checkpoint: {error}");
            context.log(Severity::Crit, &text);
            return Err(Failure::new(error.errno, text));
        }
    };
    let newest = match checkpoints.value {
        Value::Array(list) => list.into_iter().next(),
        one => Some(one),
    };
    let newest = newest.and_then(|value| serde_json::from_value::<Checkpoint>(value).ok());
    let Some((checkpoint, root)) =
        newest.and_then(|point| Some((point.clone(), point.rootref.parse::<BlobRef>().ok()?)))
    else {
        let text = "the newest checkpoint has no usable rootref: starting with an empty root";
        context.log(Severity::Err, text);
        return Ok((blobref, 0));
    };
    let when = utc(checkpoint.timestamp.unwrap_or(0.0));
    context.log(
        Severity::Info,
        format!("restored KVS from checkpoint on {when}"),
    );
    Ok((root, checkpoint.sequence.unwrap_or(0)))
}

/// A time as ISO 8601 text in UTC, to the second.
fn utc(seconds: f64) -> String {
    let seconds = seconds as i64;
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days from 0000-03-01, in 400-year eras, as in the usual civil calendar algorithm.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A checkpoint of a root, as of now.
fn checkpoint_of(root: BlobRef, seq: i64) -> PutCheckpoint {
    let timestamp = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    let checkpoint = Checkpoint {
        version: 1,
        rootref: root.to_string(),
        sequence: Some(seq),
        timestamp: Some(timestamp),
    };
    PutCheckpoint {
        // A plain struct always becomes a value.
        value: serde_json::to_value(checkpoint).unwrap_or_default(),
    }
}

/// Writes the last checkpoint.
async fn finish(context: &Context, root: (BlobRef, i64)) -> Result<(), Failure> {
    let put = checkpoint_of(root.0, root.1);
    let call = context
        .handle
        .call::<ContentCheckpointPut>(Dest::Rank(context.rank()), &put);
    match call.await {
        // No backing store: nothing outlives the instance, nor is expected to.
        Err(error) if error.errno == Errno::ENOSYS => Ok(()),
        Err(error) => {
            context.log(Severity::Err, format!("failed to checkpoint: {error}"));
            Err(error.into())
        }
        Ok(_) => Ok(()),
    }
}

/// The prefix of a namespace's events.
fn event_prefix(namespace: &str) -> String {
    format!("{EVENTS}-{namespace}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_configuration_are_checked() {
        let parse = |arg: &str| Args::parse(&[arg.to_owned()]).map(|args| args.merge);
        assert_eq!(parse("transaction-merge=0"), Ok(false));
        assert_eq!(parse("transaction-merge=1"), Ok(true));
        for arg in [
            "transaction-merge=x",
            "initial-rootref=sha1-12",
            "nope",
            "a=b",
        ] {
            assert!(parse(arg).is_err(), "{arg}");
        }
        let period = |json: &str| {
            let config = serde_json::from_str(json).expect("valid JSON");
            checkpoint_period(&config).map_err(|error| error.to_string())
        };
        assert_eq!(period("{}"), Ok(None));
        assert_eq!(
            period(r#"{"kvs":{"checkpoint-period":"1m"}}"#),
            Ok(Some(Duration::from_secs(60)))
        );
        assert_eq!(period(r#"{"kvs":{"checkpoint-period":"0"}}"#), Ok(None));
        assert_eq!(
            period(r#"{"kvs":5}"#),
            Err("error reading config for kvs: Expected object, got integer".to_owned())
        );
        assert_eq!(
            period(r#"{"kvs":{"checkpoint-period":"1Z"}}"#),
            Err("invalid checkpoint-period config: 1Z".to_owned())
        );
    }

    #[test]
    fn times_are_civil() {
        assert_eq!(utc(0.0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400.9), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_700_000_000.0), "2023-11-14T22:13:20Z");
    }
}
