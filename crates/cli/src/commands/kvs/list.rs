//! Listing: `dir` and `ls`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use client::Client;
use client::kvs::treeobj as decode;
use proto::kvs::{KvsLookup, Lookup, flags};
use rpc::Dest;
use spec::TreeObj;
use types::Errno;

use super::{NAMESPACE, PROG, namespace_of};
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{err, out, outln, output};

type Entries = BTreeMap<String, TreeObj>;

/// Where a listing looks.
struct Place<'a> {
    client: &'a Client,
    namespace: String,
    rootdir: Option<serde_json::Value>,
}

impl Place<'_> {
    async fn lookup(&self, key: &str, bits: i32) -> Result<TreeObj, Errno> {
        let request = Lookup {
            key: key.to_owned(),
            flags: bits,
            namespace: self.rootdir.is_none().then(|| self.namespace.clone()),
            rootdir: self.rootdir.clone(),
            rootseq: None,
        };
        let call = self.client.handle().call::<KvsLookup>(Dest::Any, &request);
        let found = call.await.map_err(|error| error.errno)?;
        decode(&found.val).map_err(|error| error.errno)
    }

    async fn entries(&self, key: &str) -> Result<Entries, Errno> {
        match self.lookup(key, flags::READDIR).await? {
            TreeObj::Dir(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }
}

/// A key below a directory, whose own name is empty at the root.
fn below(dir: &str, name: &str) -> String {
    if dir == "." || dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}.{name}")
    }
}

static DIR: Parser = Parser {
    name: "flux-kvs dir",
    usage: "[-N ns] [-R] [-d] [-w COLS] [-a treeobj] [key]",
    about: "Display all keys under directory",
    family: Family::G,
    opts: &[
        NAMESPACE,
        flag('R', "recursive", "Descend into directories"),
        flag('d', "directory", "Show keys without values"),
        arg(
            'w',
            "width",
            "COLS",
            "Cut lines to this width; 0 for no limit",
        ),
        arg('a', "at", "TREEOBJ", "Look below this root"),
    ],
};

/// The width of lines: the option's, or else the terminal's.
fn width(args: &Args) -> Result<usize, i32> {
    match args.int("width")? {
        Some(width) if width >= 0 => Ok(usize::try_from(width).unwrap_or(usize::MAX)),
        _ => Ok(crate::terminal::width().unwrap_or(80)),
    }
}

pub(super) fn dir(words: &[String]) -> i32 {
    let args = match DIR.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let width = match width(&args) {
        Ok(width) => width,
        Err(status) => return status,
    };
    if args.words.len() > 1 {
        return super::wrong_count("dir: specify zero or one directory");
    }
    let key = args.words.first().map_or(".", String::as_str);
    fail::run(PROG, async {
        let key = super::named(key).map_err(|errno| Fail::of(key, errno))?;
        let key = without_dot(key);
        let client = fail::connect().await?;
        let place = Place {
            client: &client,
            namespace: namespace_of(&args),
            rootdir: super::rootdir(&args, key)?,
        };
        show_dir(&place, &args, key, width)
            .await
            .map_err(|errno| Fail::of(key, errno))?;
        Ok(0)
    })
}

/// A key without the dot at its end, which only says that this is a directory.
fn without_dot(key: &str) -> &str {
    match key.trim_end_matches('.') {
        "" => ".",
        name => name,
    }
}

/// Shows one directory; boxed because it calls itself.
fn show_dir<'a>(
    place: &'a Place<'a>,
    args: &'a Args,
    dir: &'a str,
    width: usize,
) -> Pin<Box<dyn Future<Output = Result<(), Errno>> + 'a>> {
    Box::pin(async move {
        let entries = place.entries(dir).await?;
        for (name, object) in &entries {
            let key = below(dir, name);
            match object {
                TreeObj::Symlink { namespace, target } => match namespace {
                    Some(namespace) => outln!("{key} -> {namespace}::{target}"),
                    None => outln!("{key} -> {target}"),
                },
                TreeObj::Dir(_) | TreeObj::DirRef(_) => {
                    let inside = args.has("recursive") && !place.entries(&key).await?.is_empty();
                    if inside {
                        show_dir(place, args, &key, width).await?;
                    } else {
                        outln!("{key}.");
                    }
                }
                _ if args.has("directory") => outln!("{key}"),
                TreeObj::Val(bytes) => output::write_line(&value_line(&key, bytes, width)),
                TreeObj::ValRef(_) => match place.lookup(&key, 0).await? {
                    TreeObj::Val(bytes) => output::write_line(&value_line(&key, &bytes, width)),
                    _ => return Err(Errno::EPROTO),
                },
            }
        }
        Ok(())
    })
}

/// A value's line, cut at the width or at the end of its first line. A width that has no room for
/// the dots is none, and nothing is cut.
fn value_line(key: &str, value: &[u8], width: usize) -> Vec<u8> {
    const DOTS: &[u8] = b"...";
    let mut line = format!("{key} = ").into_bytes();
    line.extend_from_slice(value);
    if width <= DOTS.len() {
        return line;
    }
    let room = width - DOTS.len();
    if line.ends_with(b"\n") {
        line.pop();
    }
    let first = line.iter().position(|byte| *byte == b'\n');
    let end = first.unwrap_or(line.len());
    // Of text, no character is cut in two.
    let end = match std::str::from_utf8(&line[..end]) {
        Ok(text) => text.char_indices().nth(room).map_or(end, |(at, _)| at),
        Err(_) => end.min(room),
    };
    if end < line.len() {
        line.truncate(end);
        line.extend_from_slice(DOTS);
    }
    line
}

static LS: Parser = Parser {
    name: "flux-kvs ls",
    usage: "[-N ns] [-R] [-d] [-F] [-w COLS] [-1] [key...]",
    about: "List directory",
    family: Family::G,
    opts: &[
        NAMESPACE,
        flag('R', "recursive", "Descend into directories"),
        flag('d', "directory", "Show directories themselves"),
        arg('w', "width", "COLS", "Width of the listing; 0 for no limit"),
        flag('1', "1", "One name a line"),
        flag('F', "classify", "Mark directories and links"),
    ],
};

pub(super) fn ls(words: &[String]) -> i32 {
    let args = match LS.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let width = match width(&args) {
        Ok(_) if args.has("1") => 1,
        Ok(0) => usize::MAX,
        Ok(width) => width,
        Err(status) => return status,
    };
    fail::run(PROG, async {
        let client = fail::connect().await?;
        let place = Place {
            client: &client,
            namespace: namespace_of(&args),
            rootdir: None,
        };
        let mut listing = Listing {
            place: &place,
            args: &args,
            width,
            shown: false,
            status: 0,
        };
        listing.run().await?;
        Ok(listing.status)
    })
}

struct Listing<'a> {
    place: &'a Place<'a>,
    args: &'a Args,
    width: usize,
    shown: bool,
    status: i32,
}

impl Listing<'_> {
    async fn run(&mut self) -> Result<(), Fail> {
        let root = [".".to_owned()];
        let keys = if self.args.words.is_empty() {
            &root[..]
        } else {
            &self.args.words[..]
        };
        let mut names = Vec::new();
        let mut dirs = Vec::new();
        for word in keys {
            super::named(word).map_err(|errno| Fail::of("flux_kvs_lookup", errno))?;
            let key = without_dot(word);
            let object = match self.place.lookup(key, flags::TREEOBJ).await {
                Ok(object) => object,
                Err(errno) => {
                    self.complain(key, errno);
                    continue;
                }
            };
            if key != word && !matches!(object, TreeObj::Dir(_) | TreeObj::DirRef(_)) {
                self.complain(key, Errno::ENOTDIR);
                continue;
            }
            match self.classify(key, &object).await {
                Ok(None) => dirs.push(key.to_owned()),
                Ok(Some(mark)) => names.push(format!("{key}{mark}")),
                Err(errno) => return Err(Fail::of(key, errno)),
            }
        }
        names.sort();
        dirs.sort();
        if !names.is_empty() {
            columns(&names, longest(&names), self.width);
            self.shown = true;
        }
        let title = keys.len() > 1 || self.args.has("recursive");
        for dir in dirs {
            self.directory(dir, title).await;
        }
        Ok(())
    }

    fn complain(&mut self, key: &str, errno: Errno) {
        err!("{key}: {errno}");
        self.status = 1;
    }

    /// `None` for a directory to list, else the mark its name gets.
    async fn classify(&self, key: &str, object: &TreeObj) -> Result<Option<&'static str>, Errno> {
        let marks = self.args.has("classify");
        match object {
            TreeObj::Dir(_) | TreeObj::DirRef(_) => Ok(if self.args.has("directory") {
                Some(if marks { "." } else { "" })
            } else {
                None
            }),
            TreeObj::Symlink { .. } => {
                if self.args.has("directory") || marks {
                    return Ok(Some(if marks { "@" } else { "" }));
                }
                match self.place.lookup(key, flags::READDIR).await {
                    Ok(_) => Ok(None),
                    // A link to a value or to nothing is listed by its name.
                    Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(Some("")),
                    Err(errno) => Err(errno),
                }
            }
            _ => Ok(Some("")),
        }
    }

    /// Lists a directory and, if asked to, those in it, in the order of a walk.
    async fn directory(&mut self, dir: String, title: bool) {
        let mut stack = vec![dir];
        while let Some(dir) = stack.pop() {
            let entries = match self.place.entries(&dir).await {
                Ok(entries) => entries,
                Err(errno) => {
                    self.complain(&dir, errno);
                    continue;
                }
            };
            if self.shown {
                outln!();
            }
            self.shown = true;
            if title {
                outln!("{dir}:");
            }
            let marks = self.args.has("classify");
            let names: Vec<String> = entries
                .iter()
                .map(|(name, object)| match object {
                    TreeObj::Dir(_) | TreeObj::DirRef(_) if marks => format!("{name}."),
                    TreeObj::Symlink { .. } if marks => format!("{name}@"),
                    _ => name.clone(),
                })
                .collect();
            // The marks have their place between the columns.
            columns(&names, longest(entries.keys()), self.width);
            if self.args.has("recursive") {
                let inner = entries
                    .iter()
                    .rev()
                    .filter(|(_, object)| matches!(object, TreeObj::Dir(_) | TreeObj::DirRef(_)));
                stack.extend(inner.map(|(name, _)| below(&dir, name)));
            }
        }
    }
}

fn longest<'a>(names: impl IntoIterator<Item = &'a String>) -> usize {
    let lengths = names.into_iter().map(|name| name.chars().count());
    lengths.max().unwrap_or_default()
}

/// Prints names in columns of the longest plus four.
fn columns(names: &[String], longest: usize, width: usize) {
    let column = longest + 4;
    let per_line = (width / column).max(1);
    for line in names.chunks(per_line) {
        for (index, name) in line.iter().enumerate() {
            if index + 1 < line.len() {
                out!("{name:<column$}");
            } else {
                out!("{name}");
            }
        }
        outln!();
    }
}

#[cfg(test)]
mod tests {
    use super::value_line;

    #[test]
    fn long_values_are_cut() {
        let check = |key, value: &[u8], width, expect: &[u8]| {
            assert_eq!(value_line(key, value, width), expect, "{width}");
        };
        check("a", b"1", 80, b"a = 1");
        check("foo", b"0123456789abcdef", 20, b"foo = 0123456789a...");
        check("app", b"123", 10, b"app = 1...");
        check("app", b"123", 3, b"app = 123");
        check("a", b"x\ny", 80, b"a = x...");
        check("a", b"x\ny", 0, b"a = x\ny");
        check("a", b"x\n", 80, b"a = x");
        check("a", b"", 80, b"a = ");
        check("a", b"\xff\xfe", 80, b"a = \xff\xfe");
        check("\u{fc}", "\u{f6}".as_bytes(), 7, "\u{fc} = ...".as_bytes());
    }
}
