//! Whole instances, from the outside: what a user types and what comes back.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use bytes::BytesMut;
use wire::{Message, StreamDecoder, Target, encode_stream};

const FLUX: &str = env!("CARGO_BIN_EXE_flux");

/// Runs `flux` with these words, outside of any instance.
fn flux(words: &[&str]) -> Output {
    Command::new(FLUX)
        .args(words)
        .env_remove("FLUX_URI")
        .stdin(Stdio::null())
        .output()
        .expect("the program was built")
}

/// Runs a shell script as the initial program of an instance of so many brokers.
fn script(size: u32, script: &str) -> Output {
    let size = format!("--test-size={size}");
    flux(&["start", &size, "sh", "-c", script])
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The script succeeds and prints just this.
fn check(size: u32, text: &str, expect: &str) {
    let output = script(size, text);
    let shown = format!("stdout: {}\nstderr: {}", stdout(&output), stderr(&output));
    assert!(output.status.success(), "{text}\n{shown}");
    assert_eq!(stdout(&output), expect, "{text}\n{shown}");
}

/// The script's lines in any order.
fn check_lines(size: u32, text: &str, expect: &[&str]) {
    let output = script(size, text);
    let printed = stdout(&output);
    let mut lines: Vec<_> = printed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, expect, "{text}\nstderr: {}", stderr(&output));
}

#[test]
fn an_instance_starts_and_ends_with_its_program() {
    assert_eq!(flux(&["start", "true"]).status.code(), Some(0));
    assert_eq!(
        flux(&["start", "sh", "-c", "exit 3"]).status.code(),
        Some(3)
    );
    assert_eq!(
        flux(&["start", "/no/such/program", "x"]).status.code(),
        Some(127)
    );
    check(1, "flux getattr size; flux getattr rank", "1\n0\n");
    check(
        16,
        "flux getattr size; flux getattr tbon.maxlevel",
        "16\n1\n",
    );
}

#[test]
fn nothing_is_left_behind() {
    let output = script(
        2,
        "flux getattr rundir; flux getattr statedir; flux getattr broker.pid",
    );
    let printed = stdout(&output);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{}", stderr(&output));
    assert!(
        !std::path::Path::new(lines[0]).exists(),
        "{} is left",
        lines[0]
    );
    assert!(
        !std::path::Path::new(lines[1]).exists(),
        "{} is left",
        lines[1]
    );
    let process = format!("/proc/{}/exe", lines[2]);
    assert!(std::fs::read_link(process).map_or(true, |exe| !exe.ends_with("flux")));
}

#[test]
fn scripts_of_users_run_at_the_start_and_the_end() {
    check(
        1,
        r#"
dir=$(mktemp -d); mkdir $dir/rc1.d $dir/rc3.d; echo no script >$dir/rc1.d/README
for script in rc1.d/b rc1.d/a rc3.d/c; do
    printf '#!/bin/sh\necho %s $(flux getattr size) >&2\n' $script >$dir/$script
    chmod +x $dir/$script
done
echo exit 4 >>$dir/rc3.d/c
FLUX_RC_EXTRA=/no/such:$dir flux start true 2>&1 | sed -n "s/.*err\[0\]: //; s,$dir/,,; /Exited/d; p"
rm -r $dir"#,
        "rc1.0: rc1.d/a 1\nrc1.0: rc1.d/b 1\nrc3.0: rc3.d/c 1\n\
         rc3.0: rc3.d/c failed with exit code 4\nrc3.0: one or more rc3.d scripts failed\n",
    );
}

#[test]
fn every_shape_of_tree_carries_messages() {
    for topology in ["kary:1", "kary:2", "kary:0", "binomial", "mincrit:2"] {
        let set = format!("-Stbon.topo={topology}");
        let words = [
            "start",
            "--test-size=6",
            &set,
            "flux",
            "ping",
            "-c1",
            "-r5",
            "broker",
        ];
        let output = flux(&words);
        assert!(output.status.success(), "{topology}: {}", stderr(&output));
        assert!(
            stdout(&output).contains("5!broker.ping"),
            "{topology}: {}",
            stdout(&output)
        );
    }
}

#[test]
fn brokers_on_different_nodes_talk_over_tcp() {
    let clique = "--test-pmi-clique=per-broker";
    let words = [
        "start",
        "--test-size=3",
        clique,
        "flux",
        "getattr",
        "tbon.endpoint",
    ];
    let output = flux(&words);
    assert!(
        stdout(&output).starts_with("tcp://"),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
}

#[test]
fn the_key_value_store_is_one_for_all_ranks() {
    check(
        3,
        "flux exec -r 2 flux kvs put a.b=1 && flux kvs get a.b && flux exec -r 1 flux kvs get a.b",
        "1\n1\n",
    );
}

#[test]
fn bad_words_are_named_and_nothing_starts() {
    for (words, code, expect) in [
        (&["start", "--foo"][..], 1, "unrecognized option '--foo'"),
        (&["start", "-Sfoo=1", "true"], 1, "foo: unknown attribute"),
        (
            &["start", "-Srank=1", "true"],
            1,
            "attribute may not be set on the command line",
        ),
        (
            &["start", "-Stbon.topo=foo", "true"],
            1,
            "unknown topology scheme 'foo'",
        ),
        (&["start", "--conf=[a", "true"], 1, "[a"),
        (&["start", "-c/no/such/dir", "true"], 1, "/no/such/dir"),
        (&["start", "--test-size=x", "true"], 1, "'x'"),
        (&["nosuch"], 1, "`nosuch' is not a flux command"),
        (
            &["getattr", "size"],
            1,
            "flux_open: No such file or directory",
        ),
    ] {
        let output = flux(words);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{words:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(expect),
            "{words:?}: {}",
            stderr(&output)
        );
    }
}

/// An instance whose initial program waits for its input to end.
struct Waiting {
    child: std::process::Child,
    socket: String,
}

impl Waiting {
    fn start(size: u32) -> Waiting {
        let mut child = Command::new(FLUX)
            .args([
                "start",
                &format!("--test-size={size}"),
                "sh",
                "-c",
                "echo $FLUX_URI; read x",
            ])
            .env_remove("FLUX_URI")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let mut uri = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout)
            .read_line(&mut uri)
            .expect("readable");
        let socket = uri
            .trim()
            .strip_prefix("local://")
            .expect("a local URI")
            .to_owned();
        Waiting { child, socket }
    }

    fn flux(&self, words: &[&str]) -> Output {
        Command::new(FLUX)
            .args(words)
            .env("FLUX_URI", format!("local://{}", self.socket))
            .stdin(Stdio::null())
            .output()
            .expect("the program was built")
    }

    fn connect(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).expect("the broker listens");
        let mut welcome = [0];
        stream.read_exact(&mut welcome).expect("the broker greets");
        assert_eq!(welcome, [0]);
        stream
    }

    fn answers(&self) {
        let output = self.flux(&["getattr", "size"]);
        assert!(
            output.status.success(),
            "the instance goes on: {}",
            stderr(&output)
        );
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // How it ends is for the test to check; here it only has to.
        let _ended = self.child.wait();
    }
}

fn frame(message: &Message) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_stream(message, &mut bytes);
    bytes
}

fn request(topic: &str) -> Message {
    Message::request(topic.into(), Target::Any, Some(types::Matchtag(1)))
}

#[test]
fn bad_clients_harm_only_themselves() {
    let instance = Waiting::start(1);
    // Bytes that are no message: the connection ends.
    let mut garbage = instance.connect();
    garbage
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("accepted");
    assert_eq!(garbage.read(&mut [0; 16]).expect("closed"), 0);
    // A socket closed in mid-message.
    let whole = frame(&request("attr.get").with_text("{\"name\":\"size\"}"));
    let mut half = instance.connect();
    half.write_all(&whole[..whole.len() / 2]).expect("accepted");
    drop(half);
    // A payload that is not JSON, and one that is not an object.
    for payload in ["{\"name\":", "[1]", "5"] {
        let mut client = instance.connect();
        client
            .write_all(&frame(&request("attr.get").with_text(payload)))
            .expect("accepted");
        let mut decoder = StreamDecoder::new();
        let answer = loop {
            if let Some(message) = decoder.next().expect("the broker speaks well") {
                break message;
            }
            let mut chunk = [0; 4096];
            let count = client.read(&mut chunk).expect("readable");
            assert_ne!(count, 0, "an answer comes first");
            decoder.buffer().extend_from_slice(&chunk[..count]);
        };
        let wire::Kind::Response { errno, .. } = answer.kind else {
            panic!("{answer:?}")
        };
        assert_eq!(errno, Some(types::Errno::EPROTO), "{payload}");
    }
    instance.answers();
}

#[test]
fn a_client_that_never_reads_holds_nobody_up() {
    let instance = Waiting::start(1);
    let mut silent = instance.connect();
    let many: Vec<u8> = (0..20_000)
        .flat_map(|_| frame(&request("attr.list")))
        .collect();
    // Its own requests may stop being taken once it is far behind; that is its own affair.
    silent.set_nonblocking(true).expect("a socket");
    let _taken_or_not = silent.write(&many);
    instance.answers();
    drop(silent);
    instance.answers();
}

#[test]
fn a_lost_follower_is_noticed_and_the_rest_goes_on() {
    // The second is one a program may have a handler for.
    for signal in ["KILL", "SEGV"] {
        let text = format!(
            "flux exec -r 2 sh -c 'ulimit -c 0; kill -{signal} $(flux getattr broker.pid)' \
                 2>/dev/null; \
             flux overlay status --wait=degraded --summary --timeout=0; \
             flux exec -r 0,1 flux getattr size"
        );
        let words = [
            "start",
            "--test-size=3",
            "--test-exit-mode=leader",
            "sh",
            "-c",
            &text,
        ];
        let output = flux(&words);
        assert_eq!(stdout(&output), "degraded\n3\n3\n", "{}", stderr(&output));
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn jobs_run_on_every_broker() {
    check_lines(
        4,
        "flux run -N4 --label-io printenv FLUX_TASK_RANK",
        &["0: 0", "1: 1", "2: 2", "3: 3"],
    );
    check_lines(
        2,
        "flux run -n4 --label-io echo hi",
        &["0: hi", "1: hi", "2: hi", "3: hi"],
    );
}

#[test]
fn exit_codes_say_what_happened() {
    check(1, "flux run sh -c 'exit 3'; echo $?", "3\n");
    check(1, "flux run /no/such/program 2>/dev/null; echo $?", "127\n");
    check(1, "flux run /etc/passwd 2>/dev/null; echo $?", "126\n");
    check(
        1,
        "flux run sh -c 'kill -9 $$' 2>/dev/null; echo $?",
        "137\n",
    );
    check(1, "flux run -t 0.1s sleep 60 2>/dev/null; echo $?", "142\n");
}

#[test]
fn a_program_that_is_told_to_end_has_its_say() {
    // It ends only when `flux shutdown` has seen the instance off.
    let output = flux(&[
        "start",
        "sh",
        "-c",
        "trap 'wait; exit 7' HUP; flux shutdown & wait",
    ]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
}

#[test]
fn an_instance_that_is_a_job_leaves_nothing_running() {
    check(
        1,
        "flux run flux start sh -c 'sleep infinity & echo over'",
        "over\n",
    );
}

#[test]
fn an_instance_outlives_whoever_reads_what_it_says() {
    check(
        1,
        "dir=$(mktemp -d); mkfifo $dir/said; exec 3<>$dir/said 4>$dir/said 3<&-; \
         for how in 'start -v -Slog-stderr-level=7' 'broker -v -Slog-stderr-level=7'; do \
             timeout 60 flux $how sh -c 'flux run true 2>/dev/null; exit 3' 2>&4; echo $?; \
         done; rm -r $dir",
        "3\n3\n",
    );
}

#[test]
fn an_environment_that_is_no_text_harms_nothing() {
    check(
        1,
        "exec 2>&1; export BAD=$(printf 'a\\377b'); dir=$(mktemp -d); \
         flux start 'flux run sh -c \"env | grep -c BAD; true\"; flux exec echo hi; \
                     flux submit --env=-* --env=BAD true; flux submit --env=-BAD true >/dev/null; \
                     true'; \
         mkdir $dir/$BAD; cd $dir/$BAD; unset BAD PWD; \
         for how in run exec 'run --cwd=/' 'exec -d /'; do \
             flux $how pwd 2>&1 | sed \"s,$dir,,\"; \
         done; cd /; rm -r $dir",
        "warning: environment variable BAD is not UTF-8 text and stays behind\n0\nhi\n\
         flux-submit: ERROR: --env=BAD: the value of BAD is not UTF-8 text\n\
         flux-run: ERROR: /a\u{fffd}b: directory is not UTF-8 text; use --cwd\n\
         flux-exec: /a\u{fffd}b: directory is not UTF-8 text; use --dir\n/\n/\n",
    );
}

#[test]
fn requests_beyond_the_instance_are_refused_in_words() {
    let output = script(1, "flux run -N2 true; echo $?");
    assert!(
        stderr(&output).contains("unsatisfiable request"),
        "{}",
        stderr(&output)
    );
    assert_eq!(stdout(&output), "1\n");
    let output = script(1, "echo '{\"version\":1}' | flux job submit; echo $?");
    assert_eq!(stdout(&output), "1\n", "{}", stderr(&output));
}

#[test]
fn standard_streams_pass_through_jobs() {
    check(1, "echo hello | flux run cat", "hello\n");
    check(1, "flux run seq 1 20000 | tail -1", "20000\n");
    let output = script(1, "flux run sh -c 'echo out; echo err >&2'");
    assert_eq!(stdout(&output), "out\n");
    assert!(stderr(&output).contains("err\n"), "{}", stderr(&output));
}

#[test]
fn the_tail_of_a_jobs_output_is_what_was_last_written() {
    check(
        1,
        "id=$(flux submit sh -c 'seq 1 20; echo END; read x; echo $x'); \
         until flux job eventlog -p output $id | grep -q END; do :; done; \
         echo more | flux job attach --tail=3 $id; flux job attach --tail=2 -l $id; \
         flux job attach --tail $id | wc -l; flux job attach --tail=-1 $id 2>&1; true",
        "19\n20\nEND\nmore\n0: END\n0: more\n10\nflux-job: invalid tail argument\n",
    );
}

#[test]
fn jobs_can_be_canceled_and_killed() {
    check(
        1,
        "id=$(flux submit sleep 100); flux job wait-event $id start >/dev/null; \
         flux cancel $id; flux job wait-event -f json $id clean >/dev/null; \
         flux jobs -no '{status}' $id",
        "CANCELED\n",
    );
    check(
        1,
        "id=$(flux submit sleep 100); flux job wait-event $id start >/dev/null; \
         flux job wait-event -p exec $id shell.start >/dev/null; flux job kill -s 10 $id; \
         flux job attach $id 2>/dev/null; echo $?",
        "138\n",
    );
}

#[test]
fn a_killed_shell_ends_its_job_and_nothing_else() {
    let output = script(
        1,
        "id=$(flux submit --wait-event=exec.shell.start sleep 100); \
         pkill -9 -f \"[s]hell $(flux job id --to=dec $id)\"; \
         flux job wait-event $id clean >/dev/null; flux run echo on",
    );
    assert!(
        stdout(&output).ends_with("on\n"),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
}

#[test]
fn many_jobs_all_finish() {
    check(
        1,
        "flux submit --cc=1-64 --wait --quiet true && flux jobs -a --filter=completed -no '{id}' | wc -l",
        "64\n",
    );
}

#[test]
fn an_instance_keeps_its_state_in_its_directory() {
    let dir = std::env::temp_dir().join(format!("flux-state-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("temporary directory");
    let set = format!("-Sstatedir={}", dir.display());
    let first = flux(&[
        "start",
        &set,
        "sh",
        "-c",
        "flux kvs put a=1; flux run true; flux jobs -ano '{id}'",
    ]);
    let second = flux(&[
        "start",
        &set,
        "sh",
        "-c",
        "flux kvs get a; flux jobs -ano '{id}'",
    ]);
    std::fs::remove_dir_all(&dir).expect("own directory");
    assert!(first.status.success(), "{}", stderr(&first));
    assert_eq!(
        stdout(&second),
        format!("1\n{}", stdout(&first)),
        "{}",
        stderr(&second)
    );
}
