//! Plugins of the job manager in whole instances: loading, removing and what that changes.

mod common;

use common::check;

#[test]
fn plugins_are_loaded_removed_and_listed() {
    check(
        r#"
        flux jobtap load submit-hold.so
        flux jobtap load submit-hold.so 2>&1
        flux jobtap list
        flux jobtap query submit-hold.so
        flux jobtap remove all && flux jobtap list
        flux jobtap remove none.so 2>&1
        flux jobtap load none.so 2>&1
        flux jobtap remove .history && flux jobtap list -a | grep -c history
        flux job last 2>&1
        flux jobtap load .history && flux jobtap list -a | tail -n 1
        "#,
        "flux-jobtap: ERROR: submit-hold.so already loaded\n\
         submit-hold.so\n\
         {\"name\":\"submit-hold.so\",\"path\":\"builtin\"}\n\
         flux-jobtap: ERROR: none.so not found\n\
         flux-jobtap: ERROR: none.so not found\n\
         0\n\
         flux-job: Unknown service method\n\
         .history\n",
    );
}

#[test]
fn a_file_that_is_no_plugin_is_refused_and_leaves_nothing() {
    check(
        r#"
        dir=$(mktemp -d)
        echo text >$dir/mine.so
        flux jobtap load $dir/mine.so 2>&1 | grep -c "ERROR: mine.so: .*$dir/mine.so"
        flux jobtap load $dir/none.so 2>&1 | sed "s,$dir,DIR,"
        flux jobtap list
        flux run echo still here
        rm -r $dir
        "#,
        "1\nflux-jobtap: ERROR: DIR/none.so not found\nstill here\n",
    );
}

#[test]
fn the_configuration_chooses_plugins() {
    check(
        r#"
        dir=$(mktemp -d)
        printf '[job-manager]\nplugins = [{ load = "submit-hold.so" }]\n' >$dir/hold.toml
        flux start -c$dir sh -c 'flux jobtap list; flux jobs -no {priority} $(
            id=$(flux submit true) && flux job wait-event -q $id priority && echo $id)
            flux cancel -q --all'
        printf '[job-manager]\nplugins = [{ remove = "none.so" }]\n' >$dir/hold.toml
        flux start -c$dir true 2>&1 | grep -o 'Failed to find plugin to remove' | head -n 1
        rm -r $dir
        "#,
        "submit-hold.so\n0\nFailed to find plugin to remove\n",
    );
}

#[test]
fn jobs_may_bring_their_resources_along() {
    check(
        r#"
        flux jobtap load alloc-bypass.so
        id=$(flux submit --setattr=alloc-bypass.R="$(flux R encode -r 0)" true)
        flux job attach $id
        flux job wait-event -H $id clean >/dev/null
        flux job eventlog $id | grep -c 'alloc bypass=true'
        flux job info $id R | flux R decode --ranks
        "#,
        "1\n0\n",
    );
}
