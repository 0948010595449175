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
