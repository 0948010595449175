//! Builds the C side of the interface: Rust cannot define functions with variable arguments.

fn main() {
    println!("cargo::rerun-if-changed=src/interface.c");
    cc::Build::new()
        .file("src/interface.c")
        .std("c11")
        .define("_GNU_SOURCE", None)
        .compile("jobtap_interface");
}
