//! The stored tree as a whole: dump, restore, check, collect, archive.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const FLUX: &str = env!("CARGO_BIN_EXE_flux");

/// Storage is tested without the job services, which would only take time.
const WITHOUT: &str = "job-manager,job-ingest,job-info,job-list,job-exec,sched-simple,resource";

/// A directory that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("flux-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("temporary directory");
        Scratch(dir)
    }

    /// Runs a shell script in the directory as the initial program of an instance.
    fn script(&self, options: &[&str], text: &str) -> Output {
        Command::new(FLUX)
            .arg("start")
            .args(options)
            .args(["sh", "-c", text])
            .env_remove("FLUX_URI")
            .env("FLUX_MODPROBE_DISABLE", WITHOUT)
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .output()
            .expect("the program was built")
    }

    /// The script succeeds and prints just this.
    fn check(&self, options: &[&str], text: &str, expect: &str) {
        let output = self.script(options, text);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(stdout, expect, "{text}\nstderr: {stderr}");
        assert!(output.status.success(), "{text}\nstderr: {stderr}");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("own directory");
    }
}

/// Keys of every kind.
const FILL: &str = "flux kvs put a=1 b.c=hello ü.x=u long.$(printf 'n%.0s' $(seq 150))=v \
                    big=$(seq -s, 1 200); flux kvs put --append big=tail; \
                    flux kvs link a link; flux kvs link -T other far link2; ";

#[test]
fn a_dump_restores_to_the_same_tree() {
    let dir = Scratch::new("dump");
    for file in ["x.tar", "x.tgz", "x.tar.gz"] {
        let text = format!(
            "{FILL} flux dump -q {file} && flux restore -q --key=r {file} && \
             flux restore -q --maxreqs=1 --key=s {file} && \
             test $(flux kvs get -t r) = $(flux kvs get -t s) && \
             flux kvs get r.big | tail -c 5 && flux kvs readlink r.link r.link2 && \
             flux kvs get r.b.c r.ü.x r.long.$(printf 'n%.0s' $(seq 150))"
        );
        dir.check(&[], &text, "tail\na\nother::far\nhello\nu\nv\n");
    }
}

#[test]
fn other_programs_read_and_write_these_archives() {
    let dir = Scratch::new("tar");
    let text = format!(
        "{FILL} flux dump -q - > x.tar && mkdir t && tar xf x.tar -C t && cat t/b/c t/ü/x && echo && \
         readlink t/link t/link2 && tar cf - -C t . | flux restore -q --key=r - && \
         flux kvs get r.b.c && flux kvs readlink r.link2"
    );
    dir.check(&[], &text, "hellou\na\nother::far\nhello\nother::far\n");
}

#[test]
fn restoring_says_what_it_did_or_why_not() {
    let dir = Scratch::new("restore");
    let text = "exec 2>&1; flux kvs put a=$(seq -s, 1 200); flux dump -q x.tar; \
                flux restore x.tar; flux restore --checkpoint x.tar; flux restore --key=k no.tar; \
                flux restore -q --key=k --size-limit=100 x.tar | grep ^a; flux dump x.foo; \
                flux restore -q --key=k /proc/self/exe; \
                flux restore -q --key=. x.tar; echo $?";
    dir.check(
        &[],
        text,
        "flux-restore: Please specify a restore target with --checkpoint or --key\n\
         flux-restore: please unload kvs module before using --checkpoint\n\
         flux-restore: Failed to open 'no.tar'\n\
         a size 691 exceeds 100 limit, skipping\n\
         flux-dump: No such format 'x.foo'\n\
         flux-restore: '/proc/self/exe' is no tar archive\n\
         flux-restore: error updating .: Invalid argument\n1\n",
    );
}

/// Makes a damaged tree: some blobs were never stored.
const DAMAGE: &str = "exec 2>&1; ref() { echo \"$1={\\\"ver\\\":1,\\\"type\\\":\\\"$2\\\",\\\"data\\\":[$3]}\"; }; \
    no='\"sha1-1111111111111111111111111111111111111111\"'; \
    flux kvs put d.x=$(seq -s, 1 99); yes=$(flux kvs get -t d.x | cut -d[ -f2 | cut -d] -f1); \
    flux kvs put -t $(ref bad.one valref $no) $(ref bad.two valref $yes,$no) $(ref bad.dir dirref $no); \
    flux kvs put -t $(ref job.0000.0001.0002.0003.x valref $no); \
    flux kvs put job.0000.0001.0002.0003.y=foo; flux kvs sync; ";

#[test]
fn a_check_finds_and_mends_what_is_missing() {
    let dir = Scratch::new("fsck");
    let text = format!(
        "{DAMAGE} flux fsck 2>&1 | sed 's/from.*//'; flux fsck -R; flux gc; \
         flux module remove kvs-watch; flux module remove kvs; \
         flux fsck -R -j 2>&1 | sed 's/from.*//'; flux fsck -q 2>&1 | grep -v Checking; flux module load kvs; \
         flux kvs dir -R lost+found | cut -c1-50; flux kvs ls -1 job.0000.0001.0002 bad"
    );
    dir.check(
        &[],
        &text,
        "Checking integrity of checkpoint \n\
         flux-fsck: bad.dir: missing dirref blobref\n\
         flux-fsck: bad.one: missing blobref(s)\n\
         flux-fsck: bad.two: missing blobref(s)\n\
         flux-fsck: job.0000.0001.0002.0003.x: missing blobref(s)\n\
         flux-fsck: Total errors: 4\n\
         flux-fsck: please unload kvs module before using flux-fsck --repair\n\
         flux: bad.dir: could not load content: No such file or directory\n\
         Checking integrity of checkpoint \n\
         flux-fsck: bad.dir: missing dirref blobref\n\
         flux-fsck: bad.dir unlinked due to missing blobref\n\
         flux-fsck: bad.one: missing blobref(s)\n\
         flux-fsck: bad.one repaired and moved to lost+found\n\
         flux-fsck: bad.two: missing blobref(s)\n\
         flux-fsck: bad.two repaired and moved to lost+found\n\
         flux-fsck: job.0000.0001.0002.0003.x: missing blobref(s)\n\
         flux-fsck: job.0000.0001.0002.0003.x repaired and moved to lost+found\n\
         flux-fsck: job f7YYW7C moved to lost+found\n\
         flux-fsck: Total errors: 4\n\
         flux-fsck: Updated primary checkpoint to include lost+found\n\
         flux-fsck: Total repairs: 3\n\
         flux-fsck: Total unlinked directories: 1\n\
         lost+found.bad.one = \n\
         lost+found.bad.two = 1,2,3,4,5,6,7,8,9,10,11,12,13\n\
         lost+found.job.0000.0001.0002.0003.x = \n\
         lost+found.job.0000.0001.0002.0003.y = foo\njob.0000.0001.0002:\n\nbad:\n",
    );
}

#[test]
fn collection_keeps_what_roots_reach() {
    let dir = Scratch::new("gc");
    let text = "exec 2>&1; flux kvs namespace create n; flux kvs put -N n a=$(seq -s, 1 300); \
                flux kvs put keep.this=$(seq -s, 1 200); flux kvs put drop=$(seq -s, 1 99); \
                flux kvs unlink drop; for i in 1 2 3 4 5 6; do flux kvs put i=$i; flux kvs sync; done; \
                flux gc -v 2>&1 | grep -c root; flux gc --maxreqs=0; \
                flux gc 2>&1 | sed 's/[0-9][0-9]*/N/g'; flux content dropcache; \
                flux kvs get keep.this | tail -c 4; flux kvs get -N n a | tail -c 4; flux fsck -q | wc -l";
    dir.check(
        &[],
        text,
        "11\nflux: invalid value for maxreqs\n\
         flux: gc complete: marked N, reclaimed N blobs (horizon epoch N)\n200\n300\n1\n",
    );
}

#[test]
fn the_log_of_starts_tells_how_runs_ended() {
    let dir = Scratch::new("startlog");
    let set = format!("-Sstatedir={}", dir.0.display());
    dir.check(
        &[&set],
        "flux startlog | sed 's/.* - \\([a-z]*\\).*/\\1/'",
        "running\n",
    );
    let killed = dir.script(&[&set], "kill -9 $(flux getattr broker.pid)");
    assert!(!killed.status.success());
    dir.check(
        &[&set],
        "flux startlog | sed 's/.* - //; s/ (.*//; s/[0-9].*/date/'; flux startlog --check --quiet; \
         echo $?; flux dmesg | grep -c 'not shut down properly'",
        "date\ncrashed\nrunning\n1\n1\n",
    );
}

#[test]
fn content_passes_from_one_run_to_the_next_through_an_archive() {
    let dir = Scratch::new("autodump");
    let state = dir.0.join("state");
    std::fs::create_dir(&state).expect("own directory");
    let set = format!("-Sstatedir={}", state.display());
    dir.check(&[&set, "-Scontent.dump=auto"], "flux kvs put a=1", "");
    let link = std::fs::read_link(state.join("dump/RESTORE")).expect("a link");
    assert!(state.join("dump").join(&link).exists());
    // Another store altogether, so that what is found comes from the archive.
    std::fs::remove_file(state.join("content.sqlite")).expect("the store");
    dir.check(
        &[&set, "-Scontent.restore=auto"],
        "flux kvs get a; flux startlog | wc -l; flux dmesg | grep -c 'restoring content from'",
        "1\n2\n1\n",
    );
    assert!(!state.join("dump/RESTORE").exists(), "used once");
    let archive = format!(
        "-Scontent.restore={}",
        state.join("dump").join(link).display()
    );
    dir.check(&[&archive], "flux kvs get a", "1\n");
    let missing = dir.script(&["-Scontent.restore=/no/such.tar"], "true");
    assert!(!missing.status.success());
}

#[test]
fn a_damaged_store_is_noticed_at_the_start_once() {
    let dir = Scratch::new("damaged");
    let set = format!("-Sstatedir={}", dir.0.display());
    dir.script(&[&set], &format!("{DAMAGE} true"));
    let first = dir.script(&[&set], "true");
    assert!(!first.status.success());
    let stderr = String::from_utf8_lossy(&first.stderr);
    assert!(stderr.contains("bad.one: missing blobref(s)"), "{stderr}");
    dir.check(
        &[&set],
        "flux kvs get lost+found.job.0000.0001.0002.0003.y",
        "foo\n",
    );
}

#[test]
fn files_travel_in_archives() {
    let dir = Scratch::new("archive");
    let text = "exec 2>&1; mkdir -p d/sub out; echo hi > d/small; seq 1 200000 > d/big; chmod 600 d/big; \
                ln -s small d/link; truncate -s 1M d/sparse; mkfifo fifo; \
                flux archive create d && flux archive create d; flux archive create -n f fifo; \
                flux archive list -l | sort -k4; flux archive list zz; \
                flux archive extract -C out && diff -r --no-dereference d out/d && stat -c %a out/d/big && \
                flux archive extract -C out d/small; flux archive extract --overwrite -C out 'd/s*'; \
                flux archive create --append fifo; flux archive create --append -C d small; \
                flux archive create -n p --preserve d/big; flux archive list | tail -1; \
                flux kvs ls -1 archive; flux archive remove -n p; flux archive remove -n p; \
                flux archive extract -n p; flux archive create -n m --mmap d; \
                (flux archive extract -n w --waitcreate -C out && cat out/w) & \
                echo waited > w; flux archive create -n w w; wait";
    dir.check(
        &[],
        text,
        "flux-archive: archive.main: key exists\n\
         flux-archive: fifo: unsupported file type\n\
         d 0755        0 d\n\
         f 0600  1288895 d/big\n\
         l 0777        0 d/link\n\
         f 0644        3 d/small\n\
         f 0644  1048576 d/sparse\n\
         d 0755        0 d/sub\n\
         flux-archive: No files matched pattern 'zz'\n\
         600\n\
         flux-archive: d/small: write: Attempt to overwrite existing file\n\
         flux-archive: fifo: unsupported file type\n\
         small\nmain\np\np_blobs\n\
         flux-archive: archive.p does not exist\n\
         flux-archive: KVS lookup archive.p: No such file or directory\n\
         flux-archive: --mmap is not implemented in this build\n\
         waited\n",
    );
}
