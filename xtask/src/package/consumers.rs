//! Programs that use the package as others would: outside the workspace, without nvcc, with locks of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{builds, msrv};
use crate::toolkit::Nvcc;
use crate::{Result, run, toolchain};

/// A crate of `tests/consumers`, built with these arguments.
struct Consumer {
    name: &'static str,
    what: &'static str,
    arguments: &'static [&'static str],
}

const CONSUMERS: [Consumer; 4] = [
    Consumer {
        name: "basic",
        what: "without default features",
        arguments: &["--no-default-features"],
    },
    Consumer { name: "basic", what: "with default features", arguments: &[] },
    Consumer {
        name: "engine",
        what: "an engine on the oldest cudarc, and another one's",
        arguments: &[],
    },
    Consumer { name: "candle", what: "beside candle-core", arguments: &[] },
];

/// Drivers that are not there: what a program says with each.
const DRIVERS: [(&str, &str, &str); 3] = [
    ("11080", "", "kernels need a driver of CUDA 12.0 or newer: given one of 11.8"),
    ("12020", "222", "kernels need a driver of CUDA 12.4 or newer: given one of 12.2"),
    ("12080", "209", "CUDA_ERROR_NO_BINARY_FOR_GPU"),
];

/// Unpacks the archive into a folder of its own, beside the consumers, and runs them.
pub fn run(archive: &Path, nvcc: &Nvcc) -> Result<()> {
    let folder = run::target().join("consumers");
    let (sources, bin) = (folder.join("sources"), folder.join("bin"));
    for folder in [&sources, &bin] {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    run::check(Command::new("tar").arg("-C").arg(&sources).arg("-xzf").arg(archive))?;
    let unpacked = archive.file_stem().unwrap_or_default();
    let package = sources.join("condensed-rope");
    fs::rename(sources.join(unpacked), &package)
        .map_err(|error| format!("{}: {error}", package.display()))?;
    let from = run::root().join("tests/consumers");
    run::check(Command::new("cp").arg("-r").arg(from.join(".")).arg(&sources))?;
    readme_example(&package, &sources.join("basic"))?;

    for Consumer { name, what, arguments } in CONSUMERS {
        run::step(&format!("{name}: {what}"));
        let mut build = cargo(&sources.join(name), &["build", "--quiet", "--bins", "--examples"]);
        run::check(build.args(arguments))?;
        let program = folder.join("target/debug").join(name);
        // A GPU is used where there is one.
        run::check(&mut Command::new(&program))?;
        let kept =
            bin.join(if arguments.is_empty() { name.to_owned() } else { format!("{name}-cpu") });
        fs::copy(&program, &kept).map_err(|error| format!("{}: {error}", program.display()))?;
    }
    let example = folder.join("target/debug/examples/readme");
    fs::copy(&example, bin.join("readme"))
        .map_err(|error| format!("{}: {error}", example.display()))?;
    for program in fs::read_dir(&bin).map_err(|error| error.to_string())? {
        let program = program.map_err(|error| error.to_string())?.path();
        let _ = run::output(Command::new("strip").arg(program));
    }

    run::step("drivers that are too old, by a library that stands for one");
    let driver = folder.join("driver");
    fs::create_dir_all(&driver).map_err(|error| format!("{}: {error}", driver.display()))?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(driver.join("libcuda.so.1"));
    run::check(cc.arg(run::root().join("tests/consumers/driver.c")))?;
    for (version, refusal, expected) in DRIVERS {
        let mut program = Command::new(bin.join("basic"));
        program.env("LD_LIBRARY_PATH", &driver).env("DRIVER_VERSION", version);
        let said = run::output(program.env("MODULE_ERROR", refusal)).unwrap_or_default();
        let line = said.lines().find(|line| line.contains(expected));
        println!(
            "{version} {refusal:>3}: {}",
            line.ok_or_else(|| format!("{expected:?} in {said:?}"))?
        );
    }

    run::step("builds by nvcc, and without one where it is needed");
    builds::check(&package, nvcc)?;

    run::step("the oldest Rust of what it depends on");
    msrv::check(&mut cargo(
        &package,
        &["metadata", "--format-version", "1", "--features", "nvtx,config"],
    ))?;

    run::step("documentation of the package, as docs.rs builds it");
    let mut doc = cargo(
        &package,
        &["doc", "--quiet", "--no-deps", "--lib", "--features", "cuda,nvtx,config"],
    );
    // docs.rs has a nightly compiler.
    doc.env("RUSTC_BOOTSTRAP", "1")
        .env("DOCS_RS", "1")
        .env("RUSTDOCFLAGS", "--cfg docsrs -D warnings");
    run::check(&mut doc)?;
    match toolchain::gpu() {
        Some(gpu) => println!("\nthe package's consumers ran, on {gpu} too"),
        None => println!(
            "\nthe package's consumers ran on the CPU; for a machine with a GPU: {}",
            bin.display()
        ),
    }
    Ok(())
}

/// cargo in a folder, as on a machine without a toolkit.
pub fn cargo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = run::cargo(arguments);
    command.current_dir(folder);
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_nvcc = |folder: &PathBuf| folder.join("nvcc").exists();
    let path = std::env::split_paths(&path).filter(|folder| !has_nvcc(folder));
    if let Ok(path) = std::env::join_paths(path) {
        command.env("PATH", path);
    }
    command.env("CARGO_TARGET_DIR", run::target().join("consumers/target"));
    command
}

/// The README's first program, as a program.
fn readme_example(package: &Path, consumer: &Path) -> Result<()> {
    let path = package.join("README.md");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let block = text.split("```rust").nth(1).and_then(|rest| rest.split("```").next());
    let (_, code) =
        block.and_then(|block| block.split_once('\n')).ok_or("README.md has no example")?;
    let folder = consumer.join("examples");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    fs::write(folder.join("readme.rs"), code)
        .map_err(|error| format!("{}: {error}", folder.display()))
}
