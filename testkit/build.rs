//! Compiles the kernels' source for the host, where the `kernel-on-host` feature is on.

fn main() {
    #[cfg(feature = "kernel-on-host")]
    {
        println!("cargo:rerun-if-changed=../kernels");
        println!("cargo:rerun-if-changed=src/host.cpp");
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .file("src/host.cpp")
            .include("../kernels")
            // The sources say which operations are fused.
            .flag("-ffp-contract=off")
            .flag_if_supported("-Wno-unknown-pragmas")
            // Of heads that a thread does not have nothing is loaded, and nothing is stored: GCC sees the first alone.
            .flag_if_supported("-Wno-maybe-uninitialized")
            .opt_level(2)
            .warnings(true)
            .compile("kernels_on_host");
    }
}
