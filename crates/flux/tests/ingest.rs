//! What becomes of jobspecs on submission, and the commands that do the same.

mod common;

use common::check;

#[test]
fn validators_answer_line_by_line() {
    check(
        r#"
        job=$(flux run --env=-\* --dry-run true)
        printf '%s\n{}\n' "$job" | flux job-validator --jobspec-only || echo failed
        "#,
        "{\"errnum\": 0}\n{\"errnum\": 1, \"errstr\": \"Missing key (resources)\"}\nfailed\n",
    );
}

#[test]
fn frobnicators_know_the_configuration() {
    check(
        r#"
        printf '[queues.a]\npolicy.jobspec.defaults.system.duration = "1m"\n' | flux config load
        flux run --env=-\* --dry-run --queue=a true |
            flux job-frobnicator --jobspec-only | grep -o '"duration": [0-9.]*'
        flux run --env=-\* --dry-run true | flux job-frobnicator --jobspec-only
        "#,
        "\"duration\": 60.0\n{\"errnum\": 1, \"errstr\": \"no queue specified\"}\n",
    );
}

#[test]
fn a_worker_that_cannot_start_fails_jobs_and_can_be_replaced() {
    check(
        r#"
        flux module reload job-ingest validator-plugins=nosuch
        flux submit true 2>&1 | sed 's/.*Unrecoverable/Unrecoverable/'
        flux module reload job-ingest
        flux run echo well
        "#,
        "Unrecoverable error: worker unexpectedly exited\nwell\n",
    );
}

#[test]
fn hosts_nobody_has_are_refused() {
    check(
        "flux run --requires=host:nosuch true 2>&1 | sed 's/.*ERROR: //'",
        "host constraint contains invalid hosts: host 'nosuch' not found\n",
    );
}

#[test]
fn mock_jobs_can_be_driven_by_hand() {
    check(
        r#"
        id=$(flux submit --setattr=system.exec.test.override=1 true)
        flux job wait-event "$id" alloc >/dev/null
        flux job-exec-override finish "$id" 0 2>&1 | sed 's/.*ERROR: //'
        flux job-exec-override start "$id"
        flux job wait-event "$id" start >/dev/null
        flux job-exec-override finish "$id" 0
        flux job wait-event "$id" clean >/dev/null && echo over
        "#,
        "Job not running\nover\n",
    );
}

#[test]
fn what_no_validator_saw_is_refused_by_the_scheduler() {
    check(
        r#"
        flux module reload job-ingest max-fluid-generator-id=16384 2>&1 | sed 's/.*Invalid/Invalid/'
        flux module load job-ingest disable-validator
        for change in 's/"system"/"user"/' 's/"duration": 0,//'; do
            id=$(flux run --dry-run --env=-\* true | sed "$change" | flux job submit)
            flux job wait-event -f json "$id" exception | grep -o 'getting duration: [A-Za-z :]*'
        done
        "#,
        "Invalid max-fluid-generator-id: '16384'\n\
         getting duration: Object item not found: system\n\
         getting duration: Object item not found: duration\n",
    );
}

#[test]
fn resources_may_be_given_as_a_shape_or_a_file() {
    check(
        r#"
r() { grep -o '"resources": .*\], "tasks"' | tr -d ' "'; }
flux run -n4 --resources-shape='slot=2/[core=2;gpu{x}]' --dry-run true | r
flux batch --resources-shape=node/slot=2-4/core --wrap --dry-run true | r
file=$(mktemp); echo '{"resources": [{"type": "core", "count": 7}]}' >$file
flux submit --resources-json=$file --dry-run true | r
exec 2>&1
flux run --resources-shape=slot/ true; flux run --resources-json=no.json true
flux run --resources-shape=slot/core --resources-json=$file true; rm $file"#,
        "resources:[{type:slot,count:2,label:task,with:[{type:core,count:2},\
         {type:gpu,count:1,exclusive:true}]}],tasks\n\
         resources:[{type:node,count:1,with:[{type:slot,count:2-4,label:task,\
         with:[{type:core,count:1}]}]}],tasks\n\
         resources:[{type:core,count:7}],tasks\n\
         flux-run: ERROR: Unexpected end of input in 'slot/'\n\
         flux-run: ERROR: No such file or directory: 'no.json'\n\
         flux-run: ERROR: `--resources-shape` and `--resources-json` are mutually exclusive \
         arguments. Use only one.\n",
    );
}

#[test]
fn an_instance_may_have_brokers_that_run_no_jobs() {
    check(
        r#"
flux batch -N3 --add-brokers=2 --conf=resource.exclude=0 --dry-run --wrap true |
    grep -oE '"total": 5|"exclude": "[^"]*"|\[\[0.*\]\]'
exec 2>&1
flux batch -n1 --add-brokers=1 --wrap true; flux batch -N1 --add-brokers=0 --wrap true; :"#,
        "\"total\": 5\n[[0,1,3,1],[1,2,1,1]]\n\"exclude\": \"0-2\"\n\
         flux-batch: ERROR: --add-brokers requires --nodes\n\
         flux-batch: ERROR: --add-brokers must be a positive number\n",
    );
}
