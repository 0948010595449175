//! `flux hostlist`: lists of hosts, from anywhere, combined.

use std::io::{IsTerminal, Read};
use std::str::FromStr;
use std::time::Duration;

use client::Client;
use proto::Empty;
use proto::job_list::{JobListId, ListId};
use proto::resource::ResourceStatus;
use rpc::Dest;
use types::{Errno, Hostlist, IdSet, JobId};

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::outln;

const ABOUT: &str = "\
Reads hosts from SOURCES and writes them as one hostlist.

SOURCES may include:
  instance     all hosts of the instance
  JOBID        the hosts of a job
  local        inside a job its hosts, elsewhere those of the instance
  avail[able]  those of the instance that are up and not drained
  stdin, -     hostlists on standard input (default)
  HOSTS        these hosts";

static PARSER: Parser = Parser {
    name: "flux-hostlist",
    usage: "[-h] [-e] [-d S] [-c] [-n [-]IDS] [-F HOSTS] [-L N] [-S] [-x IDS|HOSTS] [-u] [-i | -m | -X] [-f] [-l] [-q] [SOURCES ...]",
    about: ABOUT,
    family: Family::P,
    opts: &[
        flag('e', "expand", "Write the hosts one by one"),
        arg(
            'd',
            "delimiter",
            "S",
            "What separates expanded hosts (default=' ')",
        ),
        flag('c', "count", "Write the number of hosts"),
        arg(
            'n',
            "nth",
            "[-]IDS",
            "Only hosts at the indices IDS (-IDS: from the end)",
        ),
        arg(
            'F',
            "find",
            "HOSTS",
            "Write the indices of HOSTS. Fails if one is not found.",
        ),
        arg('L', "limit", "N", "At most N hosts (-N: the last N hosts)"),
        flag('S', "sort", "Sort the result"),
        arg(
            'x',
            "exclude",
            "IDS|HOSTS",
            "Leave out all of HOSTS, or the hosts at indices",
        ),
        flag('u', "union", "Each host once"),
        flag('\0', "unique", "The same"),
        flag('i', "intersect", "Only hosts in all sources"),
        flag('m', "minus", "Only hosts of the first source in no other"),
        flag('X', "xor", "Only hosts in an odd number of sources"),
        flag(
            'f',
            "fallback",
            "Take job ids that are not found for host names",
        ),
        flag(
            'l',
            "local",
            "Without SOURCES, use 'local' instead of 'stdin'",
        ),
        flag(
            'q',
            "quiet",
            "No output; the exit status is 1 if there are no hosts",
        ),
    ],
};

/// How long to wait for hosts on standard input unless the environment says otherwise.
const STDIN_TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let request = match Request::from_args(&args) {
        Ok(request) => request,
        Err(failure) => return fail::report("flux-hostlist: ERROR", Err(failure)),
    };
    fail::run("flux-hostlist: ERROR", async {
        let mut sources = Sources::default();
        let mut lists = Vec::new();
        let default = if args.has("local") { "local" } else { "stdin" };
        if args.words.is_empty() {
            lists.push(sources.read(default, false).await?);
        }
        for word in &args.words {
            lists.push(sources.read(word, args.has("fallback")).await?);
        }
        let hosts = request.evaluate(lists)?;
        if args.has("quiet") {
            return Ok(i32::from(hosts.is_empty()));
        }
        request.print(&hosts)?;
        Ok(0)
    })
}

/// Where hosts come from. The connection is made for the first source that needs it.
#[derive(Default)]
struct Sources {
    client: Option<Client>,
}

impl Sources {
    async fn client(&mut self) -> Result<&Client, Fail> {
        if self.client.is_none() {
            self.client = Some(fail::connect_p().await?);
        }
        self.client
            .as_ref()
            .ok_or_else(|| Fail::new("not connected"))
    }

    async fn read(&mut self, source: &str, fallback: bool) -> Result<Hostlist, Fail> {
        match source {
            "stdin" | "-" => read_stdin(),
            "instance" => self.instance().await,
            "avail" | "available" => self.available().await,
            "local" => match std::env::var("FLUX_JOB_ID") {
                Ok(id) => self.job(&id, false).await,
                Err(_) => self.instance().await,
            },
            _ if source.parse::<JobId>().is_ok() => self.job(source, fallback).await,
            _ => literal(source)
                .map_err(|_| Fail::new(format!("Invalid jobid or hostlist {source}"))),
        }
    }

    async fn instance(&mut self) -> Result<Hostlist, Fail> {
        let hosts = self.client().await?.attr("hostlist").await?;
        literal(&hosts)
    }

    /// The hosts of the instance without those down or drained.
    async fn available(&mut self) -> Result<Hostlist, Fail> {
        let hosts = self.instance().await?;
        let call = self
            .client()
            .await?
            .handle()
            .call::<ResourceStatus>(Dest::Any, &Empty {});
        let status = call.await?;
        let mut gone: IdSet = status.offline;
        for ranks in status.drain.keys() {
            let ranks: IdSet = ranks
                .parse()
                .map_err(|error| Fail::of("resource.status", error))?;
            gone.insert_all(&ranks);
        }
        let all = IdSet::first_n(u32::try_from(hosts.len()).unwrap_or(u32::MAX));
        Ok(hosts.select(&all.difference(&gone)))
    }

    async fn job(&mut self, text: &str, fallback: bool) -> Result<Hostlist, Fail> {
        let id: JobId = text
            .parse()
            .map_err(|_| Fail::new(format!("{text} is not a valid Flux jobid")))?;
        let request = ListId {
            id,
            attrs: vec!["nodelist".to_owned()],
            state: None,
        };
        let call = self
            .client()
            .await?
            .handle()
            .call::<JobListId>(Dest::Any, &request);
        match call.await {
            Ok(found) => literal(
                found
                    .job
                    .get("nodelist")
                    .and_then(|hosts| hosts.as_str())
                    .unwrap_or_default(),
            ),
            Err(error) if error.errno == Errno::ENOENT && fallback => literal(text),
            Err(error) if error.errno == Errno::ENOENT => {
                Err(Fail::new(format!("job {text} not found")))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn literal(text: &str) -> Result<Hostlist, Fail> {
    Hostlist::from_str(text).map_err(|_| Fail::new(format!("Invalid hostlist: '{text}'")))
}

/// Reads hosts separated by blanks or new lines. Nothing in time is an error, so that a command
/// somebody forgot to feed does not hang.
fn read_stdin() -> Result<Hostlist, Fail> {
    use std::os::fd::AsFd;

    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let timeout = std::env::var("FLUX_HOSTLIST_STDIN_TIMEOUT")
            .ok()
            .and_then(|text| text.parse().ok())
            .map_or(STDIN_TIMEOUT, Duration::from_secs_f64);
        let mut polled = [nix::poll::PollFd::new(
            stdin.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        let timeout =
            nix::poll::PollTimeout::try_from(timeout).unwrap_or(nix::poll::PollTimeout::NONE);
        let ready = nix::poll::poll(&mut polled, timeout)
            .map_err(|errno| Fail::of("stdin", Errno(errno as i32)))?;
        if ready == 0 {
            return Err(Fail::new("timeout waiting for hosts on stdin"));
        }
    }
    let mut text = String::new();
    stdin
        .lock()
        .read_to_string(&mut text)
        .map_err(|error| Fail::of("stdin", Errno::from_io(&error)))?;
    let mut hosts = Hostlist::new();
    for word in text.split_whitespace() {
        hosts.append(&literal(word)?);
    }
    Ok(hosts)
}

/// How lists become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Combine {
    Append,
    Intersect,
    Minus,
    Xor,
}

/// What a command line wants of the lists.
#[derive(Debug)]
struct Request {
    combine: Combine,
    unique: bool,
    sort: bool,
    exclude: Option<String>,
    limit: Option<i64>,
    nth: Option<String>,
    count: bool,
    find: Option<String>,
    expand: bool,
    delimiter: String,
}

impl Request {
    fn from_args(args: &Args) -> Result<Request, Fail> {
        exclusive(args, &[("intersect", 'i'), ("minus", 'm'), ("xor", 'X')])?;
        exclusive(args, &[("expand", 'e'), ("count", 'c')])?;
        let combine = if args.has("intersect") {
            Combine::Intersect
        } else if args.has("minus") {
            Combine::Minus
        } else if args.has("xor") {
            Combine::Xor
        } else {
            Combine::Append
        };
        let exclude = args.get("exclude").map(str::to_owned);
        if let Some(text) = &exclude
            && text.parse::<IdSet>().is_err()
            && text.parse::<Hostlist>().is_err()
        {
            let text = format!("argument -x/--exclude: invalid Hostlist value: '{text}'");
            return Err(args.parser().usage_error(&text).into());
        }
        let owned = |key: &str| {
            let text = args.get(key).filter(|text| !text.is_empty());
            text.map(str::to_owned)
        };
        Ok(Request {
            combine,
            unique: args.has("union") || args.has("unique"),
            sort: args.has("sort"),
            exclude,
            limit: args.int("limit")?,
            nth: owned("nth"),
            count: args.has("count"),
            find: owned("find"),
            expand: args.has("expand"),
            delimiter: args.get("delimiter").unwrap_or(" ").replace("\\n", "\n"),
        })
    }

    fn evaluate(&self, lists: Vec<Hostlist>) -> Result<Hostlist, Fail> {
        let mut hosts = combine(self.combine, lists);
        if let Some(text) = &self.exclude {
            if let Ok(ids) = text.parse::<IdSet>() {
                let all = IdSet::first_n(u32::try_from(hosts.len()).unwrap_or(u32::MAX));
                hosts = hosts.select(&all.difference(&ids));
            } else {
                hosts.delete(&literal(text)?);
            }
        }
        if self.unique {
            hosts.uniq();
        } else if self.sort {
            hosts.sort();
        }
        if let Some(limit) = self.limit {
            let size = usize::try_from(limit.unsigned_abs()).unwrap_or(usize::MAX);
            let skip = if limit < 0 {
                hosts.len().saturating_sub(size)
            } else {
                0
            };
            hosts = hosts.iter().skip(skip).take(size).collect();
        }
        if let Some(nth) = &self.nth {
            hosts = pick(&hosts, nth)?;
        }
        Ok(hosts)
    }

    fn print(&self, hosts: &Hostlist) -> Result<(), Fail> {
        if self.count {
            outln!("{}", hosts.len());
        } else if let Some(wanted) = &self.find {
            outln!("{}", find(hosts, &literal(wanted)?)?);
        } else if hosts.is_empty() {
            // An empty list is no line at all.
        } else if self.expand {
            let hosts: Vec<String> = hosts.iter().collect();
            outln!("{}", hosts.join(&self.delimiter));
        } else {
            outln!("{hosts}");
        }
        Ok(())
    }
}

/// Complains where two of some options are given.
fn exclusive(args: &Args, options: &[(&str, char)]) -> Result<(), i32> {
    let mut given = args
        .given()
        .filter_map(|(opt, _)| options.iter().find(|(long, _)| opt.long == *long));
    let Some((first, first_short)) = given.next() else {
        return Ok(());
    };
    match given.find(|(long, _)| long != first) {
        None => Ok(()),
        Some((long, short)) => Err(args.parser().usage_error(&format!(
            "argument -{short}/--{long}: not allowed with argument -{first_short}/--{first}"
        ))),
    }
}

fn combine(how: Combine, lists: Vec<Hostlist>) -> Hostlist {
    let mut lists = lists.into_iter();
    let mut hosts = lists.next().unwrap_or_default();
    for other in lists {
        match how {
            Combine::Append => hosts.append(&other),
            Combine::Intersect => {
                hosts = hosts.iter().filter(|host| other.contains(host)).collect();
                hosts.uniq();
            }
            Combine::Minus => {
                // Each host takes one of its kind away, the first.
                for gone in other.iter() {
                    if let Some(at) = hosts.find(&gone) {
                        let kept = hosts.iter().enumerate().filter(|(index, _)| *index != at);
                        hosts = kept.map(|(_, host)| host).collect();
                    }
                }
            }
            Combine::Xor => {
                let only = |a: &Hostlist, b: &Hostlist| -> Hostlist {
                    a.iter().filter(|host| !b.contains(host)).collect()
                };
                let mut odd = only(&hosts, &other);
                odd.append(&only(&other, &hosts));
                odd.uniq();
                hosts = odd;
            }
        }
    }
    hosts
}

/// The hosts at indices, which must exist. With `-` in front they count from the end.
fn pick(hosts: &Hostlist, indices: &str) -> Result<Hostlist, Fail> {
    let (from_end, text) = match indices.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, indices),
    };
    let ids: IdSet = text
        .parse()
        .map_err(|_| Fail::new(format!("IDset(): Invalid argument: {text}")))?;
    let size = hosts.len();
    let mut picked = IdSet::new();
    for id in ids.iter() {
        let id = id as usize;
        let at = if from_end {
            size.checked_sub(id).filter(|at| *at < size)
        } else {
            Some(id).filter(|at| *at < size)
        };
        let at = at.and_then(|at| u32::try_from(at).ok());
        picked.insert(at.ok_or_else(|| Fail::new("Hostlist index out of range"))?);
    }
    Ok(hosts.select(&picked))
}

fn find(hosts: &Hostlist, wanted: &Hostlist) -> Result<String, Fail> {
    let mut indices = Vec::new();
    for host in wanted.iter() {
        match hosts.find(&host) {
            Some(at) => indices.push(at.to_string()),
            None => return Err(Fail::new(format!("host '{host}' not found"))),
        }
    }
    Ok(indices.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What options make of lists, or the text of the failure.
    fn check(options: &str, lists: &str, expect: &str) {
        let words: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        let args = PARSER.parse(&words).expect("options");
        let request = Request::from_args(&args).expect("options");
        let lists = lists
            .split_whitespace()
            .map(|list| list.parse().expect("hosts"))
            .collect();
        let found = match request.evaluate(lists) {
            Ok(hosts) => match &request.find {
                Some(wanted) => find(&hosts, &literal(wanted).expect("hosts"))
                    .unwrap_or_else(|failure| failure.text),
                None => hosts.to_string(),
            },
            Err(failure) => failure.text,
        };
        assert_eq!(found, expect, "{options}");
    }

    #[test]
    fn lists_are_combined() {
        check("", "h[0-3] bar", "h[0-3],bar");
        check("-i", "h[0-3],h2 h[2-5]", "h[2-3]");
        check("-m", "h[0-3],h1 h1 h2", "h[0,3,1]");
        check("-m", "h[0-3],h3 h1", "h[0,2-3,3]");
        check("-mu", "h[0-3],h3 h1", "h[0,2-3]");
        check("-X", "h[0-3] h[2-5] h3", "h[0-1,3-5]");
        check("-X", "h[0-3],h0 h[2-5]", "h[0-1,4-5]");
        check("-X", "a,a", "a,a");
        check("-u", "h2 h1 h2", "h[1-2]");
    }

    #[test]
    fn hosts_are_chosen() {
        check("-n 0,2", "foo[0-3]", "foo[0,2]");
        check("-n -1", "foo[0-3]", "foo3");
        check("-n=-1-2", "foo[0-3]", "foo[2-3]");
        check("-n 9", "foo[0-3]", "Hostlist index out of range");
        check("-n x", "foo[0-3]", "IDset(): Invalid argument: x");
        check("-L -2", "foo[0-3]", "foo[2-3]");
        check("-x foo1", "foo[0-3],foo1", "foo[0,2-3]");
        check("-n 5 -x 5", "foo[0-9]", "foo6");
        check("-L1 -S", "foo[5,1]", "foo1");
        check("-F foo2,foo1", "foo[0-3]", "2 1");
        check("-F foo9", "foo[0-3]", "host 'foo9' not found");
    }
}
