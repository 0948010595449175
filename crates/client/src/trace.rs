//! Showing messages on standard error, as `FLUX_HANDLE_TRACE` asks for (flux-environment(7)).

use std::cell::Cell;
use std::fmt::Write;
use std::time::Instant;

use types::{Cred, RoleMask, UserId};
use wire::{Flags, Kind, Message, Target};

/// The environment variable that asks for it.
const VARIABLE: &str = "FLUX_HANDLE_TRACE";

/// A connection's messages, with the seconds since the first.
pub(crate) struct Trace {
    start: Cell<Option<Instant>>,
}

impl Trace {
    /// A trace, if the environment wants one.
    pub(crate) fn wanted() -> Option<Trace> {
        std::env::var_os(VARIABLE)?;
        Some(Trace {
            start: Cell::new(None),
        })
    }

    pub(crate) fn show(&self, message: &Message) {
        let now = Instant::now();
        let start = self.start.get().unwrap_or(now);
        self.start.set(Some(start));
        types::complain!("{}", describe(message, (now - start).as_secs_f64()));
    }
}

fn describe(message: &Message, seconds: f64) -> String {
    let mark = match message.kind {
        Kind::Request { .. } => '>',
        Kind::Response { .. } => '<',
        Kind::Event { .. } => 'e',
        Kind::Control { .. } => 'c',
    };
    let mut lines = vec![format!("{seconds:.5}")];
    lines.extend(message.topic.as_ref().map(ToString::to_string));
    lines.push(format!(
        "flags={} {} {}",
        flags(message),
        sender(message.cred),
        kind(&message.kind)
    ));
    if !message.routes().is_empty() {
        let route: Vec<_> = message.routes().iter().map(|id| id.short()).collect();
        lines.push(format!("|{}|", route.join("|")));
    }
    if let Some(payload) = &message.payload {
        lines.push(match message.text() {
            Some(text) => text.to_owned(),
            None => format!("{} bytes", payload.len()),
        });
    }
    let mut shown = "-".repeat(38);
    for line in lines {
        // Writing to a string does not fail.
        let _infallible = write!(shown, "\n{mark} {line}");
    }
    shown
}

fn flags(message: &Message) -> String {
    let has = |flag| message.flags.contains(flag);
    let routed = !matches!(message.kind, Kind::Control { .. });
    let names = [
        (message.topic.is_some(), "topic"),
        (message.payload.is_some(), "payload"),
        (has(Flags::NORESPONSE), "noresponse"),
        (routed, "route"),
        (has(Flags::UPSTREAM), "upstream"),
        (has(Flags::PRIVATE), "private"),
        (has(Flags::STREAMING), "streaming"),
        (has(Flags::USER1), "user1"),
    ];
    list(&names)
}

fn list(names: &[(bool, &str)]) -> String {
    let set = names.iter().filter(|(is_set, _)| *is_set);
    let set: Vec<&str> = set.map(|(_, name)| *name).collect();
    match set.is_empty() {
        true => "none".to_owned(),
        false => set.join(","),
    }
}

fn sender(cred: Cred) -> String {
    let has = |role: RoleMask| cred.rolemask.0 & role.0 != 0;
    let roles = list(&[
        (has(RoleMask::OWNER), "owner"),
        (has(RoleMask::USER), "user"),
        (has(RoleMask::LOCAL), "local"),
        (has(RoleMask::ADMIN), "admin"),
    ]);
    match cred.userid {
        UserId::UNKNOWN => format!("userid=unknown rolemask={roles}"),
        userid => format!("userid={} rolemask={roles}", userid.0),
    }
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Request { target, matchtag } => {
            let nodeid = match target {
                Target::Any => "any".to_owned(),
                Target::Rank(rank) => rank.to_string(),
            };
            format!(
                "nodeid={nodeid} matchtag={}",
                matchtag.map_or(0, |tag| tag.0)
            )
        }
        Kind::Response { errno, matchtag } => format!(
            "errnum={} matchtag={}",
            errno.map_or(0, |errno| errno.0),
            matchtag.map_or(0, |tag| tag.0)
        ),
        Kind::Event { sequence } => format!("sequence={sequence}"),
        Kind::Control { kind, status } => format!("type={kind} status={status}"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use types::Errno;
    use wire::{RouteId, Topic};

    use super::*;

    #[test]
    fn messages_are_shown_as_others_show_them() {
        let line = "-".repeat(38);
        let mut request = Message::request(Topic::from("a.b"), Target::Any, None)
            .with_text("{}")
            .with_flags(Flags::STREAMING);
        assert_eq!(
            describe(&request, 0.25),
            format!(
                "{line}\n> 0.25000\n> a.b\n\
                 > flags=topic,payload,route,streaming userid=unknown rolemask=none nodeid=any \
                 matchtag=0\n> {{}}"
            )
        );
        request.push_route(RouteId::from("0123456789".to_owned()));
        request.cred = Cred {
            userid: UserId(5),
            rolemask: RoleMask::OWNER,
        };
        request.payload = Some(Bytes::from_static(b"\xff"));
        let shown = describe(&request, 0.0);
        assert!(shown.contains(" userid=5 rolemask=owner "), "{shown}");
        assert!(shown.ends_with("\n> |01234567|\n> 1 bytes"), "{shown}");
        let event = describe(&Message::event(Topic::from("e")), 0.0);
        assert!(event.ends_with("rolemask=none sequence=0"), "{event}");
        let response = request.response_unasked(Some(Errno::ENOENT));
        let shown = response.map(|response| describe(&response, 0.0));
        assert!(shown.is_some_and(|shown| shown.contains(" errnum=2 matchtag=0")));
    }
}
