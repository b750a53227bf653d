//! Compiles `kernels/*.cu` to PTX with nvcc, where the `cuda` feature is on.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    kernels::build();
}

#[cfg(feature = "cuda")]
mod kernels {
    use std::collections::hash_map::DefaultHasher;
    use std::env;
    use std::fs;
    use std::hash::{Hash, Hasher};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// Kernels that benches compare with, where the `bench` feature is on.
    const BENCH: Option<&str> =
        if cfg!(feature = "bench") { Some("benches/limit.cu") } else { None };

    /// A baseline for every device the CUDA 13 toolkit knows, and Hopper.
    const ARCHITECTURES: [usize; 2] = [75, 90];

    /// No contraction: the sources say which operations are fused. Never fast-math.
    const FLAGS: [&str; 3] = ["-std=c++17", "-O3", "--fmad=false"];

    pub fn build() {
        for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "DOCS_RS", "NVCC_CCBIN"] {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        println!("cargo:rerun-if-changed=kernels");
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let sources = sources();
        let is_kernel = |path: &&PathBuf| path.extension().is_some_and(|e| e == "cu");
        let kernels: Vec<PathBuf> = sources.iter().filter(is_kernel).cloned().collect();

        if env::var_os("DOCS_RS").is_some() {
            // Documentation needs the names, not the code.
            let folder = out.join("docs");
            for architecture in ARCHITECTURES {
                let folder = folder.join(format!("sm_{architecture}"));
                fs::create_dir_all(&folder).expect("OUT_DIR is writable");
                for source in &kernels {
                    let name = Path::new(source.file_name().expect("a file")).with_extension("ptx");
                    fs::write(folder.join(name), "").expect("OUT_DIR is writable");
                }
            }
            println!("cargo:rustc-env=CONDENSED_ROPE_KERNELS={}", folder.display());
            return;
        }

        let (nvcc, version) = find_nvcc();
        let bin = nvcc.parent().expect("a file in a folder");
        let root = bin.parent().expect("CUDA keeps nvcc in bin/");
        // bindgen_cuda calls `nvcc` by name and looks for headers by these variables. Nothing else
        // runs in this process.
        let paths = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
        let path = env::join_paths([bin.to_owned()].into_iter().chain(paths)).expect("PATH joins");
        // SAFETY: this process has one thread until bindgen_cuda starts its own.
        unsafe { env::set_var("PATH", path) };
        // SAFETY: as above.
        unsafe { env::set_var("CUDA_HOME", root) };

        // bindgen_cuda compares times of `.cu` files only, so everything else that a PTX depends
        // on goes into its folder's name.
        let mut hasher = DefaultHasher::new();
        (FLAGS, &version).hash(&mut hasher);
        for source in sources.iter().cloned().chain(BENCH.map(PathBuf::from)) {
            (&source, fs::read(&source).expect("the crate's own files are readable"))
                .hash(&mut hasher);
        }
        let folder = out.join(format!("kernels-{:016x}", hasher.finish()));

        for architecture in ARCHITECTURES {
            let out_dir = folder.join(format!("sm_{architecture}"));
            compile(kernels.clone(), architecture, out_dir, root);
        }
        if let Some(source) = BENCH {
            println!("cargo:rerun-if-changed={source}");
            compile(vec![source.into()], 90, folder.join("bench"), root);
        }
        println!("cargo:rustc-env=CONDENSED_ROPE_KERNELS={}", folder.display());
    }

    fn compile(sources: Vec<PathBuf>, architecture: usize, out_dir: PathBuf, root: &Path) {
        fs::create_dir_all(&out_dir).expect("OUT_DIR is writable");
        // SAFETY: one thread, as above; the builder's default asks nvidia-smi where this is unset.
        unsafe { env::set_var("CUDA_COMPUTE_CAP", architecture.to_string()) };
        let mut builder = bindgen_cuda::Builder::default()
            .kernel_paths(sources)
            .include_paths_glob("kernels/*.cuh")
            .compute_cap(architecture)
            .out_dir(out_dir);
        builder.cuda_root(root);
        for flag in FLAGS {
            builder = builder.arg(flag);
        }
        if let Err(error) = builder.build_ptx() {
            fail(&format!("nvcc could not compile the kernels: {error:?}"));
        }
    }

    fn sources() -> Vec<PathBuf> {
        let entries = fs::read_dir("kernels").expect("kernels/ is part of the crate");
        let mut paths: Vec<_> =
            entries.map(|entry| entry.expect("kernels/ is readable").path()).collect();
        paths.sort();
        paths
    }

    /// nvcc's path and what it says of its version: `NVCC`, PATH, `CUDA_HOME`, `CUDA_PATH`, the
    /// usual places, in this order.
    fn find_nvcc() -> (PathBuf, String) {
        let executable = if cfg!(windows) { "nvcc.exe" } else { "nvcc" };
        let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join(executable))
            .collect::<Vec<_>>();
        let roots =
            ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
        let usual = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"].map(PathBuf::from);
        let candidates = env::var_os("NVCC")
            .map(PathBuf::from)
            .into_iter()
            .chain(on_path)
            .chain(roots.chain(usual).map(|root| root.join("bin").join(executable)));
        for candidate in candidates {
            let Ok(candidate) = candidate.canonicalize() else {
                continue;
            };
            match Command::new(&candidate).arg("--version").output() {
                Ok(output) if output.status.success() => {
                    return (candidate, String::from_utf8_lossy(&output.stdout).into_owned());
                }
                _ => {}
            }
        }
        fail(
            "the `cuda` feature needs nvcc, and none was found: looked at NVCC, PATH, CUDA_HOME, \
             CUDA_PATH and /usr/local/cuda. Set NVCC to its path, run `cargo xtask demo` in the \
             repository (it installs nvcc from PyPI), or build with --no-default-features",
        )
    }

    fn fail(message: &str) -> ! {
        println!("cargo:warning={message}");
        eprintln!("{message}");
        std::process::exit(1)
    }
}
