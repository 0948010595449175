//! `flux cgroup`: where the caller's control group is.

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser};
use crate::outln;

use super::dispatch_forms;

const PROG: &str = "flux-cgroup";

static PATH: Parser = Parser {
    name: "flux cgroup path",
    usage: "[OPTIONS]",
    about: "Print path to cgroup directory",
    family: Family::G,
    opts: &[],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let subs = &[("path", "[OPTIONS]", path as fn(&[String]) -> i32)];
    dispatch_forms("flux cgroup", "cgroup utility", subs, words)
}

fn path(words: &[String]) -> i32 {
    match PATH.parse(words) {
        Err(status) => status,
        Ok(args) if !args.words.is_empty() => fail::report(
            PROG,
            Err(Fail::new("this command does not accept free arguments")),
        ),
        Ok(_) => fail::report(
            PROG,
            topology::cgroup::own()
                .map(|path| {
                    outln!("{}", path.display());
                    0
                })
                .map_err(|error| Fail::new(error.to_string())),
        ),
    }
}
