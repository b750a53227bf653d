//! The committed header is the source's.

#[test]
fn the_header_is_the_sources() {
    let root = env!("CARGO_MANIFEST_DIR");
    let config = cbindgen::Config::from_file(format!("{root}/cbindgen.toml")).expect("a config");
    let mut header = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(format!("{root}/src/error.rs"))
        .with_src(format!("{root}/src/frequencies.rs"))
        .with_src(format!("{root}/src/kernels.rs"))
        .with_src(format!("{root}/src/rotate.rs"))
        .with_src(format!("{root}/src/append.rs"))
        .generate()
        .expect("bindings")
        .write(&mut header);
    let path = format!("{root}/include/condensed_rope.h");
    if std::env::var_os("CONDENSED_ROPE_UPDATE").is_some() {
        std::fs::write(&path, &header).expect("written");
    }
    let committed = std::fs::read(&path).expect("a header");
    assert!(committed == header, "CONDENSED_ROPE_UPDATE=1 writes {path} anew");
}
