//! Builds of the package that compile its kernels, or cannot: what build.rs says, and paths that are no plain words.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::consumers::cargo;
use crate::toolkit::Nvcc;
use crate::{Result, run};

/// Every character that a command line or a list of paths could take for its own.
const ODD: &str = "a b,c'd\"e;f$g";

/// A build that must end with an error: what `NVCC` is, what is behind a source, and what the error says.
struct Fault {
    what: &'static str,
    nvcc: &'static str,
    behind: &'static str,
    expected: &'static [&'static str],
}

const FAULTS: [Fault; 4] = [
    Fault {
        what: "an NVCC that is not there",
        nvcc: "/nonexistent/nvcc",
        behind: "",
        expected: &["NVCC is /nonexistent/nvcc", "does not run"],
    },
    Fault {
        what: "an NVCC that is something else",
        nvcc: "/bin/true",
        behind: "",
        expected: &["NVCC is /bin/true", "names no release"],
    },
    Fault {
        what: "other sources than the compiled ones, and no nvcc",
        nvcc: "",
        behind: "// changed",
        expected: &["prebuilt/ is of other sources", "--no-default-features"],
    },
    Fault {
        what: "a source that does not compile",
        nvcc: "nvcc",
        behind: "this is not C++",
        expected: &["could not compile kernels/", "this is not C++", "cos_sin.cuh"],
    },
];

/// In copies of the unpacked package.
pub fn check(package: &Path, nvcc: &Nvcc) -> Result<()> {
    let folder = package.with_file_name(ODD);
    let copy = || {
        let _ = fs::remove_dir_all(&folder);
        run::check(Command::new("cp").arg("-r").arg(package).arg(&folder))
    };
    // Little to compile: entries of cos and sin alone.
    let reduce = |behind: &str| -> Result<()> {
        for (name, text) in [("append.cu", ""), ("rotate.cu", "")] {
            fs::write(folder.join("kernels").join(name), text)
                .map_err(|error| error.to_string())?;
        }
        let source = folder.join("kernels/cos_sin.cuh");
        let text = fs::read_to_string(&source).map_err(|error| error.to_string())?;
        fs::write(source, format!("{text}{behind}\n")).map_err(|error| error.to_string())
    };
    let build = |nvcc: &Path| {
        let mut command = cargo(&folder, &["check", "--quiet"]);
        if !nvcc.as_os_str().is_empty() {
            command.env("NVCC", nvcc);
        }
        command.env("CARGO_TARGET_DIR", folder.join("target")).env("RUST_BACKTRACE", "1");
        command
    };
    for Fault { what, nvcc: given, behind, expected } in FAULTS {
        copy()?;
        if !behind.is_empty() {
            reduce(behind)?;
        }
        let given = if given == "nvcc" { nvcc.path.as_path() } else { Path::new(given) };
        let output = build(given).output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let missing = expected.iter().find(|expected| !said.contains(**expected));
        if output.status.success() || missing.is_some() || said.contains("stack backtrace") {
            return Err(format!("{what}: expected an error that says {expected:?}: {said}"));
        }
        println!("an error, as it must be: {what}");
    }
    copy()?;
    reduce("// changed")?;
    run::check(&mut build(&nvcc.path))?;
    println!("compiled by nvcc {} in a folder {ODD}", nvcc.build().unwrap_or_default());
    fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))
}
