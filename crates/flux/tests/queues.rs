//! `flux queue` and what it refuses.

mod common;

use common::check;

#[test]
fn queues_that_are_not_are_refused_by_what_was_asked() {
    check(
        "echo '{\"queues\":{\"batch\":{},\"debug\":{}}}' | flux config load
         exec 2>&1
         for what in status start stop enable disable; do flux queue $what nosuch; done
         flux queue stop
         flux queue disable
         flux queue status batch debug 2>&1 | tail -1
         flux queue list batch 2>&1 | tail -1
         flux queue drain batch 2>&1 | tail -1
         flux queue stop batch | tail -1",
        "flux-queue: ERROR: status: 'nosuch' is not a valid queue\n\
         flux-queue: ERROR: start: 'nosuch' is not a valid queue\n\
         flux-queue: ERROR: start: 'nosuch' is not a valid queue\n\
         flux-queue: ERROR: enable: 'nosuch' is not a valid queue\n\
         flux-queue: ERROR: enable: 'nosuch' is not a valid queue\n\
         flux-queue: ERROR: Named queues are defined. Specify queues or use --all.\n\
         flux-queue: ERROR: enable: Use --all to apply this command to all queues\n\
         flux-queue: error: unrecognized arguments: debug\n\
         flux-queue: error: unrecognized arguments: batch\n\
         flux-queue: error: unrecognized arguments: batch\n\
         batch: Scheduling is stopped\n",
    );
}

#[test]
fn a_virtual_queue_is_held_up_by_its_parent_and_takes_its_constraints() {
    check(
        "flux config load <<EOT
[queues.batch]
requires = [\"batch\"]
[queues.quick]
parent = \"batch\"
[queues.debug]
requires = [\"debug\"]
EOT
         list='flux queue list -no {queue}:{scheduling}:{started}:{started.ascii}'
         flux queue start --all >/dev/null
         flux queue stop batch >/dev/null
         $list
         flux queue start batch >/dev/null
         $list -q quick
         flux module remove sched-simple
         id=$(flux submit --urgency=hold -q debug true)
         flux update $id queue=quick
         flux job info $id jobspec | grep -o '\"properties\":[^]]*'",
        "batch:stopped: ✗:n\nquick:stopped (parent): ⏸:p\ndebug:started: ✔:y\n\
         quick:started: ✔:y\n\
         \"properties\":[\"batch\"\n",
    );
}
