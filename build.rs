//! The kernels' machine code, where the `cuda` feature is on: what the package brings along, or what nvcc makes of
//! `kernels/*.cu`.

#[cfg(feature = "cuda")]
#[path = "build/compiled.rs"]
mod compiled;
#[cfg(feature = "cuda")]
#[path = "build/fatbin.rs"]
mod fatbin;
#[cfg(feature = "cuda")]
#[path = "build/kernels.rs"]
mod kernels;
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
    if let Err(message) = cuda::build() {
        // The whole of it, without a panic's backtrace.
        println!("cargo:warning={}", message.lines().next().unwrap_or_default());
        eprintln!("{message}");
        std::process::exit(1);
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};

    use crate::compiled::{Compiled, PREBUILT, fat_binary};
    use crate::toolkit::{self, Nvcc, variable};
    use crate::{fatbin, kernels};

    const SOURCES: &str = "kernels";

    /// Tells the crate which fat binaries it includes, and what it knows of them.
    pub fn build() -> Result<(), String> {
        for path in [SOURCES, "build", PREBUILT] {
            // cargo takes a path that is not there for one that has changed.
            if Path::new(path).exists() {
                println!("cargo:rerun-if-changed={path}");
            }
        }
        for variable in ["NVCC", "DOCS_RS"] {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        let (folder, compiled) = kernels()?;
        let Compiled { release: (major, minor), by, .. } = compiled;
        for (key, value) in [
            ("KERNELS", folder.display().to_string()),
            ("COMPILER", by),
            ("CUDA_MAJOR", major.to_string()),
            ("CUDA_MINOR", minor.to_string()),
        ] {
            println!("cargo:rustc-env=CONDENSED_ROPE_{key}={value}");
        }
        Ok(())
    }

    /// The folder of the fat binaries: `prebuilt/`, unless `NVCC` asks for its own or the sources are others.
    fn kernels() -> Result<(PathBuf, Compiled), String> {
        let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
        let digest = kernels::digest(Path::new(SOURCES))?;
        let found = Compiled::read(Path::new(PREBUILT));
        let fits = found.as_ref().is_some_and(|found| found.digest == digest);
        // Benches measure what is compiled here, and need nvcc for what they compare with.
        let asked = variable("NVCC").is_some() || cfg!(feature = "bench");
        if let Some(found) = found.filter(|_| fits && !asked) {
            println!("kernels: prebuilt by {}", found.by);
            return Ok((here.join(PREBUILT), found));
        }
        let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
        if env::var_os("DOCS_RS").is_some() {
            // Documentation needs the names, not the code.
            for name in kernels::KERNELS {
                let path = fat_binary(&out, name);
                fs::write(&path, "").map_err(|error| kernels::failed(&path, &error))?;
            }
            return Ok((out, Compiled { digest, release: (0, 0), by: "nothing".to_owned() }));
        }
        for variable in ["PATH", "CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "FLASHINFER"] {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        let why = match (asked, Path::new(PREBUILT).exists()) {
            (true, _) => "as asked for",
            (false, true) => "prebuilt/ is of other sources or not whole",
            (false, false) => {
                "there is no prebuilt/, which packages have and a git checkout has not"
            }
        };
        let nvcc = Nvcc::find()?.ok_or_else(|| {
            format!(
                "the `cuda` feature needs compiled kernels or nvcc. The kernels: {why}. nvcc: looked at {}. Use the \
                 published package, which brings them along; or set NVCC to nvcc's path; or build with \
                 --no-default-features. In the repository `cargo xtask package` compiles them, and `cargo xtask \
                 demo` installs nvcc from PyPI",
                toolkit::PLACES
            )
        })?;
        println!("kernels: compiled by {} ({why})", nvcc.path.display());
        let (folder, compiled) = fatbin::build(&nvcc, Path::new(SOURCES), digest, &out)?;
        #[cfg(feature = "bench")]
        crate::peers::build(&nvcc, &folder)?;
        Ok((folder, compiled))
    }
}
