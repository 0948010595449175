//! `flux modprobe` in whole instances.

mod common;

use common::check;

#[test]
fn modules_go_when_nothing_needs_them() {
    check(
        r#"
        flux modprobe remove kvs 2>&1
        flux modprobe remove sched && flux modprobe remove --dry-run job-list
        flux modprobe load --dry-run sched
        "#,
        "flux-modprobe: ERROR: kvs still in use by job-exec, job-info, job-ingest, job-manager, \
         kvs-watch\nremove job-list\nload sched-simple\n",
    );
}

#[test]
fn all_modules_can_be_removed_and_come_back() {
    check(
        r#"
        flux modprobe remove all
        flux module list | grep -c '^kvs'
        flux modprobe load $(flux modprobe rc1 --dry-run | awk '{print $2}')
        flux run echo well
        "#,
        "0\nwell\n",
    );
}

#[test]
fn dependencies_are_a_tree() {
    check(
        "flux modprobe list-dependencies -f kvs",
        "kvs\n├── content\n│   ├── heartbeat\n│   └── content-backing (content-sqlite)\n└── heartbeat\n",
    );
}
