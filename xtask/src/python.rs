//! The Python package's tests, against one release of transformers or a row of them.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::test::Counts;
use crate::toolchain;
use crate::{Result, run};

/// From the first that FastChat's own patch was for, one of each way in which rotary embedding is built and applied.
const RELEASES: [&str; 8] =
    ["4.31.0", "4.35.2", "4.38.2", "4.42.4", "4.43.4", "4.57.6", "5.17.0", toolchain::TRANSFORMERS];

/// The package as a wheel would hold it, with an extension of this build: the folder that Python finds it in.
fn package() -> Result<PathBuf> {
    run::check(&mut run::cargo(&["build", "-p", "condensed-rope-python"]))?;
    let (root, package) = (run::root(), run::root().join("target/python-package"));
    let failed = |error: std::io::Error| format!("{}: {error}", package.display());
    let _ = fs::remove_dir_all(&package);
    for folder in ["", "dropin"] {
        let from = root.join("python/python/condensed_rope").join(folder);
        let to = package.join("condensed_rope").join(folder);
        fs::create_dir_all(&to).map_err(failed)?;
        for entry in fs::read_dir(from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.path().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).map_err(failed)?;
            }
        }
    }
    let target = run::target();
    let extension = package.join("condensed_rope/_core.abi3.so");
    fs::copy(target.join("debug/lib_core.so"), extension).map_err(failed)?;
    Ok(package)
}

/// pytest over it, with torch and transformers by `path`.
pub fn tests(path: &OsStr) -> Result<Command> {
    let folders = [package()?].into_iter().chain(std::env::split_paths(path));
    let path = std::env::join_paths(folders).map_err(|error| error.to_string())?;
    let mut command = Command::new("python3");
    command.args(["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "python/tests"]);
    command.current_dir(run::root()).env("PYTHONPATH", path);
    Ok(command)
}

/// The same against these releases of transformers, or against [`RELEASES`].
pub fn matrix(releases: &[&str]) -> Result<()> {
    let releases = if releases.is_empty() { &RELEASES[..] } else { releases };
    let libtorch = toolchain::libtorch()?;
    let mut rows = Vec::new();
    for release in releases {
        let path = toolchain::transformers(&libtorch, release)?;
        let path = path.ok_or("torch as a Python package is needed")?;
        run::step(&format!("transformers {release}"));
        let mut counts = Counts::default();
        let ok = run::lines(&mut tests(&path)?, |line| counts.read(line))?;
        rows.push((release, counts, ok));
    }
    println!("\n{:16}{:>8}{:>8}{:>8}", "transformers", "passed", "failed", "skipped");
    for (release, counts, _) in &rows {
        let Counts { passed, failed, ignored } = counts;
        println!("{release:16}{passed:>8}{failed:>8}{ignored:>8}");
    }
    match rows.iter().find(|(_, counts, ok)| !ok || counts.passed == 0) {
        Some((release, ..)) => Err(format!("tests failed with transformers {release}")),
        None => Ok(()),
    }
}
