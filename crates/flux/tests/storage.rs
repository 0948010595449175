//! The stored tree as a whole: dump, restore, check, collect, archive.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const FLUX: &str = env!("CARGO_BIN_EXE_flux");

/// Storage is tested without the job services, which would only take time.
const WITHOUT: &str = "job-manager,job-ingest,job-info,job-list,job-exec,sched,resource";

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
    for file in [
        "x.tar",
        "x.tgz",
        "x.tar.bz2",
        "x.tar.xz",
        "x.tar.zst",
        "x.tar.lz4",
        "x.cpio",
        "x.zip",
    ] {
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
         flux-restore: '/proc/self/exe' is no archive of a known format\n\
         flux-restore: error updating .: Invalid argument\n1\n",
    );
}

#[test]
fn what_a_key_cannot_be_is_named() {
    let dir = Scratch::new("keys");
    let text = "exec 2>&1; flux kvs put =1; flux kvs get ''; flux kvs get -a foo a; \
                flux kvs put \"x=$(printf '\\377')\"; flux kvs put -t t=foo; flux kvs mkdir d.e; \
                flux kvs dir -R d.; flux kvs eventlog append log ''; flux kvs put log=foo; \
                flux kvs eventlog get -w log; flux kvs link l k; flux kvs link k l; flux kvs ls l; true";
    dir.check(
        &[],
        text,
        "flux-kvs: '=1': Invalid argument\n\
         flux-kvs: '': Invalid argument\n\
         flux-kvs: a: Invalid argument\n\
         flux-kvs: argument is not UTF-8: x=\\xff\n\
         flux-kvs: t: Protocol error\n\
         d.e.\n\
         flux-kvs: eventlog_entry_create: Invalid argument\n\
         flux-kvs: cannot decode improperly formatted eventlog\n\
         flux-kvs: l: Too many levels of symbolic links\n",
    );
}

#[test]
fn recovery_wants_a_state_directory() {
    let dir = Scratch::new("recovery");
    let text = "exec 2>&1; for dir in no empty; do flux start --recovery=$dir true; mkdir -p empty; done; \
                chmod 500 empty; flux start --recovery=empty true; flux shutdown --verbose=x; true";
    dir.check(
        &[],
        text,
        "flux-start: no: No such file or directory\n\
         flux-start: empty/content.sqlite: No such file or directory\n\
         flux-start: empty: no access\n\
         flux shutdown: shutdown: Option 'verbose' requires an integer argument\n",
    );
}

#[test]
fn an_instance_needs_a_store_that_exists() {
    let dir = Scratch::new("stores");
    for (option, expect) in [
        ("content.backing-module=none", "no module none provides"),
        ("content.hash=foo", "foo: unknown hash"),
        ("content.restore=no.tar", "Failed to open 'no.tar'"),
        ("statedir=/no/such", "/no/such: No such file or directory\n"),
    ] {
        let output = dir.script(&["-S", option], "true");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{option}: {stderr}");
        assert!(stderr.contains(expect), "{option}: {stderr}");
    }
}

#[test]
fn no_key_is_not_the_root() {
    let dir = Scratch::new("no-key");
    let text = "exec 2>&1; flux kvs put a=1; flux kvs ls ''; flux kvs dir ''; flux kvs mkdir ''; \
                flux kvs link a ''; flux kvs copy '' b; flux kvs unlink -R ''; flux kvs link '' l; \
                flux kvs get l; flux kvs readlink .; flux kvs ls -1 | grep -v admin";
    dir.check(
        &[],
        text,
        "flux-kvs: flux_kvs_lookup: Invalid argument\n\
         flux-kvs: : Invalid argument\n\
         flux-kvs: : Invalid argument\n\
         flux-kvs: : Invalid argument\n\
         flux-kvs: flux_kvs_copy: Invalid argument\n\
         flux-kvs: cannot unlink '': Invalid argument\n\
         flux-kvs: l: No such file or directory\n\
         flux-kvs: .: Is a directory\n\
         a\nl\n",
    );
}

#[test]
fn a_dot_at_the_end_asks_for_a_directory() {
    let dir = Scratch::new("dot");
    let text = "exec 2>&1; flux kvs put d.x=1 d.sub.y=1 v=1; flux kvs link d l; \
                flux kvs ls -d d.; flux kvs ls d.; flux kvs ls v.; flux kvs ls l.; flux kvs ls l; \
                flux kvs ls no.; flux kvs ls -F d; flux kvs dir d..";
    dir.check(
        &[],
        text,
        "d\nsub    x\nv: Not a directory\nl: Not a directory\nsub    x\n\
         no: No such file or directory\nsub.   x\nd.sub.\nd.x = 1\n",
    );
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let dir = Scratch::new("watch");
    let text = "exec 2>&1; flux kvs put a=1; root=$(flux kvs getroot); \
                for how in w W S wS; do flux kvs get -$how --at \"$root\" a; done; \
                flux kvs get -wS a; flux kvs eventlog append -t1 log e; \
                flux kvs eventlog get -wS log; flux kvs eventlog append -t2 log f; \
                flux kvs eventlog wait-event -qv log f; \
                flux kvs eventlog append -t x log g; flux kvs get -St a";
    dir.check(
        &[],
        text,
        "flux-kvs: a: Invalid argument\n\
         flux-kvs: a: Invalid argument\n\
         flux-kvs: a: Invalid argument\n\
         flux-kvs: a: Invalid argument\n\
         flux-kvs: a: Invalid argument\n\
         flux-kvs: flux_kvs_lookup_get: Invalid argument\n\
         1.000000 e\n\
         flux-kvs eventlog append: append: Option 'timestamp' requires a floating point argument\n\
         {\"data\":\"MQ==\",\"type\":\"val\",\"ver\":1}\n",
    );
}

#[test]
fn modules_name_the_option_they_refuse() {
    let dir = Scratch::new("options");
    let text = "exec 2>/dev/null; flux module remove kvs-watch; flux module remove kvs; \
                flux content checkpoint update foo 2>&1; \
                flux module load kvs transaction-merge=x 2>&1; \
                flux module remove content-sqlite; flux content checkpoint list 2>&1; \
                flux module load content-files 2>&1; \
                flux module load content-sqlite journal_mode=wal 2>&1; \
                flux module load content-sqlite truncate; flux gc 2>&1; flux module load content 2>&1; \
                flux module remove content-sqlite; flux module remove content; \
                flux module load content blob-size-limit=x 2>&1; \
                flux module load content; flux module load content-sqlite; flux module load kvs";
    dir.check(
        &[],
        text,
        "flux-content: invalid blobref specified: Invalid argument\n\
         flux-module: load kvs: Invalid argument: transaction-merge=x\n\
         flux-content: kvs_checkpoint_lookup: Function not implemented\n\
         flux-module: load content-files: register-backing: content backing store cannot be changed \
         on the fly: Invalid argument\n\
         flux-module: load content-sqlite: Invalid argument: journal_mode=wal\n\
         flux: gc complete: marked 0, reclaimed 0 blobs (horizon epoch 0)\n\
         flux-module: load content: File exists\n\
         flux-module: load content: Invalid argument: blob-size-limit=x\n",
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
         lost+found.job.0000.0001.0002.0003.y = foo\nbad:\n\njob.0000.0001.0002:\n",
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
fn ranks_of_a_host_extract_together() {
    let dir = Scratch::new("together");
    // Two files, so that a segment ends in the middle of one; and a rank that wants only one.
    let text = "mkdir d; head -c 9000000 /dev/urandom > d/a; head -c 5000000 /dev/urandom > d/b; \
                flux archive create d; \
                flux exec -r all sh -c 'mkdir $(flux getattr rank) && \
                    flux archive extract -C $(flux getattr rank)' & \
                mkdir one; flux archive extract -C one d/b; wait; \
                for rank in 0 1 2 3; do diff -r d $rank/d && echo $rank; done; cmp d/b one/d/b; \
                ls one/d";
    dir.check(&["--test-size=4"], text, "0\n1\n2\n3\nb\n");
}

#[test]
fn an_archive_writes_nothing_elsewhere() {
    let dir = Scratch::new("inside");
    let text = "exec 2>&1; mkdir out a a/x to; ln -s $PWD/out l; \
                ln -s $PWD/out a/x/y; flux archive create -C a x; rm a/x/y; mkdir -m 777 a/x/y; \
                chmod 750 out; echo evil >a/x/y/z; flux archive create --append -C a x; \
                flux archive extract -C to x/y; flux archive extract -C to --overwrite 'x/y*'; \
                flux archive remove; flux archive create -C a ../a/x/y/z; flux archive extract -C to; \
                flux archive create --overwrite -C a/x/y z; flux archive extract -C l; \
                mkdir d a/l; chmod 777 a/l; ln -s ../out d/l; \
                flux archive create --overwrite -C a l; flux archive extract -C d; \
                ls out; stat -c %a out";
    dir.check(
        &[],
        text,
        "flux-archive: x/y: Attempt to overwrite existing file\n\
         flux-archive: x/y/z: unsafe path: x/y is a symbolic link in the archive\n\
         flux-archive: ../a/x/y/z: unsafe path\n\
         z\n750\n",
    );
}

#[test]
fn what_is_in_the_way_of_extraction_goes_only_if_it_may() {
    let dir = Scratch::new("in-way");
    let text = "exec 2>&1; mkdir -p a/d to; echo new >a/d/f; flux archive create -C a .; \
                flux archive list; echo old >to/d; flux archive extract -C to; cat to/d; \
                flux archive extract -C to --overwrite; cat to/d/f; rm to/d/f; mkdir -p to/d/f/g; \
                flux archive extract -C to --overwrite; rmdir to/d/f/g; \
                flux archive extract -C to --overwrite; cat to/d/f";
    dir.check(
        &[],
        text,
        "./d/f\n./d\n\
         flux-archive: ./d/f: Can't create directory 'd'\nold\nnew\n\
         flux-archive: ./d/f: Can't replace existing directory with non-directory\nnew\n",
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
                flux archive extract -n p; \
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
         waited\n",
    );
}

#[test]
fn mapped_files_are_loaded_from_where_they_are() {
    let dir = Scratch::new("mmap");
    let text = "exec 2>&1; seq 1 200000 > big; seq 1 200000 > same; seq 5 300000 > other; mkdir out; \
                blobs() { flux module stats --parse mmap.blobs content; }; \
                flux archive create --mmap big same && flux archive create -n o --mmap other; blobs; \
                flux exec -r 1 flux archive create -n x --mmap big 2>&1 | head -1; \
                flux archive create -n x --mmap --preserve big; \
                flux exec -r 1 flux archive extract -C out && cmp big out/big && cmp same out/same; \
                flux exec -r all flux content dropcache; echo x > big; rm -r out/*; \
                flux archive extract -C out 'bi*' && head -1 out/big; \
                tail -c +7 other > o2; mv o2 other; \
                : > same; flux exec -r all flux content dropcache; flux archive extract --overwrite -C out big 2>&1 | sed 's/offset.*: //'; \
                flux exec -r 1 flux archive extract --overwrite -C out big 2>&1 | grep -c changed; ls out; \
                flux archive remove; blobs; flux archive extract -n o -C out && wc -l < out/other; \
                flux archive remove -n o; blobs";
    dir.check(
        &["--test-size=2"],
        text,
        "4\n\
         flux-archive: --mmap only works on the rank 0 broker\n\
         flux-archive: --mmap cannot work with --preserve\n\
         1\n\
         flux-archive: big: error loading mapped file content has changed\n\
         1\n\
         2\n299996\n0\n",
    );
}

#[test]
fn what_is_stored_outlives_the_file_it_was_mapped_from() {
    let dir = Scratch::new("mmapstore");
    let text = "seq 1 1000 > f; flux archive create --mmap f; \
                ref=$(flux archive list --raw | grep -o 'sha1-[0-9a-f]*'); \
                flux content load $ref | wc -l; flux exec -r 1 flux content load $ref | wc -l; \
                test $(flux exec -r 1 sh -c 'flux content store < f') = $ref || echo other; \
                flux archive remove; rm f; flux exec -r all flux content dropcache; \
                flux exec -r 1 flux content load $ref | wc -l";
    dir.check(&["--test-size=2"], text, "1000\n1000\n1000\n");
}

#[test]
fn files_can_keep_the_content() {
    let dir = Scratch::new("files");
    let set = format!("-Sstatedir={}", dir.0.display());
    let options = [&*set, "-Scontent.backing-module=content-files"];
    let text = "flux kvs put a=$(seq -s, 1 200); flux kvs get a | tail -c 4; \
                flux module list | grep -c content-sqlite; flux gc 2>&1 | grep -o gc-info | head -1; \
                flux module remove content-files; flux module load content-sqlite 2>&1 | \
                grep -o 'content backing store cannot be changed on the fly'; flux module load content-files";
    dir.check(
        &options,
        text,
        "200\n0\ngc-info\ncontent backing store cannot be changed on the fly\n",
    );
    assert!(dir.0.join("content.files/kvs-primary").exists());
    dir.check(
        &options,
        "flux kvs get a | tail -c 4; flux startlog | wc -l",
        "200\n2\n",
    );
    let unknown = dir.script(&[&set, "-Scontent.backing-module=content-nope"], "true");
    assert!(!unknown.status.success());
}

/// Runs in a small file system, if one can be made.
fn with_small_disk(name: &str, body: impl FnOnce(&Scratch)) {
    let dir = Scratch::new(name);
    let disk = dir.0.join("disk");
    std::fs::create_dir(&disk).expect("own directory");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("skipped: a small file system can be mounted by root only");
        return;
    }
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
            assert!(unmounted.expect("umount").success());
        }
    }
    let _mounted = Mounted(disk);
    body(&dir);
}

#[test]
fn a_full_disk_loses_nothing() {
    for module in ["content-sqlite", "content-files"] {
        with_small_disk(module, |dir| {
            std::fs::create_dir(dir.0.join("disk/state")).expect("own directory");
            let options = [
                &*format!("-Scontent.backing-module={module}"),
                "-Sstatedir=disk/state",
            ];
            let text = "exec 2>&1; flux kvs put early=1; flux kvs sync; dd if=/dev/zero of=disk/fill bs=64k; \
                        i=0; while ! flux dmesg | grep -q 'content store: No space left on device'; do \
                        i=$((i+1)); flux kvs put big.$i=$(head -c 90000 /dev/urandom | base64 -w0); done; \
                        flux content flush; flux kvs put --sync x=1; flux kvs get early x; \
                        rm disk/fill; flux content flush && flux kvs sync && echo stored; \
                        flux content dropcache; flux kvs get big.1 | wc -c; flux fsck -q 2>&1 | grep -v Checking; true";
            let output = dir.script(&options, text);
            let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
            let lines: Vec<&str> = stdout
                .lines()
                .filter(|line| !line.starts_with("dd:") && !line.contains("records"))
                .filter(|line| !line.contains("copied"))
                .collect();
            assert_eq!(
                lines,
                [
                    "flux-content: content.flush: No space left on device",
                    "flux-kvs: flux_kvs_commit: No space left on device",
                    "1",
                    "flux-kvs: x: No such file or directory",
                    "stored",
                    "120001",
                ],
                "{module}"
            );
            assert!(output.status.success(), "{module}");
        });
    }
}

#[test]
fn a_broken_archive_costs_nothing_that_is_there() {
    let dir = Scratch::new("broken");
    let set = format!("-Sstatedir={}", dir.0.display());
    dir.check(
        &[&set],
        "flux kvs put a=1; flux dump -q x.tgz; \
         head -c $(($(stat -c %s x.tgz) / 2)) x.tgz > cut.tgz",
        "",
    );
    let failed = dir.script(&[&set, "-Scontent.restore=cut.tgz"], "true");
    assert!(!failed.status.success());
    let stderr = String::from_utf8_lossy(&failed.stderr);
    assert!(stderr.contains("'cut.tgz' is truncated"), "{stderr}");
    let text = "exec 2>&1; flux kvs get a; flux restore -q --key=r cut.tgz; flux kvs get r; true";
    dir.check(
        &[&set],
        text,
        "1\nflux-restore: 'cut.tgz' is truncated: incomplete deflate stream\n\
         flux-kvs: r: No such file or directory\n",
    );
}

#[test]
fn dumped_values_of_many_pieces_are_not_mixed() {
    let dir = Scratch::new("pieces");
    let text = "for i in 1 2 3 4 5 6 7 8; do for j in 1 2 3; do \
                flux kvs put --append d$i.e$j.v=$i$j, v$i=$i,; done; done; \
                flux dump -q x.tar && flux restore -q --key=r x.tar && flux kvs get r.v3 r.d7.e2.v; \
                for i in 1 2 3 4 5 6 7 8; do for j in 1 2 3; do \
                test $(flux kvs get r.d$i.e$j.v) = $i$j, || echo d$i.e$j; done; \
                test $(flux kvs get r.v$i) = $i,$i,$i, || echo v$i; done";
    dir.check(&[], text, "3,3,3,\n72,\n");
}

#[test]
fn files_are_staged_in_before_tasks_start() {
    let dir = Scratch::new("stagein");
    let text = "exec 2>&1; echo hi > one; echo ho > two; mkdir out; \
                flux archive create one; flux archive create -n n two; \
                flux run -o stage-in sh -c 'cat $FLUX_JOB_TMPDIR/one'; \
                flux run -o stage-in.names=main,n -o 'stage-in.pattern=t*' sh -c 'ls $FLUX_JOB_TMPDIR'; \
                flux run -o stage-in.destination=global:out true; ls out; \
                flux run -o stage-in.tags=n sh -c 'ls $FLUX_JOB_TMPDIR' 2>&1 | grep -oE 'deprecated|two'; \
                for o in foo=1 destination=x:y names=nope; do \
                flux run -o stage-in.$o true 2>&1 | grep -o 'FATAL: .*'; done; \
                flux filemap map -T f one; flux filemap list -T f; flux filemap unmap -T f; \
                flux archive create -T f one";
    let output = Command::new(FLUX)
        .args(["start", "sh", "-c", text])
        .env_remove("FLUX_URI")
        .current_dir(&dir.0)
        .stdin(Stdio::null())
        .output()
        .expect("the program was built");
    let warning = "⚠️This command is deprecated.⚠️   Use flux-archive(1) instead.\n";
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!(
            "hi\ntwo\none\ndeprecated\ntwo\n\
             FATAL: stage-in: Error parsing stage_in shell option: unknown key foo\n\
             FATAL: stage-in: destination prefix must be local: or global:\n\
             FATAL: stage-in: could not lookup archive.nope in primary KVS namespace: \
             No such file or directory\n\
             {warning}{warning}one\n{warning}\
             flux archive create: unrecognized option '--tags'\n"
        )
    );
}
