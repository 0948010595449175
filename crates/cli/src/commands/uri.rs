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
    if words.iter().any(|word| word == "-h" || word == "--help") {
        outln!("{}", PARSER.help_text());
        outln!("Supported resolver schemes:");
        outln!("  jobid\t\tA path of jobs through instances; the default");
        outln!("  pid\t\tThe instance a process of this host uses");
        return 0;
    }
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [target] = args.words.as_slice() else {
        return PARSER.usage_error("the following arguments are required: TARGET");
    };
    fail::run("flux-uri: ERROR", async {
        let mut options = Options::from_env();
        if args.has("local") || args.has("remote") {
            options.local = Some(args.has("local"));
        }
        options.wait = args.has("wait");
        outln!("{}", resolve(target, options).await?);
        Ok(0)
    })
}
