//! content and kvs over a backing store that forgets at a crash what no checkpoint made last.
//!
//! Seeded: clients commit, look up and watch; after so many steps of the modules everything is
//! dropped, and new modules start on what the store has. What is there then is compared with plain
//! maps.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use bytes::Bytes;
use module::{Builtin, Context, Failure, Input};
use proto::content::{
    Backing, BackingCheckpointGet, BackingCheckpointPut, BackingLoad, BackingStore, Checkpoints,
    ContentRegisterBacking,
};
use proto::kvs::{
    Commit, Found, KvsCommit, KvsLookup, KvsNamespaceCreate, KvsWatchLookup, Lookup,
    NamespaceCreate, Op, PRIMARY, commit_flags, flags,
};
use proto::{Empty, Raw};
use rpc::{Dest, Handle, Request, Routes};
use serde_json::{Value, json};
use spec::{BlobRef, HashKind, TreeObj};
use testkit::Local;
use testkit::storm::Seeded;
use types::{Errno, Rank};

/// What the simulated store has.
#[derive(Default)]
struct Disk {
    /// Survives a crash.
    durable: HashMap<BlobRef, Bytes>,
    checkpoints: Vec<Value>,
    /// Does not.
    volatile: HashMap<BlobRef, Bytes>,
    /// Checkpoints that are not answered while a test holds them.
    held: Option<Vec<Request<BackingCheckpointPut>>>,
}

impl Disk {
    fn checkpoint(&mut self, value: Value) {
        let volatile = std::mem::take(&mut self.volatile);
        self.durable.extend(volatile);
        self.checkpoints.insert(0, value);
    }

    /// Forgets, except for what a real one happened to have written.
    fn crash(&mut self, random: &mut Seeded) {
        for (blobref, blob) in std::mem::take(&mut self.volatile) {
            if random.below(3) == 0 {
                self.durable.insert(blobref, blob);
            }
        }
    }
}

thread_local! {
    static DISK: RefCell<Disk> = RefCell::default();
}

const STORE: Builtin = Builtin {
    name: "content-backing",
    main: |context| Box::pin(store(context)),
};

async fn store(mut context: Context) -> Result<(), Failure> {
    let mut state = ();
    let routes: Routes<()> = Routes::new()
        .on::<BackingLoad>(|(), request, Raw(digest)| {
            let blob = DISK.with_borrow(|disk| {
                let blobref = BlobRef::from_digest(HashKind::Sha1, &digest).ok()?;
                let volatile = disk.volatile.get(&blobref);
                volatile.or_else(|| disk.durable.get(&blobref)).cloned()
            });
            request.reply_result(&blob.map(Raw).ok_or(Errno::ENOENT.into()));
        })
        .on::<BackingStore>(|(), request, Raw(blob)| {
            let blobref = BlobRef::hash(HashKind::Sha1, &blob);
            DISK.with_borrow_mut(|disk| disk.volatile.insert(blobref, blob));
            request.reply(&Raw(Bytes::copy_from_slice(blobref.digest())));
        })
        .on_raw::<BackingCheckpointGet>(|(), request| {
            let value = DISK.with_borrow(|disk| disk.checkpoints.clone());
            let found = match value.is_empty() {
                true => Err(Errno::ENOENT.into()),
                false => Ok(Checkpoints {
                    value: value.into(),
                }),
            };
            request.reply_result(&found);
        })
        .on::<BackingCheckpointPut>(|(), request, put| {
            DISK.with_borrow_mut(|disk| match &mut disk.held {
                Some(held) => held.push(request),
                None => {
                    disk.checkpoint(put.value);
                    request.reply(&Empty {});
                }
            });
        });
    let backing = Backing {
        name: "simulated".to_owned(),
    };
    let register = context
        .handle
        .call::<ContentRegisterBacking>(Rank::LEADER, &backing);
    register.await?;
    context.ready();
    while let Some(input) = context.next().await {
        if let Input::Request(message) = input {
            context.dispatch(&routes, &mut state, message);
        }
    }
    Ok(())
}

/// Runs `body` beside modules on the disk; they are gone when this returns.
fn instance<T>(body: impl AsyncFnOnce(Rc<Local>) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let local = Local::new();
        let builtin = |name| {
            let mut all = services::builtins().into_iter();
            all.find(|builtin| builtin.name == name).expect("known")
        };
        for module in [
            builtin("content"),
            STORE,
            builtin("kvs"),
            builtin("kvs-watch"),
        ] {
            local.load(module, &[]);
            for _ in 0..20 {
                // The next one asks this one as it starts.
                tokio::task::yield_now().await;
            }
        }
        body(local).await
    })
}

fn op(key: String, flags: i32, value: &[u8]) -> Op {
    Op {
        key,
        flags,
        dirent: TreeObj::Val(value.to_vec()).to_raw(),
    }
}

fn commit_to(namespace: &str, ops: Vec<Op>, flags: i32) -> Commit {
    Commit {
        ops,
        namespace: namespace.to_owned(),
        flags,
    }
}

async fn get(handle: &Handle, namespace: &str, key: String) -> Result<Vec<u8>, Errno> {
    let lookup = Lookup {
        key,
        flags: 0,
        namespace: Some(namespace.to_owned()),
        rootdir: None,
        rootseq: None,
    };
    let found = handle.call::<KvsLookup>(Dest::Any, &lookup).await;
    let found = found.map_err(|error| error.errno)?;
    match TreeObj::decode(found.val.get().as_bytes()) {
        Ok(TreeObj::Val(value)) => Ok(value),
        other => panic!("{other:?} is no value"),
    }
}

type Map = BTreeMap<String, Vec<u8>>;

/// What a client did: its keys after each of its commits, the first being what it began with.
struct History {
    versions: Vec<Map>,
    answered: usize,
    kept: usize,
}

const CLIENTS: usize = 3;

/// One client's next commit: its keys lie below a directory of its own.
fn next_commit(who: usize, map: &mut Map, random: &mut Seeded) -> Vec<Op> {
    let mut ops = Vec::new();
    for _ in 0..=random.below(4) {
        let name = format!("c{who}.d{}.k{}", random.below(3), random.below(6));
        let value = vec![b'a' + random.below(26) as u8; random.below(90) as usize];
        match random.below(5) {
            0 => {
                map.remove(&name);
                ops.push(Op {
                    dirent: serde_json::value::RawValue::NULL.to_owned(),
                    ..op(name, 0, b"")
                });
            }
            1 => {
                map.entry(name.clone()).or_default().extend(&value);
                ops.push(op(name, flags::APPEND, &value));
            }
            _ => {
                map.insert(name.clone(), value.clone());
                ops.push(op(name, 0, &value));
            }
        }
    }
    // A log that watchers follow.
    let name = format!("c{who}.log");
    let line = format!("{}\n", random.below(1000));
    map.entry(name.clone()).or_default().extend(line.bytes());
    ops.push(op(name, flags::APPEND, line.as_bytes()));
    ops
}

/// A client's newest commit is answered. If it came with a checkpoint, what was answered `before`
/// it was sent is safe.
fn on_answer(all: &mut [History], who: usize, before: Option<Vec<usize>>) {
    all[who].answered = all[who].versions.len() - 1;
    if let Some(before) = before {
        for (history, answered) in all.iter_mut().zip(before) {
            history.kept = history.kept.max(answered);
        }
        all[who].kept = all[who].answered;
    }
}

/// Commits without end.
async fn client(handle: Handle, who: usize, mut random: Seeded, all: Rc<RefCell<Vec<History>>>) {
    loop {
        let mut map = all.borrow()[who]
            .versions
            .last()
            .expect("the first")
            .clone();
        let ops = next_commit(who, &mut map, &mut random);
        let sync = random.below(8) == 0;
        let before: Vec<usize> = all.borrow().iter().map(|h| h.answered).collect();
        all.borrow_mut()[who].versions.push(map.clone());
        let flags = if sync { commit_flags::SYNC } else { 0 };
        let commit = commit_to(PRIMARY, ops, flags);
        let done = handle.call::<KvsCommit>(Dest::Any, &commit).await;
        done.expect("nothing is wrong with it");
        on_answer(&mut all.borrow_mut(), who, sync.then_some(before));
        // What was answered is there for whoever asks next.
        if let Some((key, value)) = map.iter().nth(random.below(map.len() as u64) as usize) {
            let found = get(&handle, PRIMARY, key.clone()).await;
            assert_eq!(found.as_ref(), Ok(value), "{key}");
        }
    }
}

/// Follows a client's log; what comes is what was appended, in order.
async fn watch(handle: Handle, who: usize, all: Rc<RefCell<Vec<History>>>) {
    let lookup = Lookup {
        key: format!("c{who}.log"),
        flags: flags::WATCH | flags::WATCH_APPEND | flags::WAITCREATE,
        namespace: Some(PRIMARY.to_owned()),
        rootdir: None,
        rootseq: None,
    };
    let mut stream = handle.stream::<KvsWatchLookup>(Dest::Any, &lookup);
    let mut seen: Vec<u8> = Vec::new();
    while let Ok(Some(Found { val })) = stream.next().await {
        let Ok(TreeObj::Val(piece)) = TreeObj::decode(val.get().as_bytes()) else {
            panic!("{val} is no value");
        };
        seen.extend(piece);
        let all = all.borrow();
        let newest = all[who].versions.last().expect("the first");
        let log = &newest[&lookup.key];
        assert!(log.starts_with(&seen), "{} jumped", lookup.key);
    }
}

/// What of a client's is stored, and which of its versions that is.
async fn survived(handle: &Handle, who: usize, history: &History) -> Map {
    let mut versions = history.versions.iter().enumerate().skip(history.kept);
    let mut keys: Vec<&String> = history.versions.iter().flat_map(|v| v.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut there = Map::new();
    for key in keys {
        match get(handle, PRIMARY, key.clone()).await {
            Ok(value) => drop(there.insert(key.clone(), value)),
            Err(errno) => assert_eq!(errno, Errno::ENOENT, "{key}: the tree is whole"),
        }
    }
    assert!(
        versions.any(|(_, version)| *version == there),
        "client {who}: {there:?} is none of the versions from {} on",
        history.kept
    );
    there
}

fn crash_again_and_again(seed: u64) {
    DISK.set(Disk::default());
    let mut random = Seeded::new(seed);
    let mut maps = vec![Map::new(); CLIENTS];
    for _ in 0..8 {
        let steps = random.below(40);
        let begin = std::mem::take(&mut maps).into_iter();
        let history = |map| History {
            versions: vec![map],
            answered: 0,
            kept: 0,
        };
        let all = Rc::new(RefCell::new(begin.map(history).collect::<Vec<_>>()));
        let seeds: Vec<u64> = (0..CLIENTS).map(|_| random.below(u64::MAX)).collect();
        instance(async |local| {
            for (who, seed) in seeds.into_iter().enumerate() {
                let (of, own) = (local.client(None), Seeded::new(seed));
                tokio::task::spawn_local(client(of, who, own, all.clone()));
                tokio::task::spawn_local(watch(local.client(None), who, all.clone()));
            }
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
        });
        DISK.with_borrow_mut(|disk| disk.crash(&mut random));
        let histories = all.take();
        maps = instance(async |local| {
            let handle = local.client(None);
            let mut maps = Vec::new();
            for (who, history) in histories.iter().enumerate() {
                maps.push(survived(&handle, who, history).await);
            }
            maps
        });
    }
}

#[test]
fn crashes_take_back_only_what_no_checkpoint_has() {
    for seed in 0..25 {
        crash_again_and_again(seed);
    }
}

/// While a commit waits for the disk, others gather behind it, and nobody else waits.
#[test]
fn commits_gather_while_one_is_under_way_and_readers_go_on() {
    DISK.set(Disk::default());
    instance(async |local| {
        let handle = local.client(None);
        let call = |commit: &Commit| handle.call::<KvsCommit>(Dest::Any, commit);
        let first = commit_to(PRIMARY, vec![op("a".into(), 0, b"1")], 0);
        let before = call(&first).await.expect("committed").rootseq;
        let empty = BlobRef::hash(HashKind::Sha1, TreeObj::empty_dir().encode().as_bytes());
        let create = NamespaceCreate {
            namespace: "other".to_owned(),
            rootref: empty.to_string(),
            owner: -1,
            flags: 0,
        };
        let created = handle.call::<KvsNamespaceCreate>(Rank::LEADER, &create);
        created.await.expect("created");
        DISK.with_borrow_mut(|disk| disk.held = Some(Vec::new()));
        let sync = commit_to(PRIMARY, vec![op("a".into(), 0, b"2")], commit_flags::SYNC);
        let stuck = call(&sync);
        while DISK.with_borrow(|disk| disk.held.as_ref().is_some_and(Vec::is_empty)) {
            tokio::task::yield_now().await;
        }
        let behind: Vec<_> = (0..10)
            .map(|n| call(&commit_to(PRIMARY, vec![op(format!("b{n}"), 0, b"3")], 0)))
            .collect();
        // Reads see what is committed, and other namespaces go their way.
        assert_eq!(get(&handle, PRIMARY, "a".into()).await, Ok(b"1".to_vec()));
        let other = commit_to("other", vec![op("x".into(), 0, b"4")], 0);
        assert_eq!(call(&other).await.map(|done| done.rootseq), Ok(1));
        assert_eq!(get(&handle, "other", "x".into()).await, Ok(b"4".to_vec()));
        let held = DISK.with_borrow_mut(|disk| disk.held.take());
        for request in held.into_iter().flatten() {
            DISK.with_borrow_mut(|disk| disk.checkpoint(json!({"version": 1, "rootref": "-"})));
            request.reply(&Empty {});
        }
        assert_eq!(stuck.await.map(|done| done.rootseq), Ok(before + 1));
        for call in behind {
            assert_eq!(call.await.map(|done| done.rootseq), Ok(before + 2));
        }
    });
}
