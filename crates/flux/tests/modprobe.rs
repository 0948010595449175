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

#[test]
fn an_instance_is_made_of_what_its_configuration_chooses() {
    check(
        r#"
dir=$(mktemp -d); mkdir $dir/modprobe.d
cat >$dir/c.toml <<EOT
[modules]
alternatives.sched = "sched-backfill"
sched-backfill.args = ["queue-depth=5"]
cron.disabled = true
EOT
printf 'heartbeat.args = ["period=1.5s"]\n[[modules]]\nname = "unused"\n' >$dir/modprobe.d/x.toml
export FLUX_MODPROBE_PATH_APPEND=$dir
flux start -c $dir/c.toml sh -c '
    flux module list | grep -oE "sched-[a-z]+|cron|unused"
    flux dmesg | grep -o queue-depth=5
    flux module stats -p period heartbeat'
FLUX_SCHED_MODULE=nosuch flux start true 2>&1 | grep -o 'FLUX_SCHED_MODULE: .*'
rm -r $dir"#,
        "sched-backfill\nqueue-depth=5\n1.500000\nFLUX_SCHED_MODULE: no module nosuch provides sched\n",
    );
}
