//! Tests and demo as executables, for a GPU machine that has CUDA and PyTorch but no cargo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::toolchain::{self, Tool};
use crate::{Result, run};

const RUN: &str = include_str!("bundle_run.sh");
const LIMIT: u64 = 64 << 20;

pub fn bundle() -> Result<()> {
    let nvcc = toolchain::nvcc()?;
    let libtorch = toolchain::libtorch()?;
    let flashinfer = toolchain::flashinfer()?;
    let folder = run::root().join("target/bundle");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("tests")).map_err(|error| error.to_string())?;

    let mut built = Vec::new();
    for (what, arguments) in [
        ("tests", &["test", "--no-run", "--lib", "--tests", "--features", "tch,nvtx,config"][..]),
        ("benches", &["bench", "--no-run", "--features", "peers"]),
        ("tests of the program", &["test", "--no-run", "-p", "condensed-rope-cli"]),
        ("program", &["build", "-p", "condensed-rope-cli"]),
        ("demo", &["build", "--release", "--example", "longchat", "--features", "nvtx"]),
    ] {
        run::step(&format!("building the {what}"));
        let mut command = run::cargo(arguments);
        nvcc.put_in(&mut command);
        libtorch.put_in(&mut command);
        flashinfer.put_in(&mut command);
        let tests = what.starts_with("tests");
        let folder = if tests { folder.join("tests") } else { folder.clone() };
        for (name, kind, path) in built_by(&mut command)? {
            // The library's own unit tests come with benches too; once is enough. And the program has none.
            let again = what == "benches" && name == "condensed_rope";
            if again || (tests && kind == "bin") {
                continue;
            }
            let name = if kind == "test" && name == "rotate" { "program".to_owned() } else { name };
            built.push((folder.join(name), path));
        }
    }
    let mut sum = 0;
    run::step(&format!("collecting in {}", folder.display()));
    for (to, from) in built {
        fs::copy(&from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
        // Smaller without symbols; as it is where there is no strip.
        let _ = run::output(Command::new("strip").arg(&to));
        let size = fs::metadata(&to).map_err(|error| error.to_string())?.len();
        println!("{:>8} KiB  {}", size >> 10, to.strip_prefix(&folder).unwrap_or(&to).display());
        sum += size;
    }
    for name in ["peers.py", "sglang_rope.cu"] {
        fs::copy(run::root().join("benches").join(name), folder.join(name))
            .map_err(|error| format!("benches/{name}: {error}"))?;
    }
    // One archive, which run.sh unpacks: machine code of five architectures, once an executable.
    run::step("packing");
    let archive = folder.with_extension("tar.gz");
    let mut tar = Command::new("tar");
    run::check(tar.arg("-C").arg(&folder).arg("-czf").arg(&archive).arg("."))?;
    fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let packed = folder.join("files.tar.gz");
    fs::rename(&archive, &packed).map_err(|error| format!("{}: {error}", packed.display()))?;
    write_script(&folder.join("run.sh"))?;
    let size = fs::metadata(&packed).map_err(|error| error.to_string())?.len();
    println!(
        "{:>8} KiB, {} KiB packed; run `bash run.sh` there (`bash run.sh help` tells more)",
        sum >> 10,
        size >> 10
    );
    if size > LIMIT {
        return Err(format!("the bundle must stay under {} MiB", LIMIT >> 20));
    }
    Ok(())
}

/// Names, kinds and paths of the executables that a cargo command builds.
pub fn built_by(command: &mut Command) -> Result<Vec<(String, String, PathBuf)>> {
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} ended with {}", output.status));
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The same from its JSON messages.
fn executables(messages: &str) -> Vec<(String, String, PathBuf)> {
    let message = |line: &str| -> Option<(String, String, PathBuf)> {
        let message: Value = serde_json::from_str(line).ok()?;
        let path = message["executable"].as_str()?;
        let (name, kind) = (&message["target"]["name"], &message["target"]["kind"][0]);
        Some((name.as_str()?.replace('-', "_"), kind.as_str()?.to_owned(), path.into()))
    };
    messages.lines().filter_map(message).collect()
}

fn write_script(path: &Path) -> Result<()> {
    fs::write(path, RUN).map_err(|error| format!("{}: {error}", path.display()))
}
