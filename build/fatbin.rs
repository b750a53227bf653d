//! `kernels/*.cu` as fat binaries: machine code for every generation of devices that the toolkit knows, and
//! PTX for those to come. Without machine code a first load would wait a second or more for the driver's
//! compiler.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use crate::toolkit::{Nvcc, variable};

/// The fat binaries, a source each.
pub const KERNELS: [&str; 3] = ["rotate", "append", "cos_sin"];

/// Machine code, and the PTX that it is made of: the first of each generation, whose code runs on
/// the others. L2 hints begin with compute_80, and PDL with compute_90.
const MACHINES: [(usize, usize); 5] = [(75, 75), (80, 75), (90, 90), (100, 90), (120, 90)];

/// PTX that stays in the fat binary, for devices between and after those.
const PTX: [usize; 2] = [75, 90];

/// No contraction: the sources say which operations are fused. Never fast-math.
pub const FLAGS: [&str; 3] = ["-std=c++17", "-O3", "--fmad=false"];

/// The oldest nvcc that compiles the sources.
const OLDEST: (u32, u32) = (12, 4);

/// Compiles all of them into a folder of `out`, which is named by everything that they depend on. Beside each
/// lies what the assembler says of its kernels: `rotate.ptxas`.
pub fn build(nvcc: &Nvcc, sources: &Path, out: &Path) -> Result<PathBuf, String> {
    check_release(nvcc)?;
    let mut files = Vec::new();
    list(sources, Path::new(""), &mut files).map_err(|error| failed(sources, &error))?;
    let mut hasher = DefaultHasher::new();
    (FLAGS, MACHINES, PTX, &nvcc.version).hash(&mut hasher);
    for file in &files {
        let path = sources.join(file);
        (file, fs::read(&path).map_err(|error| failed(&path, &error))?).hash(&mut hasher);
    }
    let folder = out.join(format!("kernels-{:016x}", hasher.finish()));
    // nvcc runs where the sources lie, and is given names alone: a path may hold what its own command lines
    // would take for something else.
    for file in &files {
        let copy = folder.join("source").join(file);
        let parent = copy.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).map_err(|error| failed(parent, &error))?;
        fs::copy(sources.join(file), &copy).map_err(|error| failed(&copy, &error))?;
    }
    let options = Options::of(nvcc)?;
    // One compiler a source, beside one another.
    let compiled: Vec<Result<(), String>> = thread::scope(|scope| {
        let compilers = KERNELS.map(|name| scope.spawn(|| compile(nvcc, &options, &folder, name)));
        compilers.into_iter().map(|c| c.join().unwrap_or_else(|_| Err("panicked".into()))).collect()
    });
    compiled.into_iter().collect::<Result<(), String>>()?;
    Ok(folder)
}

fn check_release(nvcc: &Nvcc) -> Result<(), String> {
    let given = nvcc.release().unwrap_or_default();
    let mut numbers = given.split('.').map(|number| number.parse().unwrap_or(0));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if release >= OLDEST {
        return Ok(());
    }
    let (path, (major, minor)) = (nvcc.path.display(), OLDEST);
    Err(format!("{path} is of release {given}: {major}.{minor} or newer is needed"))
}

/// Files below a folder, by their paths from there, in order.
fn list(folder: &Path, below: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let entries = fs::read_dir(folder.join(below))?.collect::<std::io::Result<Vec<_>>>()?;
    let mut paths: Vec<_> = entries.iter().map(|entry| below.join(entry.file_name())).collect();
    paths.sort();
    for path in paths {
        if folder.join(&path).is_dir() {
            list(folder, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// What this nvcc is asked for besides [`FLAGS`].
struct Options(Vec<String>);

impl Options {
    fn of(nvcc: &Nvcc) -> Result<Self, String> {
        let ask = |argument: &str| -> Result<String, String> {
            let output = Command::new(&nvcc.path).arg(argument).output();
            let output = output.map_err(|error| failed(&nvcc.path, &error))?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let listed = ask("--list-gpu-code")?;
        let known = |machine: usize| listed.lines().any(|line| line == format!("sm_{machine}"));
        let machines = MACHINES.into_iter().filter(|&(machine, _)| known(machine));
        let machines = machines.map(|(m, ptx)| format!("-gencode=arch=compute_{ptx},code=sm_{m}"));
        let ptx = PTX.map(|ptx| format!("-gencode=arch=compute_{ptx},code=compute_{ptx}"));
        let mut options: Vec<String> = machines.chain(ptx).collect();
        options.push("-Xptxas=-v".to_owned());
        // Since 12.8: a quarter of the size.
        if ask("--help")?.contains("--compress-mode") {
            options.push("--compress-mode=size".to_owned());
        }
        if let Some(compiler) = variable("NVCC_CCBIN") {
            options.push("-allow-unsupported-compiler".to_owned());
            options.push(format!("-ccbin={}", compiler.to_string_lossy()));
        }
        Ok(Self(options))
    }
}

fn compile(nvcc: &Nvcc, options: &Options, folder: &Path, name: &str) -> Result<(), String> {
    let target = folder.join(name).with_extension("fatbin");
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

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
