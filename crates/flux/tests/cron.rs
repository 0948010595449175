//! `flux cron` in whole instances.

mod common;

use std::process::{Command, Stdio};

use common::check;

/// Shell functions the scripts share; commands run when they are due.
const PRELUDE: &str = r#"
seen() { until flux dmesg | grep -q -- "$1"; do :; done; }
log() { seen "$1"; flux dmesg | sed -n 's/.*cron\.\([a-z]*\)\[0\]: /\1 /p' | grep -- "$1"; }
flux cron sync --disable >/dev/null
"#;

fn check_cron(text: &str, expect: &str) {
    check(&format!("{PRELUDE}{text}"), expect);
}

#[test]
fn commands_run_under_the_broker_and_are_logged() {
    check_cron(
        r#"
        flux cron interval -c 1 -N hello 0.001 'echo out; echo err >&2; exit 3'
        seen Failed
        log hello
        log Failed
        flux cron list
        flux cron dump --key=task.1.code 1
        flux cron dump 1 | grep -E '^(type|name|repeat|stopped|stats.count) '
        flux cron delete 1 | sed 's/ last ran.*//'
        flux cron interval -c 1 -E -d / 0.001 'echo "$VAR" $PWD $(flux getattr rank)'
        log 'VAR.*": '
        "#,
        "interval: cron-1 created\n\
         info cron-1[hello]: rank=0: command=\"echo out; echo err >&2; exit 3\": \"out\"\n\
         err cron-1[hello]: rank=0: command=\"echo out; echo err >&2; exit 3\": \"err\"\n\
         err cron-1: \"echo out; echo err >&2; exit 3\": Failed: Exit 3\n\
         \x20   ID CMD/NAME        STATE        #RUNS            LASTRUN  STATUS            \n\
         \x20    1 hello           Stopped        1/1       a second ago  Failed:rc=3       \n\
         3\n\
         name = \"hello\"\nrepeat = 1\nstopped = true\ntype = \"interval\"\nstats.count = 1\n\
         Removed cron-1: hello\n\
         interval: cron-2 created\n\
         info cron-2[echo]: rank=0: command=\"echo \"$VAR\" $PWD $(flux getattr rank)\": \" / 0\"\n",
    );
}

#[test]
fn events_and_the_sync_event_trigger_commands() {
    check_cron(
        r#"
        flux cron event -n 2 my.topic 'echo ran'
        flux cron sync -e 0s my.sync
        for i in 1 2 3; do flux event pub my.topic; done
        log deferring
        flux cron dump -k task.1.state 1
        flux event pub my.sync
        log '"ran"'
        flux cron stop 1 && flux cron stop 1 2>&1
        flux cron dump -k typedata.counter 1
        "#,
        "event: cron-1 created\n\
         sync: sync to event \"my.sync\" epsilon=0.000s.\n\
         debug deferring cron-1 to next my.sync event\n\
         Deferred\n\
         info cron-1[echo]: rank=0: command=\"echo ran\": \"ran\"\n\
         Stopped cron-1\n\
         flux-cron stop: Invalid argument: cron-1 is stopped already\n\
         3\n",
    );
}

#[test]
fn lines_and_dates_are_understood_or_refused_by_name() {
    check_cron(
        r#"
        printf '# mine\n\n0 0 * * Mon one\n 5 4 1 Jan * two\n' | flux cron tab |
            sed 's/ in .*//'
        for line in '1 2 3 4 5' '61 * * * * x' '0 0 30 Feb * x'; do
            echo "$line" | flux cron tab 2>&1
        done
        flux cron at yesterday true 2>&1
        flux cron at '+1 hour' true | sed 's/ in .*//'
        flux cron dump -k repeat 5
        flux cron tab nosuchfile 2>&1
        flux cron interval 1x true 2>&1
        flux cron interval -o rank=x 1 true 2>&1
        flux cron dump 99 2>&1
        flux cron delete 99 2>&1
        true
        "#,
        "tab: cron-1 created: scheduled\n\
         tab: cron-2 created: scheduled\n\
         flux-cron tab: Failed to process crontab line: 1 2 3 4 5\n\
         flux-cron tab: Invalid argument: minute: '61' is not within 0-59\n\
         flux-cron tab: cron-3 created and stopped: its time never comes\n\
         flux-cron at: cron-4 created and stopped: its time never comes\n\
         at: cron-5 created: scheduled\n\
         1\n\
         flux-cron tab: nosuchfile: No such file or directory\n\
         flux-cron interval: Invalid duration '1x'\n\
         flux-cron interval: invalid option 'rank=x'\n\
         flux-cron dump: cron-99: No such cron entry found\n\
         flux-cron delete: No such file or directory: there is no cron-99\n",
    );
}

#[test]
fn crontabs_in_the_directory_are_loaded() {
    let directory = std::env::temp_dir().join(format!("flux-cron-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let start = |text: &str| {
        std::fs::write(directory.join("my.cron"), text).expect("a file");
        let output = Command::new(env!("CARGO_BIN_EXE_flux"))
            .arg("start")
            .arg(format!("-Scron.directory={}", directory.display()))
            .args(["flux", "cron", "list"])
            .env_remove("FLUX_URI")
            .stdin(Stdio::null())
            .output()
            .expect("the program was built");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    let (list, _) = start("30 2 * * * save the state\n");
    assert!(list.contains(" 1 save "), "{list}");
    let (_, errors) = start("30 2\n");
    let expect = format!("could not load crontab: {}/my.cron", directory.display());
    assert!(errors.contains(&expect), "{errors}");
    std::fs::remove_dir_all(&directory).expect("it is ours");
}
