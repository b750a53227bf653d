//! What is known of compiled kernels: by which compiler, of which sources. `cargo xtask package` writes it beside the fat
//! binaries that it puts into the package, and build.rs reads it there.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::kernels::KERNELS;

/// Where a package has its fat binaries: not in git.
pub const PREBUILT: &str = "prebuilt";
/// The file beside them that this is in.
pub const FILE: &str = "compiled.txt";

/// A release of CUDA.
pub type Release = (u32, u32);

/// Fat binaries in a folder.
#[derive(Debug, PartialEq)]
pub struct Compiled {
    /// Of the sources and flags.
    pub digest: u64,
    /// The release that the PTX is of. Machine code runs on drivers from its major version on, PTX from itself on.
    pub release: Release,
    /// The compiler, and the assembler where that is another one's.
    pub by: String,
}

impl fmt::Display for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { digest, release: (major, minor), by } = self;
        writeln!(f, "digest {digest:016x}\nrelease {major}.{minor}\nby {by}")
    }
}

impl Compiled {
    /// What lies in a folder; `None` where that is not all of it.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(FILE)).ok()?;
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        let whole = KERNELS.iter().all(|name| fat_binary(folder, name).is_file());
        let compiled = Self {
            digest: u64::from_str_radix(value("digest")?, 16).ok()?,
            release: release(value("release")?)?,
            by: value("by")?.to_owned(),
        };
        whole.then_some(compiled)
    }
}

pub fn fat_binary(folder: &Path, kernel: &str) -> PathBuf {
    folder.join(kernel).with_extension("fatbin")
}

/// "13.0", and of "13.0.88" the first two.
pub fn release(text: &str) -> Option<Release> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
