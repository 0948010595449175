//! Terminals that clients attach to: those of jobs, and those `flux terminus` keeps.

mod common;

use common::check;

#[test]
fn a_session_outlives_who_started_it() {
    check(
        r#"
        service="$(id -u)-terminus"
        flux terminus start --detach --name=one sh -c 'read word; echo "got $word"; read word'
        echo hello | flux terminus attach --pipe 0
        flux terminus list | sed -n 's/ 0 clients.*//p'
        # The second line typed ends the program, and that the session and the server.
        echo | flux terminus attach 0 | grep -o 'got hello'
        flux terminus list 2>&1 | sed "s/$service/SERVICE/"
        "#,
        "0: [one]\ngot hello\nflux-terminus: no server running at SERVICE\n",
    );
}

#[test]
fn who_attaches_to_an_interactive_job_has_its_terminal_and_its_exit_code() {
    check(
        r#"
        out=$(flux run -o pty.interactive sh -c 'stty size; exit 3' </dev/null)
        echo $?
        echo "$out" | grep -o '25 80'
        id=$(flux submit -o pty.interactive -o pty.capture tty)
        flux job attach $id </dev/null | grep -c /dev/
        # What was captured is there for those who come too late for the terminal.
        flux job attach $id | grep -c /dev/
        "#,
        "3\n25 80\n1\n1\n",
    );
}
