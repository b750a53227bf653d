//! Running commands, and saying so.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Result;

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ is in the root").to_owned()
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// Says what is about to happen: on standard error, since `cargo xtask env` is read by a shell.
pub fn step(what: &str) {
    eprintln!("\n==> {what}");
}

/// The cargo that runs this, in the root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs a command to its end, its output going to the terminal.
pub fn check(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}")) }
}

/// What a command prints, if it ends well.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command, shows every line of its standard output and hands it to `each`. True where it
/// ended well.
pub fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    let spawned = command.stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("{command:?}: {error}"))?;
    let pipe = child.stdout.take().expect("standard output is piped");
    for line in BufReader::new(pipe).lines() {
        let line = line.map_err(|error| format!("{command:?}: {error}"))?;
        println!("{line}");
        each(&line);
    }
    Ok(child.wait().map_err(|error| format!("{command:?}: {error}"))?.success())
}
