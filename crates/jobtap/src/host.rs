//! Plugins, and the orders about them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int};
use std::ptr;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use foreign::answer::Aux;
use foreign::flux::{Args, Connection, Flux, FreeFn, Handler, Plugin};
use foreign::{Opaque, call};
use proto::jobtap::{Ask, Order, Report};
use serde_json::{Map, Value};
use types::{Errno, JobId};

use crate::interface;
use crate::link::Link;

/// The topics the job manager calls without being asked to.
const TOPICS: [&CStr; 16] = [
    c"job.create",
    c"job.validate",
    c"job.new",
    c"job.destroy",
    c"job.state.depend",
    c"job.state.priority",
    c"job.state.sched",
    c"job.state.run",
    c"job.state.cleanup",
    c"job.state.inactive",
    c"job.priority.get",
    c"job.update",
    c"job.inactive-add",
    c"job.inactive-remove",
    c"conf.update",
    c"plugin.query",
];

thread_local! {
    static HOST: RefCell<Option<Rc<Host>>> = const { RefCell::new(None) };
}

/// What plugins call works on this; there is none before the first of them.
pub(crate) fn current() -> Option<Rc<Host>> {
    HOST.with_borrow(Clone::clone)
}

struct Loaded {
    name: String,
    plugin: Plugin,
}

/// A value a plugin keeps with a job.
struct Kept {
    plugin: Plugin,
    id: JobId,
    name: Option<String>,
    aux: Aux,
}

struct Service {
    plugin: Plugin,
    handler: Handler,
}

pub(crate) struct Host {
    pub(crate) flux: Flux,
    pub(crate) handle: Connection,
    link: RefCell<Link>,
    plugins: RefCell<Vec<Loaded>>,
    /// The jobs of the callbacks under way, the innermost last.
    jobs: RefCell<Vec<Option<JobId>>>,
    aux: RefCell<Vec<Kept>>,
    services: RefCell<HashMap<String, Service>>,
    /// In which order the plugin being loaded wants to be told of jobs.
    order: RefCell<Option<String>>,
    /// Whether orders are being worked off.
    busy: Cell<bool>,
}

/// Serves the job manager until it closes its end.
pub(crate) fn run() -> Result<(), String> {
    let mut link = Link::open().map_err(|error| format!("standard input: {error}"))?;
    let (flux, handle, first) = loop {
        // The library comes with the first plugin that can be loaded.
        let first = link.receive();
        let found = match &first {
            Order::Load { path, .. } => Flux::find(path).and_then(|flux| {
                let handle = flux.connect(Some(c"job-manager"))?;
                Ok((flux, handle))
            }),
            _ => Err("no plugin is loaded".to_owned()),
        };
        match found {
            Ok((flux, handle)) => break (flux, handle, first),
            Err(text) => link.send(&Report::Loaded {
                error: Some(text),
                topics: Vec::new(),
                order: None,
            }),
        }
    };
    interface::offer(&flux)?;
    flux.watch(handle, &link.descriptors(), on_ready)?;
    let host = Rc::new(Host {
        flux,
        handle,
        link: RefCell::new(link),
        plugins: RefCell::default(),
        jobs: RefCell::default(),
        aux: RefCell::default(),
        services: RefCell::default(),
        order: RefCell::default(),
        busy: Cell::new(false),
    });
    HOST.set(Some(host.clone()));
    host.obey(first);
    host.link.borrow_mut().wake();
    host.flux.run(host.handle)
}

/// Orders have come, or are to be looked at again.
extern "C" fn on_ready(_: Opaque, _: Opaque, _: c_int, _: Opaque) {
    let Some(host) = current() else { return };
    if host.readable() {
        host.link.borrow_mut().fill();
    }
    host.work_off();
}

impl Host {
    /// Whether the job manager has sent something, and not only ourselves.
    fn readable(&self) -> bool {
        let mut link = self.link.borrow_mut();
        link.woken();
        let mut poll = libc::pollfd {
            fd: link.descriptors()[0],
            events: libc::POLLIN,
            revents: 0,
        };
        call!(libc::poll, &mut poll, 1, 0) > 0
    }

    fn work_off(&self) {
        self.busy.set(true);
        loop {
            let next = {
                let mut link = self.link.borrow_mut();
                link.next().or_else(|| link.deferred.pop_front())
            };
            match next {
                Some(order) => self.obey(order),
                None => break,
            }
        }
        self.busy.set(false);
    }

    fn obey(&self, order: Order) {
        let report = match order {
            Order::Load { name, path, conf } => self.load(name, &path, conf.as_ref()),
            Order::Remove { name } => {
                self.remove(&name);
                self.loaded(None)
            }
            Order::Call {
                id,
                topic,
                plugin,
                args,
            } => self.on_call(id, &topic, plugin.as_deref(), &args),
            Order::Message { service, data } => return self.on_message(&service, &data),
            Order::Answer {
                number,
                value,
                errnum,
            } => {
                let mut link = self.link.borrow_mut();
                return link.keep_answer(number, value, errnum);
            }
        };
        self.link.borrow_mut().send(&report);
    }

    fn load(&self, name: String, path: &str, conf: Option<&Map<String, Value>>) -> Report {
        self.order.take();
        let plugin = match self.flux.plugin(conf) {
            Ok(plugin) => plugin,
            Err(text) => return self.loaded(Some(text)),
        };
        // What it does while it is loaded is done by this name.
        let loaded = Loaded {
            name: name.clone(),
            plugin,
        };
        self.plugins.borrow_mut().push(loaded);
        match self.flux.load(plugin, path) {
            Ok(()) => self.loaded(None),
            Err(text) => {
                self.remove(&name);
                self.loaded(Some(text))
            }
        }
    }

    fn remove(&self, name: &str) {
        let mut plugins = self.plugins.borrow_mut();
        let Some(at) = plugins.iter().position(|loaded| loaded.name == name) else {
            return;
        };
        let plugin = plugins.remove(at).plugin;
        drop(plugins);
        self.services
            .borrow_mut()
            .retain(|_, service| service.plugin != plugin);
        self.drop_aux(|aux| aux.plugin == plugin);
        self.flux.destroy(plugin);
    }

    fn loaded(&self, error: Option<String>) -> Report {
        let plugins = self.plugins.borrow();
        let wanted = |topic: &&&CStr| {
            plugins
                .iter()
                .any(|loaded| self.flux.handles(loaded.plugin, topic))
        };
        let topics = TOPICS.iter().filter(wanted);
        Report::Loaded {
            error,
            topics: topics
                .map(|topic| topic.to_string_lossy().into_owned())
                .collect(),
            order: self.order.take(),
        }
    }

    /// The plugins, or the one of this name, in the order they were loaded.
    fn chosen(&self, name: Option<&str>) -> Vec<Plugin> {
        let plugins = self.plugins.borrow();
        let chosen = plugins
            .iter()
            .filter(|loaded| name.is_none_or(|name| loaded.name == name));
        chosen.map(|loaded| loaded.plugin).collect()
    }

    fn on_call(
        &self,
        id: Option<JobId>,
        topic: &str,
        plugin: Option<&str>,
        args: &Map<String, Value>,
    ) -> Report {
        let (handled, failed, out) = match (CString::new(topic), self.flux.args(args)) {
            (Ok(topic), Some(args)) => {
                let (handled, failed) = self.call_plugins(id, &topic, plugin, args);
                let out = self.flux.out(args);
                self.flux.destroy_args(args);
                (handled, failed, out)
            }
            _ => (false, true, Map::new()),
        };
        if topic == "job.destroy"
            && let Some(id) = id
        {
            self.drop_aux(|aux| aux.id == id);
        }
        Report::Called {
            handled,
            failed,
            out,
        }
    }

    /// Calls plugins until one fails. Whether there was one, and whether one failed.
    pub(crate) fn call_plugins(
        &self,
        id: Option<JobId>,
        topic: &CStr,
        plugin: Option<&str>,
        args: Args,
    ) -> (bool, bool) {
        self.jobs.borrow_mut().push(id);
        let (mut handled, mut failed) = (false, false);
        for plugin in self.chosen(plugin) {
            if !self.flux.handles(plugin, topic) {
                continue;
            }
            handled = true;
            failed = !self.flux.call(plugin, topic, args);
            if failed {
                break;
            }
        }
        self.jobs.borrow_mut().pop();
        (handled, failed)
    }

    fn on_message(&self, service: &str, data: &str) {
        let services = self.services.borrow();
        let Some(found) = services.get(service) else {
            // Its plugin was removed meanwhile; the job manager does not know yet.
            return;
        };
        let handler = found.handler;
        drop(services);
        let delivered = STANDARD
            .decode(data)
            .map_err(|error| error.to_string())
            .and_then(|frame| self.flux.deliver(self.handle, &frame, handler));
        if let Err(text) = delivered {
            types::complain!("flux-jobtap-host: {service}: {text}");
        }
    }

    /// Asks the job manager. Errors: its error number.
    pub(crate) fn ask(&self, ask: Ask) -> Result<Value, Errno> {
        let number = {
            let mut link = self.link.borrow_mut();
            let number = link.number();
            link.send(&Report::Ask { number, ask });
            number
        };
        let (value, errnum) = loop {
            let order = {
                let mut link = self.link.borrow_mut();
                if let Some(answer) = link.take_answer(number) {
                    break answer;
                }
                link.receive()
            };
            match order {
                // A handler must not run in the middle of something else its plugin does.
                Order::Message { .. } => self.link.borrow_mut().deferred.push_back(order),
                order => self.obey(order),
            }
        };
        let mut link = self.link.borrow_mut();
        if !self.busy.get() && link.has_more() {
            link.wake();
        }
        match errnum {
            0 => Ok(value),
            errnum => Err(Errno(errnum)),
        }
    }

    /// The job of the callback under way.
    pub(crate) fn job(&self) -> Option<JobId> {
        self.jobs.borrow().last().copied().flatten()
    }

    /// A plugin that was loaded here, with what the job manager calls it.
    pub(crate) fn find(&self, pointer: Opaque) -> Option<(Plugin, String)> {
        let plugins = self.plugins.borrow();
        let found = plugins
            .iter()
            .find(|loaded| loaded.plugin.pointer() == pointer)?;
        Some((found.plugin, found.name.clone()))
    }

    pub(crate) fn set_order(&self, order: Option<&str>) {
        self.order.replace(order.map(str::to_owned));
    }

    pub(crate) fn add_service(&self, plugin: Plugin, service: String, handler: Handler) {
        let of_plugin = Service { plugin, handler };
        self.services.borrow_mut().insert(service, of_plugin);
    }

    // What plugins keep with jobs.

    pub(crate) fn has_aux(&self, id: JobId) -> bool {
        self.aux.borrow().iter().any(|aux| aux.id == id)
    }

    /// Keeps a value, in place of one of the same name.
    pub(crate) fn set_aux(
        &self,
        plugin: Plugin,
        id: JobId,
        name: Option<String>,
        value: Opaque,
        free: Option<FreeFn>,
    ) {
        if let Some(name) = &name {
            self.drop_aux(|aux| {
                aux.plugin == plugin && aux.id == id && aux.name.as_ref() == Some(name)
            });
        }
        if !value.is_null() {
            self.aux.borrow_mut().push(Kept {
                plugin,
                id,
                name,
                aux: Aux { value, free },
            });
        }
    }

    pub(crate) fn aux(&self, plugin: Plugin, id: JobId, name: &str) -> Opaque {
        let aux = self.aux.borrow();
        let found = aux
            .iter()
            .find(|aux| aux.plugin == plugin && aux.id == id && aux.name.as_deref() == Some(name));
        found.map_or(ptr::null_mut(), |kept| kept.aux.value)
    }

    pub(crate) fn delete_aux(&self, plugin: Plugin, id: JobId, value: Opaque) {
        self.drop_aux(|aux| aux.plugin == plugin && aux.id == id && aux.aux.value == value);
    }

    /// Drops values. What frees them is a plugin's, and may use this again.
    fn drop_aux(&self, gone: impl Fn(&Kept) -> bool) {
        let mut kept = Vec::new();
        let mut dropped = Vec::new();
        for aux in self.aux.take() {
            match gone(&aux) {
                true => dropped.push(aux),
                false => kept.push(aux),
            }
        }
        self.aux.replace(kept);
        drop(dropped);
    }
}
