//! The C library where C programs look for it: `lib/`, `include/` and `lib/pkgconfig/` of a prefix.

use std::fs;
use std::path::Path;

use crate::toolchain::{self, Tool};
use crate::{Result, package, run};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub fn install(prefix: &str) -> Result<()> {
    let mut build =
        run::cargo(&["build", "--release", "-p", "condensed-rope-capi", "--features", "cuda"]);
    // The package's kernels; where their compiler cannot be had, those of the nvcc that can, for drivers of its own CUDA.
    if let Err(why) = package::prebuild() {
        println!("the package's kernels cannot be compiled here ({why}): nvcc's own");
        toolchain::nvcc()?.put_in(&mut build);
    }
    run::step("building the C library, with CUDA");
    run::check(&mut build)?;
    let root = run::root();
    let target = run::target();
    let prefix = std::path::absolute(prefix).map_err(|error| format!("{prefix}: {error}"))?;
    let (lib, include) = (prefix.join("lib"), prefix.join("include"));
    let packages = lib.join("pkgconfig");
    for folder in [&packages, &include] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let release = target.join("release");
    // Programs find it by the name with the major version.
    let shared = lib.join("libcondensed_rope.so.0");
    copy(&release.join("libcondensed_rope_c.so"), &shared)?;
    let link = lib.join("libcondensed_rope.so");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink("libcondensed_rope.so.0", &link)
        .map_err(|error| format!("{}: {error}", link.display()))?;
    copy(&release.join("libcondensed_rope_c.a"), &lib.join("libcondensed_rope.a"))?;
    copy(&root.join("capi/include/condensed_rope.h"), &include.join("condensed_rope.h"))?;
    let package = packages.join("condensed-rope.pc");
    let text = format!(
        "prefix={}\nlibdir=${{prefix}}/lib\nincludedir=${{prefix}}/include\n\n\
         Name: condensed-rope\nDescription: Rotary position embedding by condensed positions\n\
         Version: {VERSION}\nLibs: -L${{libdir}} -lcondensed_rope\n\
         Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc\nCflags: -I${{includedir}}\n",
        prefix.display()
    );
    fs::write(&package, text).map_err(|error| format!("{}: {error}", package.display()))?;
    println!("{}", package.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    println!("{}", to.display());
    Ok(())
}
