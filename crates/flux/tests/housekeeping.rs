//! Housekeeping in whole instances: what runs on nodes between the end of a job and the next.

mod common;

use common::check;

/// Shell functions the scripts share.
const PRELUDE: &str = r#"
configure() { printf '[job-manager.housekeeping]\ncommand = %s\n' "$1" | flux config load; }
# Waits until so many jobs have housekeeping.
running() { until test $(flux housekeeping list -no {id} | wc -l) = $1; do :; done; }
allocated() { flux resource list -s allocated -no {nnodes}; }
"#;

fn check_script(text: &str, expect: &str) {
    check(&format!("{PRELUDE}{text}"), expect);
}

#[test]
fn nodes_stay_allocated_after_the_job_until_it_is_done() {
    check_script(
        r#"
        configure '["sleep", "inf"]'
        flux run true
        flux jobs -ano {state}
        running 1
        flux housekeeping list -no {ranks}
        allocated
        flux housekeeping kill --all
        running 0
        allocated
        flux dmesg | grep -c 'Terminated$'
        "#,
        "INACTIVE\n0\n1\n0\n1\n",
    );
}

#[test]
fn the_command_knows_its_job_and_its_output_is_logged() {
    check_script(
        r#"
        configure '["sh", "-c", "echo job $FLUX_JOB_ID $FLUX_JOB_USERID $FLUX_JOB_RANKS"]'
        flux run true
        running 0
        id=$(flux job last | flux job id)
        flux dmesg | grep -c ": job $id $(id -u) 0$"
        "#,
        "1\n",
    );
}

#[test]
fn a_command_that_is_not_there_holds_nothing_up() {
    check_script(
        r#"
        configure '["/no/such/command"]'
        flux run true && flux run true
        running 0
        flux dmesg | grep -c 'error launching process'
        "#,
        "2\n",
    );
}

#[test]
fn another_scheduler_is_told_what_is_still_held() {
    check_script(
        r#"
        configure '["sleep", "inf"]'
        flux run true
        running 1
        flux module reload -f sched-simple
        FLUX_RESOURCE_LIST_RPC=sched.resource-status allocated
        flux housekeeping kill --all
        running 0
        flux run echo done
        "#,
        "1\ndone\n",
    );
}
