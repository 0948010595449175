//! The thread that owns the database.
//!
//! Whatever arrived while it was busy makes the next batch, and a batch is one SQLite transaction;
//! answers follow the commit. So the cost of a commit, which is that of the disk, is shared. A batch
//! that only reads has nothing to wait for: large blobs are answered as they are read, so that they
//! are sent while the next ones are.

use std::sync::mpsc;
use std::time::Instant;

use bytes::Bytes;
use proto::content::{GcInfo, GcMark, GcMarked, GcState, GcSweep, GcSwept};
use rpc::RpcError;
use spec::BlobRef;
use tokio::sync::mpsc as tokio_mpsc;

use super::database::{Database, Settings};
use crate::content::inlet::{Blobs, Results};
use crate::tally::Tally;

/// What to do.
pub(super) enum Job {
    Load(Bytes),
    Store(Bytes),
    /// Blobs that are hashed already.
    StoreAll(Blobs),
    Validate(Bytes),
    /// Digests that begin so.
    Digests(u8),
    /// The blobs of these rows.
    LoadMany(Bytes),
    Checkpoints,
    PutCheckpoint(String),
    GcInfo(GcInfo),
    Mark(GcMark),
    Sweep(GcSweep),
    Stats,
}

/// What came of it.
#[derive(Clone)]
pub(super) enum Answer {
    Blob(Bytes),
    Stored(BlobRef),
    StoredAll(Results),
    Nothing,
    Checkpoints(Vec<(i64, String)>),
    GcState(GcState),
    Marked(GcMarked),
    Swept(GcSwept),
    Stats(Box<Stats>),
}

/// What statistics show.
#[derive(Clone)]
pub(super) struct Stats {
    pub(super) object_count: i64,
    pub(super) epoch: i64,
    pub(super) file_size: i64,
    pub(super) file_free: i64,
    pub(super) load_time: Tally,
    pub(super) store_time: Tally,
    pub(super) checkpoints: Vec<(i64, String)>,
}

/// Answers leave when they hold so many bytes.
const ANSWERS_BYTES: usize = 256 << 10;

/// A batch of jobs, and the answers in the same order, not always all at once.
pub(super) type Jobs = Vec<Job>;
pub(super) type Answers = Vec<Result<Answer, RpcError>>;

/// The thread's entrance and exit.
pub(super) struct Worker {
    jobs: Option<mpsc::Sender<Jobs>>,
    answers: tokio_mpsc::UnboundedReceiver<Answers>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread, which opens the database; returns how many blobs that has.
    pub(super) async fn start(settings: Settings) -> Result<(Worker, i64), RpcError> {
        let (opened, opened_rx) = tokio::sync::oneshot::channel::<Result<i64, RpcError>>();
        let (jobs, jobs_rx) = mpsc::channel::<Jobs>();
        let (answers_tx, answers) = tokio_mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("content-sqlite".to_owned())
            .spawn(move || {
                let start = || -> Result<(Database, i64), RpcError> {
                    let database = Database::open(settings)?;
                    let count = database.object_count()?;
                    Ok((database, count))
                };
                match start() {
                    Ok((database, count)) => {
                        if opened.send(Ok(count)).is_ok() {
                            run(database, &jobs_rx, &answers_tx);
                        }
                    }
                    Err(error) => {
                        // Nobody waits if the module is gone, and then nothing is lost.
                        let _gone = opened.send(Err(error));
                    }
                }
            })
            .map_err(|error| RpcError::new(types::Errno::from_io(&error), error.to_string()))?;
        let count = opened_rx
            .await
            .unwrap_or_else(|_| Err(types::Errno::EIO.into()))?;
        let worker = Worker {
            jobs: Some(jobs),
            answers,
            thread: Some(thread),
        };
        Ok((worker, count))
    }

    /// Sends a batch.
    pub(super) fn send(&self, batch: Jobs) {
        if let Some(jobs) = &self.jobs {
            // The thread ends before this end only by a panic, which `next` reports.
            let _panicked = jobs.send(batch);
        }
    }

    /// The next answers to the oldest batch that has not all; `None` if the thread panicked. Cancel
    /// safe.
    pub(super) async fn next(&mut self) -> Option<Answers> {
        self.answers.recv().await
    }

    /// Closes the database.
    pub(super) fn stop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported when it happened.
            let _panicked = thread.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Default)]
struct Timing {
    load: Tally,
    store: Tally,
}

fn run(
    mut database: Database,
    jobs: &mpsc::Receiver<Jobs>,
    answers: &tokio_mpsc::UnboundedSender<Answers>,
) {
    let mut timing = Timing::default();
    while let Ok(batch) = jobs.recv() {
        // Nobody is there to take them once the module has ended, and then there is no other batch.
        let answer = |some| drop(answers.send(some));
        if batch.iter().any(writes) {
            answer(run_batch(&mut database, &mut timing, &batch));
        } else {
            read_batch(&mut database, &mut timing, &batch, answer);
        }
    }
}

fn read_batch(
    database: &mut Database,
    timing: &mut Timing,
    batch: &[Job],
    mut answer: impl FnMut(Answers),
) {
    let mut results = Answers::new();
    let mut bytes = 0;
    for job in batch {
        let result = run_job(database, timing, job);
        if let Ok(Answer::Blob(blob)) = &result {
            bytes += blob.len();
        }
        results.push(result);
        if bytes >= ANSWERS_BYTES {
            answer(std::mem::take(&mut results));
            bytes = 0;
        }
    }
    if !results.is_empty() {
        answer(results);
    }
}

/// Whether a job changes the database.
fn writes(job: &Job) -> bool {
    matches!(
        job,
        Job::Store(_) | Job::StoreAll(_) | Job::PutCheckpoint(_) | Job::Mark(_) | Job::Sweep(_)
    )
}

/// Does jobs of which at least one changes the database, as one transaction.
fn run_batch(database: &mut Database, timing: &mut Timing, batch: &[Job]) -> Answers {
    let one_by_one = |database: &mut Database, timing: &mut Timing| -> Answers {
        batch
            .iter()
            .map(|job| run_job(database, timing, job))
            .collect()
    };
    if let Err(error) = database.begin() {
        return batch.iter().map(|_| Err(error.clone())).collect();
    }
    let results = one_by_one(database, timing);
    match database.commit() {
        Ok(true) => results,
        // The transaction is gone, with the good part of the batch: each gets a chance alone.
        Ok(false) => one_by_one(database, timing),
        Err(error) => batch
            .iter()
            .zip(results)
            .map(|(job, result)| {
                if writes(job) {
                    Err(error.clone())
                } else {
                    result
                }
            })
            .collect(),
    }
}

fn run_job(database: &mut Database, timing: &mut Timing, job: &Job) -> Result<Answer, RpcError> {
    let started = Instant::now();
    let since = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
    let milliseconds = || since(started);
    match job {
        Job::Load(digest) => {
            let result = database.load(digest);
            timing.load.push(milliseconds());
            result.map(Answer::Blob)
        }
        Job::Store(blob) => {
            let result = database.store(blob);
            timing.store.push(milliseconds());
            result.map(Answer::Stored)
        }
        Job::StoreAll(blobs) => {
            let store = |(blobref, blob): &(BlobRef, Bytes)| {
                let started = Instant::now();
                let result = database.store_as(blobref, blob);
                timing.store.push(since(started));
                result
            };
            Ok(Answer::StoredAll(blobs.iter().map(store).collect()))
        }
        Job::Validate(digest) => database.validate(digest).map(|()| Answer::Nothing),
        Job::Digests(first) => database.digests(*first).map(Answer::Blob),
        Job::LoadMany(rows) => {
            let (rows, _) = rows.as_chunks();
            let rows = rows.iter().map(|row| i64::from_le_bytes(*row));
            database.load_many(rows).map(Answer::Blob)
        }
        Job::Checkpoints => database.checkpoints().map(Answer::Checkpoints),
        Job::PutCheckpoint(value) => database.put_checkpoint(value).map(|()| Answer::Nothing),
        Job::GcInfo(info) => database.gc_info(info).map(Answer::GcState),
        Job::Mark(mark) => database.mark(mark).map(Answer::Marked),
        Job::Sweep(sweep) => database.sweep(sweep).map(Answer::Swept),
        Job::Stats => {
            let (file_size, file_free) = database.file_usage()?;
            Ok(Answer::Stats(Box::new(Stats {
                object_count: database.object_count()?,
                epoch: database.epoch(),
                file_size,
                file_free,
                load_time: timing.load,
                store_time: timing.store,
                checkpoints: database.checkpoints()?,
            })))
        }
    }
}
