//! `flux uri`: the URI of an instance.

use crate::driver::Invocation;
use crate::fail;
use crate::options::{Family, Parser, flag};
use crate::outln;
use crate::resolve::{Options, resolve};

static PARSER: Parser = Parser {
    name: "flux-uri",
    usage: "[-h] [--remote] [--local] [--wait] TARGET",
    about: "",
    family: Family::P,
    opts: &[
        flag('\0', "remote", "Make it a URI for other hosts"),
        flag('\0', "local", "Make it a URI for this host"),
        flag('\0', "wait", "Wait until the job says where it is"),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [target] = args.words.as_slice() else {
        return PARSER.usage_error("the following arguments are required: TARGET");
    };
    fail::run("flux-uri: ERROR", async {
        let local = if args.has("local") {
            Some(true)
        } else if args.has("remote") {
            Some(false)
        } else {
            std::env::var_os("FLUX_URI_RESOLVE_LOCAL").map(|_| true)
        };
        let options = Options {
            local,
            wait: args.has("wait"),
        };
        outln!("{}", resolve(target, options).await?);
        Ok(0)
    })
}
