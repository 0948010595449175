//! `flux gc`: what no root reaches any more leaves the store, while the instance runs.
//!
//! Every stored blob carries the epoch of its last store. All that is reachable is raised to the
//! current epoch, then older rows go. The order of the roots matters: a finishing job moves its
//! private namespace into the primary tree before it deletes it, so the primary root is read last.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use client::Client;
use proto::content::{BackingGcInfo, BackingMark, BackingSweep, GcInfo, GcMark, GcSweep};
use proto::kvs::{KvsGetroot, KvsNamespaceList, Namespace, PRIMARY};
use proto::{Empty, Raw};
use rpc::Call;
use spec::{BlobRef, TreeObj};
use types::Errno;

use super::maxreqs;
use super::tree::{self, Blobs, LEADER};
use crate::driver::Invocation;
use crate::err;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};

const PROG: &str = "flux";
/// Loads under way unless `--maxreqs` says otherwise.
const LOADS_MAX: usize = 2;
/// Blobs one request marks, deletes, and looks at, so that others get their turn between.
const MARK_BATCH: usize = 100;
const DELETE_BATCH: i64 = 1000;
const SWEEP_WINDOW: i64 = 100_000;

static GC: Parser = Parser {
    name: "flux gc",
    usage: "[OPTIONS]",
    about: "Online garbage collection for KVS content",
    family: Family::G,
    opts: &[
        flag('\0', "no-cache", "Bypass broker content cache"),
        arg(
            '\0',
            "maxreqs",
            "N",
            "Increase number of concurrent content requests during the mark phase (default 2)",
        ),
        flag('v', "verbose", "Increase verbosity"),
        flag('\0', "test-mark-only", "Stop after the mark phase").hidden(),
        arg(
            '\0',
            "test-delay-after-list",
            "SEC",
            "Sleep after listing the namespaces",
        )
        .hidden(),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match GC.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return GC.wrong_words();
    }
    fail::run(PROG, async {
        let loads_max = maxreqs(&args, LOADS_MAX)?;
        let client = fail::connect_builtin().await?;
        collect(&client, &args, loads_max).await?;
        Ok(0)
    })
}

async fn collect(client: &Client, args: &Args, loads_max: usize) -> Result<(), Fail> {
    let verbose = args.has("verbose");
    let request = GcInfo {
        epoch: 0,
        get_count: false,
    };
    let horizon = client
        .handle()
        .call::<BackingGcInfo>(LEADER, &request)
        .await
        .map_err(|error| Fail::of("failed to fetch gc-info", error))?;
    let epoch = horizon.current_epoch;
    if verbose {
        err!(
            "{PROG}: froze epoch at {epoch}, high-water rowid {}",
            horizon.high_water
        );
    }
    let blobs = Blobs::new(client, args.has("no-cache"));
    let roots = roots(client, &blobs, args).await?;
    let mut mark = Mark {
        client,
        blobs,
        epoch,
        loads_max,
        seen: HashSet::new(),
        batch: Vec::new(),
        marked: 0,
    };
    for root in roots {
        if verbose {
            err!("{PROG}: marking from root {root}");
        }
        mark.walk(tree::rootref(&root)?).await?;
    }
    mark.send().await?;
    if verbose {
        err!("{PROG}: mark phase complete");
    }
    if args.has("test-mark-only") {
        err!("{PROG}: stopping after mark phase (test)");
        return Ok(());
    }
    if verbose {
        err!("{PROG}: starting sweep phase");
    }
    let deleted = sweep(client, epoch, horizon.high_water).await?;
    if verbose {
        err!("{PROG}: sweep complete: deleted {deleted} blobs");
    }
    err!(
        "{PROG}: gc complete: marked {}, reclaimed {deleted} blobs (horizon epoch {epoch})",
        mark.marked
    );
    Ok(())
}

async fn roots(client: &Client, blobs: &Blobs<'_>, args: &Args) -> Result<Vec<String>, Fail> {
    let verbose = args.has("verbose");
    let checkpoints = blobs.checkpoints().await?;
    let mut roots: Vec<String> = checkpoints.into_iter().map(|one| one.rootref).collect();
    if verbose {
        err!("{PROG}: enumerated {} checkpoint roots", roots.len());
    }
    let list = client.handle().call::<KvsNamespaceList>(LEADER, &Empty {});
    let live = match list.await {
        Ok(list) => {
            if let Some(seconds) = args.duration("test-delay-after-list")? {
                let delay = Duration::try_from_secs_f64(seconds);
                tokio::time::sleep(delay.map_err(|_| Errno::EINVAL)?).await;
            }
            let mut count = 0;
            for namespace in list.namespaces {
                if namespace.namespace == PRIMARY {
                    continue;
                }
                let request = Namespace {
                    namespace: namespace.namespace.clone(),
                };
                let call = client.handle().call::<KvsGetroot>(LEADER, &request);
                match call.await {
                    Ok(root) => {
                        roots.push(root.rootref);
                        count += 1;
                    }
                    // Gone in the meantime, into the primary tree.
                    Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTSUP) => {}
                    Err(error) => {
                        let name = namespace.namespace;
                        return Err(Fail::of(format!("error fetching root of {name}"), error));
                    }
                }
            }
            if verbose {
                err!("{PROG}: enumerated {count} private namespace roots");
            }
            true
        }
        Err(error) if error.errno == Errno::ENOSYS => {
            if verbose {
                err!("{PROG}: kvs not loaded; skipping live private namespace roots");
            }
            false
        }
        Err(error) => return Err(Fail::of("error listing namespaces", error)),
    };
    if live {
        let root = tree::live_root(client, LEADER)
            .await
            .map_err(|error| Fail::of("error fetching current KVS root", error))?;
        roots.push(root.rootref);
        if verbose {
            err!("{PROG}: enumerated live primary root");
        }
    } else if verbose {
        err!("{PROG}: kvs not loaded; skipping live primary root");
    }
    if verbose {
        err!("{PROG}: enumerated {} total roots", roots.len());
    }
    Ok(roots)
}

struct Mark<'a> {
    client: &'a Client,
    blobs: Blobs<'a>,
    epoch: i64,
    loads_max: usize,
    seen: HashSet<BlobRef>,
    batch: Vec<String>,
    marked: i64,
}

impl Mark<'_> {
    async fn walk(&mut self, root: BlobRef) -> Result<(), Fail> {
        if !self.see(root).await? {
            return Ok(());
        }
        let mut todo = vec![(String::new(), root)];
        let mut loads: VecDeque<(String, Call<Raw>)> = VecDeque::new();
        loop {
            while loads.len() < self.loads_max
                && let Some((key, blobref)) = todo.pop()
            {
                loads.push_back((key, self.blobs.load(&blobref)));
            }
            let Some((key, call)) = loads.pop_front() else {
                return Ok(());
            };
            // Sweeping after an incomplete walk would delete what is in use.
            let failed =
                |errno: Errno| Fail::new(format!("{key}: could not load content: {errno}"));
            let Raw(blob) = call.await.map_err(|error| failed(error.errno))?;
            let mut dirs = vec![(key.clone(), tree::directory(&blob).map_err(failed)?)];
            while let Some((key, entries)) = dirs.pop() {
                for (name, object) in entries {
                    let key = tree::join(&key, &name);
                    match object {
                        TreeObj::ValRef(refs) => {
                            for blobref in refs {
                                self.see(blobref).await?;
                            }
                        }
                        TreeObj::DirRef(blobref) => {
                            if self.see(blobref).await? {
                                todo.push((key, blobref));
                            }
                        }
                        TreeObj::Dir(entries) => dirs.push((key, entries)),
                        TreeObj::Val(_) | TreeObj::Symlink { .. } => {}
                    }
                }
            }
        }
    }

    /// Marks a blob; whether it is new.
    async fn see(&mut self, blobref: BlobRef) -> Result<bool, Fail> {
        if !self.seen.insert(blobref) {
            return Ok(false);
        }
        self.batch.push(blobref.to_string());
        if self.batch.len() >= MARK_BATCH {
            self.send().await?;
        }
        Ok(true)
    }

    async fn send(&mut self) -> Result<(), Fail> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let request = GcMark {
            epoch: self.epoch,
            hashes: std::mem::take(&mut self.batch),
        };
        let call = self.client.handle().call::<BackingMark>(LEADER, &request);
        let answer = call
            .await
            .map_err(|error| Fail::of("error marking", error))?;
        self.marked += answer.marked;
        Ok(())
    }
}

async fn sweep(client: &Client, epoch: i64, high_water: i64) -> Result<i64, Fail> {
    let mut deleted = 0;
    let mut cursor = 0;
    while cursor < high_water {
        let request = GcSweep {
            epoch,
            cursor,
            high_water,
            delete_cap: DELETE_BATCH,
            window: SWEEP_WINDOW,
        };
        let call = client.handle().call::<BackingSweep>(LEADER, &request);
        let swept = call
            .await
            .map_err(|error| Fail::of("error sweeping", error))?;
        if swept.cursor <= cursor {
            return Err(Fail::of("error sweeping", Errno::EPROTO));
        }
        deleted += swept.deleted;
        cursor = swept.cursor;
    }
    Ok(deleted)
}
