//! Dispatch of requests by RPC type.

use std::collections::HashMap;
use std::marker::PhantomData;

use proto::{Access, Flow, Payload, Rpc, refusal};
use types::{Cred, Errno};
use wire::{Flags, Message};

use crate::{Handle, RpcError};

/// A request to answer: now, later, or many times.
///
/// It owns its message, so a service may keep it until it can answer.
pub struct Request<R: Rpc> {
    message: Message,
    handle: Handle,
    rpc: PhantomData<fn() -> R>,
}

impl<R: Rpc> Request<R> {
    /// Wraps a message that was dispatched by other means.
    pub fn new(handle: &Handle, message: Message) -> Request<R> {
        Request {
            message,
            handle: handle.clone(),
            rpc: PhantomData,
        }
    }

    /// The message itself.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Who sent it.
    pub fn cred(&self) -> Cred {
        self.message.cred
    }

    /// Whether the caller takes a stream of responses.
    pub fn is_streaming(&self) -> bool {
        self.message.is_streaming()
    }

    /// Answers; for a stream, once more.
    pub fn reply(&self, response: &R::Response) {
        self.handle.respond(&self.message, response);
    }

    /// Answers with a result.
    pub fn reply_result(&self, result: &Result<R::Response, RpcError>) {
        self.handle.respond_result(&self.message, result);
    }

    /// Fails the request, or ends the stream.
    pub fn fail(&self, error: impl Into<RpcError>) {
        self.handle.respond_error(&self.message, &error.into());
    }

    /// Ends the stream well.
    pub fn end(&self) {
        self.handle.respond_end(&self.message);
    }

    /// Whether `other`, a cancel or disconnect request, speaks for this request's sender: it is
    /// the owner's or the same user's and came from the same party.
    pub fn is_from_sender_of(&self, other: &Message) -> bool {
        same_sender(&self.message, other)
    }

    /// Whether `cancel`, naming `matchtag`, means this request.
    pub fn is_cancelled_by(&self, cancel: &Message, matchtag: u32) -> bool {
        self.message.matchtag().is_some_and(|tag| tag.0 == matchtag)
            && self.is_from_sender_of(cancel)
    }
}

/// Whether `other` may speak for the sender of `request` (RFC 6 disconnect and cancel).
pub(crate) fn same_sender(request: &Message, other: &Message) -> bool {
    request.sender() == other.sender() && other.cred.may_act_for(request.cred.userid)
}

type Handler<S> = Box<dyn Fn(&mut S, &Handle, Message)>;

struct Route<S> {
    access: Access,
    flow: Flow,
    handler: Handler<S>,
}

/// The methods of a service whose state is `S`.
pub struct Routes<S> {
    routes: HashMap<String, Route<S>>,
}

impl<S: 'static> Default for Routes<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: 'static> Routes<S> {
    /// No methods.
    pub fn new() -> Routes<S> {
        Routes {
            routes: HashMap::new(),
        }
    }

    /// Adds an RPC under its method name, whatever the service is called.
    pub fn on<R: Rpc>(
        mut self,
        handler: impl Fn(&mut S, Request<R>, R::Request) + 'static,
    ) -> Routes<S> {
        let handler: Handler<S> =
            Box::new(move |state, handle, message| {
                match R::Request::decode(message.payload.as_ref()) {
                    Ok(payload) => handler(state, Request::new(handle, message), payload),
                    Err(_) => handle.respond_error(&message, &Errno::EPROTO.into()),
                }
            });
        let route = Route {
            access: R::ACCESS,
            flow: R::FLOW,
            handler,
        };
        self.routes.insert(R::METHOD.to_owned(), route);
        self
    }

    /// Adds an RPC whose handler decodes the payload itself, to refuse it in its own words.
    pub fn on_raw<R: Rpc>(mut self, handler: impl Fn(&mut S, Request<R>) + 'static) -> Routes<S> {
        let handler: Handler<S> =
            Box::new(move |state, handle, message| handler(state, Request::new(handle, message)));
        let route = Route {
            access: R::ACCESS,
            flow: R::FLOW,
            handler,
        };
        self.routes.insert(R::METHOD.to_owned(), route);
        self
    }

    /// Adds a method by name, for messages that have no RPC type of their own (`disconnect`).
    pub fn on_message(
        mut self,
        method: &str,
        access: Access,
        handler: impl Fn(&mut S, &Handle, Message) + 'static,
    ) -> Routes<S> {
        let route = Route {
            access,
            flow: Flow::NoResponse,
            handler: Box::new(handler),
        };
        self.routes.insert(method.to_owned(), route);
        self
    }

    /// Whether there is such a method.
    pub fn has(&self, method: &str) -> bool {
        self.routes.contains_key(method)
    }

    /// Handles a request. What has no handler, role or valid payload is refused.
    pub fn dispatch(&self, state: &mut S, handle: &Handle, message: Message) {
        let method = message.topic.as_ref().map_or("", |topic| topic.method());
        let Some(route) = self.routes.get(method) else {
            let text = refusal::no_method(message.topic_str());
            return handle.respond_error(&message, &RpcError::new(Errno::ENOSYS, text));
        };
        if let Err(error) = check_access(route.access, &message) {
            return handle.respond_error(&message, &error);
        }
        if route.flow == Flow::Stream && !message.flags.contains(Flags::STREAMING) {
            return handle.respond_error(&message, &Errno::EPROTO.into());
        }
        (route.handler)(state, handle, message);
    }
}

/// Refuses a message whose sender lacks the role.
fn check_access(access: Access, message: &Message) -> Result<(), RpcError> {
    if message.cred.rolemask.intersects(access.allowed()) {
        return Ok(());
    }
    let text = if access == Access::Owner {
        refusal::OWNER
    } else {
        refusal::PRIVILEGE
    };
    Err(RpcError::new(Errno::EPERM, text))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use proto::attr::{AttrGet, AttrSet, Name, Value};
    use proto::log::LogDmesg;
    use types::{Matchtag, RoleMask, UserId};
    use wire::{Kind, Target};

    use super::*;
    use crate::Transport;

    #[derive(Default)]
    struct Sent(RefCell<Vec<Message>>);

    impl Transport for Sent {
        fn send(&self, message: Message) {
            self.0.borrow_mut().push(message);
        }
    }

    fn check(topic: &str, payload: &str, rolemask: RoleMask, expect: Result<&str, (Errno, &str)>) {
        let sent = Rc::new(Sent::default());
        let handle = Handle::new(sent.clone());
        let routes = Routes::new()
            .on::<AttrGet>(|count: &mut u32, request, name: Name| {
                *count += 1;
                request.reply(&Value {
                    value: name.name,
                    flags: 0,
                });
            })
            .on::<AttrSet>(|_, request, _| request.fail(Errno::EPERM))
            .on::<LogDmesg>(|_, request, _| request.end());
        let mut message = Message::request(topic.into(), Target::Any, Some(Matchtag(1)));
        if !payload.is_empty() {
            message = message.with_text(payload);
        }
        message.cred = Cred {
            userid: UserId(7),
            rolemask,
        };
        routes.dispatch(&mut 0, &handle, message);
        let sent = sent.0.take();
        assert_eq!(sent.len(), 1, "one response: {sent:?}");
        let Kind::Response { errno, .. } = sent[0].kind else {
            panic!("no response: {sent:?}")
        };
        let text = sent[0].text().unwrap_or_default();
        match (errno, expect) {
            (None, Ok(expect)) => assert_eq!(text, expect),
            (Some(errno), Err(expect)) => assert_eq!((errno, text), expect),
            (errno, expect) => panic!("{errno:?} {text}, not {expect:?}"),
        }
    }

    #[test]
    fn requests_reach_their_method_or_are_refused() {
        let owner = RoleMask::OWNER;
        let guest = RoleMask::USER;
        check(
            "attr.get",
            "{\"name\":\"a\"}",
            guest,
            Ok("{\"value\":\"a\",\"flags\":0}"),
        );
        check("attr.get", "", owner, Err((Errno::EPROTO, "")));
        check("attr.get", "[]", owner, Err((Errno::EPROTO, "")));
        let no_method = "Unknown service method 'attr.gets'";
        check("attr.gets", "{}", owner, Err((Errno::ENOSYS, no_method)));
        check("attr.set", "{}", guest, Err((Errno::EPERM, refusal::OWNER)));
        check(
            "attr.get",
            "{}",
            RoleMask::NONE,
            Err((Errno::EPERM, refusal::PRIVILEGE)),
        );
        check(
            "attr.dmesg",
            "{\"follow\":false}",
            owner,
            Err((Errno::EPROTO, "")),
        );
    }
}
