//! `flux fsck`: checks that every blob the tree refers to is on the backing store.

use std::collections::{BTreeSet, VecDeque};
use std::io::IsTerminal;

use bytes::Bytes;
use client::Client;
use proto::content::{BackingLoadMany, BackingValidate, BlobList, Checkpoint};
use proto::{Empty, Raw};
use rpc::{Call, RpcError};
use spec::{BlobRef, TreeObj};
use types::Errno;

use super::digests::Digests;
use super::repair::{Defects, repair};
use super::tree::{self, Blobs, LEADER};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{err, outln, timefmt};

const PROG: &str = "flux-fsck";
/// Requests under way.
const REQUESTS_MAX: usize = 1000;
/// Directories in one request, where the store takes many, and such requests under way.
const BATCH: usize = 256;
const BATCHES_MAX: usize = 4;

static FSCK: Parser = Parser {
    name: "flux fsck",
    usage: "[OPTIONS]",
    about: "check integrity of content store data",
    family: Family::G,
    opts: &[
        flag('v', "verbose", "List keys as they are being validated"),
        flag('q', "quiet", "Reduce output to essential information."),
        arg(
            'r',
            "rootref",
            "BLOBREF",
            "Check integrity starting with BLOBREF",
        ),
        flag(
            'R',
            "repair",
            "Repair recoverable keys and place in lost+found",
        ),
        flag(
            'j',
            "job-aware",
            "Move all job data to lost+found if errors found",
        ),
    ],
};

/// Says something on standard error, under the program's name unless a person reads along.
pub(super) fn say(text: &str) {
    if std::io::stderr().is_terminal() {
        err!("{text}");
    } else {
        err!("{PROG}: {text}");
    }
}

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match FSCK.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return FSCK.wrong_words();
    }
    fail::run(PROG, async {
        let client = fail::connect_builtin().await?;
        if args.has("repair") {
            tree::refuse_live(
                &client,
                "please unload kvs module before using flux-fsck --repair",
            )
            .await?;
        }
        check(&client, &args).await
    })
}

async fn check(client: &Client, args: &Args) -> fail::Outcome {
    let blobs = Blobs::new(client, true);
    let (root, checkpoint) = match args.get("rootref") {
        Some(text) => {
            let root = text
                .parse()
                .map_err(|_| Fail::new("invalid blobref specified"))?;
            (root, None)
        }
        None => {
            let newest = blobs.checkpoints().await?.into_iter().next();
            let newest =
                newest.ok_or_else(|| Fail::of("error fetching checkpoints", Errno::ENOENT))?;
            let time = timefmt::strftime("%Y-%m-%dT%H:%M:%S", newest.timestamp.unwrap_or(0.0));
            outln!("Checking integrity of checkpoint from {time}");
            (tree::rootref(&newest.rootref)?, Some(newest))
        }
    };
    let mut walk = Walk {
        client,
        known: Digests::list(client, root.digest().len()).await?,
        validate: has_validate(client, &root).await?,
        blobs,
        verbose: args.has("verbose"),
        repair: args.has("repair"),
        quiet: args.has("quiet"),
        errors: 0,
        defects: Defects::default(),
    };
    walk.run(root).await?;
    let Walk { errors, .. } = walk;
    if args.has("job-aware") && walk.repair {
        walk.job_aware();
    }
    if errors > 0 || walk.verbose {
        say(&format!("Total errors: {errors}"));
    }
    if walk.repair && !walk.defects.values.is_empty() {
        let sequence = checkpoint
            .as_ref()
            .and_then(|one: &Checkpoint| one.sequence);
        repair(
            client,
            &walk.blobs,
            root,
            sequence.unwrap_or(0) + 1,
            &walk.defects,
        )
        .await?;
        if !walk.quiet {
            say("Updated primary checkpoint to include lost+found");
        }
    }
    if walk.repair {
        let defects = &walk.defects;
        for (what, count) in [
            ("repairs", defects.values.len()),
            ("unlinked directories", defects.dirs.len()),
        ] {
            if count > 0 || walk.verbose {
                say(&format!("Total {what}: {count}"));
            }
        }
    }
    Ok(i32::from(errors > 0))
}

/// Whether the store can tell that it has a blob without handing it out.
async fn has_validate(client: &Client, root: &BlobRef) -> Result<bool, Fail> {
    let digest = Raw(root.digest().to_vec().into());
    let call = client.handle().call::<BackingValidate>(LEADER, &digest);
    match call.await {
        Err(error) if error.errno == Errno::ENOSYS => Ok(false),
        _ => Ok(true),
    }
}

/// A request on its way, and what it is for. Answers are taken in the order of the requests.
enum Probe {
    /// Directories of which all blobs are wanted at once.
    Dirs {
        dirs: Vec<(String, BlobRef)>,
        call: Call<Raw>,
    },
    Dir {
        key: String,
        call: Call<Raw>,
    },
    Piece {
        key: String,
        blobref: BlobRef,
        index: usize,
        last: bool,
        call: PieceCall,
    },
}

enum PieceCall {
    Validate(Call<Empty>),
    Load(Call<Raw>),
}

impl PieceCall {
    async fn result(self) -> Result<(), RpcError> {
        match self {
            PieceCall::Validate(call) => call.await.map(|_| ()),
            PieceCall::Load(call) => call.await.map(|_| ()),
        }
    }
}

/// Something still to ask about.
enum Todo {
    Dir(String, BlobRef),
    /// A directory the store left out of an answer with many: asking alone tells why.
    Again(String, BlobRef),
    Value(String, Vec<BlobRef>, usize),
}

/// A value whose pieces are being checked.
#[derive(Default)]
struct Value {
    found: Vec<BlobRef>,
    missing: bool,
    failed: bool,
}

struct Walk<'a> {
    client: &'a Client,
    blobs: Blobs<'a>,
    /// What the store has, if it can tell; otherwise it is asked for each blob.
    known: Option<Digests>,
    validate: bool,
    verbose: bool,
    repair: bool,
    quiet: bool,
    errors: u64,
    defects: Defects,
}

impl Walk<'_> {
    async fn run(&mut self, root: BlobRef) -> Result<(), Fail> {
        let mut todo = VecDeque::from([Todo::Dir(String::new(), root)]);
        let mut probes = VecDeque::new();
        let mut value = Value::default();
        loop {
            let probes_max = match self.known {
                Some(_) => BATCHES_MAX,
                None => REQUESTS_MAX,
            };
            while probes.len() < probes_max
                && let Some(next) = todo.pop_front()
            {
                probes.push_back(self.ask(next, &mut todo));
            }
            self.client.drained().await;
            match probes.pop_front() {
                None => return Ok(()),
                Some(Probe::Dirs { dirs, call }) => {
                    let Raw(payload) = call
                        .await
                        .map_err(|error| Fail::of("error retrieving directories", error))?;
                    let found = BlobList::decode(&payload)
                        .filter(|found| found.len() == dirs.len())
                        .ok_or_else(|| Fail::of("error retrieving directories", Errno::EPROTO))?;
                    for ((key, blobref), blob) in dirs.into_iter().zip(found) {
                        let is_sound =
                            |blob: &Bytes| BlobRef::hash(blobref.kind(), blob) == blobref;
                        match blob.filter(is_sound) {
                            Some(blob) => self.on_dir(key, tree::references(&blob), &mut todo),
                            None => todo.push_back(Todo::Again(key, blobref)),
                        }
                    }
                }
                Some(Probe::Dir { key, call }) => {
                    let entries = match call.await {
                        Ok(Raw(blob)) => tree::references(&blob),
                        Err(error) => Err(error.errno),
                    };
                    self.on_dir(key, entries, &mut todo);
                }
                Some(Probe::Piece {
                    key,
                    blobref,
                    index,
                    last,
                    call,
                }) => {
                    match call.result().await {
                        Ok(()) => value.found.push(blobref),
                        Err(error) if error.errno == Errno::ENOENT => {
                            value.missing = true;
                            if self.verbose {
                                say(&format!("{key}: missing blobref index={index}"));
                            }
                        }
                        Err(error) => {
                            value.failed = true;
                            say(&format!(
                                "error retrieving blobref {index} of {key}: {error}"
                            ));
                        }
                    }
                    if last {
                        self.finish(key, std::mem::take(&mut value));
                    }
                }
            }
        }
    }

    /// What the store finds a blob by, if it can tell and has it.
    fn row(&self, blobref: &BlobRef) -> Option<&[u8]> {
        self.known.as_ref()?.row(blobref)
    }

    fn ask(&self, next: Todo, todo: &mut VecDeque<Todo>) -> Probe {
        match next {
            Todo::Dir(key, blobref) if let Some(row) = self.row(&blobref) => {
                let mut rows = row.to_vec();
                let mut dirs = vec![(key, blobref)];
                while dirs.len() < BATCH
                    && let Some(Todo::Dir(_, blobref)) = todo.front()
                    && let Some(row) = self.row(blobref)
                    && let Some(Todo::Dir(key, blobref)) = todo.pop_front()
                {
                    rows.extend_from_slice(row);
                    dirs.push((key, blobref));
                }
                let handle = self.client.handle();
                let call = handle.call::<BackingLoadMany>(LEADER, &Raw(rows.into()));
                Probe::Dirs { dirs, call }
            }
            Todo::Dir(key, blobref) | Todo::Again(key, blobref) => Probe::Dir {
                key,
                call: self.blobs.load(&blobref),
            },
            Todo::Value(key, refs, index) => {
                let blobref = refs[index];
                let call = if self.validate {
                    let digest = Raw(blobref.digest().to_vec().into());
                    let handle = self.client.handle();
                    PieceCall::Validate(handle.call::<BackingValidate>(LEADER, &digest))
                } else {
                    PieceCall::Load(self.blobs.load(&blobref))
                };
                let last = index + 1 == refs.len();
                if !last {
                    todo.push_front(Todo::Value(key.clone(), refs, index + 1));
                }
                Probe::Piece {
                    key,
                    blobref,
                    index,
                    last,
                    call,
                }
            }
        }
    }

    fn on_dir(
        &mut self,
        key: String,
        entries: Result<Vec<(String, TreeObj)>, Errno>,
        todo: &mut VecDeque<Todo>,
    ) {
        match entries {
            Ok(entries) => self.directory(&key, entries, todo),
            Err(errno) => self.bad_dir(key, errno),
        }
    }

    fn directory(
        &mut self,
        key: &str,
        entries: impl IntoIterator<Item = (String, TreeObj)>,
        todo: &mut VecDeque<Todo>,
    ) {
        for (name, object) in entries {
            let key = tree::join(key, &name);
            if self.verbose {
                say(&key);
            }
            match object {
                TreeObj::ValRef(refs) if self.known.is_some() => self.value(key, refs),
                TreeObj::ValRef(refs) => todo.push_back(Todo::Value(key, refs, 0)),
                // Told in the order of the keys, as that of a value is.
                TreeObj::DirRef(blobref)
                    if self
                        .known
                        .as_ref()
                        .is_some_and(|known| !known.has(&blobref)) =>
                {
                    self.bad_dir(key, Errno::ENOENT);
                }
                TreeObj::DirRef(blobref) => todo.push_back(Todo::Dir(key, blobref)),
                TreeObj::Dir(entries) => self.directory(&key, entries, todo),
                TreeObj::Val(_) | TreeObj::Symlink { .. } => {}
            }
        }
    }

    /// Checks a value against what the store has.
    fn value(&mut self, key: String, refs: Vec<BlobRef>) {
        let Some(known) = &self.known else { return };
        if refs.iter().all(|blobref| known.has(blobref)) {
            return;
        }
        let mut value = Value {
            missing: true,
            ..Value::default()
        };
        for (index, blobref) in refs.into_iter().enumerate() {
            if known.has(&blobref) {
                value.found.push(blobref);
            } else if self.verbose {
                say(&format!("{key}: missing blobref index={index}"));
            }
        }
        self.finish(key, value);
    }

    fn bad_dir(&mut self, key: String, errno: Errno) {
        self.errors += 1;
        if errno != Errno::ENOENT {
            return say(&format!("error retrieving directory {key}: {errno}"));
        }
        say(&format!("{key}: missing dirref blobref"));
        // Without its root there is nothing to mend.
        if self.repair && !key.is_empty() {
            if !self.quiet {
                say(&format!("{key} unlinked due to missing blobref"));
            }
            self.defects.dirs.push(key);
        }
    }

    fn finish(&mut self, key: String, value: Value) {
        if !value.missing && !value.failed {
            return;
        }
        self.errors += 1;
        if value.missing && !self.verbose {
            say(&format!("{key}: missing blobref(s)"));
        }
        if self.repair && !value.failed {
            if !self.quiet {
                say(&format!("{key} repaired and moved to lost+found"));
            }
            self.defects.values.insert(key, value.found);
        }
    }

    /// Extends the damage to whole jobs: half a job is of no use where it was.
    fn job_aware(&mut self) {
        let jobs: BTreeSet<String> = self
            .defects
            .values
            .keys()
            .filter_map(|key| job_directory(key))
            .collect();
        for job in jobs {
            if !self.quiet {
                let name = job_id(&job).unwrap_or_else(|| job.clone());
                say(&format!("job {name} moved to lost+found"));
            }
            self.defects.jobs.push(job);
        }
    }
}

/// The directory of the job a key belongs to, if it does.
fn job_directory(key: &str) -> Option<String> {
    let parts: Vec<&str> = key.split('.').take(6).collect();
    let ["job", words @ .., _] = parts.as_slice() else {
        return None;
    };
    let hex = |word: &&str| word.len() == 4 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    (words.len() == 4 && words.iter().all(hex)).then(|| parts[..5].join("."))
}

fn job_id(directory: &str) -> Option<String> {
    let hex: String = directory.split('.').skip(1).collect();
    let id = u64::from_str_radix(&hex, 16).ok()?;
    Some(types::JobId(id).f58_plain())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_jobs_are_known() {
        let job = "job.0000.0001.0002.0003";
        assert_eq!(
            job_directory(&format!("{job}.guest.x")).as_deref(),
            Some(job)
        );
        assert_eq!(job_directory(&format!("{job}.x")).as_deref(), Some(job));
        assert_eq!(job_directory(job), None);
        assert_eq!(job_directory("job.0000.0001.0002.zzzz.x"), None);
        assert_eq!(job_directory("jobs.0000.0001.0002.0003.x"), None);
        assert_eq!(job_id(job).as_deref(), Some("f7YYW7C"));
    }
}
