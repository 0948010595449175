//! `flux dump`: the tree as an archive.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use client::Client;
use dumpfile::{Format, Stamp, Writer};
use proto::Raw;
use rpc::{Call, Dest};
use spec::{BlobRef, TreeObj};

use super::tree::{self, Blobs};
use super::{maxreqs, shows, status};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg, flag};
use crate::{err, timefmt};

const PROG: &str = "flux-dump";
/// Loads under way unless `--maxreqs` says otherwise.
const LOADS_MAX: usize = 2;

static DUMP: Parser = Parser {
    name: "flux dump",
    usage: "[OPTIONS] OUTFILE",
    about: "Dump KVS snapshot to a portable archive format",
    family: Family::G,
    opts: &[
        flag('v', "verbose", "List keys on stderr as they are archived"),
        flag('q', "quiet", "Don't show periodic progress updates"),
        flag('\0', "checkpoint", "Dump from checkpoint"),
        flag('\0', "no-cache", "Bypass the broker content cache"),
        flag(
            '\0',
            "ignore-failed-read",
            "Treat content load errors as non-fatal",
        ),
        flag(
            '\0',
            "sd-notify",
            "Send status updates to systemd via flux-broker(1)",
        ),
        arg(
            '\0',
            "maxreqs",
            "N",
            "Increase number of concurrent requests (default 2)",
        ),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match DUMP.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [path] = args.words.as_slice() else {
        return DUMP.wrong_words();
    };
    fail::run(PROG, async {
        let loads_max = maxreqs(&args, LOADS_MAX)?;
        let format = Format::of_name(path)?;
        let client = fail::connect_builtin().await?;
        let blobs = Blobs::new(&client, args.has("no-cache"));
        let (root, time) = if args.has("checkpoint") {
            let checkpoints = blobs.checkpoints().await?;
            let newest = checkpoints
                .first()
                .ok_or_else(|| Fail::of("error fetching checkpoints", types::Errno::ENOENT))?;
            (tree::rootref(&newest.rootref)?, newest.timestamp)
        } else {
            let root = tree::live_root(&client, Dest::Any)
                .await
                .map_err(|error| Fail::of("error fetching current KVS root", error))?;
            (tree::rootref(&root.rootref)?, None)
        };
        let mut dump = Dump {
            client: &client,
            archive: Archive::create(path, format, time.unwrap_or_else(timefmt::now))?,
            keys: 0,
            verbose: args.has("verbose"),
            progress: !args.has("verbose") && !args.has("quiet"),
            notify: args.has("sd-notify"),
            ignore: args.has("ignore-failed-read"),
        };
        let walked = dump.walk(&blobs, root, loads_max).await;
        if let Err(fail) = walked {
            if dump.progress && dump.keys > 0 {
                status("\n");
            }
            dump.archive.discard();
            return Err(fail);
        }
        dump.finish().await;
        dump.archive.finish()?;
        Ok(0)
    })
}

/// A blob on its way, and what it is for. Answers are taken in the order of the requests, so that
/// the pieces of one value follow each other.
enum Load {
    Dir {
        path: String,
        call: Call<Raw>,
    },
    Piece {
        path: String,
        index: usize,
        last: bool,
        call: Call<Raw>,
    },
}

/// A blob still to ask for.
enum Todo {
    Dir(String, BlobRef),
    Value(String, Vec<BlobRef>, usize),
}

struct Dump<'a> {
    client: &'a Client,
    archive: Archive,
    keys: u64,
    verbose: bool,
    progress: bool,
    notify: bool,
    ignore: bool,
}

impl Dump<'_> {
    async fn walk(&mut self, blobs: &Blobs<'_>, root: BlobRef, max: usize) -> Result<(), Fail> {
        // The newest entry first: the work list stays as short as the tree is deep and wide.
        let mut todo = vec![Todo::Dir(String::new(), root)];
        // A value once begun is asked for to its end, so that no piece of another comes between.
        let mut begun = None;
        let mut loads: VecDeque<Load> = VecDeque::new();
        let mut value = Some(Vec::new());
        loop {
            while loads.len() < max
                && let Some(next) = begun.take().or_else(|| todo.pop())
            {
                match next {
                    Todo::Dir(path, blobref) => {
                        let call = blobs.load(&blobref);
                        loads.push_back(Load::Dir { path, call });
                    }
                    Todo::Value(path, refs, index) => {
                        let call = blobs.load(&refs[index]);
                        let last = index + 1 == refs.len();
                        loads.push_back(Load::Piece {
                            path: path.clone(),
                            index,
                            last,
                            call,
                        });
                        if !last {
                            begun = Some(Todo::Value(path, refs, index + 1));
                        }
                    }
                }
            }
            match loads.pop_front() {
                None => return Ok(()),
                Some(Load::Dir { path, call }) => {
                    let entries = match call.await {
                        Ok(Raw(blob)) => tree::directory(&blob),
                        Err(error) => Err(error.errno),
                    };
                    match entries {
                        Ok(entries) => self.directory(&path, entries, &mut todo)?,
                        Err(errno) => {
                            self.missing(format!("{path}: could not load content: {errno}"))?;
                        }
                    }
                }
                Some(Load::Piece {
                    path,
                    index,
                    last,
                    call,
                }) => {
                    match call.await {
                        Ok(Raw(blob)) => {
                            if let Some(value) = &mut value {
                                value.extend_from_slice(&blob);
                            }
                        }
                        Err(error) => {
                            // Only the first gap of a value is told of.
                            if value.take().is_some() {
                                self.missing(format!("{path}: missing blobref {index}: {error}"))?;
                            }
                        }
                    }
                    if last && let Some(bytes) = value.replace(Vec::new()) {
                        self.archive.file(&path, &bytes)?;
                        self.count(&path);
                    }
                }
            }
        }
    }

    fn directory(
        &mut self,
        path: &str,
        entries: std::collections::BTreeMap<String, TreeObj>,
        todo: &mut Vec<Todo>,
    ) -> Result<(), Fail> {
        let start = todo.len();
        for (name, object) in entries {
            let path = if path.is_empty() {
                name
            } else {
                format!("{path}/{name}")
            };
            match object {
                TreeObj::Val(bytes) => {
                    self.archive.file(&path, &bytes)?;
                    self.count(&path);
                }
                TreeObj::Symlink { namespace, target } => {
                    let target = match namespace {
                        Some(namespace) => format!("{namespace}::{target}"),
                        None => target,
                    };
                    self.archive.link(&path, &target)?;
                    self.count(&path);
                }
                TreeObj::ValRef(refs) => todo.push(Todo::Value(path, refs, 0)),
                TreeObj::DirRef(blobref) => todo.push(Todo::Dir(path, blobref)),
                TreeObj::Dir(entries) => self.directory(&path, entries, todo)?,
            }
        }
        todo[start..].reverse();
        Ok(())
    }

    fn missing(&self, text: String) -> Result<(), Fail> {
        if self.progress && self.keys > 0 {
            status("\n");
        }
        err!("{text}");
        if self.ignore {
            return Ok(());
        }
        Err(Fail::silent(1))
    }

    fn count(&mut self, path: &str) {
        self.keys += 1;
        if self.verbose {
            err!("{path}");
        }
        if shows(self.keys) {
            self.show();
        }
    }

    fn show(&self) {
        if self.progress {
            status(&format!("\r{PROG}: archived {} keys", self.keys));
        }
        if self.notify {
            super::notify(
                self.client,
                &format!("flux-dump(1) has archived {} keys", self.keys),
            );
        }
    }

    async fn finish(&self) {
        self.show();
        if self.progress {
            status("\n");
        }
        self.client.flush().await;
    }
}

/// Where the archive goes. A file gets its name when all is written: a failed dump must not cost
/// an earlier one.
struct Target {
    path: PathBuf,
    unfinished: Option<PathBuf>,
}

impl Target {
    /// Creates the file.
    fn create(path: &str) -> io::Result<(Target, Box<dyn Write>)> {
        let path = PathBuf::from(path);
        let mut target = Target {
            path,
            unfinished: None,
        };
        if target.path == Path::new("-") {
            return Ok((target, Box::new(io::stdout())));
        }
        // A device, a pipe or a link is written to as it is.
        let is_plain = match target.path.symlink_metadata() {
            Ok(metadata) => metadata.is_file(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let mut name = target.path.clone();
        if is_plain {
            name.as_mut_os_string().push(".unfinished");
            target.unfinished = Some(name.clone());
        }
        Ok((target, Box::new(File::create(name)?)))
    }

    /// Names the file, which is complete and closed.
    fn finish(&self) -> io::Result<()> {
        let Some(unfinished) = &self.unfinished else {
            return Ok(());
        };
        File::open(unfinished)?.sync_all()?;
        std::fs::rename(unfinished, &self.path)
    }

    fn discard(&self) {
        if let Some(unfinished) = &self.unfinished {
            // The dump's own failure was told of; what cannot be removed is no archive by name.
            let _kept = std::fs::remove_file(unfinished);
        }
    }
}

/// The archive, and where it goes.
struct Archive {
    target: Target,
    writer: Writer,
}

impl Archive {
    fn create(path: &str, format: Format, time: f64) -> Result<Archive, Fail> {
        let (target, file) =
            Target::create(path).map_err(|_| Fail::new(format!("Failed to open '{path}'")))?;
        let stamp = Stamp {
            // Times before the epoch are no times of ours.
            time: time.max(0.0) as u64,
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
        };
        let writer = Writer::new(format, file, stamp).map_err(|error| unwritten(path, &error))?;
        Ok(Archive { target, writer })
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), Fail> {
        let written = self.writer.file(path, bytes);
        written.map_err(|error| unwritten(path, &error))
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), Fail> {
        let written = self.writer.symlink(path, target);
        written.map_err(|error| unwritten(path, &error))
    }

    fn finish(self) -> Result<(), Fail> {
        let target = self.target;
        let closed = self.writer.finish();
        closed.and_then(|()| target.finish()).map_err(|error| {
            target.discard();
            unwritten(target.path.display(), &error)
        })
    }

    fn discard(&self) {
        self.target.discard();
    }
}

/// Why something could not be written.
fn unwritten(what: impl std::fmt::Display, error: &io::Error) -> Fail {
    match error.raw_os_error() {
        Some(_) => Fail::of(what, types::Errno::from_io(error)),
        // What does not fit into the format.
        None => Fail::of(what, error),
    }
}
