//! Compiles `kernels/*.cu` with nvcc, where the `cuda` feature is on.

#[cfg(feature = "cuda")]
#[path = "build/fatbin.rs"]
mod fatbin;
#[cfg(feature = "bench")]
#[path = "build/peers.rs"]
mod peers;
#[cfg(feature = "cuda")]
#[path = "build/toolkit.rs"]
mod toolkit;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "bench")]
    if peers::is_job() {
        return;
    }
    #[cfg(feature = "cuda")]
    match kernels() {
        Ok(folder) => println!("cargo:rustc-env=CONDENSED_ROPE_KERNELS={}", folder.display()),
        Err(message) => {
            // The whole of it, without a panic's backtrace.
            println!("cargo:warning={}", message.lines().next().unwrap_or_default());
            eprintln!("{message}");
            std::process::exit(1);
        }
    }
}

/// The folder of the fat binaries.
#[cfg(feature = "cuda")]
fn kernels() -> Result<std::path::PathBuf, String> {
    for path in ["kernels", "build"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in
        ["NVCC", "PATH", "CUDA_HOME", "CUDA_PATH", "DOCS_RS", "NVCC_CCBIN", "FLASHINFER"]
    {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    if std::env::var_os("DOCS_RS").is_some() {
        // Documentation needs the names, not the code.
        for name in fatbin::KERNELS {
            let path = out.join(name).with_extension("fatbin");
            std::fs::write(&path, "").map_err(|error| format!("{}: {error}", path.display()))?;
        }
        return Ok(out);
    }
    let places = toolkit::PLACES;
    let nvcc = toolkit::Nvcc::find()?.ok_or_else(|| {
        format!(
            "the `cuda` feature needs nvcc, and none was found: looked at {places}. Set NVCC to its \
             path, run `cargo xtask demo` in the repository (it installs nvcc from PyPI), or build \
             with --no-default-features"
        )
    })?;
    // "V13.0.88", of its line "release 13.0, V13.0.88".
    let word = |word: &&str| word.starts_with('V') && word.contains('.');
    let build = nvcc.version.split_whitespace().find(word).unwrap_or_default();
    println!("cargo:rustc-env=CONDENSED_ROPE_NVCC={build}");
    let folder = fatbin::build(&nvcc, std::path::Path::new("kernels"), &out)?;
    #[cfg(feature = "bench")]
    peers::build(&nvcc, &folder)?;
    Ok(folder)
}
