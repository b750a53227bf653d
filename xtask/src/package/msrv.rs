//! The oldest Rust, as packages state it: where no such toolchain is at hand, what cargo's resolver goes by.

use std::process::Command;

use serde_json::Value;

use crate::{Result, run};

/// Fails where a package that the published one depends on states a newer Rust than it does. `metadata` prints cargo's
/// metadata of it.
pub fn check(metadata: &mut Command) -> Result<()> {
    metadata.env("CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS", "fallback");
    let said = run::output(metadata).ok_or_else(|| format!("{metadata:?} did not end well"))?;
    let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    let (ours, newest) = oldest_rust(&said).ok_or("cargo's metadata lacks packages")?;
    println!("{} of {}, stated {}", display(newest.0), newest.1, display(ours));
    if newest.0 > ours { Err(format!("{} states a newer Rust", newest.1)) } else { Ok(()) }
}

type Rust = (u32, u32);

fn display((major, minor): Rust) -> String {
    format!("{major}.{minor}")
}

/// The Rust of the root, and the newest among the packages that are built with it and state one.
fn oldest_rust(metadata: &Value) -> Option<(Rust, (Rust, String))> {
    let root = metadata["resolve"]["root"].as_str()?;
    let packages = metadata["packages"].as_array()?;
    let rust = |package: &Value| crate::compiled::release(package["rust_version"].as_str()?);
    let nodes = metadata["resolve"]["nodes"].as_array()?;
    // Without what only its tests need.
    let (mut built, mut next) = (Vec::new(), vec![root]);
    while let Some(id) = next.pop() {
        if built.contains(&id) {
            continue;
        }
        built.push(id);
        let node = nodes.iter().find(|node| node["id"] == id)?;
        let dependencies = node["deps"].as_array()?.iter().filter(|dependency| {
            let kinds = dependency["dep_kinds"].as_array();
            kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev"))
        });
        next.extend(dependencies.filter_map(|dependency| dependency["pkg"].as_str()));
    }
    let of = |id: &str| packages.iter().find(|package| package["id"] == id);
    let stated = built.iter().filter_map(|id| {
        let package = of(id)?;
        Some((rust(package)?, package["name"].as_str()?.to_owned()))
    });
    Some((rust(of(root)?)?, stated.filter(|(_, name)| name != "condensed-rope").max()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn what_only_tests_need_may_be_newer() {
        let node = |id: &str, deps: &[(&str, Option<&str>)]| {
            let deps: Vec<_> = deps
                .iter()
                .map(|(id, kind)| json!({"pkg": id, "dep_kinds": [{"kind": kind}]}))
                .collect();
            json!({"id": id, "deps": deps})
        };
        let package =
            |name: &str, rust: &str| json!({"id": name, "name": name, "rust_version": rust});
        let metadata = json!({
            "packages": [package("condensed-rope", "1.88"), package("a", "1.70.0"), package("b", "1.99"),
                         package("c", "1.90")],
            "resolve": {"root": "condensed-rope", "nodes": [
                node("condensed-rope", &[("a", None), ("b", Some("dev"))]),
                node("a", &[("c", Some("build"))]), node("b", &[]), node("c", &[]),
            ]},
        });
        let expected = ((1, 88), ((1, 90), "c".to_owned()));
        assert_eq!(super::oldest_rust(&metadata), Some(expected));
    }
}
