//! Job shells as processes: how they are made, what they have, and what happens when they die.

use std::process::{Command, Output, Stdio};

const FLUX: &str = env!("CARGO_BIN_EXE_flux");

/// Shell functions the scripts share.
const PRELUDE: &str = r#"
broker=$(flux getattr broker.pid)
# The processes of this broker whose arguments match.
children() { pgrep -P "$broker" -f -- "$1"; }
server() { children '[s]hell --serve-as-fork-server'; }
# Starts a job and waits until its shell runs.
begin() {
    id=$(flux submit "$@") && flux job wait-event -t 20 "$id" start >/dev/null
}
"#;

/// Runs a script as the initial program of an instance of one broker.
fn script(text: &str) -> Output {
    Command::new(FLUX)
        .args(["start", "sh", "-c", &format!("{PRELUDE}{text}")])
        .env_remove("FLUX_URI")
        .stdin(Stdio::null())
        .output()
        .expect("the program was built")
}

/// The script succeeds and prints just this.
fn check(text: &str, expect: &str) {
    let output = script(text);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{stdout}\n{stderr}");
    assert_eq!(stdout, expect, "{text}\n{stderr}");
}

#[test]
fn the_fork_server_starts_with_the_first_job_and_serves_all() {
    check(
        r#"
        server | wc -l
        flux run true
        first=$(server)
        flux run true
        test "$first" = "$(server)" && echo "$first" | wc -l
        "#,
        "0\n1\n",
    );
}

#[test]
fn a_forked_shell_looks_like_an_executed_one() {
    check(
        r#"
        begin sleep 60
        shell=$(children "shell $(flux job id --to=dec $id)$")
        # It is the broker's own child and leads a process group.
        ps -o ppid=,pgid= -p $shell | { read ppid pgid; test $ppid = $broker && test $pgid = $shell; }
        flux sproc ps -n -o '{pid}' | grep -cx " *$shell"
        # Beside standard streams it has what any program makes for itself, and no file.
        readlink /proc/$shell/fd/* | grep -v -e '^pipe:' -e '^socket:' -e '^anon_inode:'
        flux cancel $id
        flux job wait-event -t 20 $id clean >/dev/null
        "#,
        "1\n",
    );
}

#[test]
fn tasks_inherit_standard_streams_only() {
    check(
        "flux run -o pmi=off sh -c 'cd /proc/self/fd && echo *'",
        "0 1 2 3\n",
    );
}

#[test]
fn a_killed_shell_counts_as_the_end_of_its_tasks() {
    let output = Command::new(FLUX)
        .args(["start", "--test-size=2", "sh", "-c"])
        .arg(
            r#"
        id=$(flux submit -N2 -o exit-timeout=0.1s sh -c '
            test $FLUX_TASK_RANK = 0 && exec sleep 60
            flux job wait-event -t 20 -p exec $FLUX_JOB_ID shell.start && kill -9 $PPID
        ')
        flux job wait-event -t 20 $id clean >/dev/null
        flux job eventlog --format=json $id | grep exception
        "#,
        )
        .env_remove("FLUX_URI")
        .stdin(Stdio::null())
        .output()
        .expect("the program was built");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let note = "exited and exit-timeout=0.1s has expired";
    assert!(
        stdout.contains("sh: shell rank 1 on host") && stdout.contains(note),
        "{output:?}"
    );
}

#[test]
fn jobs_outlive_the_fork_server() {
    check(
        r#"
        begin sh -c 'while ! test -e "$FLUX_JOB_TMPDIR/go"; do sleep 0.05; done; echo done; exit 7'
        first=$(server)
        kill -9 $first
        # The next job finds it dead or dying, and runs all the same.
        flux run echo next
        flux run echo again
        test "$first" != "$(server)"
        touch $(flux getattr rundir)/jobtmp-0-$id/go
        flux job attach $id
        echo $?
        "#,
        "next\nagain\ndone\n7\n",
    );
}

#[test]
fn a_killed_shell_fails_its_job() {
    check(
        r#"
        begin sleep 60
        kill -9 $(children "shell $(flux job id --to=dec $id)$")
        flux job wait-event -t 20 -f json $id finish | grep -o '"status":[0-9]*'
        flux job wait-event -t 20 $id clean >/dev/null
        flux run echo alive
        "#,
        "\"status\":9\nalive\n",
    );
}

#[test]
fn signals_reach_a_forked_shell() {
    check(
        r#"
        begin sh -c 'trap "echo caught; exit 3" TERM; >$FLUX_JOB_TMPDIR/set; while :; do sleep 0.05; done'
        until test -e $(flux getattr rundir)/jobtmp-0-$id/set; do sleep 0.01; done
        flux job kill -s TERM $id
        flux job attach $id
        echo $?
        "#,
        "caught\n3\n",
    );
}

#[test]
fn the_fork_server_ends_with_its_broker() {
    let output = script("flux run true; server");
    let printed = String::from_utf8_lossy(&output.stdout);
    let pid: u32 = printed.trim().parse().expect("one process id");
    // It notices as soon as it runs again.
    let gone = Command::new("timeout")
        .args(["20", "tail", "-s", "0.01", "-f", "/dev/null"])
        .arg(format!("--pid={pid}"))
        .status()
        .expect("tail is there");
    assert!(gone.success(), "process {pid} is left");
}

#[test]
fn no_signal_stays_blocked() {
    check(
        "flux run grep SigBlk /proc/self/status",
        "SigBlk:\t0000000000000000\n",
    );
}

#[test]
fn another_shell_is_executed() {
    check(
        r#"
        dir=$(mktemp -d)
        printf '#!/bin/sh\nexec flux shell "$@"\n' >$dir/myshell
        chmod +x $dir/myshell
        flux run --setattr=exec.job_shell=$dir/myshell echo hello
        server | wc -l
        rm -r $dir
        "#,
        "hello\n0\n",
    );
}

#[test]
fn start_up_scripts_are_not_passed_over() {
    check(
        r#"
        dir=$(mktemp -d)
        printf -- '\n-- nothing\n' >$dir/empty.lua
        echo 'shell.setenv("A", "B")' >$dir/some.lua
        run() { flux run "$@" 2>&1 | sed -n "s,$dir,DIR,g; /^fine/p; /^B/p; s,.*FATAL: ,,p"; }
        run -o initrc=/dev/null -o userrc=$dir/empty.lua echo fine
        run -o initrc=$dir/some.lua printenv A
        run -o userrc=$dir/none.lua echo no
        flux setattr conf.shell_initrc $dir/some.lua
        run printenv A
        run -o initrc=/dev/null echo fine
        rm -r $dir
        "#,
        "fine\n\
         B\n\
         loading rc file DIR/none.lua: source DIR/none.lua: No such file or directory\n\
         B\n\
         fine\n",
    );
}

#[test]
fn scripts_of_the_site_and_the_user_are_run() {
    check(
        r#"
        dir=$(mktemp -d)
        mkdir $dir/mpi $dir/plugins $dir/own
        echo 'shell.setenv("A", "site")' >$dir/b.lua
        echo 'shell.setenv("MPI", "site")' >$dir/mpi/site.lua
        echo 'shell.setenv("MPI", "site 2")' >$dir/mpi/site@2.lua
        echo 'shell.setenv("A", shell.getenv("A") .. " user")' >$dir/own/user.lua
        export FLUX_SHELL_RC_PATH=$dir
        run() { flux run "$@" 2>&1 | sed "s,.*\(WARN\|FATAL\): ,,; s,$dir,DIR,g"; }
        run -o mpi=none -o userrc=$dir/own/user.lua printenv A
        run -o mpi=other true
        run -o mpi=site printenv MPI A
        run -o mpi=site@2 printenv MPI
        touch $dir/plugins/a.so
        flux setattr conf.shell_pluginpath $dir/plugins
        run true | grep -o -m 1 'built in.*plugins/a.so: '
        rm -r $dir
        "#,
        "site user\n\
         mpi=other: there is no such MPI personality\n\
         site\n\
         site\n\
         site 2\n\
         built in): initrc.lua:2: plugin.load: DIR/plugins/a.so: \n",
    );
}

#[test]
fn plugins_in_lua_follow_the_shell_and_its_tasks() {
    check(
        r#"
        dir=$(mktemp -d)
        cat >$dir/user.lua <<-'END'
	plugin.register {
	  name = "follow",
	  handlers = {
	    { topic = "*", fn = function (topic) shell.log (topic) end },
	    { topic = "shell.init", fn = function () shell.setenv ("A", "all") end },
	    { topic = "task.init", fn = function () task.setenv ("R", "rank " .. task.info.rank) end },
	    { topic = "task.exec", fn = function () io.stdout:write ("first\n") end },
	    { topic = "task.exit", fn = function () shell.log ("exit " .. task.info.exitcode) end },
	  },
	}
	END
        flux run -o userrc=$dir/user.lua sh -c 'printenv A R; exit 3' 2>&1 | sed '
            s/.*flux-shell.0.: //'
        rm -r $dir
        "#,
        "shell.init\nshell.post-init\ntask.init\ntask.fork\nshell.start\n\
         task.exec\nfirst\nall\nrank 0\n\
         task.exit\nexit 3\nshell.finish\nshell.tasks-complete\nshell.exit\n\
         flux-job: task(s) exited with exit code 3\n",
    );
}

#[test]
fn plugins_in_lua_end_jobs() {
    check(
        r#"
        dir=$(mktemp -d)
        try() {
            echo "plugin.register { name = 'p', handlers = {{ topic = '$1', fn = function () $2 end }}}" \
                >$dir/user.lua
            flux run -o userrc=$dir/user.lua true 2>&1 | sed -n 's/.*ERROR: //p; s/.*FATAL: //p'
        }
        try shell.init 'return false'
        try task.init 'error("no")' | sed "s,$dir,DIR,"
        try shell.start 'shell.die("enough")'
        try task.exec 'shell.die("not this")' | sed 's/host [^)]*/host H/'
        try shell.exit 'return false'
        rm -r $dir
        "#,
        "plugin 'p': shell.init failed\n\
         shell.init: plugin(s) failed\n\
         plugin 'p': task.init failed: DIR/user.lua:1: no\n\
         task.init: plugin(s) failed\n\
         enough\n\
         task 0 (host H): not this\n\
         plugin 'p': shell.exit failed\n",
    );
}

#[test]
fn a_shell_does_not_pretend_to_reconnect() {
    check(
        "flux shell --reconnect 1 2>&1; echo $?",
        "flux-shell: --reconnect is not supported yet\n1\n",
    );
}

#[test]
fn shells_tell_the_processes_of_a_job() {
    check(
        r#"
        id=$(flux submit -n2 sleep inf)
        for pid in $(flux job hostpids -d ' ' $id | sed 's/[^ ]*://g'); do
            readlink -e /proc/$pid/exe | grep -o 'sleep\|coreutils' | sed 's/coreutils/sleep/'
        done
        flux job hostpids -r 1 $id | tr , '\n' | wc -l
        flux cancel $id
        flux job wait-event $id clean >/dev/null
        flux job hostpids $id 2>&1 | grep -c inactive
        "#,
        "sleep\nsleep\n1\n1\n",
    );
}

#[test]
fn tasks_stop_before_they_begin_where_a_tool_wants_them() {
    check(
        r#"
        id=$(flux submit -n2 -o stop-tasks-in-exec sh -c 'echo begun')
        flux job wait-event -t 20 -p exec -m sync=true $id shell.start >/dev/null && echo started
        for pid in $(flux job hostpids $id | sed 's/[^,]*://g; s/,/ /g'); do
            ps -o stat=,comm= -p $pid | cut -c1,5-
        done
        flux job kill -s CONT $id
        flux job attach $id
        # What cannot be executed does not stop anything.
        flux run -o stop-tasks-in-exec ./nosuch 2>/dev/null; echo $?
        "#,
        "started\nT sh\nT sh\nbegun\nbegun\n127\n",
    );
}

#[test]
fn every_shell_tells_what_its_job_used() {
    let two = Command::new(FLUX)
        .args(["start", "--test-size=2", FLUX, "run", "-N2"])
        .args(["-o", "sysmon", "true"])
        .env_remove("FLUX_URI")
        .output()
        .expect("the program was built");
    let stderr = String::from_utf8_lossy(&two.stderr);
    for rank in 0..2 {
        let line = format!("flux-shell[{rank}]: sysmon: loadavg-overall=");
        assert_eq!(stderr.matches(&line).count(), 1, "{stderr}");
    }
    check(
        r#"
        for option in sysmon.period=x sysmon.badopt=1; do
            flux run -o $option true 2>&1 | sed -n 's/.*FATAL: //p' | head -1
        done
        # Usage is told again and again while the tasks run.
        id=$(flux submit -o verbose=2 -o sysmon.period=10ms sleep inf)
        flux job wait-event -t 20 -W -p output -c 9 -m component=sysmon $id log >/dev/null
        flux cancel $id
        flux job attach $id 2>&1 | grep -o 'TRACE: sysmon: loadavg=' | uniq
        "#,
        "sysmon: sysmon.period is not a valid FSD\n\
         sysmon: option parse error: unknown key badopt\n\
         TRACE: sysmon: loadavg=\n",
    );
}

#[test]
fn a_job_that_does_not_end_is_given_up() {
    check(
        r#"
        flux module reload job-exec kill-timeout=10ms max-kill-timeout=0.1s \
            kill-signal=SIGURG term-signal=SIGURG
        begin sleep inf
        flux module stats job-exec | grep -c -e '"active_ranks": "0"' -e '"kill_count": 0'
        pid=$(flux job hostpids $id | sed 's/.*://')
        flux cancel $id
        flux job wait-event -t 20 $id clean >/dev/null
        flux dmesg | grep -o 'exceeded max-kill-timeout.*'
        flux resource drain -no '{ranks} {reason}' | sed "s/$id/ID/"
        kill $pid
        "#,
        "2\nexceeded max-kill-timeout. Draining active ranks\n\
         0 unkillable user processes for job ID\n",
    );
}
