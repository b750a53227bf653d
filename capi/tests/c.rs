//! A C program, compiled by `cc` against the header and linked with the shared library, and what that exports.

use std::path::PathBuf;
use std::process::Command;

fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a test");
    let folder = test.parent().expect("a folder of the build");
    folder.join("libcondensed_rope_c.so")
}

#[test]
fn a_c_program_runs() {
    let root = env!("CARGO_MANIFEST_DIR");
    let library = library();
    let program = std::env::temp_dir().join(format!("condensed-rope-c-{}", std::process::id()));
    let folder = program.with_extension("lib");
    std::fs::create_dir_all(&folder).expect("a folder");
    // By the name that programs find it by.
    for name in ["libcondensed_rope.so", "libcondensed_rope.so.0"] {
        std::fs::copy(&library, folder.join(name)).expect("the library");
    }
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(format!("{root}/tests/test.c"))
        .arg(format!("-I{root}/include"))
        .arg(format!("-L{}", folder.display()))
        .args(["-lcondensed_rope", "-lm"])
        .output()
        .expect("cc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let ran = Command::new(&program).env("LD_LIBRARY_PATH", &folder).output().expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("0 failures"), "{said}");
    let _ = std::fs::remove_dir_all(&folder);
    let _ = std::fs::remove_file(&program);
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
