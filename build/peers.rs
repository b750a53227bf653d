//! What the benches compare with, by bindgen_cuda: PTX of one architecture, and a static library.
//!
//! bindgen_cuda calls `nvcc` by name, and finds headers and architecture by variables. So it runs in a process
//! of its own, which is given them: this build script once more.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kernels::FLAGS;
use crate::toolkit::{Nvcc, variable};

/// Which of the two a second process of this script is to build.
const JOB: &str = "CONDENSED_ROPE_BINDGEN";
const FOLDER: &str = "CONDENSED_ROPE_BINDGEN_FOLDER";
/// Hopper: what the benches were made for.
const ARCHITECTURE: usize = 90;

const LIMIT: &str = "benches/limit.cu";
const APPEND: &str = "benches/append.cu";
const FLASHINFER: &str = "benches/flashinfer.cu";

/// In the second process: does its job. False in the first.
pub fn is_job() -> bool {
    let (Some(job), Some(folder)) = (variable(JOB), variable(FOLDER)) else { return false };
    let (limit, folder) = (job == "ptx", PathBuf::from(folder));
    let sources = if limit { vec![LIMIT, APPEND] } else { vec![FLASHINFER] };
    let mut builder = bindgen_cuda::Builder::default()
        .kernel_paths(sources)
        .include_paths_glob("kernels/*.cuh")
        .compute_cap(ARCHITECTURE)
        .out_dir(&folder);
    builder.cuda_root(env::var_os("CUDA_HOME").unwrap_or_default());
    // FlashInfer as it builds itself.
    for flag in FLAGS.into_iter().filter(|flag| limit || *flag != "--fmad=false") {
        builder = builder.arg(flag);
    }
    if limit {
        if let Err(error) = builder.build_ptx() {
            eprintln!("{error:?}");
            std::process::exit(1);
        }
    } else {
        builder.build_lib(folder.join("libflashinfer_rope.a"));
    }
    true
}

/// In the first process: has both built in a folder beside the kernels, the second where FlashInfer is there.
pub fn build(nvcc: &Nvcc, folder: &Path) -> Result<(), String> {
    let folder = folder.join("bench");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    println!("cargo:rerun-if-changed={LIMIT}");
    println!("cargo:rerun-if-changed={APPEND}");
    run(nvcc, &folder, "ptx", "")?;
    if !cfg!(feature = "peers") {
        return Ok(());
    }
    println!("cargo:rerun-if-changed={FLASHINFER}");
    let data = variable("FLASHINFER")
        .ok_or("the `peers` feature needs FLASHINFER: the folder flashinfer/data of its wheel")?;
    let data = Path::new(&data).display().to_string();
    if data.contains(char::is_whitespace) {
        return Err(format!(
            "nvcc's flags end at a space: FLASHINFER must have none, and is {data}"
        ));
    }
    // Its headers ask for a newer CCCL than CUDA 13.0 has, which its wheel brings along.
    let includes = ["include", "cccl/libcudacxx/include", "cccl/thrust", "cccl/cub"];
    let flags = includes.map(|path| format!("-I{data}/{path}")).join(" ");
    run(nvcc, &folder, "lib", &flags)?;
    println!("cargo:rustc-link-arg-benches={}", folder.join("libflashinfer_rope.a").display());
    for folder in ["lib64", "lib"].map(|name| root(nvcc).join(name)) {
        println!("cargo:rustc-link-arg-benches=-L{}", folder.display());
    }
    for library in ["cudart_static", "stdc++", "rt", "pthread", "dl"] {
        println!("cargo:rustc-link-arg-benches=-l{library}");
    }
    Ok(())
}

/// The toolkit's folder.
fn root(nvcc: &Nvcc) -> &Path {
    nvcc.path.ancestors().nth(2).unwrap_or(Path::new("/"))
}

fn run(nvcc: &Nvcc, folder: &Path, job: &str, flags: &str) -> Result<(), String> {
    let bin = nvcc.path.parent().ok_or("nvcc is in a folder")?.to_owned();
    let paths = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let path =
        env::join_paths([bin].into_iter().chain(paths)).map_err(|error| error.to_string())?;
    let script = env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(script);
    command.env(JOB, job).env(FOLDER, folder).env("PATH", path).env("CUDA_HOME", root(nvcc));
    command.env("CUDA_COMPUTE_CAP", ARCHITECTURE.to_string()).env("RUST_BACKTRACE", "0");
    command.env("NVCC_PREPEND_FLAGS", flags);
    let status = command.status().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("bindgen_cuda ({job}) ended with {status}")) }
}
