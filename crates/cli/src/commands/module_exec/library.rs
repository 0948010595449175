//! The C interface of module files and of the client library they are linked to.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use foreign::{ErrorText, Library, Opaque, call, function};
use nix::sys::signal::{SigHandler, Signal};
use types::Errno;

/// Lets faults of the module's code end the process at once, as in any program in C.
///
/// Our own runtime would look for overrun stacks first, and take a raised signal for handled.
pub(super) fn default_fault_signals() -> Result<(), Errno> {
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default action runs no code of ours.
        #[expect(unsafe_code, reason = "signal disposition")]
        let set = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
        set.map_err(|errno| Errno(errno as i32))?;
    }
    Ok(())
}

/// A module file, loaded for good.
pub(super) struct Module(Library);

impl Module {
    /// Loads a file with everything it needs.
    pub(super) fn open(path: &str) -> Result<Module, String> {
        Library::open(path).map(Module)
    }

    fn symbol(&self, name: &CStr) -> Result<Opaque, String> {
        self.0.symbol(name)
    }

    /// The name an old module insists on.
    pub(super) fn declared_name(&self) -> Option<String> {
        let address = self.symbol(c"mod_name").ok()?.cast::<*const c_char>();
        // SAFETY: a module that defines `mod_name` defines it as a pointer to a string.
        #[expect(unsafe_code, reason = "foreign variable")]
        let name = unsafe { CStr::from_ptr(*address) };
        Some(name.to_string_lossy().into_owned())
    }

    /// Runs the module until it returns. Errors: what it left in `errno`.
    pub(super) fn main(&self, handle: &Handle<'_>, arguments: &[String]) -> Result<(), Errno> {
        let main = function!(
            self,
            c"mod_main",
            fn(Opaque, c_int, *mut *mut c_char) -> c_int
        );
        let main = main.map_err(|_| {
            crate::err!("module does not define mod_main()");
            Errno::EINVAL
        })?;
        let words: Result<Vec<CString>, _> = arguments
            .iter()
            .map(|word| CString::new(word.as_str()))
            .collect();
        let words = words.map_err(|_| Errno::EINVAL)?;
        let mut pointers: Vec<*mut c_char> =
            words.iter().map(|word| word.as_ptr().cast_mut()).collect();
        let count = pointers.len() as c_int;
        pointers.push(ptr::null_mut());
        if call!(main, handle.handle, count, pointers.as_mut_ptr()) < 0 {
            let errno = std::io::Error::last_os_error().raw_os_error();
            return Err(Errno(
                errno
                    .filter(|&errno| errno != 0)
                    .unwrap_or(Errno::ECONNRESET.0),
            ));
        }
        Ok(())
    }
}

/// A connection of the client library. It is closed with the process, after the module's own
/// clean-up.
pub(super) struct Handle<'a> {
    handle: Opaque,
    module: &'a Module,
}

impl Handle<'_> {
    /// Connects to this URI, or to the instance of the environment.
    pub(super) fn open<'a>(module: &'a Module, uri: Option<&str>) -> Result<Handle<'a>, String> {
        let open = function!(
            module,
            c"flux_open_ex",
            fn(*const c_char, c_int, *mut ErrorText) -> Opaque
        )?;
        let mut error = ErrorText::new();
        let text = uri
            .map(CString::new)
            .transpose()
            .map_err(|_| "NUL in URI".to_owned())?;
        let address = text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        let handle = call!(open, address, 0, &mut error);
        if handle.is_null() {
            return Err(format!(
                "flux_open {}: {}",
                uri.unwrap_or_default(),
                error.text()
            ));
        }
        Ok(Handle { handle, module })
    }

    /// Takes the broker's welcome. Returns the module's arguments.
    pub(super) fn welcome(&self) -> Result<Vec<String>, String> {
        let initialize = function!(
            self.module,
            c"flux_module_initialize",
            fn(Opaque, *mut *mut c_char, *mut ErrorText) -> c_int
        )?;
        let mut error = ErrorText::new();
        let mut text: *mut c_char = ptr::null_mut();
        if call!(initialize, self.handle, &mut text, &mut error) < 0 {
            return Err(error.text());
        }
        if text.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: the library answers a string that is the caller's to free.
        #[expect(unsafe_code, reason = "foreign string")]
        let words = unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned();
        call!(libc::free, text.cast());
        Ok(words.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// The name the broker gave the module.
    pub(super) fn name(&self) -> String {
        let get = function!(
            self.module,
            c"flux_aux_get",
            fn(Opaque, *const c_char) -> *const c_char
        );
        let Ok(get) = get else {
            return String::new();
        };
        let name = call!(get, self.handle, c"flux::name".as_ptr());
        if name.is_null() {
            return String::new();
        }
        // SAFETY: the welcome left a string under this name.
        #[expect(unsafe_code, reason = "foreign string")]
        let name = unsafe { CStr::from_ptr(name) };
        name.to_string_lossy().into_owned()
    }

    /// Does without a broker's welcome what it would have done, and offers the module's service.
    pub(super) fn pretend(
        &self,
        name: &str,
        uuid: &str,
        attrs: &[(String, String)],
        config: &str,
    ) -> Result<(), String> {
        let string = |text: &str| CString::new(text).map_err(|_| format!("{text:?}: NUL in text"));
        let keep = function!(
            self.module,
            c"flux_aux_set",
            fn(Opaque, *const c_char, *const c_char, Opaque) -> c_int
        )?;
        let service = string(name)?;
        for (key, value) in [
            (c"flux::name", service.clone()),
            (c"flux::uuid", string(uuid)?),
        ] {
            // The library keeps the pointer for as long as the process lives.
            let kept = value.into_raw();
            if call!(keep, self.handle, key.as_ptr(), kept, ptr::null_mut()) < 0 {
                return Err(format!("{name}: cannot name the module"));
            }
        }
        let cache = function!(
            self.module,
            c"flux_attr_set_cacheonly",
            fn(Opaque, *const c_char, *const c_char) -> c_int
        )?;
        for (name, value) in attrs {
            let (attr, value) = (string(name)?, string(value)?);
            if call!(cache, self.handle, attr.as_ptr(), value.as_ptr()) < 0 {
                return Err(format!("{name}: cannot keep attribute"));
            }
        }
        self.keep_config(&string(config)?)?;
        let register = function!(
            self.module,
            c"flux_service_register",
            fn(Opaque, *const c_char) -> Opaque
        )?;
        let wait = function!(
            self.module,
            c"flux_future_get",
            fn(Opaque, *mut *const c_void) -> c_int
        )?;
        let registered = call!(register, self.handle, service.as_ptr());
        if registered.is_null() || call!(wait, registered, ptr::null_mut()) < 0 {
            let error = Errno::from_io(&std::io::Error::last_os_error());
            return Err(format!("could not register service {name}: {error}"));
        }
        Ok(())
    }

    fn keep_config(&self, json: &CStr) -> Result<(), String> {
        let parse = function!(
            self.module,
            c"json_loads",
            fn(*const c_char, usize, Opaque) -> Opaque
        )?;
        let set = function!(
            self.module,
            c"flux_set_conf_new",
            fn(Opaque, Opaque) -> c_int
        )?;
        // Variadic: `flux_conf_pack (const char *fmt, ...)`.
        let pack = self.module.symbol(c"flux_conf_pack")?;
        // SAFETY: the signature is that of the library's header.
        #[expect(unsafe_code, reason = "functions found by name have no type")]
        let pack = unsafe {
            std::mem::transmute::<Opaque, unsafe extern "C" fn(*const c_char, ...) -> Opaque>(pack)
        };
        let object = call!(parse, json.as_ptr(), 0, ptr::null_mut());
        let config = match object.is_null() {
            true => ptr::null_mut(),
            false => call!(pack, c"o".as_ptr(), object),
        };
        if config.is_null() || call!(set, self.handle, config) < 0 {
            return Err("cannot keep the configuration".into());
        }
        Ok(())
    }

    /// Runs a module's main function with what every module answers in place.
    pub(super) fn serve(&self, main: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let register = function!(
            self.module,
            c"flux_module_register_handlers",
            fn(Opaque, *mut ErrorText) -> c_int
        );
        let register = register.map_err(|text| {
            crate::err!("{text}");
            Errno::ENOSYS
        })?;
        let mut error = ErrorText::new();
        if call!(register, self.handle, &mut error) < 0 {
            crate::err!("{}", error.text());
            return Err(Errno::EINVAL);
        }
        main()
    }

    /// Tells the broker that the module has ended, and why.
    pub(super) fn finalize(&self, error: Option<Errno>) -> Result<(), String> {
        let finalize = function!(
            self.module,
            c"flux_module_finalize",
            fn(Opaque, c_int, *mut ErrorText) -> c_int
        )?;
        let mut text = ErrorText::new();
        let errnum = error.map_or(0, |errno| errno.0);
        if call!(finalize, self.handle, errnum, &mut text) < 0 {
            return Err(text.text());
        }
        Ok(())
    }
}
