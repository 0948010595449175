//! `flux module-exec` and `flux module-python-exec`: the processes of modules that do not come
//! with the program (RFC 5).
//!
//! The broker starts them with `FLUX_MODULE_URI` set; see its `external` module for the protocol.
//! Without that variable `module-exec` runs a shared object as an ordinary client, for tests.

mod library;

use client::Client;
use proto::Empty;
use proto::attr::{AttrGet, AttrList, Name};
use proto::config::ConfigGet;
use rpc::Dest;
use types::Errno;

use crate::driver::{self, Invocation};
use crate::err;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg};
use library::{Handle, Module};

const PROG: &str = "flux-module-exec";
const PYTHON_PROG: &str = "flux-module-python-exec";

/// The variable that tells a loader where its broker is.
const URI: &str = "FLUX_MODULE_URI";

/// The loader for modules in Python.
const PYTHON_LOADER: &str = include_str!("../../../assets/module_exec.py");

static PARSER: Parser = Parser {
    name: PROG,
    usage: "[OPTIONS] module [module-args...]",
    about: "Run a broker module in this process",
    family: Family::G,
    opts: &[arg('n', "name", "NAME", "Give the module another name")],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let Some((path, rest)) = args.words.split_first() else {
        return PARSER.wrong_words();
    };
    if let Err(errno) = library::default_fault_signals() {
        err!("{PROG}: signal: {errno}");
        return 1;
    }
    let result = match std::env::var(URI) {
        Ok(_) if args.get("name").is_some() || !rest.is_empty() => Err(Fail::new(format!(
            "{URI} and --name or module arguments are incompatible"
        ))),
        Ok(uri) => serve_broker(&uri, path),
        Err(_) => serve_client(args.get("name"), path, rest),
    };
    match result {
        Ok(()) => 0,
        Err(fail) => {
            err!("{PROG}: {}", fail.text);
            fail.status
        }
    }
}

/// Runs a module for the broker that started this process.
fn serve_broker(uri: &str, path: &str) -> Result<(), Fail> {
    let module = Module::open(path).map_err(Fail::new)?;
    let handle = Handle::open(&module, Some(uri)).map_err(Fail::new)?;
    let arguments = handle.welcome().map_err(Fail::new)?;
    let name = handle.name();
    let result = match module.declared_name() {
        Some(declared) if declared != name => {
            err!("{PROG}: mod_name {declared} != name {name}");
            Err(Errno::EINVAL)
        }
        _ => handle.serve(|| module.main(&handle, &arguments)),
    };
    // The broker reports the module's failure; this process has done its part.
    handle.finalize(result.err()).map_err(Fail::new)
}

/// Runs a module as a client that offers its service.
fn serve_client(name: Option<&str>, path: &str, arguments: &[String]) -> Result<(), Fail> {
    let module = Module::open(path).map_err(Fail::new)?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => proto::module::name_of(path).to_owned(),
    };
    let handle = Handle::open(&module, None).map_err(Fail::new)?;
    let (attrs, config) = immutable_state()?;
    let uuid = format!("{name}-{}", std::process::id());
    handle
        .pretend(&name, &uuid, &attrs, &config)
        .map_err(Fail::new)?;
    handle
        .serve(|| module.main(&handle, arguments))
        .map_err(|errno| Fail::of("module failed", errno))
}

/// What a broker tells a module in its welcome: attributes that do not change, configuration.
fn immutable_state() -> Result<(Vec<(String, String)>, String), Fail> {
    let mut state = (Vec::new(), String::new());
    let found = &mut state;
    let status = fail::run(PROG, async {
        let client: Client = fail::connect().await?;
        let handle = client.handle();
        let config = handle.call::<ConfigGet>(Dest::Any, &Empty {}).await?;
        found.1 = serde_json::Value::Object(config).to_string();
        let names = handle.call::<AttrList>(Dest::Any, &Empty {}).await?.names;
        for name in names {
            let request = Name { name: name.clone() };
            match handle.call::<AttrGet>(Dest::Any, &request).await {
                Ok(attr) if attr.flags & 1 != 0 => found.0.push((name, attr.value)),
                // Not every attribute has a value.
                Ok(_)
                | Err(rpc::RpcError {
                    errno: Errno::ENOENT,
                    ..
                }) => {}
                Err(error) => return Err(Fail::of(name, error)),
            }
        }
        Ok(0)
    });
    match status {
        0 => Ok(state),
        status => Err(Fail::new("cannot read the broker's state").with_status(status)),
    }
}

pub(crate) fn run_python(_: &Invocation<'_>, words: &[String]) -> i32 {
    let [path] = words else {
        err!("Usage: {PYTHON_PROG} PATH");
        return 1;
    };
    let Ok(uri) = std::env::var(URI) else {
        err!("{PYTHON_PROG}: {URI} is not set");
        return 1;
    };
    let mut command = super::python::interpreter_command();
    let error = driver::exec(command.args(["-c", PYTHON_LOADER, &uri, path]));
    err!("{PYTHON_PROG}: python3: {}", Errno::from_io(&error));
    1
}
