//! What options of the job shell do.

mod common;

use common::check_in;

#[test]
fn programs_run_beside_the_tasks() {
    check_in(
        &["-s2"],
        r#"
dir=$(mktemp -d); cd $dir; mkfifo ready0 ready1
cat >rc.lua <<'EOT'
coprocess.define { name = "mon", command = {"sh", "-c", [[
    trap 'echo end{{node.id}}; exit' TERM
    echo begin{{node.id}}; echo >ready{{node.id}}; sleep inf & wait]]}, output = "all.log" }
coprocess.define { name = "own", command = {"echo", "{{node.id}}"}, output = "own{{node.id}}.log" }
coprocess.define { name = "bad", command = {"/no/such"} }
coprocess.define { name = "stays", command = {"sh", "-c", "trap '' TERM; echo >ready0; sleep inf"} }
EOT
flux run -N2 -o userrc=rc.lua -o mon -o own sh -c 'read line <ready$FLUX_TASK_RANK'
sort all.log; cat own0.log own1.log; stat -c %a all.log
flux run -o userrc=rc.lua -o bad true 2>&1 | grep -o 'bad: launch failed: .*'
flux run -o userrc=rc.lua -o stays -o coprocess-kill-timeout=0.01s \
    sh -c 'read line <ready0' 2>&1 | grep -o 'helper.*'
flux run -o coprocess.m.command=x true 2>&1 | grep -o 'coprocess: m: .*' | uniq
cd /; rm -r $dir"#,
        "begin0\nbegin1\nend0\nend1\n0\n1\n600\n\
         bad: launch failed: No such file or directory\n\
         helper(s) still running, sending SIGKILL\n\
         coprocess: m: command must be a non-empty array of strings\n",
    );
}

#[test]
fn tasks_are_given_the_topology_they_want() {
    check_in(
        &[],
        r#"
export HWLOC_COMPONENTS=x cores='grep -o type=.Core. $HWLOC_XMLFILE | wc -l'
all=$(flux run -n1 -o hwloc.xmlfile sh -c "$cores")
test $all = $(flux resource list -no {ncores}) && echo all
flux run -n1 -o hwloc.xmlfile -o hwloc.restrict sh -c "$cores"
flux run -n1 -o hwloc.xmlfile sh -c 'echo ${HWLOC_COMPONENTS-none}'
HWLOC_XMLFILE=mine flux run -n1 -o hwloc.xmlfile printenv HWLOC_XMLFILE"#,
        "all\n1\nnone\nmine\n",
    );
}
