//! What plugins call to send and receive messages. They go over a connection of their own, but for
//! requests to the shell's service, which reach the shell first.

use std::ffi::{CString, c_char, c_int};

use foreign::answer::{pointer, status};
use foreign::flux::{Handler, HandlerFn};
use foreign::{Opaque, call, function};
use types::Errno;

use super::table::{native, string};

/// `struct flux_match`.
#[repr(C)]
struct Match {
    typemask: c_int,
    matchtag: u32,
    topic_glob: *const c_char,
}

/// `FLUX_MSGTYPE_EVENT`.
const EVENT: c_int = 4;

pub(super) extern "C" fn event_handler(
    shell: Opaque,
    subtopic: *const c_char,
    handler: Option<HandlerFn>,
    arg: Opaque,
) -> c_int {
    let add = || {
        let native = native(shell)?;
        let subtopic = string(subtopic)?;
        let handler = handler.ok_or(Errno::EINVAL)?;
        let id = native.info("jobid").and_then(|id| id.as_u64());
        let topic = format!("shell-{}.{subtopic}", id.unwrap_or_default());
        let topic = CString::new(topic).map_err(|_| Errno::EINVAL)?;
        let handle = native.handle()?.pointer();
        let subscribe = native.found(function!(
            native.flux,
            c"flux_event_subscribe",
            fn(Opaque, *const c_char) -> c_int
        ))?;
        let create = native.found(function!(
            native.flux,
            c"flux_msg_handler_create",
            fn(Opaque, Match, HandlerFn, Opaque) -> Opaque
        ))?;
        let start = native.found(function!(
            native.flux,
            c"flux_msg_handler_start",
            fn(Opaque) -> ()
        ))?;
        if call!(subscribe, handle, topic.as_ptr()) < 0 {
            return Err(native.failed("flux_event_subscribe"));
        }
        let which = Match {
            typemask: EVENT,
            matchtag: 0,
            topic_glob: topic.as_ptr(),
        };
        let added = call!(create, handle, which, handler, arg);
        if added.is_null() {
            return Err(native.failed("flux_msg_handler_create"));
        }
        call!(start, added);
        Ok(())
    };
    status(add())
}

pub(super) extern "C" fn service(
    shell: Opaque,
    method: *const c_char,
    handler: Option<HandlerFn>,
    arg: Opaque,
) -> c_int {
    let register = || {
        let native = native(shell)?;
        let method = string(method)?;
        let function = handler.ok_or(Errno::EINVAL)?;
        let handler = Handler { function, arg };
        native.services.borrow_mut().insert(method, handler);
        Ok(())
    };
    status(register())
}

pub(super) extern "C" fn rpc(
    shell: Opaque,
    method: *const c_char,
    rank: c_int,
    flags: c_int,
    json: *const c_char,
) -> Opaque {
    let call = || {
        let native = native(shell)?;
        let method = string(method)?;
        let service = native.info("service").ok_or(Errno::EINVAL)?;
        let service = service.as_str().unwrap_or_default();
        let topic = CString::new(format!("{service}.{method}")).map_err(|_| Errno::EINVAL)?;
        let rank = usize::try_from(rank).map_err(|_| Errno::EINVAL)?;
        let shell = native.shell()?;
        let node = shell.job.nodes.get(rank).ok_or(Errno::EINVAL)?;
        let handle = native.handle()?.pointer();
        let rpc = native.found(function!(
            native.flux,
            c"flux_rpc",
            fn(Opaque, *const c_char, *const c_char, u32, c_int) -> Opaque
        ))?;
        let future = call!(rpc, handle, topic.as_ptr(), json, node.broker_rank, flags);
        match future.is_null() {
            true => Err(native.failed("flux_rpc")),
            false => Ok(future),
        }
    };
    pointer(call())
}
