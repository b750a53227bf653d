//! A C program, compiled by `cc` against the header and linked with the shared library, and what that exports.

use std::path::{Path, PathBuf};
use std::process::Command;

fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a test");
    let folder = test.parent().expect("a folder of the build");
    folder.join("libcondensed_rope_c.so")
}

/// Compiles a program against the header, links it with the library by the name that programs find it by, and runs it:
/// what it printed.
fn run(name: &str, source: &Path) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let program =
        std::env::temp_dir().join(format!("condensed-rope-{name}-{}", std::process::id()));
    let folder = program.with_extension("lib");
    std::fs::create_dir_all(&folder).expect("a folder");
    for name in ["libcondensed_rope.so", "libcondensed_rope.so.0"] {
        std::fs::copy(library(), folder.join(name)).expect("the library");
    }
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(source)
        .arg(format!("-I{root}/include"))
        .arg(format!("-L{}", folder.display()))
        .args(["-lcondensed_rope", "-lm"])
        .output()
        .expect("cc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let ran = Command::new(&program).env("LD_LIBRARY_PATH", &folder).output().expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{said}");
    let _ = std::fs::remove_dir_all(&folder);
    let _ = std::fs::remove_file(&program);
    said
}

#[test]
fn a_c_program_runs() {
    let said = run("test", &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/test.c"));
    assert!(said.contains("0 failures"), "{said}");
}

/// The program of docs/c.md, as it stands there, prints what it says there.
#[test]
fn the_guides_program_runs() {
    let guide = include_str!("../../docs/c.md");
    let program = guide.split("```c\n").nth(1).and_then(|rest| rest.split("```").next());
    let program = program.expect("a program");
    let source = std::env::temp_dir().join(format!("condensed-rope-{}.c", std::process::id()));
    std::fs::write(&source, program).expect("written");
    let said = run("guide", &source);
    let _ = std::fs::remove_file(&source);
    assert!(program.contains(&format!("/* {} */", said.trim())), "{said}");
}

/// Nothing but the interface.
#[test]
fn only_the_interface_is_exported() {
    let listed = Command::new("nm").args(["-D", "--defined-only"]).arg(library()).output();
    let listed = String::from_utf8(listed.expect("nm").stdout).expect("UTF-8");
    let names: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert!(names.len() > 10 && names.iter().all(|name| name.starts_with("crope_")), "{names:?}");
    let header = include_str!("../include/condensed_rope.h");
    for name in names {
        assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
    }
}
