//! A leader killed at moments that a seed chooses, and what its state directory has afterwards.
//!
//! Each round starts a broker on the state directory that the one before left, checks it, commits
//! and submits as fast as it can, and kills the broker after so many answers. What is checked is
//! what is promised: all that was committed before the last answered commit with SYNC is there,
//! every job whose id was told is there with a legal eventlog, and the tree is whole.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use client::Client;
use proto::kvs::{Commit, KvsCommit, KvsLookup, Lookup, Op, PRIMARY, commit_flags, flags};
use rpc::{Dest, Handle, RpcError};
use spec::{TreeObj, eventlog};
use types::{Errno, JobId};

/// Committers at work at the same time.
const COMMITTERS: usize = 6;

/// Answers to wait for before the end, at most.
const ANSWERS_MAX: u64 = 120;

/// Jobs submitted meanwhile.
const JOBS: usize = 24;

/// Numbers from a seed (splitmix64).
pub struct Seeded(u64);

impl Seeded {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }

    /// The next number below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

/// What a committer has done: its n-th commit sets `storm.ROUND.WHO.nN` and adds a line to its log.
#[derive(Clone, Copy, Default)]
struct Progress {
    sent: u64,
    answered: u64,
    /// How many a crash may not take back.
    kept: u64,
}

/// A broker on a state directory.
struct Broker {
    flux: PathBuf,
    child: Child,
    uri: String,
}

impl Broker {
    fn start(flux: &Path, statedir: &Path) -> Result<Broker, String> {
        let mut child = Command::new(flux)
            .arg("broker")
            .arg(format!("-Sstatedir={}", statedir.display()))
            // That it was not shut down properly is no news here.
            .arg("-Slog-stderr-level=2")
            .args(["sh", "-c", "echo $FLUX_URI; read line"])
            .env_remove("FLUX_URI")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", flux.display()))?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let mut uri = String::new();
        BufReader::new(stdout)
            .read_line(&mut uri)
            .map_err(|error| error.to_string())?;
        let broker = Broker {
            flux: flux.to_owned(),
            child,
            uri: uri.trim().to_owned(),
        };
        if broker.uri.is_empty() {
            return Err("the broker does not start on what the last one left".to_owned());
        }
        Ok(broker)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.flux);
        command.args(words).env("FLUX_URI", &self.uri);
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// What is known of everything done so far.
#[derive(Default)]
struct Known {
    committers: BTreeMap<(u64, usize), Progress>,
    jobs: Vec<JobId>,
}

/// Kills a leader so many times. Returns what was checked, in words.
///
/// # Errors
///
/// The first broken promise, with the round it was found in.
pub fn run(flux: &Path, statedir: &Path, seed: u64, times: u64) -> Result<String, String> {
    let mut random = Seeded::new(seed);
    let mut known = Known::default();
    for round in 0..=times {
        let broken = |error: String| format!("seed {seed}, round {round}: {error}");
        let broker = Broker::start(flux, statedir).map_err(broken)?;
        check(&broker, &mut known, round).map_err(broken)?;
        if round < times {
            storm(broker, &mut known, &mut random, round).map_err(broken)?;
        }
    }
    let commits: u64 = known.committers.values().map(|p| p.kept).sum();
    let jobs = known.jobs.len();
    Ok(format!(
        "{times} crashes: {commits} commits and {jobs} jobs survived"
    ))
}

fn connected<T>(
    broker: &Broker,
    work: impl AsyncFnOnce(Client) -> Result<T, String>,
) -> Result<T, String> {
    client::run(async {
        let client = client::open(Some(&broker.uri)).await;
        work(client.map_err(|error| error.to_string())?).await
    })
    .map_err(|error| error.to_string())?
}

fn key(round: u64, who: usize, number: u64) -> String {
    format!("storm.{round}.{who}.n{number}")
}

fn log_key(round: u64, who: usize) -> String {
    format!("storm.log.{round}-{who}")
}

/// The value of a commit; some are stored in the directory, some beside it.
fn value(who: usize, number: u64) -> Vec<u8> {
    format!("{who}:{number};")
        .repeat((number % 40) as usize + 1)
        .into_bytes()
}

fn line(number: u64) -> String {
    format!("{number}\n")
}

async fn get(handle: &Handle, key: String) -> Result<Option<Vec<u8>>, String> {
    let lookup = Lookup {
        key: key.clone(),
        flags: 0,
        namespace: Some(PRIMARY.into()),
        rootdir: None,
        rootseq: None,
    };
    match handle.call::<KvsLookup>(Dest::Any, &lookup).await {
        Ok(found) => match TreeObj::decode(found.val.get().as_bytes()) {
            Ok(TreeObj::Val(value)) => Ok(Some(value)),
            other => Err(format!("{key}: {other:?} is no value")),
        },
        Err(error) if error.errno == Errno::ENOENT => Ok(None),
        Err(error) => Err(format!("{key}: {error}")),
    }
}

/// Checks what the crash before this round left.
fn check(broker: &Broker, known: &mut Known, round: u64) -> Result<(), String> {
    let output = broker.command(&["fsck"]).output();
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("flux fsck: {}: {}", output.status, text.trim()));
    }
    connected(broker, async |client| {
        let handle = client.handle();
        for ((of, who), progress) in &mut known.committers {
            // What is older was looked at before, save a sample of it.
            if of + 1 == round || (*of + round).is_multiple_of(16) {
                check_committer(handle, *of, *who, progress).await?;
            }
        }
        let recent = known.jobs.len().saturating_sub(2 * JOBS);
        for id in &known.jobs[recent..] {
            check_job(handle, *id).await?;
        }
        Ok(())
    })
}

/// A committer's commits are there up to some point that is not before what was kept.
async fn check_committer(
    handle: &Handle,
    round: u64,
    who: usize,
    progress: &mut Progress,
) -> Result<(), String> {
    let mut there = 0;
    while there < progress.sent {
        let key = key(round, who, there);
        match get(handle, key.clone()).await? {
            Some(found) if found == value(who, there) => there += 1,
            Some(_) => return Err(format!("{key} has another value than was put there")),
            None => break,
        }
    }
    if there < progress.kept {
        let (kept, key) = (progress.kept, key(round, who, there));
        return Err(format!("{key} is lost, but {kept} commits were safe"));
    }
    for number in there..progress.sent {
        let key = key(round, who, number);
        if get(handle, key.clone()).await?.is_some() {
            return Err(format!("{key} is there, but an earlier one is not"));
        }
    }
    let log = get(handle, log_key(round, who)).await?.unwrap_or_default();
    let expect: String = (0..there).map(line).collect();
    if log != expect.as_bytes() {
        return Err(format!("{}: not {there} lines", log_key(round, who)));
    }
    // From here on nothing of it changes.
    (progress.sent, progress.kept) = (there, there);
    Ok(())
}

async fn check_job(handle: &Handle, id: JobId) -> Result<(), String> {
    let key = format!("{}.eventlog", id.kvs_path());
    let log = get(handle, key).await?;
    let log = log.ok_or_else(|| format!("{}: the job is lost", id.f58()))?;
    let events = eventlog::decode(&log).map_err(|error| format!("{}: {error}", id.f58()))?;
    jobs::Fold::replay(&events).map_err(|error| format!("{}: {error}", id.f58()))?;
    Ok(())
}

/// Commits and submits until enough is answered, then kills the broker.
fn storm(
    mut broker: Broker,
    known: &mut Known,
    random: &mut Seeded,
    round: u64,
) -> Result<(), String> {
    let cc = format!("--cc=1-{JOBS}");
    let mut submit = broker
        .command(&[
            "submit",
            &cc,
            "--setattr=exec.test.run_duration=0.001s",
            "true",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let answers = 1 + random.below(ANSWERS_MAX);
    // Which commits carry a checkpoint; the rest is as fast as it gets.
    let sync_every = 1 + random.below(40);
    let progress = connected(&broker, async |client| {
        Ok(commit_until(&client, round, answers, sync_every).await)
    });
    broker.child.kill().map_err(|error| error.to_string())?;
    for (who, progress) in progress?.into_iter().enumerate() {
        known.committers.insert((round, who), progress);
    }
    let mut told = String::new();
    if let Some(mut stdout) = submit.stdout.take() {
        stdout
            .read_to_string(&mut told)
            .map_err(|error| error.to_string())?;
    }
    // It lost its broker in the middle.
    let _failed = submit.wait();
    for text in told.lines() {
        let id = text.parse().map_err(|_| format!("{text}: no job id"))?;
        known.jobs.push(id);
    }
    Ok(())
}

/// Commits until so many are answered. The order of answers is that of the commits.
async fn commit_until(client: &Client, round: u64, answers: u64, sync_every: u64) -> Vec<Progress> {
    let (done, mut answered) = tokio::sync::mpsc::unbounded_channel();
    let send = |who: usize, number: u64, sync: bool| {
        let commit = commit(round, who, number, sync);
        let call = client.handle().call::<KvsCommit>(Dest::Any, &commit);
        let done = done.clone();
        tokio::task::spawn_local(async move {
            let result: Result<_, RpcError> = call.await;
            // Nobody counts any more once there are enough.
            let _enough = done.send((who, sync, result.is_ok()));
        });
    };
    let mut progress = vec![Progress::default(); COMMITTERS];
    // What was answered when a commit with a checkpoint was sent.
    let mut before: Vec<Vec<u64>> = vec![Vec::new(); COMMITTERS];
    let mut sent = 0;
    let mut next = |who: usize, progress: &mut [Progress], before: &mut [Vec<u64>]| {
        sent += 1;
        let sync = u64::is_multiple_of(sent, sync_every);
        if sync {
            before[who] = progress.iter().map(|other| other.answered).collect();
        }
        send(who, progress[who].sent, sync);
        progress[who].sent += 1;
    };
    for who in 0..COMMITTERS {
        next(who, &mut progress, &mut before);
    }
    for _ in 0..answers {
        let Some((who, sync, true)) = answered.recv().await else {
            break;
        };
        progress[who].answered += 1;
        if sync {
            for (other, kept) in progress.iter_mut().zip(&before[who]) {
                other.kept = other.kept.max(*kept);
            }
            progress[who].kept = progress[who].answered;
        }
        next(who, &mut progress, &mut before);
    }
    progress
}

fn commit(round: u64, who: usize, number: u64, sync: bool) -> Commit {
    let op = |key: String, flags: i32, value: &[u8]| Op {
        key,
        flags,
        dirent: TreeObj::Val(value.to_vec()).to_raw(),
    };
    Commit {
        ops: vec![
            op(key(round, who, number), 0, &value(who, number)),
            op(log_key(round, who), flags::APPEND, line(number).as_bytes()),
        ],
        namespace: PRIMARY.into(),
        flags: if sync { commit_flags::SYNC } else { 0 },
    }
}
