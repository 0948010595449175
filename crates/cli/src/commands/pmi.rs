//! `flux pmi`: the process management interface as a program sees it.

use std::time::{Duration, Instant};

use pmi::{Client, Launch};
use types::IdSet;

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Opt, Parser, arg, flag, level};
use crate::{err, outln, output};

const PROG: &str = "flux-pmi";
/// The ways to reach a launcher, in the order they are tried.
const METHODS: &[&str] = &["config", "simple", "libpmi2", "libpmi", "single"];

static PARSER: Parser = Parser {
    name: "flux pmi",
    usage: "barrier [OPTIONS]\nget [OPTIONS]\nexchange [OPTIONS]",
    about: "Simple PMI test client",
    family: Family::G,
    opts: &[
        arg('\0', "method", "URI", "Specify PMI method to use"),
        flag(
            '\0',
            "libpmi-noflux",
            "Fail if libpmi method finds the Flux libpmi.so",
        ),
        flag(
            '\0',
            "libpmi2-cray",
            "Force-enable libpmi2 cray workarounds for testing",
        ),
        level("Trace PMI operations"),
        arg(
            't',
            "timeout",
            "FSD",
            "Time out after the specified time in RFC 23 Flux Standard Duration",
        ),
    ],
};

const COUNT: Opt = arg(
    '\0',
    "count",
    "N",
    "Execute N exchange operations (default 1)",
);

static BARRIER: Parser = Parser {
    name: "flux pmi barrier",
    usage: "[OPTIONS]",
    about: "Execute PMI barrier",
    family: Family::G,
    opts: &[
        arg(
            '\0',
            "test-count",
            "N",
            "Execute N barrier operations (default 1)",
        ),
        flag('\0', "test-timing", "Display the time of the barrier"),
        arg('\0', "test-abort", "RANK", "RANK aborts instead"),
    ],
};

static EXCHANGE: Parser = Parser {
    name: "flux pmi exchange",
    usage: "[OPTIONS]",
    about: "Perform an allgather style exchange",
    family: Family::G,
    opts: &[COUNT],
};

static GET: Parser = Parser {
    name: "flux pmi get",
    usage: "[OPTIONS] KEY...",
    about: "Get PMI KVS key",
    family: Family::G,
    opts: &[arg(
        '\0',
        "ranks",
        "IDSET",
        "Display on RANKS (an idset or 'all', default 0)",
    )],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [word, rest @ ..] = args.words.as_slice() else {
        err!("flux pmi: missing subcommand");
        return PARSER.wrong_words();
    };
    let (parser, body): (&'static Parser, fn(&mut Session, &Args) -> fail::Outcome) =
        match word.as_str() {
            "barrier" => (&BARRIER, Session::barriers),
            "exchange" => (&EXCHANGE, Session::exchange),
            "get" => (&GET, Session::get_keys),
            _ => {
                err!("flux pmi: Unknown subcommand: {word}");
                return PARSER.wrong_words();
            }
        };
    let sub = match parser.parse(rest) {
        Ok(sub) => sub,
        Err(status) => return status,
    };
    match args.duration("timeout") {
        Ok(Some(seconds)) => limit(seconds),
        Ok(None) => {}
        Err(status) => return status,
    }
    let result = (|| {
        let mut session = Session::start(&args)?;
        let status = body(&mut session, &sub)?;
        session.finish()?;
        Ok(status)
    })();
    fail::report(PROG, result)
}

/// Ends the program after a time. Its calls block, so this is a thread's work.
fn limit(seconds: f64) {
    let Ok(time) = Duration::try_from_secs_f64(seconds) else {
        return;
    };
    std::thread::spawn(move || {
        std::thread::sleep(time);
        err!("{PROG}: timed out after {seconds}s");
        std::process::exit(1);
    });
}

/// A program of one or more processes.
struct Session {
    method: &'static str,
    /// The launcher; a singleton has none.
    client: Option<Client>,
    rank: u32,
    size: u32,
    /// What a singleton put.
    own: Vec<(String, String)>,
    verbose: bool,
}

impl Session {
    fn start(args: &Args) -> Result<Session, Fail> {
        let verbose = args.verbosity()? > 0;
        let env = std::env::var("FLUX_PMI_CLIENT_METHODS").ok();
        let wanted = args.get("method").map(str::to_owned).or(env);
        let wanted = wanted.unwrap_or_else(|| METHODS.join(" "));
        let mut last = String::new();
        for uri in wanted.split_whitespace() {
            let scheme = uri.split(':').next().unwrap_or(uri);
            let Some(method) = METHODS.iter().copied().find(|known| *known == scheme) else {
                return Err(Fail::new(format!("plugin matching '{scheme}' not found")));
            };
            if verbose {
                err!("flux-pmi-client: trying '{method}'");
            }
            match Session::open(method, verbose) {
                Ok(session) => return Ok(session),
                Err(error) if verbose => err!("{method}: {error}"),
                Err(error) => last = error,
            }
        }
        Err(Fail::new(last))
    }

    /// Errors: why this method does not serve here.
    fn open(method: &'static str, verbose: bool) -> Result<Session, String> {
        let (client, rank, size) = match method {
            "simple" => {
                let launch = Launch::inherited().map_err(|error| error.to_string())?;
                let launch = launch.ok_or_else(|| {
                    let names = ["PMI_FD", "PMI_RANK", "PMI_SIZE"];
                    let missing = names.iter().find(|name| std::env::var_os(name).is_none());
                    format!("{} not found in environ", missing.unwrap_or(&"PMI_FD"))
                })?;
                let client = Client::connect(launch.socket).map_err(|error| error.to_string())?;
                (Some(client), launch.rank, launch.size)
            }
            "single" => (None, 0, 1),
            "config" => return Err("bootstrap configuration not found".into()),
            _ => return Err("loading of PMI libraries is not built yet".into()),
        };
        let session = Session {
            method,
            client,
            rank,
            size,
            own: Vec::new(),
            verbose,
        };
        if verbose {
            err!("{method}: selected");
        }
        let name = session.client.as_ref().map_or("single", Client::kvsname);
        session.trace(&format!("initialize: rank={rank} size={size} name={name}"));
        Ok(session)
    }

    fn trace(&self, what: &str) {
        if self.verbose {
            err!("{}: {what}: success", self.method);
        }
    }

    fn barrier(&mut self) -> Result<(), Fail> {
        if let Some(client) = &mut self.client {
            client
                .barrier()
                .map_err(|error| Fail::new(error.to_string()))?;
        }
        self.trace("barrier");
        Ok(())
    }

    fn put(&mut self, key: &str, value: &str) -> Result<(), Fail> {
        match &mut self.client {
            Some(client) => client
                .put(key, value)
                .map_err(|error| Fail::new(error.to_string()))?,
            None => self.own.push((key.to_owned(), value.to_owned())),
        }
        self.trace(&format!("put key={key} value={value}"));
        Ok(())
    }

    fn get(&mut self, key: &str) -> Result<String, Fail> {
        let (found, missing) = match &mut self.client {
            Some(client) => {
                let found = client.get(key);
                let found = found.map_err(|error| Fail::of(format!("get {key}"), error))?;
                (found, "invalid key argument")
            }
            None => {
                let found = self.own.iter().rev().find(|(own, _)| own == key);
                (found.map(|(_, value)| value.clone()), "key not found")
            }
        };
        let value = found.ok_or_else(|| Fail::of(format!("get {key}"), missing))?;
        self.trace(&format!("get key={key} value={value}"));
        Ok(value)
    }

    fn finish(self) -> Result<(), Fail> {
        let verbose = self.verbose;
        let method = self.method;
        if let Some(client) = self.client {
            let error = |error: pmi::ClientError| Fail::new(error.to_string());
            client.finalize().map_err(error)?;
        }
        if verbose {
            err!("{method}: finalize: success");
        }
        Ok(())
    }

    /// What this program calls itself.
    fn label() -> String {
        let found = ["FLUX_JOB_CC", "FLUX_JOB_ID"]
            .iter()
            .find_map(|name| std::env::var(name).ok());
        found.unwrap_or_else(|| "0".into())
    }

    fn barriers(&mut self, args: &Args) -> fail::Outcome {
        let count = args.int("test-count").map_err(Fail::silent)?.unwrap_or(1);
        if args.int("test-abort").map_err(Fail::silent)? == Some(i64::from(self.rank)) {
            let text = format!("{PROG}: rank {} is aborting", self.rank);
            if let Some(client) = self.client.take() {
                let error = |error: pmi::ClientError| Fail::new(error.to_string());
                client.abort(1, &text).map_err(error)?;
            }
            return Err(Fail::new(format!("rank {} is aborting", self.rank)));
        }
        if args.has("test-timing") {
            self.barrier()?;
        }
        for _ in 0..count {
            let start = Instant::now();
            self.barrier()?;
            if self.rank == 0 {
                let time = match args.has("test-timing") {
                    true => format!(" in {:.3}s.", start.elapsed().as_secs_f64()),
                    false => String::new(),
                };
                let label = Session::label();
                outln!(
                    "{label}: completed pmi barrier on {} tasks{time}",
                    self.size
                );
                output::flush();
            }
        }
        Ok(0)
    }

    fn exchange(&mut self, args: &Args) -> fail::Outcome {
        let count = args.int("count").map_err(Fail::silent)?.unwrap_or(1);
        self.barrier()?;
        for round in 0..count {
            let start = Instant::now();
            let key = |rank: u32| match round {
                0 => format!("key.{rank}"),
                round => format!("key.{round}.{rank}"),
            };
            let value = format!("{}-{}-{}", self.method, self.rank, self.size);
            self.put(&key(self.rank), &value)?;
            self.barrier()?;
            for rank in 0..self.size {
                self.get(&key(rank))?;
            }
            self.barrier()?;
            if self.rank == 0 {
                let label = Session::label();
                let time = start.elapsed().as_secs_f64();
                let size = self.size;
                outln!("{label}: completed pmi exchange on {size} tasks in {time:.3}s.");
                output::flush();
            }
        }
        Ok(0)
    }

    fn get_keys(&mut self, args: &Args) -> fail::Outcome {
        let shown = match args.get("ranks") {
            Some("all") => true,
            text => {
                let text = text.unwrap_or("0");
                let ranks: Result<IdSet, _> = text.parse();
                let ranks =
                    ranks.map_err(|_| Fail::new(format!("could not parse --ranks={text}")))?;
                ranks.contains(self.rank)
            }
        };
        for key in &args.words {
            let value = self.get(key)?;
            if shown {
                outln!("{value}");
            }
        }
        Ok(0)
    }
}
