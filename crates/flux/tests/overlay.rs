//! The tree of brokers as its owner sees it.

mod common;

use common::check_in as check;

#[test]
fn a_silent_broker_is_torpid_until_it_speaks() {
    check(
        &["--test-size=2"],
        "flux config set --type=fsd tbon.torpid_min 0.2s
         flux config set --type=fsd tbon.torpid_max 0.5s
         flux getattr tbon.torpid_max
         flux module reload heartbeat period=0.1s
         pid=$(flux exec -r 1 flux getattr broker.pid)
         kill -STOP $pid
         until flux dmesg | grep -q 'has been unresponsive'; do :; done
         kill -CONT $pid
         until flux dmesg | grep -q 'is responsive now'; do :; done",
        "0.5s\n",
    );
}

#[test]
fn requests_below_are_counted_until_answered() {
    check(
        &["--test-size=2"],
        "flux overlay status --timeout=0 --wait=lost --rank=1 2>/dev/null &
         until test $(flux module stats --parse=child-rpc overlay) -gt 0; do :; done
         kill $!
         flux ping -c 1 1 >/dev/null && echo alive",
        "alive\n",
    );
}

#[test]
fn wrong_limits_of_silence_are_refused() {
    check(
        &[],
        "flux config set --type=fsd tbon.torpid_max 2s 2>&1
         flux config set --type=fsd tbon.torpid_min 0 2>&1
         echo '{\"tbon\":{\"torpid_min\":\"x\"}}' | flux config load 2>&1
         flux getattr tbon.torpid_max",
        "flux-config: Error updating config object: error updating overlay: \
             tbon.torpid_max must be greater than torpid_min\n\
         flux-config: Error updating config object: error updating overlay: \
             tbon.torpid_min must be nonzero\n\
         flux-config: load: error updating overlay: \
             Config file error parsing tbon.torpid_min: 'x'\n\
         30s\n",
    );
}

#[test]
fn traces_show_messages_as_they_pass() {
    check(
        &["--test-size=2"],
        "overlay=$(mktemp) module=$(mktemp)
         flux overlay trace --rank=1 'kvs.ping' >$overlay & first=$!
         flux module trace --full --topic=kvs.ping kvs >$module & second=$!
         passed() { grep -A 1 ' tx 1 > ' $overlay; }
         until passed | grep -q success; do flux ping -r 1 -c 1 kvs >/dev/null; done
         until grep -q success $module; do flux ping -c 1 kvs >/dev/null; done
         kill $first $second
         passed | head -n 2 | cut -d' ' -f2-5
         grep -q '  \"pad\": \"\"' $module && echo payloads
         rm $overlay $module
         flux overlay trace --type=foo 2>&1 || flux module trace --delta 2>&1 || true",
        "tx 1 > kvs.ping\n\
         rx 1 < kvs.ping\n\
         payloads\n\
         flux-overlay: valid types: request, response, event, control\n\
         flux-module: --delta can only be used with --human\n",
    );
}

#[test]
fn status_marks_subtrees_and_shows_what_is_not_well() {
    check(
        &["--test-size=4", "-Stbon.topo=kary:2", "--test-exit-mode=leader"],
        "status() { flux overlay status \"$@\" | sed \"s/ $(hostname):/:/; s/ $(hostname)>>/>>/\"; }
         status --highlight=3
         flux overlay disconnect 3 2>/dev/null
         flux overlay status --wait=degraded --timeout=0 --summary
         status --down
         status --rank=1 --no-pretty --color=always | tail -n 1
         flux overlay errors | cut -d: -f2",
        "<<0>>: full\n\
         ├─ <<1>>: full\n\
         │  └─ <<3>>: full\n\
         └─ 2: full\n\
         degraded\n\
         0: degraded\n\
         ├─ 1: degraded\n\
         │  └─ 3: lost administrative disconnect\n\
         3: \x1b[31mlost\x1b[39m administrative disconnect\n \
         administrative disconnect\n",
    );
}
