//! The shared library's own name, so that programs find the version that they were linked with.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcondensed_rope.so.0");
}
