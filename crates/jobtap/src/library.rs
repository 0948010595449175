//! The functions of the client library that are used here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use foreign::{ErrorText, Library, Opaque, call, function};
use serde_json::{Map, Value};

/// The library plugins are linked to.
const NAME: &str = "libflux-core.so.2";

/// Which arguments of a callback (`FLUX_PLUGIN_ARG_*`).
pub(crate) const ARG_IN: c_int = 0;
pub(crate) const ARG_OUT: c_int = 1;

/// `FLUX_PLUGIN_RTLD_NOW`: what a plugin misses is said when it is loaded.
const LOAD_NOW: c_int = 2;

/// `FLUX_POLLIN`.
const POLLIN: c_int = 1;

pub(crate) type WatcherFn = extern "C" fn(Opaque, Opaque, c_int, Opaque);
pub(crate) type HandlerFn = unsafe extern "C" fn(Opaque, Opaque, *const c_void, Opaque);
pub(crate) type FreeFn = unsafe extern "C" fn(Opaque);
type Get = unsafe extern "C" fn(Opaque) -> *const c_char;

/// The library, with what is called often.
pub(crate) struct Flux {
    library: Library,
    plugin_call: unsafe extern "C" fn(Opaque, *const c_char, Opaque) -> c_int,
    match_handler: unsafe extern "C" fn(Opaque, *const c_char) -> Opaque,
    arg_create: unsafe extern "C" fn() -> Opaque,
    arg_destroy: unsafe extern "C" fn(Opaque),
    arg_set: unsafe extern "C" fn(Opaque, c_int, *const c_char) -> c_int,
    arg_get: unsafe extern "C" fn(Opaque, c_int, *mut *mut c_char) -> c_int,
}

fn string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?}: NUL in text"))
}

impl Flux {
    /// Finds the library: the system's, or that which a plugin brings along.
    pub(crate) fn find(plugin: &str) -> Result<Flux, String> {
        let library = Library::open(NAME).or_else(|_| {
            // Its functions are there whether or not the plugin turns out to be one.
            Library::open_with(plugin, libc::RTLD_LAZY | libc::RTLD_GLOBAL)
        })?;
        Ok(Flux {
            plugin_call: function!(
                library,
                c"flux_plugin_call",
                fn(Opaque, *const c_char, Opaque) -> c_int
            )?,
            match_handler: function!(
                library,
                c"flux_plugin_match_handler",
                fn(Opaque, *const c_char) -> Opaque
            )?,
            arg_create: function!(library, c"flux_plugin_arg_create", fn() -> Opaque)?,
            arg_destroy: function!(library, c"flux_plugin_arg_destroy", fn(Opaque) -> ())?,
            arg_set: function!(
                library,
                c"flux_plugin_arg_set",
                fn(Opaque, c_int, *const c_char) -> c_int
            )?,
            arg_get: function!(
                library,
                c"flux_plugin_arg_get",
                fn(Opaque, c_int, *mut *mut c_char) -> c_int
            )?,
            library,
        })
    }

    /// The address of one of its functions.
    pub(crate) fn symbol(&self, name: &CStr) -> Result<Opaque, String> {
        self.library.symbol(name)
    }

    /// Connects to the instance of the environment, to log as the job manager.
    pub(crate) fn connect(&self) -> Result<Opaque, String> {
        let open = function!(
            self,
            c"flux_open_ex",
            fn(*const c_char, c_int, *mut ErrorText) -> Opaque
        )?;
        let mut error = ErrorText::new();
        let handle = call!(open, ptr::null(), 0, &mut error);
        if handle.is_null() {
            return Err(format!("flux_open: {}", error.text()));
        }
        let name = function!(
            self,
            c"flux_log_set_appname",
            fn(Opaque, *const c_char) -> ()
        )?;
        call!(name, handle, c"job-manager".as_ptr());
        Ok(handle)
    }

    /// Calls a function whenever one of these is readable.
    pub(crate) fn watch(
        &self,
        handle: Opaque,
        descriptors: &[c_int],
        on_ready: WatcherFn,
    ) -> Result<(), String> {
        let reactor = self.reactor(handle)?;
        let create = function!(
            self,
            c"flux_fd_watcher_create",
            fn(Opaque, c_int, c_int, WatcherFn, Opaque) -> Opaque
        )?;
        let start = function!(self, c"flux_watcher_start", fn(Opaque) -> ())?;
        for fd in descriptors {
            let watcher = call!(create, reactor, *fd, POLLIN, on_ready, ptr::null_mut());
            if watcher.is_null() {
                return Err("cannot watch for orders".to_owned());
            }
            call!(start, watcher);
        }
        Ok(())
    }

    fn reactor(&self, handle: Opaque) -> Result<Opaque, String> {
        let get = function!(self, c"flux_get_reactor", fn(Opaque) -> Opaque)?;
        Ok(call!(get, handle))
    }

    /// Runs the main loop.
    pub(crate) fn run(&self, handle: Opaque) -> Result<(), String> {
        let run = function!(self, c"flux_reactor_run", fn(Opaque, c_int) -> c_int)?;
        match call!(run, self.reactor(handle)?, 0) {
            ..0 => Err("the reactor failed".to_owned()),
            _ => Ok(()),
        }
    }

    /// A plugin that is to be loaded from a file.
    pub(crate) fn plugin(&self, conf: Option<&Map<String, Value>>) -> Result<Opaque, String> {
        let create = function!(self, c"flux_plugin_create", fn() -> Opaque)?;
        let plugin = call!(create);
        if plugin.is_null() {
            return Err("out of memory".to_owned());
        }
        if let Some(conf) = conf {
            let set = function!(
                self,
                c"flux_plugin_set_conf",
                fn(Opaque, *const c_char) -> c_int
            )?;
            let conf = string(&Value::Object(conf.clone()).to_string())?;
            if call!(set, plugin, conf.as_ptr()) < 0 {
                return Err(self.plugin_error(plugin));
            }
        }
        Ok(plugin)
    }

    /// Loads it. Errors: the library's text.
    pub(crate) fn load(&self, plugin: Opaque, path: &str) -> Result<(), String> {
        let load = function!(
            self,
            c"flux_plugin_load_dso",
            fn(Opaque, *const c_char) -> c_int
        )?;
        let set = function!(self, c"flux_plugin_set_flags", fn(Opaque, c_int) -> c_int)?;
        call!(set, plugin, LOAD_NOW);
        let path = string(path)?;
        match call!(load, plugin, path.as_ptr()) {
            ..0 => Err(self.plugin_error(plugin)),
            _ => Ok(()),
        }
    }

    fn text_of(&self, name: &CStr, plugin: Opaque) -> String {
        let Ok(address) = self.symbol(name) else {
            return String::new();
        };
        // SAFETY: functions named here take a plugin and answer a string.
        #[expect(unsafe_code, reason = "functions found by name have no type")]
        let get = unsafe { std::mem::transmute::<Opaque, Get>(address) };
        call!(foreign::text, call!(get, plugin))
    }

    fn plugin_error(&self, plugin: Opaque) -> String {
        self.text_of(c"flux_plugin_strerror", plugin)
    }

    /// The name a plugin gave itself; empty if none.
    pub(crate) fn plugin_name(&self, plugin: Opaque) -> String {
        self.text_of(c"flux_plugin_get_name", plugin)
    }

    /// Unloads a plugin.
    pub(crate) fn destroy(&self, plugin: Opaque) {
        if let Ok(destroy) = function!(self, c"flux_plugin_destroy", fn(Opaque) -> ()) {
            call!(destroy, plugin);
        }
    }

    /// Whether a plugin is there for a topic.
    pub(crate) fn handles(&self, plugin: Opaque, topic: &CStr) -> bool {
        let handler = call!((self.match_handler), plugin, topic.as_ptr());
        !handler.is_null()
    }

    /// Calls a plugin. Whether it succeeded.
    pub(crate) fn call(&self, plugin: Opaque, topic: &CStr, args: Opaque) -> bool {
        call!((self.plugin_call), plugin, topic.as_ptr(), args) >= 0
    }

    /// Arguments of a callback.
    pub(crate) fn args(&self, args: &Map<String, Value>) -> Option<Opaque> {
        let pointer = call!((self.arg_create));
        if pointer.is_null() {
            return None;
        }
        self.set_args(pointer, ARG_IN, args).then_some(pointer)
    }

    /// Adds to arguments.
    pub(crate) fn set_args(&self, args: Opaque, which: c_int, add: &Map<String, Value>) -> bool {
        let json = serde_json::to_string(add).unwrap_or_default();
        let Ok(json) = CString::new(json) else {
            return false;
        };
        call!((self.arg_set), args, which, json.as_ptr()) >= 0
    }

    /// What plugins put out.
    pub(crate) fn out(&self, args: Opaque) -> Map<String, Value> {
        let mut json: *mut c_char = ptr::null_mut();
        if call!((self.arg_get), args, ARG_OUT, &mut json) < 0 || json.is_null() {
            return Map::new();
        }
        let text = call!(foreign::text, json);
        call!(libc::free, json.cast());
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) fn destroy_args(&self, args: Opaque) {
        call!((self.arg_destroy), args);
    }

    /// Gives a message to who registered a service.
    pub(crate) fn deliver(
        &self,
        handle: Opaque,
        frame: &[u8],
        handler: HandlerFn,
        arg: Opaque,
    ) -> Result<(), String> {
        let decode = function!(self, c"flux_msg_decode", fn(*const c_void, usize) -> Opaque)?;
        let release = function!(self, c"flux_msg_decref", fn(*const c_void) -> ())?;
        let message = call!(decode, frame.as_ptr().cast(), frame.len());
        if message.is_null() {
            return Err("a request cannot be decoded".to_owned());
        }
        call!(handler, handle, ptr::null_mut(), message.cast_const(), arg);
        call!(release, message.cast_const());
        Ok(())
    }
}
