//! Compiles `kernels/*.cu` with nvcc, where the `cuda` feature is on: to PTX for two architectures, to
//! machine code for every generation of devices that the toolkit knows, and all of it into one fat
//! binary a source, of which the driver takes what fits. Without machine code a first load would wait
//! a second or more for the driver's compiler.

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

    /// PTX: a baseline for every device the CUDA 13 toolkit knows, and Hopper.
    const ARCHITECTURES: [usize; 2] = [75, 90];

    /// Machine code, and the PTX that it is made of: the first of each generation, whose code runs on
    /// the others. Newer ones compile the newest PTX.
    const MACHINES: [(usize, usize); 5] = [(75, 75), (80, 75), (90, 90), (100, 90), (120, 90)];

    /// What the assembler says of every kernel lies beside the machine code: `rotate.sm_90.ptxas`.
    const REPORT: &str = "ptxas";

    /// No contraction: the sources say which operations are fused. Never fast-math.
    const FLAGS: [&str; 3] = ["-std=c++17", "-O3", "--fmad=false"];

    pub fn build() {
        for variable in
            ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "DOCS_RS", "NVCC_CCBIN", "FLASHINFER"]
        {
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
            fs::create_dir_all(&folder).expect("OUT_DIR is writable");
            for source in &kernels {
                fs::write(folder.join(named(source, "fatbin")), "").expect("OUT_DIR is writable");
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
        (FLAGS, MACHINES, REPORT, &version).hash(&mut hasher);
        for source in sources.iter().cloned().chain(BENCH.map(PathBuf::from)) {
            (&source, fs::read(&source).expect("the crate's own files are readable"))
                .hash(&mut hasher);
        }
        let folder = out.join(format!("kernels-{:016x}", hasher.finish()));

        for architecture in ARCHITECTURES {
            let out_dir = folder.join(format!("sm_{architecture}"));
            compile(kernels.clone(), architecture, out_dir, root);
        }
        let known = known_machines(&nvcc);
        for source in &kernels {
            assemble(source, &folder, bin, &known);
        }
        if let Some(source) = BENCH {
            println!("cargo:rerun-if-changed={source}");
            compile(vec![source.into()], 90, folder.join("bench"), root);
        }
        if cfg!(feature = "peers") {
            flashinfer(&folder, root);
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

    fn named(source: &Path, extension: &str) -> PathBuf {
        Path::new(source.file_name().expect("a file")).with_extension(extension)
    }

    /// Those of [`MACHINES`] that this toolkit can assemble for.
    fn known_machines(nvcc: &Path) -> Vec<(usize, usize)> {
        let output = Command::new(nvcc).arg("--list-gpu-code").output().expect("nvcc ran before");
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let known = |machine: usize| listed.lines().any(|line| line == format!("sm_{machine}"));
        MACHINES.into_iter().filter(|&(machine, _)| known(machine)).collect()
    }

    /// One fat binary of all PTX and machine code of a source.
    fn assemble(source: &Path, folder: &Path, bin: &Path, machines: &[(usize, usize)]) {
        let fatbin = folder.join(named(source, "fatbin"));
        if fatbin.exists() {
            return;
        }
        let ptx = |architecture: usize| {
            folder.join(format!("sm_{architecture}")).join(named(source, "ptx"))
        };
        let image = |kind: &str, architecture: usize, file: &Path| {
            format!("--image3=kind={kind},sm={architecture},file={}", file.display())
        };
        let mut images = ARCHITECTURES.map(|a| image("ptx", a, &ptx(a))).to_vec();
        let assemblers = machines.iter().map(|&(machine, architecture)| {
            let of = |extension| folder.join(named(source, &format!("sm_{machine}.{extension}")));
            let (cubin, report) = (of("cubin"), of(REPORT));
            images.push(image("elf", machine, &cubin));
            let said = fs::File::create(&report).expect("OUT_DIR is writable");
            let mut ptxas = Command::new(bin.join("ptxas"));
            ptxas.args(["-v", &format!("-arch=sm_{machine}")]).arg(ptx(architecture));
            (ptxas.arg("-o").arg(cubin).stderr(said).spawn(), report)
        });
        for (assembler, report) in assemblers.collect::<Vec<_>>() {
            let status = assembler.and_then(|mut process| process.wait());
            if !status.is_ok_and(|status| status.success()) {
                let said = fs::read_to_string(report).unwrap_or_default();
                fail(&format!("ptxas could not assemble {}:\n{said}", source.display()));
            }
        }
        let whole = fatbin.with_extension("part");
        let mut fatbinary = Command::new(bin.join("fatbinary"));
        fatbinary
            .arg(format!("--create={}", whole.display()))
            .args(["-64", "--compress-mode=size"]);
        if !fatbinary.args(images).status().is_ok_and(|status| status.success()) {
            fail(&format!("fatbinary could not collect {}", source.display()));
        }
        fs::rename(whole, fatbin).expect("OUT_DIR is writable");
    }

    /// FlashInfer's rotation, with FlashInfer's own flags, linked into the benches.
    fn flashinfer(folder: &Path, root: &Path) {
        const SOURCE: &str = "benches/flashinfer.cu";
        println!("cargo:rerun-if-changed={SOURCE}");
        let Some(data) = env::var_os("FLASHINFER").map(PathBuf::from) else {
            fail("the `peers` feature needs FLASHINFER: the folder flashinfer/data of its wheel");
        };
        // Its headers ask for a newer CCCL than CUDA 13.0 has, which its wheel brings along.
        let include = |path: &str| -> &'static str {
            let flag = format!("-I{}", data.join(path).display());
            flag.leak()
        };
        let library = folder.join("libflashinfer_rope.a");
        let mut builder = bindgen_cuda::Builder::default()
            .kernel_paths(vec![SOURCE])
            .compute_cap(90)
            .out_dir(folder)
            .arg("-std=c++17")
            .arg("-O3")
            .arg(include("include"))
            .arg(include("cccl/libcudacxx/include"))
            .arg(include("cccl/thrust"))
            .arg(include("cccl/cub"));
        builder.cuda_root(root);
        builder.build_lib(&library);
        println!("cargo:rustc-link-arg-benches={}", library.display());
        for folder in ["lib64", "lib"].map(|name| root.join(name)) {
            println!("cargo:rustc-link-arg-benches=-L{}", folder.display());
        }
        for library in ["cudart_static", "stdc++", "rt", "pthread", "dl"] {
            println!("cargo:rustc-link-arg-benches=-l{library}");
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
