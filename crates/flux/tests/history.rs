//! Restarts: with and without the summary of inactive jobs, where nobody may see a difference, and
//! with jobs that run.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const FLUX: &str = env!("CARGO_BIN_EXE_flux");

/// Without these nobody reads or writes the summary.
const JOB_SERVICES: &str = "job-manager,job-ingest,job-info,job-list,job-exec,sched";

/// A state directory that goes when the test ends.
struct Statedir(PathBuf);

impl Statedir {
    fn new(name: &str) -> Statedir {
        let dir = std::env::temp_dir().join(format!("flux-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("temporary directory");
        Statedir(dir)
    }

    /// One just like it beside it.
    fn copy(&self, suffix: &str) -> Statedir {
        let mut path = self.0.clone().into_os_string();
        path.push(suffix);
        std::fs::create_dir(&path).expect("temporary directory");
        let copy = Statedir(path.into());
        for entry in std::fs::read_dir(&self.0).expect("own directory") {
            let entry = entry.expect("own directory");
            if entry.file_type().expect("own file").is_file() {
                std::fs::copy(entry.path(), copy.0.join(entry.file_name())).expect("own file");
            }
        }
        copy
    }

    fn start(&self, disable: &str, text: &str) -> Output {
        Command::new(FLUX)
            .arg("start")
            .arg(format!("-Sstatedir={}", self.0.display()))
            .args(["sh", "-c", text])
            .env_remove("FLUX_URI")
            .env("FLUX_MODPROBE_DISABLE", disable)
            .env("FLUX_DISABLE_JOB_CLEANUP", "t")
            .stdin(Stdio::null())
            .output()
            .expect("the program was built")
    }

    /// Runs a shell script in an instance that starts on this directory, and tells what it printed.
    fn run(&self, text: &str) -> String {
        succeeds(&self.start("", text), text)
    }

    /// Runs one without the services of jobs.
    fn edit(&self, text: &str) {
        succeeds(&self.start(JOB_SERVICES, text), text);
    }
}

impl Drop for Statedir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("own directory");
    }
}

fn succeeds(output: &Output, text: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}\nstdout: {stdout}\nstderr: {stderr}"
    );
    stdout
}

/// Jobs that ended in every way, one that waits, and enough of them for a summary.
const JOBS: &str = "
set -e
flux submit --cc=1-130 --setattr=exec.test.run_duration=0.001s --wait --quiet true
flux submit --flags=waitable --job-name=good --wait --quiet true
flux submit --flags=waitable --job-name=bad --cwd=/ sh -c 'exit 3' >/dev/null
flux submit --wait --quiet --setattr=system.bank=b --setattr=system.project=p true
flux submit --wait --quiet -t 0.2s sleep 60 2>/dev/null || true
id=$(flux submit --urgency=hold -t 10m true)
flux job memo $id note='\"a b\"' list='[1,{\"x\":null}]'
flux job raise -s 3 -t odd $id just so
flux cancel --message='for a reason' $id
id=$(flux submit --dependency=afterany:$id --begin-time=+1h -n 2 true)
flux cancel $id
id=$(flux submit --cwd=/tmp sleep 60); flux job wait-event -q $id start
flux job memo $id late=true; flux job kill $id; flux job wait-event -q $id clean
flux submit --urgency=hold true >/dev/null
flux queue stop --quiet; flux submit --wait-event=priority --quiet true; flux queue start --quiet
flux job wait-event -q $(flux job last) clean
";

/// All that can be asked about jobs. Asking takes waitable jobs away, which a restart brings back.
const ASK: &str = "
flux jobs -a -c 0 --json
flux jobs -a -c 0 --stats-only 2>&1
flux jobs -a -c 0 -n -o '{id} {annotations} {dependencies} {exception.note} {waitstatus} {ranks}'
flux jobs -c 0 -n -f failed,canceled,timeout --since=-1h
flux module stats job-list; flux module stats job-manager
flux job last '[0:200]'
flux queue status
for id in $(flux jobs -f inactive -c 12 -n -o '{id}'); do
  flux job info $id eventlog; flux job info $id jobspec; flux job info $id R 2>&1; flux job urgency $id 7 2>&1
done
flux job wait 2>&1; flux job wait 2>&1; flux job wait 2>&1; flux job wait --all 2>&1
flux job purge --num-limit=3; flux job purge --force --num-limit=100
flux jobs -a -c 0 -n -o '{id}'; flux module stats job-list; flux job last '[0:200]'
true
";

/// Whether the instance that runs this found a summary it believed.
const IS_TOLD: &str = "flux dmesg | grep -q 'as summarised'";

/// What a start on the directory as it is tells, and what one that finds no summary does.
fn compare(dir: &Statedir) {
    let plain = dir.copy("-plain");
    plain.edit("flux kvs unlink -Rf checkpoint.job-history");
    let told = dir.copy("-told");
    let with = told.run(&format!("{IS_TOLD} || exit 9; {ASK}"));
    let without = plain.run(&format!("{IS_TOLD} && exit 9; {ASK}"));
    for (with, without) in with.lines().zip(without.lines()) {
        assert_eq!(with, without);
    }
    assert_eq!(with.len(), without.len());
    assert!(with.lines().count() > 100, "{with}");
}

#[test]
fn a_summary_says_what_the_eventlogs_do() {
    let dir = Statedir::new("history");
    dir.run(JOBS);
    dir.edit("flux kvs ls checkpoint.job-history");
    compare(&dir);
}

#[test]
fn a_summary_is_believed_only_of_what_is_there() {
    let dir = Statedir::new("changes");
    dir.run(JOBS);
    // More jobs, some of them forgotten, and an end nobody planned.
    let more = "
        flux submit --cc=1-20 --setattr=exec.test.run_duration=0.001s --wait --quiet true
        for id in $(flux jobs -a -c 0 -n -o '{id}' | head -3); do flux job purge --force $id; done
        flux jobs -a -c 5 -n -o '{id}' >/dev/null
        flux kvs sync
        kill -9 $(flux getattr broker.pid)";
    assert!(!dir.start("", more).status.success());
    compare(&dir);
    // What somebody else wrote, and what nobody could have.
    let edit = "
        id=$(flux kvs ls -1R job | grep -o 'job.*:' | tr -d : | grep -E '(\\.[0-9a-f]{4}){4}$' | tail -1)
        flux kvs put $id.note=hello checkpoint.job-history.77=rubbish checkpoint.job-history.x=1";
    dir.edit(edit);
    compare(&dir);
    let text = "flux dmesg | grep -o 'job-history.77: not understood'";
    assert_eq!(dir.run(text), "job-history.77: not understood\n");
}

#[test]
fn jobs_that_run_are_found_again() {
    let dir = Statedir::new("reattach");
    let id = dir.run(
        "id=$(flux submit --flags=debug --setattr=exec.test.run_duration=100s true)
        flux job wait-event -q $id start
        flux kvs put -N $(flux job namespace $id) canary=alive
        echo $id",
    );
    let id = id.trim();
    let text = format!(
        "flux job wait-event -q {id} debug.exec-reattach-finish
        flux kvs get -N $(flux job namespace {id}) canary
        flux jobs -no '{{status}}'
        flux cancel {id}; flux job wait-event -q {id} clean
        flux kvs get $(flux job id --to=kvs {id}).guest.canary
        flux job eventlog -p exec {id} | cut -d' ' -f2"
    );
    let events = ["init", "starting", "recoverable", "reattach", "re-starting"].join("\n");
    let expect = format!("alive\nRUN\nalive\n{events}\ncomplete\ndone\n");
    assert_eq!(dir.run(&text), expect);
}
