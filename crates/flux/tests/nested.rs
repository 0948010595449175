//! Instances within and beside others: proxies, and what a job that is an instance is given.

mod common;

use std::process::{Command, Stdio};

use common::check;

const FLUX: &str = env!("CARGO_BIN_EXE_flux");

#[test]
fn a_proxy_carries_calls_streams_and_the_exit_code() {
    check(
        "flux proxy $FLUX_URI 'flux getattr size; flux run echo hi; exit 3'; echo $?",
        "1\nhi\n3\n",
    );
}

#[test]
fn a_proxy_knows_its_clients_apart() {
    // The second client's stream goes on while the first one leaves.
    check(
        "flux proxy $FLUX_URI 'flux kvs put a=1; flux kvs get -w -c 2 a >out.$$ & \
         until test -s out.$$; do flux kvs get a >/dev/null; done; \
         flux kvs put a=2; wait; cat out.$$; rm out.$$'",
        "1\n2\n",
    );
}

#[test]
fn a_proxy_leaves_nothing_behind() {
    check(
        "d=$(flux proxy $FLUX_URI 'dirname ${FLUX_URI#local://}'); test -n \"$d\" && ! test -e $d",
        "",
    );
}

#[test]
fn relay_needs_a_socket() {
    let output = Command::new(FLUX)
        .args(["relay", "/no/such/socket"])
        .stdin(Stdio::null())
        .output()
        .expect("the program was built");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("local:///no/such/socket: No such file or directory"),
        "{said}"
    );
}

#[test]
fn an_instance_has_what_its_job_was_given() {
    check(
        "flux alloc -n1 -t 10m sh -c 'flux kvs eventlog get resource.eventlog | grep -o job-info; \
         flux kvs get resource.R | flux R decode --count=core'",
        "job-info\n1\n",
    );
}

#[test]
fn the_tree_of_jobs_goes_into_instances() {
    check(
        "flux submit --quiet --wait-event=start -n1 sleep inf; \
         id=$(flux alloc --bg -n1); \
         flux proxy $id?local flux submit --quiet --wait-event=start --job-name=inner sleep inf; \
         flux pstree --ascii --parent-label='parent {instance.stats}' -o '{name}' --skip-root=yes; \
         flux pstree -n --detail-format='{name:<6}' $id; \
         flux pstree --level=0 -o x --parent-label=y --compact; \
         flux cancel --all -q",
        "parent PD:0 R:1 CD:0 F:0\n`-- inner\nsleep\n\
         flux   flux\ninner  └── inner\n\
         y\n├─y\n└─x\n\
         ",
    );
}

#[test]
fn top_shows_the_instance_it_is_pointed_at() {
    // `script` gives it a terminal; what the terminal shows is tested beside the code.
    check(
        "dir=$(mktemp -d); export TERM=xterm; \
         id=$(flux submit -n1 flux start sh -c 'flux submit --wait-event=start sleep 60 && sleep 60'); \
         flux job wait-event -t 20 $id memo >/dev/null; uri=$(flux uri --local $id); \
         flux proxy $uri 'until test $(flux jobs -no {id} -f running | wc -l) = 1; do :; done'; \
         script -qec \"stty rows 24 cols 80; flux top --test-exit --test-exit-dump=$dir/dump $id\" $dir/log >/dev/null; \
         sed '/running/p; $!d; s/.* R 1/R 1/; s/ [^ ]* sleep/ sleep/' $dir/dump; \
         grep -c 'depth: 1' $dir/log; flux top </dev/null 2>&1; rm -r $dir; flux cancel $id",
        "1 running\nR 1 1 sleep\n1\nflux-top: stdin is not a terminal\n",
    );
}

#[test]
fn jobs_without_a_time_limit_end_with_their_instance() {
    check(
        r#"
id=$(flux alloc --bg -n1 -t5m)
p="flux proxy $id?local"
job=$($p flux submit --wait-event=start sleep 300)
change() {
    flux update $id duration=$1
    $p flux job wait-event -t 20 -c $2 $job resource-update >/dev/null
}
change +5m 1; change inf 2; change 1h 3
$p flux dmesg | grep -o 'updated expiration of .* (.*)' | sed 's/from.*to.*(/(/; s/ƒ[^ ]*/it/'
$p flux job timeleft $job | sed 's/35[0-9][0-9]/an hour/'
flux cancel -q $id"#,
        "updated expiration of it (+300)\n\
         updated expiration of it (+inf)\n\
         updated expiration of it (-inf)\n\
         an hour\n",
    );
}

#[test]
fn an_instance_without_a_watch_over_its_end_still_has_one() {
    check(
        "flux alloc -n1 -t 5m --conf=resource.no-update-watch=true --conf=resource.rediscover=true \
             sh -c 'flux dmesg | grep -c job-info.lookup; \
                    test $(flux run flux job timeleft) -le 300 && echo ends'",
        "1\nends\n",
    );
}

#[test]
fn an_instance_in_the_background_says_how_it_failed() {
    check(
        r#"
export FLUX_URI_RESOLVE_LOCAL=t
dir=$(mktemp -d); mkdir $dir/rc1.d
printf '#!/bin/sh\necho rc1 $(flux getattr rank)\nexit 3\n' >$dir/rc1.d/fails
chmod +x $dir/rc1.d/fails
FLUX_RC_EXTRA=$dir flux alloc --bg -n1 2>&1 | sed 's/ƒ[^:]*/it/'
flux alloc --bg -n1 --broker-opts=--xx 2>&1 | sed 's/ƒ[^:]*/it/' | grep -oE 'unrec.*option|it: .*'
flux queue stop >/dev/null
mkfifo $dir/said
flux alloc --bg -v -n1 2>$dir/said & pid=$!
exec 3<$dir/said; read -r line <&3
kill -INT $pid; wait $pid || echo refused
sed 's/ƒ[^:]*/it/' <&3
rm -r $dir"#,
        "flux-alloc: ERROR: it: instance startup failed\n\
         unrecognized option\nit: unexpectedly exited\n\
         refused\nit: Interrupt: canceling job\n",
    );
}

#[test]
fn an_instance_ends_with_the_slurm_job_it_is_in() {
    check(
        r#"
dir=$(mktemp -d); PATH=$dir:$PATH
printf '#!/bin/sh\ntest "$*" = "--noheader --format=%%L --jobs=5" && echo 1-00:00:00\n' >$dir/squeue
chmod +x $dir/squeue
SLURM_JOB_ID=5 flux start sh -c '
    test $(flux run flux job timeleft) -gt 86000 && echo follows
    printenv YOGRT_BACKEND'
SLURM_JOB_ID=x flux start true 2>&1 | grep -o invalid.*
SLURM_JOB_ID=6 flux start sh -c 'flux dmesg | grep -o slurm:.*' 2>/dev/null
flux slurm-expiration-sync 2>&1; flux slurm-expiration-sync -j 5 --poll-interval=0 2>&1
rm -r $dir"#,
        "follows\nflux\ninvalid SLURM_JOB_ID. Skipping expiration sync\n\
         slurm: squeue failed: \n\
         slurm-expiration-sync: ERROR: Invalid or missing --jobid\n\
         slurm-expiration-sync: ERROR: Invalid --poll-interval '0'\n",
    );
}
