//! A compiler whose machine code runs on drivers of CUDA 12 as well as 13: what the package's kernels are compiled by.
//!
//! PyPI has the assembler and the headers of CUDA 12, and no nvcc; Debian has nvcc 12.4. Of the two together: nvcc 12.4, and
//! ptxas 12.9, which knows Blackwell.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::toolchain::{self, install, install_with};
use crate::toolkit::Nvcc;
use crate::{Result, run};

const NVCC: &str = "12.4.131";
const PTXAS: &str = "12.9.86";
/// crt/, libdevice, the runtime's headers, nv/target.
const HEADERS: [&str; 3] = [
    "nvidia-cuda-nvcc-cu12==12.4.131",
    "nvidia-cuda-runtime-cu12==12.4.127",
    "nvidia-cuda-cccl-cu12==12.4.127.post1",
];
/// The Debian release that has it, in its non-free section.
const DEBIAN: &str = "trixie";

/// Where nvcc looks for the rest of a toolkit.
const PROFILE: &str = "\
TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES += \"-I$(TOP)/include\" $(_SPACE_)
";

/// Programs that compile, assemble and pack.
pub struct Toolkit {
    pub nvcc: Nvcc,
    pub ptxas: PathBuf,
    pub ptxas_build: &'static str,
    /// CUDA 13.0's: it writes what 12.9's nvFatbin writes, which is a library, where 12.4's knows no attributes of
    /// Blackwell's images.
    pub fatbinary: PathBuf,
}

pub fn toolkit() -> Result<Toolkit> {
    let package = format!("nvidia-cuda-nvcc-cu12=={PTXAS}");
    let what = format!("ptxas {PTXAS}, 41 MB");
    let assembler = install(&format!("ptxas-{PTXAS}"), &["--no-deps", &package], &what)?;
    let what = format!("nvcc {NVCC}, 110 MB, from Debian and PyPI");
    let folder = install_with(&format!("nvcc-{NVCC}"), &what, assemble)?;
    Ok(Toolkit {
        nvcc: Nvcc::ask(&folder.join("bin/nvcc"))?,
        ptxas: assembler.join("nvidia/cuda_nvcc/bin/ptxas"),
        ptxas_build: PTXAS,
        fatbinary: toolchain::pypi_toolkit()?.join("bin/fatbinary"),
    })
}

/// The usual folders of a toolkit.
fn assemble(folder: &Path) -> Result<()> {
    let debian = folder.join("debian");
    unpack_debian(&debian, "nvidia-cuda-toolkit")?;
    let headers = install(
        "headers-12.4",
        &[&["--no-deps"][..], &HEADERS].concat(),
        "CUDA 12.4's headers, 24 MB",
    )?;
    let (bin, nvvm) = (folder.join("bin"), folder.join("nvvm/bin"));
    for folder in [&bin, &nvvm] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let nvidia = debian.join("usr/lib/nvidia-cuda-toolkit/bin");
    for (from, to) in [
        (nvidia.join("nvcc"), bin.join("nvcc")),
        (nvidia.join("cicc"), nvvm.join("cicc")),
        (debian.join("usr/bin/ptxas"), bin.join("ptxas")),
        (debian.join("usr/bin/fatbinary"), bin.join("fatbinary")),
        (debian.join("usr/bin/cudafe++"), bin.join("cudafe++")),
    ] {
        fs::rename(&from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
        let _ = fs::set_permissions(&to, fs::Permissions::from_mode(0o755));
    }
    let profile = bin.join("nvcc.profile");
    fs::write(&profile, PROFILE).map_err(|error| format!("{}: {error}", profile.display()))?;
    let copy = |from: &str, to: &str| {
        let (from, to) = (headers.join("nvidia").join(from), folder.join(to));
        run::check(Command::new("cp").arg("-r").arg(from).arg(to))
    };
    copy("cuda_nvcc/nvvm/libdevice", "nvvm/libdevice")?;
    copy("cuda_runtime/include", "include")?;
    copy("cuda_nvcc/include/.", "include")?;
    copy("cuda_cccl/include/.", "include")?;
    fs::remove_dir_all(&debian).map_err(|error| format!("{}: {error}", debian.display()))
}

/// Unpacks a package of [`DEBIAN`]'s non-free section, without installing it: from this machine's own mirror, with lists and
/// caches of its own.
fn unpack_debian(folder: &Path, package: &str) -> Result<()> {
    let needs = "nvcc 12.4 is unpacked from a package of Debian, which needs apt-get and dpkg-deb on a Debian machine";
    // Whether or not lists have been fetched.
    let mirrors =
        ["indextargets", "--no-release-info", "--format", "$(REPO_URI)", "Created-By: Packages"];
    let mirrors = run::output(Command::new("apt-get").args(mirrors)).ok_or(needs)?;
    let mirror = mirrors.lines().find(|line| line.trim_end_matches('/').ends_with("/debian"));
    let mirror = mirror.ok_or(needs)?;
    let apt = folder.join("apt");
    for path in ["lists/partial", "cache/archives/partial", "empty"] {
        let path = apt.join(path);
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let sources = apt.join("sources.list");
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let line = format!("deb [signed-by={keys}] {mirror} {DEBIAN} non-free\n");
    fs::write(&sources, line).map_err(|error| format!("{}: {error}", sources.display()))?;
    let status = apt.join("status");
    fs::write(&status, "").map_err(|error| format!("{}: {error}", status.display()))?;
    let get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(&apt).arg("-qq");
        for (key, path) in [
            ("Dir::Etc::SourceList", &sources),
            ("Dir::Etc::SourceParts", &apt.join("empty")),
            ("Dir::State::Lists", &apt.join("lists")),
            ("Dir::State::status", &status),
            ("Dir::Cache", &apt.join("cache")),
        ] {
            command.arg("-o").arg(format!("{key}={}", path.display()));
        }
        // As the one who runs this: the folder may be no other user's to read.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]);
        run::check(command.args(arguments))
    };
    get(&["update"])?;
    get(&["download", package])?;
    let entries = fs::read_dir(&apt).map_err(|error| format!("{}: {error}", apt.display()))?;
    let archive = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let archive = archive.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb"));
    let archive = archive.ok_or_else(|| format!("no archive of {package} in {}", apt.display()))?;
    run::check(Command::new("dpkg-deb").arg("-x").arg(archive).arg(folder))
}
