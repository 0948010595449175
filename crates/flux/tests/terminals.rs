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
