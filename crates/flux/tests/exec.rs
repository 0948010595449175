//! `flux exec` on brokers and on the nodes of a job.

mod common;

use common::{check, check_in};

#[test]
fn a_jobs_nodes_are_counted_from_its_first() {
    check_in(
        &["--test-size=3"],
        "id=$(flux submit -N2 --requires=rank:1-2 sleep inf)
         flux job wait-event $id start >/dev/null
         flux exec -j $id -l echo all | sort
         flux exec -j $id -r 1 -l echo second
         flux exec -j $id -x 1 -l echo first
         flux exec -j $id -r 2 true 2>&1
         flux exec -j 77 true 2>&1
         flux cancel $id; flux job wait-event $id clean >/dev/null
         flux exec -j $id true 2>&1 | sed s/$id/ID/",
        "1: all\n2: all\n2: second\n1: first\n\
         flux-exec: One or more invalid --ranks specified: 2\n\
         flux-exec: job 77 not found\n\
         flux-exec: job ID is not currently running\n",
    );
}

#[test]
fn input_is_held_back_until_there_is_room() {
    // The server's buffer holds 64 bytes; what is more would end the command.
    check_in(
        &["--test-size=2"],
        "seq 2000 >in
         flux exec --setopt stdin_BUFSIZE=64 cksum <in | uniq -c | awk '{print $1}'
         flux exec -r 1 --setopt stdin_BUFSIZE=64 cat <in | cmp - in && echo same
         flux exec --stdin-flow=off -r 1 --setopt stdin_BUFSIZE=64 cat <in 2>&1 >/dev/null
         echo $?
         flux exec --stdin-flow=maybe true 2>&1
         rm in",
        "2\nsame\n\
         flux-exec: Error: rank 1: cat: internal fatal error: No space left on device\n1\n\
         flux-exec: Set --stdin-flow to on or off\n",
    );
}

#[test]
fn without_input_commands_read_its_end() {
    check(
        "dir=$(mktemp -d); mkfifo $dir/input; sleep inf 3<>$dir/input & other=$!
         flux exec -n cat <>$dir/input; echo $?
         kill $other; rm -r $dir",
        "0\n",
    );
}

#[test]
fn background_processes_are_attached_to() {
    check(
        "flux exec --bg --waitable --label=one sleep inf | sed 's/: .*/: PID/'
         flux exec --attach one 2>&1 & attached=$!
         flux sproc kill 15 one
         wait $attached; echo $?
         flux exec --bg --waitable --label=two sh -c 'exit 3' >/dev/null
         flux exec --attach two 2>&1; echo $?
         flux exec --attach two 2>&1; echo $?
         flux exec -r 0 --attach 1 2>&1; echo $?
         flux exec --attach 2>&1
         flux exec --attach a b 2>&1
         flux exec --attach --bg a 2>&1
         flux exec --waitable true 2>&1 || true",
        "0: PID\n0: Terminated\n143\n0: Exit 3\n3\n\
         flux-exec: Error: rank 0: label two: label two does not belong to any subprocess\n127\n\
         flux-exec: Error: rank 0: pid 1: pid 1 does not belong to any subprocess\n127\n\
         flux-exec: --attach requires a pid or label argument\n\
         flux-exec: --attach takes a single pid or label argument\n\
         flux-exec: --attach cannot be used with --bg or --waitable\n\
         flux-exec: --waitable can only be used with --bg\n",
    );
}

#[test]
fn what_goes_on_is_told() {
    check_in(
        &["--test-size=2"],
        "told() { flux exec -v \"$@\" 2>&1 </dev/null | sed 's/^[0-9.]*ms: //'; }
         told sh -c 'exit 2'
         told -r 1 true
         flux exec --with-imp true 2>&1
         flux exec --setopt x true 2>&1
         flux exec -r '' true 2>&1
         flux exec -r x true 2>&1
         flux exec -x y true 2>&1
         flux exec -x 0-1 true 2>&1
         flux exec --sign true 2>&1
         FLUX_PROXY_REMOTE=x DBUS_SESSION_BUS_ADDRESS= \
             flux exec -r 0 sh -c 'echo \"[$FLUX_PROXY_REMOTE$DBUS_SESSION_BUS_ADDRESS]\"'",
        "Starting sh on [0-1]\nSent all requests\n2 tasks complete with code 2\n[0-1]: Exit 2\n\
         Starting true on 1\nSent all requests\n1 tasks complete with code 0\n\
         flux-exec: --with-imp: exec.imp path not found in config: No such file or directory\n\
         flux-exec: error handling 'x' option: Invalid argument\n\
         flux-exec: One or more invalid --ranks specified: \n\
         flux-exec: failed to decode idset 'x': Invalid argument\n\
         flux-exec: error decoding --exclude idset: Invalid argument\n\
         flux-exec: No targets specified\n\
         flux-exec: --sign: requests cannot be signed without flux-security\n\
         []\n",
    );
}
