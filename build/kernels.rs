//! What is compiled, and for what. build.rs and xtask share this file: what the one compiles where it is built, the other
//! compiles for the published package.

use std::fs;
use std::path::{Path, PathBuf};

/// The fat binaries, a source each.
pub const KERNELS: [&str; 4] = ["flat", "rotate", "append", "cos_sin"];

/// Machine code, and the PTX that it is made of: the first of each generation, whose code runs on
/// the others. L2 hints begin with compute_80, and PDL with compute_90.
pub const MACHINES: [(usize, usize); 5] = [(75, 75), (80, 75), (90, 90), (100, 90), (120, 90)];

/// PTX that stays in the fat binary, for devices between and after those.
pub const PTX: [usize; 2] = [75, 90];

/// No contraction: the sources say which operations are fused. Never fast-math.
pub const FLAGS: [&str; 3] = ["-std=c++17", "-O3", "--fmad=false"];

/// A number for the sources and all of the above: FNV-1a, the same on every machine and by every release of Rust. It tells
/// other sources from these, not malice.
pub fn digest(sources: &Path) -> Result<u64, String> {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        // The length in front: no two lists of parts are one text.
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(format!("{KERNELS:?} {MACHINES:?} {PTX:?} {FLAGS:?}").as_bytes());
    for file in files(sources)? {
        let path = sources.join(&file);
        add(file.to_string_lossy().replace('\\', "/").as_bytes());
        add(&fs::read(&path).map_err(|error| failed(&path, &error))?);
    }
    Ok(digest)
}

/// The files below a folder, by their paths from there, in order.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    list(folder, Path::new(""), &mut files).map_err(|error| failed(folder, &error))?;
    Ok(files)
}

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

pub fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
