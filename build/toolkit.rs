//! nvcc: where it is, and what it says of itself. build.rs and xtask share this file, so that they find the
//! same one.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A CUDA compiler that answers.
pub struct Nvcc {
    pub path: PathBuf,
    /// All that it says of its version.
    pub version: String,
}

/// Where nvcc is looked for, in this order.
pub const PLACES: &str =
    "NVCC, PATH, CUDA_HOME, CUDA_PATH, /usr/local/cuda, /opt/cuda, /usr/lib/cuda";

impl Nvcc {
    /// `NVCC` where it is set; else the first that answers. `None` where there is none.
    ///
    /// # Errors
    /// Where `NVCC` is set to something else.
    pub fn find() -> Result<Option<Self>, String> {
        let executable = if cfg!(windows) { "nvcc.exe" } else { "nvcc" };
        let on_path = |name: &Path| {
            let folders = env::var_os("PATH").unwrap_or_default();
            env::split_paths(&folders).map(|folder| folder.join(name)).collect::<Vec<_>>()
        };
        if let Some(asked) = variable("NVCC") {
            let asked = PathBuf::from(asked);
            // A bare name is looked up, as a shell would.
            let bare = asked.components().count() == 1;
            let paths = if bare { on_path(&asked) } else { vec![asked.clone()] };
            let found = paths.iter().find(|path| path.is_file()).unwrap_or(&asked);
            let wrong =
                |why| format!("NVCC is {}, which is not a working nvcc: {why}", asked.display());
            return Self::ask(found).map(Some).map_err(wrong);
        }
        let roots = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(PathBuf::from);
        let usual = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"].map(PathBuf::from);
        let under_roots = roots.chain(usual).map(|root| root.join("bin").join(executable));
        let candidates = on_path(Path::new(executable)).into_iter().chain(under_roots);
        Ok(candidates.into_iter().find_map(|path| Self::ask(&path).ok()))
    }

    /// Runs it.
    pub fn ask(path: &Path) -> Result<Self, String> {
        let said = |error: std::io::Error| format!("it does not run ({error})");
        let path = path.canonicalize().map_err(said)?;
        let output = Command::new(&path).arg("--version").output().map_err(said)?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        let nvcc = Self { path, version };
        if output.status.success() && nvcc.build().is_some() {
            return Ok(nvcc);
        }
        let first = nvcc.version.lines().next().unwrap_or_default();
        Err(format!("`--version` names no release (it said \"{first}\")"))
    }

    /// "13.0.88", of its line "release 13.0, V13.0.88".
    pub fn build(&self) -> Option<&str> {
        let (_, rest) = self.version.split_once("release ")?;
        let (_, rest) = rest.split_once(", V")?;
        let number = rest.split_whitespace().next()?;
        number.starts_with(|c: char| c.is_ascii_digit()).then_some(number)
    }
}

/// A variable that is set, and not to nothing.
pub fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
