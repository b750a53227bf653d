//! `kernels/*.cu` as fat binaries, by one nvcc: machine code for every generation of devices that the toolkit knows, and
//! PTX for those to come. Without machine code a first load would wait a second or more for the driver's
//! compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use crate::compiled::{Compiled, fat_binary, release};
use crate::kernels::{self, FLAGS, KERNELS, MACHINES, PTX, failed};
use crate::toolkit::{Nvcc, variable};

/// The oldest nvcc that compiles the sources.
const OLDEST: (u32, u32) = (12, 4);

/// Compiles all of them into a folder of `out`, which is named by everything that they depend on. Beside each
/// lies what the assembler says of its kernels: `rotate.ptxas`.
/// `digest` is that of the sources.
pub fn build(
    nvcc: &Nvcc,
    sources: &Path,
    digest: u64,
    out: &Path,
) -> Result<(PathBuf, Compiled), String> {
    let build = nvcc.build().unwrap_or_default();
    let given = release(build).unwrap_or_default();
    if given < OLDEST {
        let (path, (major, minor)) = (nvcc.path.display(), OLDEST);
        return Err(format!("{path} is of release {build}: {major}.{minor} or newer is needed"));
    }
    let by = format!("nvcc {build}");
    let folder = out.join(format!("kernels-{digest:016x}-nvcc-{build}"));
    // nvcc runs where the sources lie, and is given names alone: a path may hold what its own command lines
    // would take for something else.
    for file in kernels::files(sources)? {
        let copy = folder.join("source").join(&file);
        let parent = copy.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).map_err(|error| failed(parent, &error))?;
        fs::copy(sources.join(&file), &copy).map_err(|error| failed(&copy, &error))?;
    }
    let options = Options::of(nvcc, given)?;
    // One compiler a source, beside one another.
    let compiled: Vec<Result<(), String>> = thread::scope(|scope| {
        let compilers = KERNELS.map(|name| scope.spawn(|| compile(nvcc, &options, &folder, name)));
        compilers.into_iter().map(|c| c.join().unwrap_or_else(|_| Err("panicked".into()))).collect()
    });
    compiled.into_iter().collect::<Result<(), String>>()?;
    Ok((folder, Compiled { digest, release: given, by }))
}

/// What this nvcc is asked for besides [`FLAGS`].
struct Options(Vec<String>);

impl Options {
    fn of(nvcc: &Nvcc, release: (u32, u32)) -> Result<Self, String> {
        let output = Command::new(&nvcc.path).arg("--list-gpu-code").output();
        let output = output.map_err(|error| failed(&nvcc.path, &error))?;
        let listed = String::from_utf8_lossy(&output.stdout);
        let known = |machine: usize| listed.lines().any(|line| line == format!("sm_{machine}"));
        let machines = MACHINES.into_iter().filter(|&(machine, _)| known(machine));
        let machines = machines.map(|(m, ptx)| format!("-gencode=arch=compute_{ptx},code=sm_{m}"));
        let ptx = PTX.map(|ptx| format!("-gencode=arch=compute_{ptx},code=compute_{ptx}"));
        let mut options: Vec<String> = machines.chain(ptx).collect();
        options.push("-Xptxas=-v".to_owned());
        // 4 MB. 12.8 and 12.9 can do it, too, but drivers before 12.4 could not read it: 11 MB for those.
        let compress =
            if release.0 >= 13 { "--compress-mode=size" } else { "-Xfatbin=-compress-all" };
        options.push(compress.to_owned());
        if let Some(compiler) = variable("NVCC_CCBIN") {
            options.push("-allow-unsupported-compiler".to_owned());
            options.push(format!("-ccbin={}", compiler.to_string_lossy()));
        }
        Ok(Self(options))
    }
}

fn compile(nvcc: &Nvcc, options: &Options, folder: &Path, name: &str) -> Result<(), String> {
    let target = fat_binary(folder, name);
    if target.exists() {
        return Ok(());
    }
    let source = folder.join("source");
    let mut command = Command::new(&nvcc.path);
    command.current_dir(&source).args(FLAGS).args(&options.0);
    command.args(["-fatbin", "-o", &format!("{name}.part"), &format!("{name}.cu")]);
    let Output { status, stderr, .. } =
        command.output().map_err(|error| failed(&nvcc.path, &error))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        return Err(format!("nvcc could not compile kernels/{name}.cu ({status}):\n{said}"));
    }
    let report = folder.join(name).with_extension("ptxas");
    fs::write(&report, stderr).map_err(|error| failed(&report, &error))?;
    // Whole, or not there.
    fs::rename(source.join(format!("{name}.part")), &target)
        .map_err(|error| failed(&target, &error))
}
