//! Measurements that are not whole commands.

use std::fmt::Write as _;
use std::future::Future;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use client::Client;
use proto::broker::{Ping, ServicePing};
use proto::kvs::{Commit, KvsCommit, KvsLookup, Lookup, Op, PRIMARY};
use rpc::Dest;
use serde_json::json;
use spec::TreeObj;

/// How many programs two threads start and await in a second: what no launcher can exceed.
pub(crate) fn bare_spawn_rate() -> f64 {
    const EACH: usize = 300;
    let started = Instant::now();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            thread::spawn(|| {
                (0..EACH)
                    .filter(|_| {
                        Command::new("true")
                            .stdin(Stdio::null())
                            .status()
                            .is_ok_and(|s| s.success())
                    })
                    .count()
            })
        })
        .collect();
    let count: usize = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or(0))
        .sum();
    count as f64 / started.elapsed().as_secs_f64()
}

/// Runs `work` on a connection.
fn connected<T, F: Future<Output = Result<T, String>>>(
    uri: &str,
    work: impl FnOnce(Client) -> F,
) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = client::open(Some(uri))
            .await
            .map_err(|error| error.to_string())?;
        work(client).await
    })
}

/// Seconds for one round trip to a module and back.
pub(crate) fn round_trip(uri: &str) -> Result<f64, String> {
    const COUNT: u32 = 2000;
    connected(uri, |client| async move {
        let mut ping = Ping::new();
        for (key, value) in [
            ("seq", json!(0)),
            ("time.tv_sec", json!(0)),
            ("time.tv_nsec", json!(0)),
        ] {
            ping.insert(key.to_owned(), value);
        }
        ping.insert("pad".to_owned(), json!(""));
        let started = Instant::now();
        for _ in 0..COUNT {
            client
                .handle()
                .call_service::<ServicePing>("kvs", Dest::Any, &ping)
                .await
                .map_err(|error| error.to_string())?;
        }
        Ok((started.elapsed() / COUNT).as_secs_f64())
    })
}

fn put(key: String) -> Commit {
    put_value(key, b"x")
}

fn put_value(key: String, value: &[u8]) -> Commit {
    let dirent = TreeObj::Val(value.to_vec()).to_raw();
    Commit {
        ops: vec![Op {
            key,
            flags: 0,
            dirent,
        }],
        namespace: PRIMARY.into(),
        flags: 0,
    }
}

/// Commits a second by one client that waits for each.
pub(crate) fn kvs_puts(uri: &str) -> Result<f64, String> {
    let time = Duration::from_secs(1);
    connected(uri, |client| async move {
        let started = Instant::now();
        let mut count = 0u32;
        while started.elapsed() < time {
            let commit = put(format!("bench.put.k{}", count % 100));
            let call = client.handle().call::<KvsCommit>(Dest::Any, &commit);
            call.await.map_err(|error| error.to_string())?;
            count += 1;
        }
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    })
}

/// Lookups a second by one client that waits for each.
pub(crate) fn kvs_lookups(uri: &str) -> Result<f64, String> {
    let time = Duration::from_secs(1);
    connected(uri, |client| async move {
        let commit = put("bench.look.up".into());
        let call = client.handle().call::<KvsCommit>(Dest::Any, &commit);
        call.await.map_err(|error| error.to_string())?;
        let lookup = Lookup {
            key: "bench.look.up".into(),
            flags: 0,
            namespace: Some(PRIMARY.into()),
            rootdir: None,
            rootseq: None,
        };
        let started = Instant::now();
        let mut count = 0u32;
        while started.elapsed() < time {
            let call = client.handle().call::<KvsLookup>(Dest::Any, &lookup);
            call.await.map_err(|error| error.to_string())?;
            count += 1;
        }
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    })
}

/// Directories of the large tree, and keys in each.
const WIDTH: u32 = 1000;

/// Fills the store with a million keys.
pub(crate) fn kvs_fill(uri: &str) -> Result<(), String> {
    connected(uri, async |client| {
        for dir in 0..WIDTH {
            // Directories that are equal would be one blob.
            let value = dir.to_string();
            let put = |n| put_value(format!("bench.large.d{dir}.k{n}"), value.as_bytes());
            let ops = (0..WIDTH).flat_map(|n| put(n).ops);
            let commit = Commit {
                ops: ops.collect(),
                ..put_value(String::new(), b"")
            };
            let call = client.handle().call::<KvsCommit>(Dest::Any, &commit);
            call.await.map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

/// Stores jobs as a job manager leaves them that ran them, ten submitted a millisecond.
pub(crate) fn jobs_fill(uri: &str, count: u64) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    const BATCH: u64 = 500;
    let userid = std::fs::metadata("/proc/self").map_or(0, |own| own.uid());
    connected(uri, async |client| {
        for first in (0..count).step_by(BATCH as usize) {
            let ops = (first..count.min(first + BATCH)).flat_map(|n| job(n, userid));
            let commit = Commit {
                ops: ops.collect(),
                ..put_value(String::new(), b"")
            };
            let call = client.handle().call::<KvsCommit>(Dest::Any, &commit);
            call.await.map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

/// The keys of one such job.
fn job(n: u64, userid: u32) -> Vec<Op> {
    const CONTEXTS: [(&str, &str); 9] = [
        ("validate", ""),
        ("depend", ""),
        ("priority", r#"{"priority":16}"#),
        (
            "alloc",
            r#"{"annotations":{"sched":{"resource_summary":"rank0/core0"}}}"#,
        ),
        ("start", ""),
        ("finish", r#"{"status":0}"#),
        ("release", r#"{"ranks":"all","final":true}"#),
        ("free", ""),
        ("clean", ""),
    ];
    const JOBSPEC: &str = r#"{"resources":[{"type":"slot","count":1,"with":[{"type":"core","count":1}],"label":"task"}],"tasks":[{"command":["true"],"slot":"task","count":{"per_slot":1}}],"attributes":{"system":{"duration":0,"cwd":"/tmp","shell":{"options":{"rlimit":{"core":0}}}}},"version":1}"#;
    const R: &str = r#"{"version":1,"execution":{"R_lite":[{"rank":"0","children":{"core":"0"}}],"nodelist":["node0"],"starttime":1700000000,"expiration":0}}"#;
    let time = 1.7e9 + n as f64 / 1e4;
    let submit = format!(r#"{{"userid":{userid},"urgency":16,"flags":0,"version":1}}"#);
    let mut log = String::new();
    for (name, context) in [("submit", submit.as_str())].into_iter().chain(CONTEXTS) {
        let context = match context {
            "" => String::new(),
            context => format!(",\"context\":{context}"),
        };
        // Writing to a string does not fail.
        let _infallible = writeln!(
            log,
            "{{\"timestamp\":{time:?},\"name\":\"{name}\"{context}}}"
        );
    }
    let guest = format!("{{\"timestamp\":{time:?},\"name\":\"done\"}}\n");
    let id = types::JobId(((n / 10 + 1) << 24) + n % 10);
    let keys = [
        ("jobspec", JOBSPEC),
        ("J", JOBSPEC),
        ("R", R),
        ("eventlog", &log),
        ("guest.exec.eventlog", &guest),
    ];
    let puts = keys
        .iter()
        .map(|(name, value)| put_value(format!("{}.{name}", id.kvs_path()), value.as_bytes()).ops);
    puts.flatten().collect()
}

/// Seconds for a look-up of one of a million keys, each in another directory than the one before.
pub(crate) fn kvs_scattered(uri: &str) -> Result<f64, String> {
    const COUNT: u32 = 3000;
    connected(uri, async |client| {
        let started = Instant::now();
        for n in 0..COUNT {
            // Neither number divides the other, so the keys are all over the tree.
            let (dir, key) = (n * 7 % WIDTH, n * 13 % WIDTH);
            let lookup = Lookup {
                key: format!("bench.large.d{dir}.k{key}"),
                flags: 0,
                namespace: Some(PRIMARY.into()),
                rootdir: None,
                rootseq: None,
            };
            let call = client.handle().call::<KvsLookup>(Dest::Any, &lookup);
            call.await.map_err(|error| error.to_string())?;
        }
        Ok((started.elapsed() / COUNT).as_secs_f64())
    })
}

/// Keys a second by 64 committers that work side by side.
pub(crate) fn kvs_concurrent(uri: &str) -> Result<f64, String> {
    const COMMITTERS: usize = 64;
    const EACH: usize = 100;
    connected(uri, |client| async move {
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for committer in 0..COMMITTERS {
            let handle = client.handle().clone();
            tasks.spawn_local(async move {
                for key in 0..EACH {
                    let commit = put(format!("bench.many.c{committer}.k{key}"));
                    handle
                        .call::<KvsCommit>(Dest::Any, &commit)
                        .await
                        .map_err(|error| error.to_string())?;
                }
                Ok::<(), String>(())
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.map_err(|error| error.to_string())??;
        }
        Ok((COMMITTERS * EACH) as f64 / started.elapsed().as_secs_f64())
    })
}
