//! Prolog and epilog in whole instances.

mod common;

use common::{check, check_in};

/// Shell functions the scripts share.
const PRELUDE: &str = r#"
flux jobtap load perilog.so
configure() { printf '%b\n' "$1" | flux config load; }
events() { flux job eventlog $1 | awk '{print $2}' | grep -e log- -e start -e finish; }
exceptions() { flux job eventlog $1 | sed -n 's/.*exception //p'; }
drained() { flux resource status -no '{ranks} {reason}' -s drain | sed "s/$1/ID/"; }
clean() { flux job wait-event -t 60 $1 clean >/dev/null; }
"#;

fn check_script(text: &str, expect: &str) {
    check(&format!("{PRELUDE}{text}"), expect);
}

fn check_two(text: &str, expect: &str) {
    check_in(&["--test-size=2"], &format!("{PRELUDE}{text}"), expect);
}

#[test]
fn both_run_on_each_rank_of_a_job_and_know_it() {
    check_two(
        r#"
        line='echo $FLUX_JOB_ID $FLUX_JOB_USERID $FLUX_JOB_RANKS'
        configure "[job-manager.prolog]\nper-rank = true\ncommand = ['sh', '-c', '$line']
                   [job-manager.epilog]\ncommand = ['sh', '-c', 'echo no >&2; echo yes']
                   [job-manager.perilog]\nlog-ignore = ['^y']"
        id=$(flux submit -N2 true)
        clean $id
        events $id
        host=$(hostname)
        flux dmesg | grep -o "$id: .*log: .*" | sed "s/$id/ID/g; s/$host/HOST/; s/ $(id -u) / UID /" | sort
        "#,
        "prolog-start\nprolog-finish\nstart\nfinish\nepilog-start\nepilog-finish\n\
         ID: epilog: HOST (rank 0): stderr: no\n\
         ID: prolog: HOST (rank 0): stdout: ID UID 0-1\n\
         ID: prolog: HOST (rank 1): stdout: ID UID 0-1\n",
    );
}

#[test]
fn a_prolog_that_fails_keeps_the_job_from_starting_and_drains() {
    check_two(
        r#"
        line='exit $(flux getattr rank)'
        configure "[job-manager.prolog]\nper-rank = true\ncommand = ['sh', '-c', '$line']
                   [job-manager.epilog]\ncommand = ['true']"
        id=$(flux submit -N2 true)
        clean $id
        flux job eventlog $id | awk '{print $2}' | tail -n +6 | sort | uniq
        exceptions $id | sed "s/$(hostname)/HOST/; s/userid=.*//"
        drained $id
        flux run true
        "#,
        "clean\nepilog-finish\nepilog-start\nexception\nfree\nprolog-finish\nprolog-start\n\
         type=\"prolog\" severity=0 note=\"prolog exited with code=1 on HOST (rank 1)\" \n\
         1 prolog failed for job ID\n",
    );
}

#[test]
fn a_canceled_job_waits_for_its_prolog_no_longer() {
    check_script(
        r#"
        configure "[job-manager.prolog]\nper-rank = true\ncommand = ['sleep', 'inf']"
        id=$(flux submit true)
        flux job wait-event $id prolog-start >/dev/null
        flux jobtap query perilog.so | grep -o '"name":"prolog","state":"running","total":1'
        flux cancel $id
        clean $id
        exceptions $id | sed 's/userid=.*//'
        drained $id
        # One that does not end when told to is left alone, and where it is is drained.
        line='trap : TERM; flux job memo $FLUX_JOB_ID pid=$$; while :; do sleep 60; done'
        configure "[job-manager.prolog]\nper-rank = true\nkill-timeout = 0.1
                   command = ['sh', '-c', '$line']"
        id=$(flux submit true)
        flux job wait-event -t 60 $id memo >/dev/null
        flux cancel $id
        clean $id
        exceptions $id | sed -n 's/.*note="\(prolog.*\) on.*/\1/p'
        drained $id
        pid=$(flux job eventlog $id | sed -n 's/.*memo pid=//p')
        kill -s KILL -- -$pid
        "#,
        "\"name\":\"prolog\",\"state\":\"running\",\"total\":1\ntype=\"cancel\" severity=0 note=\"\" \n\
         prolog canceled then timed out\n\
         0 prolog canceled then timed out for job ID\n",
    );
}

#[test]
fn an_epilog_holds_the_resources_and_does_not_fail_the_job() {
    check_script(
        r#"
        configure "[job-manager.epilog]\ntimeout = '0.1s'\ncommand = ['sleep', 'inf']"
        id=$(flux submit true)
        flux job wait-event $id epilog-start >/dev/null
        flux resource list -s allocated -no {nnodes}
        clean $id
        exceptions $id | sed "s/$(hostname)/HOST/; s/userid=.*//"
        flux job status $id && echo well
        "#,
        "1\ntype=\"epilog\" severity=2 note=\"epilog timed out on HOST (rank 0)\" \nwell\n",
    );
}

#[test]
fn a_job_has_its_time_after_a_long_prolog() {
    check_script(
        r#"
        # It takes until the end that the job's resources have.
        configure "[job-manager.prolog]\ncommand = ['sleep', '0.5']"
        id=$(flux submit -t 0.5s sh -c 'echo ran; sleep inf')
        flux job attach $id 2>/dev/null
        flux job status -v $id 2>&1 | sed "s/$id/ID/"
        "#,
        "ran\nflux-job: ID: exception type=timeout\n",
    );
}

#[test]
fn tables_are_read_only_where_the_plugin_is_loaded() {
    check_script(
        r#"
        bad="[job-manager.prolog]\ncommand = 1"
        configure "$bad" 2>&1
        flux jobtap remove perilog.so
        configure "$bad" && flux run true && echo ran
        flux jobtap load perilog.so 2>&1
        flux jobtap list | grep -c perilog
        flux admin system-scripts | head -2
        configure "[job-manager.prolog]\ncommand = ['a', 'b']"
        flux jobtap load perilog.so && flux admin system-scripts
        "#,
        "flux-config: load: error updating job-manager: [job-manager.prolog]: \
         command must be an array\n\
         ran\n\
         flux-jobtap: ERROR: [job-manager.prolog]: command must be an array\n\
         0\n\
         ▸ prolog: configured but inactive\n  (perilog plugin not loaded)\n\
         ▸ prolog: enabled (per-rank=false)\n  command: a b\n\n\
         ▸ epilog: not configured\n\n▸ housekeeping: not configured\n\n",
    );
}
