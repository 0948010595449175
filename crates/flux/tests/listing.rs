//! What is told of jobs: lists, statuses and eventlogs.

mod common;

use common::{check, check_in};

#[test]
fn tasks_are_counted_by_the_resources_they_follow() {
    check_in(
        &["--test-size=2"],
        "tasks() { flux job wait-event $1 clean >/dev/null; flux jobs -no '{ntasks} {ranks}' $1; }
         tasks $(flux submit -N2 --tasks-per-node=3 true)
         tasks $(flux submit -N1 --cores=1 --tasks-per-core=2 true)
         # One that has no resources is counted by what it asks for.
         id=$(flux submit --urgency=hold -N2 --tasks-per-node=3 true)
         flux jobs -no {ntasks} $id; flux cancel $id",
        "6 [0-1]\n2 0\n6\n",
    );
}

#[test]
fn a_job_is_named_after_its_command_as_far_as_that_has_a_name() {
    check(
        "for command in /foo/bar /foo/bar/; do
             id=$(flux submit --urgency=hold $command)
             flux jobs -no {name} $id; flux cancel $id
         done",
        "bar\n/foo/bar/\n",
    );
}

#[test]
fn each_event_is_later_than_the_one_before() {
    check(
        "id=$(flux submit true); flux job wait-event $id clean >/dev/null
         flux job eventlog $id | awk '{print $1}' | sort -uC && echo ordered
         flux job eventlog -p exec -F $id | tail -1 | awk '{print $2}'
         flux job eventlog -p output -F $id 2>&1 | tail -1",
        "ordered\ndone\nflux-job: eventlog path guest.output has no last event\n",
    );
}

#[test]
fn a_status_tells_exceptions_before_exit_codes() {
    check(
        "status() {
             flux job wait-event $1 clean >/dev/null
             flux job status -v $1 2>&1 | sed \"s/$1/ID/\"
         }
         status $(flux submit sh -c 'kill $$')
         status $(flux submit /no/such/command)
         id=$(flux submit sleep inf); flux job wait-event $id start >/dev/null
         flux cancel $id; status $id",
        "flux-job: ID: exited with exit code 143\n\
         flux-job: ID: exception type=exec\n\
         flux-job: ID: exception type=cancel\n",
    );
}

#[test]
fn what_jobs_cannot_show_is_said() {
    check(
        r#"
id=$(flux submit --wait true)
exec 2>&1
flux jobs -no {name} f1 $id && echo found; flux jobs f1 || echo none; flux jobs --json f1
flux jobs --json --stats; flux jobs --count=-1; flux jobs --stats-only -q nosuch
flux jobs -a -no {name} --since='an hour ago'; flux jobs --since='in 5 minutes'
flux jobs -no {annotations.sched.t_estimate} --from-stdin </dev/null
export XDG_CONFIG_HOME=$(mktemp -d); mkdir $XDG_CONFIG_HOME/flux; conf=$XDG_CONFIG_HOME/flux/flux-jobs
printf 'formats:\n  mine:\n    description: My own\n    format: "{name}!"\n' >$conf.yaml
flux jobs -n -o mine $id; flux jobs -o help | grep -o 'mine.*'
said() { flux jobs -o help 2>&1 | sed "s,$conf,conf,"; }
echo 'formats: [' >$conf.yaml; said; rm $conf.yaml
echo 'formats.mine = 42' >$conf.toml; said; echo 'formats.mine.format = 42' >$conf.toml; said
rm -r $XDG_CONFIG_HOME"#,
        "JobID f1 unknown\ntrue\nfound\nJobID f1 unknown\nnone\nJobID f1 unknown\n\
         flux-jobs: ERROR: --json incompatible with --stats or --stats-only\n\
         flux-jobs: ERROR: invalid payload: max_entries < 0 not allowed\n\
         flux-jobs: ERROR: error retrieving job stats: no stats available for queue nosuch\n\
         true\n\
         flux-jobs: ERROR: --since=in 5 minutes appears to be in the future\n\
         true!\nmine         My own\n\
         flux-jobs: ERROR: conf.yaml: error: line 1 column 10: unclosed bracket '['\n\
         flux-jobs: ERROR: conf.toml: 'formats.mine' must be a mapping\n\
         flux-jobs: ERROR: conf.toml: formats.mine: 'format' key must be a string\n",
    );
}
