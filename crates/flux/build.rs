//! Lets libraries that are loaded at run time find what they expect of the program.

fn main() {
    // Libraries in C that scripts of the job shell load call the interpreter, plugins what is
    // offered to them.
    for pattern in [
        "lua_*",
        "luaL_*",
        "luaopen_*",
        "flux_jobtap_*",
        "flux_shell_*",
        "flux_plugin_get_shell",
        "flux_cmd_setenvf",
    ] {
        println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol={pattern}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
