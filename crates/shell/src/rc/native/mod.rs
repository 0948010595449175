//! Plugins in C (flux-shell-plugins(7)).
//!
//! They run in the shell itself, which is the job's own process: what they do to it they do to
//! their job. They are linked to `libflux-core.so`, which comes with them. What they call of the
//! shell is in `interface.c`, which makes text of variable arguments, and behind it in `table`,
//! `tasks` and `messages`. A plugin that ends the job leaves its own functions for good, by a jump
//! over nothing but C.
//!
//! A plugin that wants a `flux_t` gets a connection of its own, whose reactor is looked at every
//! [`PERIOD`]; jobs without such a plugin do not pay for it.

mod messages;
mod table;
mod tasks;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_char, c_int};
use std::ptr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use foreign::answer::Aux;
use foreign::flux::{Args, CallFn, Connection, Flux, Handler, Plugin};
use foreign::{Opaque, call, function};
use serde_json::{Map, Value};

use super::Registry;
use super::state::State;
use crate::shell::Shell;

/// How often plugins' timers and messages are looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// Libraries beside the client library that plugins take for granted, since the reference's shell has them.
const OTHERS: [&str; 4] = [
    "libflux-idset.so.1",
    "libflux-hostlist.so.1",
    "libflux-taskmap.so.1",
    "libflux-optparse.so.1",
];

/// `FLUX_REACTOR_NOWAIT`.
const NOWAIT: c_int = 1;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Native>>> = const { RefCell::new(None) };
}

#[expect(unsafe_code, reason = "defined in interface.c")]
mod c {
    use super::{CallFn, Opaque, c_char, c_int};

    unsafe extern "C" {
        pub(super) fn ferroflux_shell_call(
            call: CallFn,
            plugin: Opaque,
            text: *const c_char,
            args: Opaque,
        ) -> c_int;
        pub(super) fn ferroflux_shell_run(
            run: unsafe extern "C" fn(Opaque, c_int) -> c_int,
            reactor: Opaque,
            flags: c_int,
        ) -> c_int;
    }
}

/// What all plugins in C have in common.
pub(super) struct Native {
    flux: Flux,
    state: Rc<State>,
    plugins: Registry,
    shell: RefCell<Weak<Shell>>,
    /// `flux_t`, once a plugin wanted one.
    handle: Cell<Option<Connection>>,
    aux: RefCell<BTreeMap<String, Aux>>,
    /// Strings given out, which live as long as the shell.
    strings: RefCell<BTreeSet<CString>>,
    services: RefCell<BTreeMap<String, Handler>>,
    /// What keeps the shell from ending, and how often.
    references: RefCell<BTreeMap<String, u32>>,
    /// The task after which the next one comes.
    task_at: Cell<usize>,
    taskmap: Cell<Opaque>,
    hostlist: Cell<Opaque>,
    /// The command of the task the topic is about, once a plugin wanted it.
    command: Cell<Opaque>,
    /// Variables plugins have set in it.
    command_names: RefCell<BTreeSet<String>>,
}

fn string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?}: NUL in text"))
}

/// The plugins in C of this shell.
fn current() -> Option<Rc<Native>> {
    CURRENT.with_borrow(Clone::clone)
}

/// A loaded plugin.
pub(super) struct Loaded {
    native: Rc<Native>,
    plugin: Plugin,
}

/// Loads a plugin. Errors name the file.
pub(super) fn load(
    state: &Rc<State>,
    plugins: &Registry,
    path: &str,
    conf: Option<&Value>,
) -> Result<(), String> {
    let native = match current() {
        Some(native) => native,
        None => {
            let native = Rc::new(Native::new(state, plugins, path)?);
            CURRENT.set(Some(native.clone()));
            table::offer(&native.flux)?;
            native
        }
    };
    let plugin = native.load(path, conf)?;
    let name = native.flux.plugin_name(plugin);
    let name = match name.is_empty() {
        true => path.rsplit('/').next().unwrap_or(path).to_owned(),
        false => name,
    };
    let handlers = super::Handlers::Native(Loaded { native, plugin });
    super::add(plugins, super::Plugin { name, handlers });
    Ok(())
}

/// Tells plugins in C of the shell once it is there, and lets their connection live.
pub(crate) fn attach(shell: &Rc<Shell>) {
    let Some(native) = current() else { return };
    *native.shell.borrow_mut() = Rc::downgrade(shell);
    let shell = Rc::downgrade(shell);
    tokio::task::spawn_local(async move {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(shell) = shell.upgrade() else { return };
            let lingered = native.lingers();
            native.run_reactor();
            if let Some(fatal) = native.state.fatal.take() {
                shell.die(fatal);
            }
            if lingered && !native.lingers() {
                shell.wake.notify_one();
            }
        }
    });
}

/// Whether plugins in C keep the shell from ending.
pub(crate) fn lingers() -> bool {
    current().is_some_and(|native| native.lingers())
}

/// Gives a request to the plugin that registered its method. Whether there is one.
pub(crate) fn deliver(message: &wire::Message) -> bool {
    let method = message.topic.as_ref().map_or("", |topic| topic.method());
    let Some(native) = current() else {
        return false;
    };
    let found = native.services.borrow().get(method).copied();
    let Some(handler) = found else {
        return false;
    };
    if let Err(text) = native.deliver(message, handler) {
        native.state.log.error(format!("{method}: {text}"));
    }
    true
}

/// Unloads all plugins in C, so that what they free is freed.
pub(crate) fn unload() {
    let Some(native) = CURRENT.take() else { return };
    // What they free may log, or ask for the shell once more.
    CURRENT.set(Some(native.clone()));
    let plugins = native.plugins.take();
    for plugin in plugins {
        if let super::Handlers::Native(loaded) = &plugin.handlers {
            native.flux.destroy(loaded.plugin);
        }
    }
    native.aux.take();
    CURRENT.set(None);
}

impl Loaded {
    /// Whether it is there for a topic.
    pub(super) fn wants(&self, topic: &str) -> bool {
        string(topic).is_ok_and(|topic| self.native.flux.handles(self.plugin, &topic))
    }

    /// Calls it. Returns whether it is content, and what it put out.
    pub(super) fn call(
        &self,
        topic: &str,
        given: &Map<String, Value>,
    ) -> Result<(bool, Map<String, Value>), String> {
        let flux = &self.native.flux;
        let args = flux.args(given).ok_or("out of memory")?;
        let good = self.call_with(topic, args);
        let out = flux.out(args);
        flux.destroy_args(args);
        Ok((good?, out))
    }

    /// Calls it with arguments of the library. Returns whether it is content.
    pub(super) fn call_with(&self, topic: &str, args: Args) -> Result<bool, String> {
        let function = self.native.flux.call_function();
        let topic = string(topic)?;
        let rc = call!(
            c::ferroflux_shell_call,
            function,
            self.plugin.pointer(),
            topic.as_ptr(),
            args.pointer()
        );
        Ok(rc >= 0)
    }
}

/// `flux_plugin_load_dso`, in the form of a call of a plugin.
extern "C" fn load_file(plugin: Opaque, path: *const c_char, load: Opaque) -> c_int {
    // SAFETY: it is the address of that function, see `Native::load`.
    #[expect(unsafe_code, reason = "functions found by name have no type")]
    let load = unsafe {
        std::mem::transmute::<Opaque, unsafe extern "C" fn(Opaque, *const c_char) -> c_int>(load)
    };
    call!(load, plugin, path)
}

impl Native {
    fn new(state: &Rc<State>, plugins: &Registry, path: &str) -> Result<Native, String> {
        let flux = Flux::find(path).map_err(|text| format!("plugin.load: {text}"))?;
        flux.open_beside(&OTHERS);
        Ok(Native {
            flux,
            state: state.clone(),
            plugins: plugins.clone(),
            shell: RefCell::default(),
            handle: Cell::new(None),
            aux: RefCell::default(),
            strings: RefCell::default(),
            services: RefCell::default(),
            references: RefCell::default(),
            task_at: Cell::new(0),
            taskmap: Cell::new(ptr::null_mut()),
            hostlist: Cell::new(ptr::null_mut()),
            command: Cell::new(ptr::null_mut()),
            command_names: RefCell::default(),
        })
    }

    fn load(&self, path: &str, conf: Option<&Value>) -> Result<Plugin, String> {
        let failed = |text: String| format!("plugin.load: {path}: {text}");
        // What is a table in Lua may be an empty list here.
        let conf = conf.map(|conf| conf.as_object().cloned().unwrap_or_default());
        let plugin = self.flux.plugin(conf.as_ref()).map_err(failed)?;
        let file = string(path)?;
        let load = self.flux.symbol(c"flux_plugin_load_dso")?;
        let rc = call!(
            c::ferroflux_shell_call,
            load_file,
            plugin.pointer(),
            file.as_ptr(),
            load
        );
        match rc {
            ..0 => Err(failed(self.flux.plugin_error(plugin))),
            _ => Ok(plugin),
        }
    }

    /// The plugins' own connection. Errors: the library's text.
    fn connect(&self) -> Result<Connection, String> {
        if let Some(known) = self.handle.get() {
            return Ok(known);
        }
        let handle = self.flux.connect(None)?;
        self.handle.set(Some(handle));
        Ok(handle)
    }

    fn run_reactor(&self) {
        let Some(handle) = self.handle.get() else {
            return;
        };
        let run = function!(self.flux, c"flux_reactor_run", fn(Opaque, c_int) -> c_int);
        if let (Ok(reactor), Ok(run)) = (self.flux.reactor(handle), run) {
            // A watcher that failed has logged why.
            call!(c::ferroflux_shell_run, run, reactor, NOWAIT);
        }
    }

    fn deliver(&self, message: &wire::Message, handler: Handler) -> Result<(), String> {
        /// The length of what precedes a message in the framing of the local connector.
        const HEADER: usize = 8;
        let mut frame = bytes::BytesMut::new();
        wire::encode_stream(message, &mut frame);
        self.flux
            .deliver(self.connect()?, &frame[HEADER..], handler)
    }

    fn lingers(&self) -> bool {
        !self.references.borrow().is_empty()
    }

    /// A string that lives as long as the shell.
    fn keep(&self, text: &str) -> *const c_char {
        let Ok(text) = CString::new(text) else {
            return ptr::null();
        };
        let mut strings = self.strings.borrow_mut();
        if !strings.contains(&text) {
            strings.insert(text.clone());
        }
        // The bytes of a string do not move with it.
        strings.get(&text).map_or(ptr::null(), |text| text.as_ptr())
    }
}

/// Takes over what plugins have changed in the command of the task a topic is about.
pub(super) fn take_command() {
    if let Some(native) = current() {
        tasks::take_command(&native);
    }
}
