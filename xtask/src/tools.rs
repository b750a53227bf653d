//! nvcc and libtorch: found, or installed from PyPI into a cache folder.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{Result, run};

const NVCC_PACKAGES: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];
/// What tch 0.24 goes with.
const TORCH: &str = "2.11.0";

/// What the benches compare with.
const FLASHINFER: &str = "0.7.2.post1";

/// A CUDA compiler.
pub struct Nvcc {
    pub path: PathBuf,
}

impl Nvcc {
    pub fn put_in(&self, command: &mut Command) {
        command.env("NVCC", &self.path);
    }
}

/// The nvcc that build.rs would find, or one from PyPI.
pub fn nvcc() -> Result<Nvcc> {
    let works = |path: &Path| run::output(Command::new(path).arg("--version")).is_some();
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("nvcc"))
        .collect::<Vec<_>>();
    let roots = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"].map(PathBuf::from);
    let found = env::var_os("NVCC")
        .map(PathBuf::from)
        .into_iter()
        .chain(on_path)
        .chain(roots.chain(usual).map(|root| root.join("bin/nvcc")))
        .find(|path| works(path));
    if let Some(path) = found {
        eprintln!("nvcc: {}", path.display());
        return Ok(Nvcc { path });
    }
    let folder = install("nvcc-13.0.88", &NVCC_PACKAGES, "nvcc 13.0.88, 300 MB")?;
    let path = folder.join("nvidia/cu13/bin/nvcc");
    if !works(&path) {
        return Err(format!(
            "{} does not run; remove {} to try again",
            path.display(),
            folder.display()
        ));
    }
    eprintln!("nvcc: {}", path.display());
    Ok(Nvcc { path })
}

/// A folder with libtorch's include/ and lib/.
pub struct Libtorch {
    pub path: PathBuf,
}

impl Libtorch {
    pub fn put_in(&self, command: &mut Command) {
        let mut folders = vec![self.path.join("lib")];
        folders.extend(env::split_paths(&env::var_os("LD_LIBRARY_PATH").unwrap_or_default()));
        let folders = env::join_paths(folders).expect("paths without separators");
        command.env("LIBTORCH", &self.path).env("LD_LIBRARY_PATH", folders);
    }
}

/// `LIBTORCH`, python3's torch where it is the right one, or one from PyPI.
pub fn libtorch() -> Result<Libtorch> {
    let found = env::var_os("LIBTORCH").map(PathBuf::from).or_else(|| {
        let script = "import torch; print(torch.__version__); print(torch.__path__[0])";
        let said = run::output(Command::new("python3").args(["-c", script]))?;
        let (version, path) = said.trim().split_once('\n')?;
        (version.split('+').next() == Some(TORCH)).then(|| PathBuf::from(path))
    });
    let path = match found {
        Some(path) => path,
        None => {
            let package = format!("torch=={TORCH}");
            install(
                &format!("torch-{TORCH}"),
                &[&package],
                "libtorch 2.11.0, 2.5 GB, several minutes",
            )?
            .join("torch")
        }
    };
    if !path.join("lib/libtorch.so").exists() {
        return Err(format!("no lib/libtorch.so in {}", path.display()));
    }
    eprintln!("libtorch: {}", path.display());
    Ok(Libtorch { path })
}

/// The data folder of FlashInfer's wheel: headers for the benches. `FLASHINFER`, or from PyPI.
pub struct FlashInfer {
    path: PathBuf,
}

impl FlashInfer {
    pub fn put_in(&self, command: &mut Command) {
        command.env("FLASHINFER", &self.path);
    }
}

pub fn flashinfer() -> Result<FlashInfer> {
    if let Some(path) = env::var_os("FLASHINFER").map(PathBuf::from) {
        return Ok(FlashInfer { path });
    }
    let package = format!("flashinfer-python=={FLASHINFER}");
    let name = format!("flashinfer-{FLASHINFER}");
    let folder = install(&name, &["--no-deps", &package], "FlashInfer's headers, 62 MB")?;
    Ok(FlashInfer { path: folder.join("flashinfer/data") })
}

fn cache() -> Result<PathBuf> {
    let folder = env::var_os("CONDENSED_ROPE_CACHE").map(PathBuf::from).or_else(|| {
        let user = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let user = user.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
        Some(user?.join("condensed-rope"))
    });
    folder.ok_or_else(|| "set CONDENSED_ROPE_CACHE (or HOME) to a folder for downloads".to_owned())
}

/// Installs packages into a folder of the cache, once.
fn install(name: &str, packages: &[&str], what: &str) -> Result<PathBuf> {
    let folder = cache()?.join(name);
    let complete = folder.join(".complete");
    if complete.exists() {
        return Ok(folder);
    }
    run::step(&format!("installing {what}, from PyPI into {}", folder.display()));
    // What an interrupted run left is worth nothing.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let start = Instant::now();
    let pip = pip()?;
    let mut command = Command::new(&pip[0]);
    command.args(&pip[1..]).args(["install", "--no-compile", "--disable-pip-version-check"]);
    command.arg("--target").arg(&folder).args(packages);
    run::check(&mut command)?;
    fs::write(&complete, packages.join("\n")).map_err(|error| error.to_string())?;
    println!("installed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(folder)
}

/// A pip: python3's own, or one in a virtual environment of the cache.
fn pip() -> Result<Vec<String>> {
    let works =
        |python: &str| run::output(Command::new(python).args(["-m", "pip", "--version"])).is_some();
    let command = |python: String| vec![python, "-m".to_owned(), "pip".to_owned()];
    if works("python3") {
        return Ok(command("python3".to_owned()));
    }
    let environment = cache()?.join("pip");
    let python = environment.join("bin/python").display().to_string();
    if !works(&python) {
        let made = run::output(Command::new("python3").args(["-m", "venv"]).arg(&environment));
        if made.is_none() || !works(&python) {
            return Err("python3 with pip or venv is needed to install from PyPI (on Debian and \
                        Ubuntu: apt install python3-venv)"
                .to_owned());
        }
    }
    Ok(command(python))
}

/// What nvidia-smi says of the first GPU; `None` where there is none.
pub fn gpu() -> Option<String> {
    let query = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
    let said = run::output(Command::new("nvidia-smi").args(query))?;
    said.lines().next().filter(|line| !line.trim().is_empty()).map(str::to_owned)
}
