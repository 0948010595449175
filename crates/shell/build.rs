//! Builds the C side of what plugins see: Rust cannot define functions with variable arguments.

fn main() {
    const FILE: &str = "src/rc/native/interface.c";
    println!("cargo::rerun-if-changed={FILE}");
    cc::Build::new()
        .file(FILE)
        .std("c11")
        .define("_GNU_SOURCE", None)
        .compile("shell_interface");
}
