//! Lets libraries that are loaded at run time find what they expect of the program.

fn main() {
    // Libraries in C that scripts of the job shell load call the interpreter.
    for pattern in ["lua_*", "luaL_*", "luaopen_*"] {
        println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol={pattern}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
