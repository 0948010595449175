use std::cell::RefCell;
use std::io::Write as _;

use rpc::Transport;
use serde_json::{Value, json};
use types::Matchtag;
use wire::{Flags, Kind, RouteId, Target};

use super::*;

#[derive(Default)]
struct Sent(RefCell<Vec<Message>>);

impl Transport for Sent {
    fn send(&self, message: Message) {
        self.0.borrow_mut().push(message);
    }
}

/// A server with one session, and what it has sent.
struct Fixture {
    server: Server,
    session: Rc<Session>,
    /// The process's side, as long as it is open.
    terminal: Option<std::fs::File>,
    sent: Rc<Sent>,
}

impl Fixture {
    fn new(held: bool) -> Fixture {
        let sent = Rc::new(Sent::default());
        let server = Server::new(Handle::new(sent.clone()), "7-terminus".into(), Rank(3));
        let (session, terminal) = server.open(0, "sh".into(), held).expect("a terminal");
        Fixture {
            server,
            session,
            terminal: Some(terminal.into()),
            sent,
        }
    }

    /// Sends a request as `client`. Returns what comes of it.
    fn ask(&self, client: &str, method: &str, payload: Value) -> Vec<String> {
        let topic = format!("7-terminus.{method}");
        let mut message = Message::request(topic.into(), Target::Any, Some(Matchtag(1)));
        if payload["type"] == "attach" {
            message = message.with_flags(Flags::STREAMING);
        }
        message.push_route(RouteId::from(client));
        self.server
            .dispatch(method, message.with_text(&payload.to_string()));
        self.take()
    }

    fn attach(&self, client: &str, mode: &str) -> Vec<String> {
        self.ask(client, "0", json!({"type": "attach", "mode": mode}))
    }

    /// What was sent since, each as `CLIENT ERRNO PAYLOAD`.
    fn take(&self) -> Vec<String> {
        let sent = self.sent.0.take();
        let line = |message: Message| {
            let errno = match message.kind {
                Kind::Response { errno, .. } => errno.map_or(0, |errno| errno.0),
                _ => panic!("no response: {message:?}"),
            };
            let client = message.sender().map(ToString::to_string);
            let text = message.text().unwrap_or_default();
            format!("{} {errno} {text}", client.unwrap_or_default())
        };
        sent.into_iter().map(line).collect()
    }

    /// Lets the process write on the terminal and close it. Returns what was carried.
    async fn write(&mut self, text: &str) -> String {
        let mut terminal = self.terminal.take().expect("it is open");
        terminal.write_all(text.as_bytes()).expect("written");
        drop(terminal);
        let mut seen = Vec::new();
        let carried = self
            .session
            .carry(async |bytes| seen.extend_from_slice(bytes));
        carried.await.expect("carried");
        String::from_utf8(seen).expect("text")
    }
}

const ATTACHED: &str = r#"a 0 {"type":"attach"}"#;

#[tokio::test]
async fn orders_are_refused_with_their_errno() {
    let fixture = Fixture::new(false);
    let check = |method: &str, payload: Value, expect: &str| {
        let answers = fixture.ask("a", method, payload);
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert!(answers[0].starts_with(expect), "{answers:?}, not {expect}");
    };
    let errno = |errno: Errno| format!("a {}", errno.0);
    let size = |rows: u16| json!({"type": "resize", "winsize": {"rows": rows, "cols": 80}});
    check("dance", json!({}), &errno(Errno::ENOSYS));
    check("1", json!({"type": "detach"}), &errno(Errno::ENOENT));
    check("0", json!({"type": "detach"}), &errno(Errno::ENOENT));
    check("0", json!({}), &errno(Errno::EPROTO));
    check("kill", json!({"id": 1, "signal": 9}), &errno(Errno::ENOENT));
    check("kill", json!({"id": 0, "signal": 9}), &errno(Errno::ESRCH));
    check("0", json!({"type": "attach"}), ATTACHED);
    check("0", json!({"type": "attach"}), &errno(Errno::EEXIST));
    check("0", json!({"type": "dance"}), &errno(Errno::ENOSYS));
    check("0", size(0), &errno(Errno::EINVAL));
    check("0", size(50), "a 0 {}");
}

#[tokio::test]
async fn output_goes_to_those_who_look_and_to_the_next_if_nobody_does() {
    let mut fixture = Fixture::new(false);
    let data = |client: &str| format!(r#"{client} 0 {{"type":"data","data":"hello"}}"#);
    fixture.attach("w", "wo");
    assert_eq!(fixture.write("hello").await, "hello");
    assert_eq!(fixture.take(), Vec::<String>::new());
    assert_eq!(fixture.attach("a", "rw"), [ATTACHED.to_owned(), data("a")]);

    let mut fixture = Fixture::new(false);
    for (client, mode) in [("a", "rw"), ("r", "ro"), ("w", "wo")] {
        fixture.attach(client, mode);
    }
    fixture.write("hello").await;
    assert_eq!(fixture.take(), [data("a"), data("r")]);
}

#[tokio::test]
async fn what_nobody_sees_is_kept_as_far_as_the_bound_goes() {
    let fixture = Fixture::new(false);
    fixture.session.show(&[b'a'; MISSED_MAX]);
    fixture.session.show(b"b");
    let missed = fixture.session.missed.borrow();
    assert_eq!(missed.len(), MISSED_MAX);
    assert_eq!(missed.back(), Some(&b'b'));
}

#[tokio::test]
async fn a_held_session_waits_for_its_first_client() {
    let mut fixture = Fixture::new(true);
    let session = fixture.session.clone();
    {
        let write = fixture.write("hello");
        tokio::pin!(write);
        tokio::select! {
            biased;
            _ = &mut write => panic!("nobody is attached"),
            () = tokio::task::yield_now() => {}
        }
        session.release();
        assert_eq!(write.await, "hello");
    }
    assert!(!*session.held.borrow());
}

#[tokio::test]
async fn everybody_is_told_of_the_end_even_who_comes_later() {
    let fixture = Fixture::new(false);
    let farewell = |client: &str| {
        let exit = r#"{"type":"exit","message":"session exiting","status":256}"#;
        vec![
            format!("{client} 0 {exit}"),
            format!("{client} {} ", Errno::ENODATA.0),
        ]
    };
    fixture.attach("a", "rw");
    fixture.attach("gone", "rw");
    fixture.ask("gone", "disconnect", json!({}));
    fixture.session.exited(256);
    assert_eq!(fixture.take(), Vec::<String>::new());
    let kill = json!({"id": 0, "signal": 9, "wait": 1});
    assert_eq!(fixture.ask("k", "kill", kill.clone()), Vec::<String>::new());
    fixture.session.finish(256);
    let mut expect = farewell("a");
    expect.push("k 0 {}".to_owned());
    assert_eq!(fixture.take(), expect);

    expect = vec![ATTACHED.to_owned()];
    expect.extend(farewell("a"));
    assert_eq!(fixture.attach("a", "rw"), expect);
    assert_eq!(fixture.ask("k", "kill", kill), ["k 0 {}"]);
}
