//! Mutation tests: every change of the table is compiled into one build, as a choice at run time, and the tests
//! run once for each.
//!
//! The sources are copied to `target/mutants`, changed there, and built there. A mutant is *killed* where a test
//! fails, the program crashes or nothing happens for two minutes; what survives is named, and is an error
//! unless the table says why no test can notice it.

mod table;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::toolchain::{self, Tool};
use crate::{Result, run};
use table::{Kind, MUTANTS, Mutant};

/// Which mutant a program is to be; none without it.
const CHOICE: &str = "CONDENSED_ROPE_MUTANT";
const PATIENCE: Duration = Duration::from_secs(120);

/// Prints the table.
pub fn list() -> Result<()> {
    for (i, mutant) in MUTANTS.iter().enumerate() {
        println!("{i:4}  {}", shown(mutant));
    }
    println!("{} mutants", MUTANTS.len());
    Ok(())
}

fn shown(Mutant { file, from, to, .. }: &Mutant) -> String {
    let to = if to.is_empty() { "(removed)" } else { to };
    format!("{file}: {from}  ->  {to}")
}

/// Runs the mutants that some word picks, or without a word all of them.
pub fn run(words: &[&str]) -> Result<()> {
    let tree = run::root().join("target/mutants");
    copy_tree(&tree)?;
    apply(&tree)?;
    run::step("one build of all mutants");
    let tests = build(&tree)?;
    run::step("the tests without a mutant");
    if let Some(killer) = killed_by(&tests, None)? {
        return Err(format!("the tests fail without a mutant: {killer}"));
    }
    let chosen =
        |mutant: &Mutant| words.is_empty() || words.iter().any(|word| shown(mutant).contains(word));
    let chosen: Vec<_> = MUTANTS.iter().enumerate().filter(|(_, mutant)| chosen(mutant)).collect();
    run::step(&format!("{} mutants", chosen.len()));
    let (start, mut killed, mut same) = (Instant::now(), 0, 0);
    let (mut survivors, mut wrong) = (Vec::new(), Vec::new());
    for (n, (i, mutant)) in chosen.iter().enumerate() {
        let killer = killed_by(&tests, Some(*i))?;
        let what = match (&killer, mutant.equivalent) {
            (Some(killer), None) => {
                killed += 1;
                format!("killed by {killer}")
            }
            (None, Some(reason)) => {
                same += 1;
                format!("equivalent: {reason}")
            }
            (None, None) => {
                survivors.push(shown(mutant));
                "SURVIVES".to_owned()
            }
            (Some(killer), Some(_)) => {
                wrong.push(shown(mutant));
                format!("called equivalent, but killed by {killer}")
            }
        };
        let seconds = start.elapsed().as_secs();
        println!("{:4}/{} {seconds:5} s  {}\n      {what}", n + 1, chosen.len(), shown(mutant));
    }
    println!(
        "\n{killed} killed, {same} equivalent, {} survived, {} wrongly called equivalent",
        survivors.len(),
        wrong.len()
    );
    let bad = [survivors, wrong].concat();
    if bad.is_empty() { Ok(()) } else { Err(format!("not right:\n{}", bad.join("\n"))) }
}

/// The files that git knows, or would.
fn copy_tree(tree: &Path) -> Result<()> {
    let mut git = Command::new("git");
    git.current_dir(run::root());
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let files = run::output(&mut git).ok_or("git ls-files does not work here")?;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (run::root().join(file), tree.join(file));
        // Deleted, but not committed.
        let Ok(bytes) = fs::read(&from) else { continue };
        // What has not changed is not built again.
        if fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        write(&to, &bytes)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(path)).map_err(failed)?;
    fs::write(path, bytes).map_err(failed)
}

/// Writes every mutant into the tree, as a choice.
fn apply(tree: &Path) -> Result<()> {
    let mut files: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (i, mutant) in MUTANTS.iter().enumerate() {
        files.entry(mutant.file).or_default().push((i, mutant));
    }
    for (file, mutants) in files {
        let path = run::root().join(file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
        write(&tree.join(file), changed(file, &text, &mutants)?.as_bytes())?;
    }
    let chooser = |file: &str, text: &str| -> Result<()> {
        let path = run::root().join(file);
        let before = fs::read_to_string(path).map_err(|error| format!("{file}: {error}"))?;
        write(&tree.join(file), (before + text).as_bytes())
    };
    chooser(
        "src/lib.rs",
        &format!(
            "\nextern crate self as condensed_rope;\n#[doc(hidden)]\npub mod mutant {{\n    //! The choice.\n    \
             /// Whether it is this one.\n    #[inline(never)]\n    pub fn is(n: i64) -> bool {{\n        static CHOSEN: \
             std::sync::OnceLock<i64> = std::sync::OnceLock::new();\n        let read = || \
             std::env::var(\"{CHOICE}\").ok().and_then(|n| n.parse().ok()).unwrap_or(-1);\n        \
             *CHOSEN.get_or_init(read) == n\n    }}\n}}\n"
        ),
    )?;
    chooser(
        "kernels/arith.cuh",
        &format!(
            "\n#ifndef ROPE_MUTANTS\n#define ROPE_MUTANTS\n#include <stdlib.h>\nstatic inline bool rope_mutant(int n) {{\n    \
             static const char* chosen = getenv(\"{CHOICE}\");\n    return chosen != nullptr && atoi(chosen) == n;\n}}\n#endif\n"
        ),
    )
}

/// A file with its mutants as choices. Those of one place nest.
fn changed(file: &str, text: &str, mutants: &[(usize, &Mutant)]) -> Result<String> {
    let mut places: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for &(i, mutant) in mutants {
        places.entry(mutant.from).or_default().push((i, mutant));
    }
    let is_cpp = file.ends_with(".cuh");
    let mut text = text.to_owned();
    for (from, mutants) in places {
        let count = text.matches(from).count();
        if count != 1 {
            return Err(format!("{file} has {count} times: {from}"));
        }
        let choice = mutants.iter().fold(from.to_owned(), |otherwise, (i, mutant)| {
            let to = mutant.to;
            match (mutant.kind, is_cpp) {
                (Kind::Expression, true) => format!("(rope_mutant({i}) ? ({to}) : ({otherwise}))"),
                (Kind::Expression, false) if from.contains(" => ") => arms(*i, &otherwise, to),
                (Kind::Expression, false) => {
                    format!(
                        "(if ::condensed_rope::mutant::is({i}) {{ {to} }} else {{ {otherwise} }})"
                    )
                }
                (Kind::Statement, true) => {
                    format!("if (rope_mutant({i})) {{ {to} }} else {{ {otherwise} }}")
                }
                (Kind::Statement, false) => {
                    format!(
                        "if ::condensed_rope::mutant::is({i}) {{ {to} }} else {{ {otherwise} }}"
                    )
                }
            }
        });
        text = text.replacen(from, &choice, 1);
    }
    Ok(text)
}

/// Arms of a match: the mutant's with a guard before the other.
fn arms(i: usize, otherwise: &str, to: &str) -> String {
    let (pattern, value) = to.split_once(" => ").unwrap_or((to, ""));
    format!("{pattern} if ::condensed_rope::mutant::is({i}) => {value},\n{otherwise}")
}

/// The test programs, quickest first, and the environment that they want.
struct Tests {
    programs: Vec<(String, PathBuf)>,
    tree: PathBuf,
}

fn build(tree: &Path) -> Result<Tests> {
    let mut programs = Vec::new();
    for arguments in [
        &["test", "--no-run", "--no-default-features", "--features", "config"][..],
        &["test", "--no-run", "-p", "condensed-rope-cli", "--no-default-features"],
        &["test", "--no-run", "-p", "testkit", "--features", "kernel-on-host"],
    ] {
        let mut command = run::cargo(arguments);
        command.current_dir(tree).arg("--message-format=json-render-diagnostics");
        command.env("CARGO_TARGET_DIR", tree.join("target"));
        // Choices warn of braces and of what is always so.
        command.env("RUSTFLAGS", "-Awarnings").stderr(Stdio::inherit());
        toolchain::nvcc()?.put_in(&mut command);
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        if !output.status.success() {
            return Err("the mutants do not build".to_owned());
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
            let (name, path) = (&message["target"]["name"], &message["executable"]);
            if let (Some(name), Some(path)) = (name.as_str(), path.as_str())
                && message["profile"]["test"] == true
            {
                programs.push((name.to_owned(), PathBuf::from(path)));
            }
        }
    }
    // The unit tests take no time, the kernels on the host most of it.
    let slow = |name: &str| ["cpu", "models", "kernel_on_host"].iter().position(|s| *s == name);
    programs.sort_by_key(|(name, _)| slow(name).map_or(0, |place| place + 1));
    Ok(Tests { programs, tree: tree.to_owned() })
}

/// The first test that fails, and of which program.
fn killed_by(tests: &Tests, mutant: Option<usize>) -> Result<Option<String>> {
    for (name, path) in &tests.programs {
        let mut command = Command::new(path);
        command.current_dir(&tests.tree).stdout(Stdio::piped()).stderr(Stdio::null());
        command.env("CONDENSED_ROPE_HOSTILE", "400");
        command.env_remove(CHOICE);
        if let Some(mutant) = mutant {
            command.env(CHOICE, mutant.to_string());
        }
        let child = command.spawn().map_err(|error| format!("{}: {error}", path.display()))?;
        if let Some(killer) = first_failure(child)? {
            return Ok(Some(format!("{name}: {killer}")));
        }
    }
    Ok(None)
}

/// Reads a test program's lines as they come, and ends it at the first failure.
fn first_failure(mut child: Child) -> Result<Option<String>> {
    let pipe = child.stdout.take().ok_or("standard output is piped")?;
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(std::result::Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    let killer = loop {
        let left = PATIENCE.saturating_sub(start.elapsed());
        match receive.recv_timeout(left) {
            Ok(line) => {
                let failed = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED"));
                if let Some(test) = failed {
                    break Some(test.to_owned());
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => break Some("it hangs".to_owned()),
            Err(mpsc::RecvTimeoutError::Disconnected) => break None,
        }
    };
    if killer.is_some() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    Ok(killer.or_else(|| (!status.success()).then(|| format!("it ends with {status}"))))
}
