//! The schedulers, as jobs see them.

mod common;

use common::check_in;

#[test]
fn short_jobs_pass_one_that_waits_only_by_backfill() {
    let text = |scheduler: &str| {
        format!(
            r#"
flux module remove sched-simple && flux module load {scheduler}
sub() {{ name=$1; shift; flux submit --job-name=$name -x "$@"; }}
a=$(sub first -N3 -t 100s sleep 60)
b=$(sub all -N4 -t 100s true)
d=$(sub long -N1 -t 200s true)
c=$(sub short -N1 -t 50s true)
flux job wait-event -t 20 $a start >/dev/null
case {scheduler} in *backfill) flux job wait-event -t 20 $c clean >/dev/null;; esac
flux jobs -a -no '{{name}} {{status_abbrev}}' | sort
test "$(flux jobs -no {{annotations.sched.backfill}} $c)" = $b && echo let by
flux cancel $a
for id in $a $b $c $d; do flux job wait-event -t 20 $id clean >/dev/null; done
flux jobs -a -no '{{name}} {{status_abbrev}}' | sort"#
        )
    };
    let done = "all CD\nfirst CA\nlong CD\nshort CD\n";
    check_in(
        &["-s4"],
        &text("sched-backfill"),
        &format!("all S\nfirst R\nlong S\nshort CD\nlet by\n{done}"),
    );
    check_in(
        &["-s4"],
        &text("sched-fifo"),
        &format!("all S\nfirst R\nlong S\nshort S\n{done}"),
    );
}

#[test]
fn the_wrong_arguments_are_named() {
    check_in(
        &[],
        "flux module remove sched-simple
         exec 2>&1
         for arg in queue-depth=0 log-level=loud nosuch; do flux module load sched-fifo $arg; done
         flux module load sched-simple",
        "flux-module: load sched-fifo: queue-depth='0' is invalid: expected a positive integer or \
         'unlimited'\n\
         flux-module: load sched-fifo: log-level='loud' is invalid: expected one of emerg, alert, \
         crit, err, warning, notice, info, debug\n\
         flux-module: load sched-fifo: unknown argument 'nosuch': built-in options are \
         queue-depth, log-level, pool-class\n",
    );
}
