//! The published package: its kernels compiled, packed with the sources, and tried from folders that have nothing else.

mod builds;
mod consumers;
mod cuda12;
mod images;
mod msrv;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::compiled::{Compiled, FILE, PREBUILT, fat_binary, release};
use crate::kernels::{self, FLAGS, KERNELS, MACHINES, PTX};
use crate::{Result, run};
use images::Image;

/// What crates.io takes.
const LIMIT: u64 = 10 << 20;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The crate's archive, in target/package, used by programs of their own.
pub fn package() -> Result<()> {
    prebuild()?;
    let archive = pack()?;
    consumers::run(&archive, &cuda12::toolkit()?.nvcc)
}

/// Puts compiled kernels into `prebuilt/`, unless they are there. What is built in the checkout from then on takes them:
/// the C library, wheels, programs.
pub fn prebuild() -> Result<()> {
    let root = run::root();
    let (sources, folder) = (root.join("kernels"), root.join(PREBUILT));
    let toolkit = cuda12::toolkit()?;
    let build = toolkit.nvcc.build().unwrap_or_default();
    let compiled = Compiled {
        digest: kernels::digest(&sources)?,
        release: release(build).ok_or("an nvcc without a release")?,
        by: format!("nvcc {build}, ptxas {}", toolkit.ptxas_build),
    };
    if Compiled::read(&folder).as_ref() != Some(&compiled) {
        run::step(&format!("compiling the package's kernels by {}", compiled.by));
        let work = root.join("target").join(PREBUILT);
        for folder in [&work, &folder] {
            let _ = fs::remove_dir_all(folder);
            fs::create_dir_all(folder).map_err(|error| kernels::failed(folder, &error))?;
        }
        for name in KERNELS {
            compile(&toolkit, &sources, &work, name)?;
        }
        for name in KERNELS {
            let (from, to) = (fat_binary(&work, name), fat_binary(&folder, name));
            fs::rename(&from, &to).map_err(|error| kernels::failed(&from, &error))?;
        }
        // Last: it says that the others are whole.
        let path = folder.join(FILE);
        fs::write(&path, compiled.to_string()).map_err(|error| kernels::failed(&path, &error))?;
    }
    run::step(&format!("what is written in {PREBUILT}/, by {}", compiled.by));
    show(&folder)
}

/// PTX by nvcc, machine code of it by ptxas, both packed by fatbinary.
fn compile(toolkit: &cuda12::Toolkit, sources: &Path, work: &Path, name: &str) -> Result<()> {
    let ptx = |machine: usize| work.join(format!("{name}_{machine}.ptx"));
    let elf = |machine: usize| work.join(format!("{name}_{machine}.cubin"));
    side_by_side(PTX.map(|machine| {
        let mut nvcc = Command::new(&toolkit.nvcc.path);
        nvcc.current_dir(sources).args(FLAGS).arg(format!("-arch=compute_{machine}"));
        nvcc.arg("-ptx").arg("-o").arg(ptx(machine)).arg(format!("{name}.cu"));
        nvcc
    }))?;
    side_by_side(MACHINES.map(|(machine, of)| {
        let mut ptxas = Command::new(&toolkit.ptxas);
        ptxas
            .arg("-O3")
            .arg(format!("-arch=sm_{machine}"))
            .arg("-o")
            .arg(elf(machine))
            .arg(ptx(of));
        ptxas
    }))?;
    // LZ4, which is all that drivers before 12.4 read.
    let mut fatbinary = Command::new(&toolkit.fatbinary);
    fatbinary.args(["-64", "-compress-all", "--compress-mode=speed"]);
    fatbinary.arg(format!("--create={}", fat_binary(work, name).display()));
    for (machine, _) in MACHINES {
        fatbinary.arg(format!("--image3=kind=elf,sm={machine},file={}", elf(machine).display()));
    }
    for machine in PTX {
        fatbinary.arg(format!("--image3=kind=ptx,sm={machine},file={}", ptx(machine).display()));
    }
    run::check(&mut fatbinary)?;
    println!("{name}");
    Ok(())
}

/// Runs commands beside one another, two at a time.
fn side_by_side<const N: usize>(mut commands: [Command; N]) -> Result<()> {
    for two in commands.chunks_mut(2) {
        let ended: Vec<Result<()>> = thread::scope(|scope| {
            let running: Vec<_> =
                two.iter_mut().map(|command| scope.spawn(|| run::check(command))).collect();
            running
                .into_iter()
                .map(|r| r.join().unwrap_or_else(|_| Err("panicked".into())))
                .collect()
        });
        ended.into_iter().collect::<Result<()>>()?;
    }
    Ok(())
}

/// Prints every image, and fails where a driver of CUDA 12.0 would not load the machine code of its devices.
fn show(folder: &Path) -> Result<()> {
    println!("{:10}{:<12}{:<7}{:>12}  {:<12}driver", "", "device", "format", "bytes", "packed by");
    for name in KERNELS {
        let path = fat_binary(folder, name);
        let bytes = fs::read(&path).map_err(|error| kernels::failed(&path, &error))?;
        let images = images::images(&bytes)?;
        for image in &images {
            println!("{name:10}{image}");
        }
        let machines = images.iter().filter(|image| !image.is_ptx).map(|image| image.machine);
        if !machines.eq(MACHINES.map(|(machine, _)| machine as u32)) {
            return Err(format!("{name}: machine code is missing"));
        }
        // Blackwell's first driver is of 12.8, and PTX 8.4 waits for devices that are newer than that.
        let late = |image: &&Image| {
            let limit = match (image.is_ptx, image.machine) {
                (true, _) => (12, 4),
                (false, ..100) => (12, 0),
                (false, _) => (12, 8),
            };
            image.oldest_driver().is_none_or(|driver| driver > limit)
        };
        if let Some(image) = images.iter().find(late) {
            return Err(format!("{name}: too new for drivers of CUDA 12: {image}"));
        }
    }
    Ok(())
}

/// `cargo package`, with the compiled kernels, which git does not know.
fn pack() -> Result<PathBuf> {
    run::step("cargo package");
    run::check(&mut run::cargo(&[
        "package",
        "-p",
        "condensed-rope",
        "--no-verify",
        "--allow-dirty",
    ]))?;
    let target = run::target().join("package");
    let archive = target.join(format!("condensed-rope-{VERSION}.crate"));
    let size = fs::metadata(&archive).map_err(|error| kernels::failed(&archive, &error))?.len();
    println!("{} KiB of {}: {}", size >> 10, LIMIT >> 10, archive.display());
    if size > LIMIT {
        return Err(format!("crates.io takes {LIMIT} bytes"));
    }
    Ok(archive)
}
