//! What plugins call, behind `interface.c`.
//!
//! Each of these fails with −1, or NULL, and `errno`, as flux-jobtap-plugins(7) says.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::ptr;
use std::rc::Rc;

use foreign::answer::{self, pointer, status};
use foreign::flux::{ARG_OUT, Args, Flux, FreeFn, Handler, HandlerFn, Plugin};
use foreign::{Opaque, call};
use proto::jobtap::Ask;
use serde_json::{Map, Value, json};
use types::{Errno, JobId};

use crate::host::{Host, current};

/// `FLUX_JOBTAP_CURRENT_JOB`.
const CURRENT_JOB: u64 = u64::MAX;

/// The priority that stands for none yet.
const PRIORITY_UNAVAILABLE: i64 = -2;

/// `struct table` of `interface.c`, in its order.
#[repr(C)]
struct Table {
    library: [Opaque; 4],
    get_flux: extern "C" fn(Opaque) -> Opaque,
    service_register: extern "C" fn(Opaque, *const c_char, u32, Option<HandlerFn>, Opaque) -> c_int,
    set_load_sort_order: extern "C" fn(Opaque, *const c_char) -> c_int,
    reprioritize_all: extern "C" fn(Opaque) -> c_int,
    reprioritize_job: extern "C" fn(Opaque, u64, c_uint) -> c_int,
    priority_unavail: extern "C" fn(Opaque, Opaque) -> c_int,
    refuse: extern "C" fn(Opaque, Opaque, *const c_char, c_int) -> c_int,
    dependency: extern "C" fn(Opaque, u64, *const c_char, c_int) -> c_int,
    aux_set: extern "C" fn(Opaque, u64, *const c_char, Opaque, Option<FreeFn>) -> c_int,
    aux_get: extern "C" fn(Opaque, u64, *const c_char) -> Opaque,
    aux_delete: extern "C" fn(Opaque, u64, Opaque) -> c_int,
    set_flag: extern "C" fn(Opaque, u64, *const c_char) -> c_int,
    raise: extern "C" fn(Opaque, u64, *const c_char, c_int, *const c_char) -> c_int,
    post_event: extern "C" fn(Opaque, u64, *const c_char, *const c_char) -> c_int,
    update_jobspec: extern "C" fn(Opaque, u64, c_int, *const c_char) -> c_int,
    lookup: extern "C" fn(Opaque, u64) -> Opaque,
    result: extern "C" fn(Opaque, u64, *mut c_int) -> c_int,
    event_posted: extern "C" fn(Opaque, u64, *const c_char) -> c_int,
    subscribe: extern "C" fn(Opaque, u64, c_int) -> c_int,
    action_start: extern "C" fn(Opaque, c_int, *const c_char) -> c_int,
    action_finish: extern "C" fn(Opaque, u64, c_int, *const c_char, c_int) -> c_int,
    call: extern "C" fn(Opaque, u64, *const c_char, Opaque) -> c_int,
}

#[expect(unsafe_code, reason = "defined in interface.c")]
mod c {
    unsafe extern "C" {
        pub(super) fn ferroflux_jobtap_set_table(table: *const super::Table);
    }
}

/// Makes plugins find what they call.
pub(crate) fn offer(flux: &Flux) -> Result<(), String> {
    let library = [
        flux.symbol(c"flux_plugin_arg_create")?,
        flux.symbol(c"flux_plugin_arg_destroy")?,
        flux.symbol(c"flux_plugin_arg_vpack")?,
        flux.symbol(c"flux_plugin_arg_get")?,
    ];
    let table = Box::new(Table {
        library,
        get_flux,
        service_register,
        set_load_sort_order,
        reprioritize_all,
        reprioritize_job,
        priority_unavail,
        refuse,
        dependency,
        aux_set,
        aux_get,
        aux_delete,
        set_flag,
        raise,
        post_event,
        update_jobspec,
        lookup,
        result,
        event_posted,
        subscribe,
        action_start,
        action_finish,
        call: call_others,
    });
    // It is there for as long as the process is.
    let table: &'static Table = Box::leak(table);
    call!(c::ferroflux_jobtap_set_table, ptr::from_ref(table));
    Ok(())
}

/// A plugin in the middle of a call.
struct Caller {
    host: Rc<Host>,
    plugin: Plugin,
    name: String,
}

/// Errors: `EINVAL` without a plugin that was loaded here.
fn caller(plugin: Opaque) -> Result<Caller, Errno> {
    let host = current().ok_or(Errno::EINVAL)?;
    let (plugin, name) = host.find(plugin).ok_or(Errno::EINVAL)?;
    Ok(Caller { host, plugin, name })
}

/// A string that has to be there. Errors: `EINVAL`.
fn string(text: *const c_char) -> Result<String, Errno> {
    call!(answer::string, text)
}

impl Caller {
    /// The job an id stands for. Errors: `EINVAL` outside of callbacks.
    fn job(&self, id: u64) -> Result<JobId, Errno> {
        match id {
            CURRENT_JOB => self.host.job().ok_or(Errno::EINVAL),
            id => Ok(JobId(id)),
        }
    }

    fn ask(&self, ask: Ask) -> Result<(), Errno> {
        self.host.ask(ask).map(drop)
    }

    /// Errors: `ENOENT` for a job nobody knows.
    fn known(&self, id: u64) -> Result<JobId, Errno> {
        let id = self.job(id)?;
        if self.host.job() != Some(id) && !self.host.has_aux(id) {
            self.host.ask(Ask::Lookup { id })?;
        }
        Ok(id)
    }
}

extern "C" fn get_flux(plugin: Opaque) -> Opaque {
    pointer(caller(plugin).map(|caller| caller.host.handle.pointer()))
}

extern "C" fn service_register(
    plugin: Opaque,
    method: *const c_char,
    rolemask: u32,
    handler: Option<HandlerFn>,
    arg: Opaque,
) -> c_int {
    let register = || {
        let caller = caller(plugin)?;
        let method = string(method)?;
        let function = handler.ok_or(Errno::EINVAL)?;
        let own = caller.host.flux.plugin_name(caller.plugin);
        let name = match own.is_empty() {
            true => caller.name.trim_end_matches(".so").to_owned(),
            false => own,
        };
        let service = format!("{name}.{method}");
        caller.ask(Ask::RegisterService {
            plugin: caller.name.clone(),
            service: service.clone(),
            rolemask,
        })?;
        let handler = Handler { function, arg };
        caller.host.add_service(caller.plugin, service, handler);
        Ok(())
    };
    status(register())
}

extern "C" fn set_load_sort_order(plugin: Opaque, mode: *const c_char) -> c_int {
    let set = || {
        let caller = caller(plugin)?;
        let mode = call!(foreign::text, mode);
        match mode.as_str() {
            "" | "none" => caller.host.set_order(None),
            "state" | "-state" => caller.host.set_order(Some(&mode)),
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    };
    status(set())
}

extern "C" fn reprioritize_all(plugin: Opaque) -> c_int {
    status(caller(plugin).and_then(|caller| caller.ask(Ask::ReprioritizeAll)))
}

extern "C" fn reprioritize_job(plugin: Opaque, id: u64, priority: c_uint) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        let id = caller.job(id)?;
        caller.ask(Ask::Reprioritize { id, priority })
    };
    status(ask())
}

/// Arguments a plugin passes on. Errors: `EINVAL` for NULL.
fn given(args: Opaque) -> Result<Args, Errno> {
    match args.is_null() {
        true => Err(Errno::EINVAL),
        false => Ok(call!(Args::from_pointer, args)),
    }
}

/// Puts something out.
fn put(caller: &Caller, args: Opaque, key: &str, value: Value) -> Result<(), Errno> {
    let mut out = Map::new();
    out.insert(key.to_owned(), value);
    match caller.host.flux.set_args(given(args)?, ARG_OUT, &out) {
        true => Ok(()),
        false => Err(Errno::EINVAL),
    }
}

extern "C" fn priority_unavail(plugin: Opaque, args: Opaque) -> c_int {
    let result = caller(plugin)
        .and_then(|caller| put(&caller, args, "priority", PRIORITY_UNAVAILABLE.into()));
    status(result)
}

extern "C" fn refuse(plugin: Opaque, args: Opaque, text: *const c_char, rejects: c_int) -> c_int {
    let refuse = || {
        let caller = caller(plugin)?;
        let text = match (text.is_null(), rejects) {
            (false, _) => call!(foreign::text, text),
            (true, 0) => return Ok(()),
            (true, _) => {
                let own = caller.host.flux.plugin_name(caller.plugin);
                format!("rejected by job-manager plugin '{own}'")
            }
        };
        put(&caller, args, "errmsg", text.into())
    };
    // It fails in any case: that is what it is for.
    let _failed = status(refuse());
    -1
}

extern "C" fn dependency(plugin: Opaque, id: u64, description: *const c_char, add: c_int) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        let description = string(description)?;
        let id = caller.job(id)?;
        caller.ask(match add {
            0 => Ask::DependencyRemove { id, description },
            _ => Ask::DependencyAdd { id, description },
        })
    };
    status(ask())
}

extern "C" fn aux_set(
    plugin: Opaque,
    id: u64,
    name: *const c_char,
    value: Opaque,
    free: Option<FreeFn>,
) -> c_int {
    let set = || {
        let caller = caller(plugin)?;
        if name.is_null() && value.is_null() {
            return Err(Errno::EINVAL);
        }
        let id = caller.known(id)?;
        let name = (!name.is_null()).then(|| call!(foreign::text, name));
        caller.host.set_aux(caller.plugin, id, name, value, free);
        Ok(())
    };
    status(set())
}

extern "C" fn aux_get(plugin: Opaque, id: u64, name: *const c_char) -> Opaque {
    let get = || {
        let caller = caller(plugin)?;
        let name = string(name)?;
        let id = caller.known(id)?;
        let value = caller.host.aux(caller.plugin, id, &name);
        match value.is_null() {
            true => Err(Errno::ENOENT),
            false => Ok(value),
        }
    };
    pointer(get())
}

extern "C" fn aux_delete(plugin: Opaque, id: u64, value: Opaque) -> c_int {
    let delete = || {
        let caller = caller(plugin)?;
        let id = caller.known(id)?;
        caller.host.delete_aux(caller.plugin, id, value);
        Ok(())
    };
    status(delete())
}

extern "C" fn set_flag(plugin: Opaque, id: u64, flag: *const c_char) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        let flag = string(flag)?;
        let id = caller.job(id)?;
        caller.ask(Ask::SetFlag { id, flag })
    };
    status(ask())
}

extern "C" fn raise(
    plugin: Opaque,
    id: u64,
    kind: *const c_char,
    severity: c_int,
    note: *const c_char,
) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        let kind = string(kind)?;
        let note = call!(foreign::text, note);
        let id = caller.job(id)?;
        caller.ask(Ask::Raise {
            id,
            kind,
            severity,
            note,
        })
    };
    status(ask())
}

fn object(json: *const c_char) -> Result<Map<String, Value>, Errno> {
    let text = string(json)?;
    serde_json::from_str(&text).map_err(|_| Errno::EINVAL)
}

extern "C" fn post_event(
    plugin: Opaque,
    id: u64,
    name: *const c_char,
    context: *const c_char,
) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        let name = string(name)?;
        let context = match context.is_null() {
            true => None,
            false => Some(object(context)?),
        };
        let id = caller.job(id)?;
        caller.ask(Ask::PostEvent { id, name, context })
    };
    status(ask())
}

extern "C" fn update_jobspec(
    plugin: Opaque,
    id: u64,
    by_id: c_int,
    updates: *const c_char,
) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        let updates = object(updates)?;
        // Its own callback would not see it; another function is for that.
        if by_id != 0 && (id == CURRENT_JOB || caller.host.job() == Some(JobId(id))) {
            return Err(Errno::EINVAL);
        }
        let id = caller.job(id)?;
        caller.ask(Ask::UpdateJobspec { id, updates })
    };
    status(ask())
}

extern "C" fn lookup(plugin: Opaque, id: u64) -> Opaque {
    let ask = || {
        let caller = caller(plugin)?;
        let id = caller.job(id)?;
        match caller.host.ask(Ask::Lookup { id })? {
            Value::Object(args) => {
                let args = caller.host.flux.args(&args).ok_or(Errno::ENOMEM)?;
                Ok(args.pointer())
            }
            _ => Err(Errno::EPROTO),
        }
    };
    pointer(ask())
}

extern "C" fn result(plugin: Opaque, id: u64, result: *mut c_int) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        if result.is_null() {
            return Err(Errno::EINVAL);
        }
        let id = caller.job(id)?;
        let found = caller.host.ask(Ask::Result { id })?;
        let bit = found.as_i64().and_then(|bit| c_int::try_from(bit).ok());
        bit.ok_or(Errno::EPROTO)
    };
    status(ask().map(|bit| call!(answer::put, result, bit)))
}

extern "C" fn event_posted(plugin: Opaque, id: u64, name: *const c_char) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        let name = string(name)?;
        let id = caller.job(id)?;
        caller.host.ask(Ask::HasEvent { id, name })
    };
    match ask() {
        Ok(found) => c_int::from(found == json!(true)),
        Err(errno) => status(Err(errno)),
    }
}

extern "C" fn subscribe(plugin: Opaque, id: u64, wanted: c_int) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        let id = caller.job(id)?;
        let plugin = caller.name.clone();
        caller.ask(match wanted {
            0 => Ask::Unsubscribe { plugin, id },
            _ => Ask::Subscribe { plugin, id },
        })
    };
    status(ask())
}

extern "C" fn action_start(plugin: Opaque, epilog: c_int, description: *const c_char) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        let description = string(description)?;
        let id = caller.job(CURRENT_JOB)?;
        caller.ask(Ask::ActionStart {
            id,
            epilog: epilog != 0,
            description,
        })
    };
    status(ask())
}

extern "C" fn action_finish(
    plugin: Opaque,
    id: u64,
    epilog: c_int,
    description: *const c_char,
    how: c_int,
) -> c_int {
    let ask = || {
        let caller = caller(plugin)?;
        let description = string(description)?;
        let id = caller.job(id)?;
        caller.ask(Ask::ActionFinish {
            id,
            epilog: epilog != 0,
            description,
            status: how,
        })
    };
    status(ask())
}

extern "C" fn call_others(plugin: Opaque, id: u64, topic: *const c_char, args: Opaque) -> c_int {
    let call = || {
        let caller = caller(plugin)?;
        let topic = string(topic)?;
        let args = given(args)?;
        if topic.starts_with("job.") {
            return Err(Errno::EINVAL);
        }
        let id = caller.known(id)?;
        let topic = CString::new(topic).map_err(|_| Errno::EINVAL)?;
        match caller.host.call_plugins(Some(id), &topic, None, args) {
            (_, true) => Err(Errno::EINVAL),
            (_, false) => Ok(()),
        }
    };
    status(call())
}
