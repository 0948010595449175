//! Development tasks: `cargo xtask test`, `cargo xtask bench` and the steps they are made of.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// How long each decoder is fuzzed in a test run, in seconds.
const FUZZ_SECONDS: &str = "0.5";

const USAGE: &str = "\
Usage: cargo xtask TASK

  test           install what is missing, then run every check and test
  ci             the same; what continuous integration calls
  fmt            check the formatting
  clippy         check the lints
  deny           check licences, sources and duplicates of dependencies
  unit [ARGS]    run the tests
  fuzz [ARGS]    feed random input to every decoder
  crash [ARGS]   kill the leader `--times N` from `--seed N` and check what is left
  bench [ARGS]   measure; `--against PATH` alternates with another flux
";

fn main() -> ExitCode {
    let mut words = env::args().skip(1);
    let task = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    let result = match task.as_str() {
        "test" | "ci" => test(),
        "fmt" => fmt(),
        "clippy" => clippy(),
        "deny" => deny(),
        "unit" => unit(&rest),
        "fuzz" => fuzz(&rest),
        "bench" => bench(&rest),
        "crash" => crash(&rest),
        "" | "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(format!("{other}: no such task\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("xtask: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Everything, the quickest check first.
fn test() -> Result<(), String> {
    fmt()?;
    clippy()?;
    deny()?;
    unit(&[])?;
    fuzz(&["--seconds".into(), FUZZ_SECONDS.into()])
}

fn fmt() -> Result<(), String> {
    run("cargo fmt", cargo(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<(), String> {
    let mut command = cargo(["clippy", "--workspace", "--all-targets", "--locked"]);
    command.args(["--", "--deny", "warnings"]);
    run("cargo clippy", command)
}

/// Checks what we depend on. Advisories need a database this does not fetch.
fn deny() -> Result<(), String> {
    let deny = tool("cargo-deny", "0.20.2")?;
    let mut command = Command::new(deny);
    command.args(["--workspace", "check", "licenses", "bans", "sources"]);
    run("cargo deny", command)
}

/// Runs the tests: with the faster runner where it is installed.
fn unit(arguments: &[String]) -> Result<(), String> {
    // Tests start the program itself.
    run("cargo build", cargo(["build", "--workspace", "--locked"]))?;
    let nextest = Command::new("cargo-nextest")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let mut command = if nextest {
        cargo([
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--no-fail-fast",
        ])
    } else {
        cargo(["test", "--workspace", "--locked", "--no-fail-fast"])
    };
    command.args(arguments);
    let python = python_packages()?;
    let mut path = python.into_os_string();
    if let Some(old) = env::var_os("PYTHONPATH") {
        path.push(":");
        path.push(old);
    }
    command.env("PYTHONPATH", path);
    run("tests", command)
}

fn fuzz(arguments: &[String]) -> Result<(), String> {
    let mut command = cargo(["run", "--quiet", "--locked", "--package", "fuzz", "--"]);
    command.args(arguments);
    run("fuzz", command)
}

fn bench(arguments: &[String]) -> Result<(), String> {
    run(
        "cargo build",
        cargo(["build", "--release", "--locked", "--package", "flux"]),
    )?;
    let mut command = cargo([
        "run",
        "--release",
        "--quiet",
        "--locked",
        "--package",
        "bench",
        "--",
    ]);
    command.args(arguments);
    run("bench", command)
}

fn crash(arguments: &[String]) -> Result<(), String> {
    run(
        "cargo build",
        cargo([
            "build",
            "--release",
            "--locked",
            "--package=flux",
            "--package=testkit",
        ]),
    )?;
    let built = target().join("release");
    let mut command = Command::new(built.join("crash"));
    command.arg(built.join("flux")).args(arguments);
    run("crash", command)
}

fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

fn run(what: &str, mut command: Command) -> Result<(), String> {
    eprintln!("xtask: {what}");
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(error) => Err(format!("{what}: {program}: {error}")),
    }
}

/// Where tools of ours go: beside what is built, so that `cargo clean` takes them away.
fn tools() -> PathBuf {
    target().join("tools")
}

/// Where `cargo` builds.
fn target() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    env::current_dir().unwrap_or_default().join(target)
}

/// A tool's path, once it is installed.
fn tool(name: &str, version: &str) -> Result<PathBuf, String> {
    if let Some(path) = find(name) {
        return Ok(path);
    }
    let path = tools().join("bin").join(name);
    if !path.exists() {
        let mut command = cargo(["install", "--locked", "--quiet", "--root"]);
        command.arg(tools()).args(["--version", version, name]);
        run(&format!("install {name}"), command)?;
    }
    Ok(path)
}

/// A program on the search path.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.exists())
}

/// The directory with the Python packages that interoperability tests use.
fn python_packages() -> Result<PathBuf, String> {
    let packages = tools().join("python");
    let works = |path: &Path| {
        Command::new("python3")
            .args(["-c", "import zmq; assert zmq.has('curve')"])
            .env("PYTHONPATH", path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if works(&packages) {
        return Ok(packages);
    }
    if !succeeds("python3", ["-m", "pip", "--version"]) {
        install_python()?;
    }
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    command.arg("--target").arg(&packages).arg("pyzmq");
    run("install pyzmq", command)?;
    if works(&packages) {
        return Ok(packages);
    }
    Err("pyzmq is installed but cannot be used: it needs CURVE".into())
}

fn succeeds<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Installs Python with the system's package manager, where that is allowed.
fn install_python() -> Result<(), String> {
    let advice = "python3 with pip is needed for the tests: install python3 and python3-pip";
    if find("apt-get").is_none() {
        return Err(advice.into());
    }
    let mut update = Command::new("apt-get");
    update.args(["--quiet", "update"]);
    run("apt-get update", update).map_err(|error| format!("{error}; {advice}"))?;
    let mut install = Command::new("apt-get");
    install.args(["--quiet", "--yes", "install", "python3", "python3-pip"]);
    run("apt-get install", install).map_err(|error| format!("{error}; {advice}"))
}
