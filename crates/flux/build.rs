//! Lets libraries that are loaded at run time find what they expect of the program.

fn main() {
    // Libraries in C that scripts of the job shell load call the interpreter, plugins of the job
    // manager what is offered to them.
    for pattern in ["lua_*", "luaL_*", "luaopen_*", "flux_jobtap_*"] {
        println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol={pattern}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
