//! The project's commands: `cargo xtask help` lists them.

mod bench;
mod bundle;
mod candle;
#[path = "../../build/compiled.rs"]
mod compiled;
mod figures;
mod install;
#[path = "../../build/kernels.rs"]
mod kernels;
mod mutants;
mod package;
#[path = "../../cli/src/plot.rs"]
mod plot;
mod python;
mod resources;
mod run;
mod test;
mod toolchain;
#[path = "../../build/toolkit.rs"]
mod toolkit;

use std::process::ExitCode;

use toolchain::Tool;

/// What went wrong, for the person at the terminal.
type Result<T> = std::result::Result<T, String>;

const COMMANDS: &str = "\
cargo xtask demo      rotate LongChat-7b-16k's q and k, on the GPU or the CPU, checked against f64
cargo xtask test      every test that this machine can run, and what it could not and why
                      (--registers prints those of every kernel)
cargo xtask mutants   changes one thing at a time in kernels, CPU backend, checks and frequencies, and
                      names what no test notices (--list names them all; words: those with one of them)
cargo xtask bench     GPU times against the memory limit and peers, host and CPU times, errors; rows in
                      target/bench.json and target/errors.json
cargo xtask bench --table FILE    the ratios of a bench file
cargo xtask bench --compare FILE FILE    how far two runs are apart
cargo xtask figures   docs/*.svg, from benches/results
cargo xtask package   the published crate, with kernels compiled for drivers of CUDA 12 and 13 (in prebuilt/, which
                      other builds here take from then on), and programs that use it from folders of their own
cargo xtask bundle    tests, bench and demo in target/bundle, for a GPU machine without cargo
cargo xtask candle check    condensed-rope-candle's CUDA arms through clippy, without a toolkit
cargo xtask candle model    the paths of SmolLM2-135M-Instruct and a long text, fetched where they are not there yet
cargo xtask candle bundle   its CUDA tests and example in target/candle-bundle (candle's kernels take ten minutes)
cargo xtask transformers [RELEASE ...]    the Python package's tests against releases of transformers, 4.31 to 5.24
cargo xtask install --prefix DIR    the C library, its header and its pkg-config file
cargo xtask env       shell lines that let plain cargo find the same nvcc and libtorch";

fn help() -> String {
    format!(
        "{COMMANDS}\n\nnvcc is looked for in {}, and libtorch in\nLIBTORCH and python3's torch; \
         what is not found is installed from PyPI into a cache folder\n(CONDENSED_ROPE_CACHE, or \
         ~/.cache/condensed-rope).",
        toolkit::PLACES
    )
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["demo"] => demo(),
        ["test"] => test::test(false),
        ["test", "--registers"] => test::test(true),
        ["mutants", "--list"] => mutants::list(),
        ["mutants", words @ ..] if !words.iter().any(|word| word.starts_with('-')) => {
            mutants::run(words)
        }
        ["bench"] => bench::bench(),
        ["bench", "--table", file] => bench::table(file),
        ["bench", "--compare", before, after] => bench::compare(before, after),
        ["transformers", releases @ ..] => python::matrix(releases),
        ["install", "--prefix", prefix] => install::install(prefix),
        ["figures"] => figures::figures(),
        ["package"] => package::package(),
        ["bundle"] => bundle::bundle(),
        ["candle", "check"] => candle::check(),
        ["candle", "model"] => candle::model().map(drop),
        ["candle", "bundle"] => candle::bundle(),
        ["env"] => environment(),
        ["help" | "--help" | "-h"] | [] => {
            println!("{}", help());
            Ok(())
        }
        other => Err(format!("no such command: {}\n\n{}", other.join(" "), help())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let nvcc = toolchain::nvcc()?;
    run::step("building and running the demo");
    let mut command = run::cargo(&["run", "--release", "--example", "longchat"]);
    nvcc.put_in(&mut command);
    run::check(&mut command)
}

/// One word of a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// For `eval "$(cargo xtask env)"`: only the assignments go to standard output.
fn environment() -> Result<()> {
    let mut command = std::process::Command::new("true");
    toolchain::nvcc()?.put_in(&mut command);
    toolchain::libtorch()?.put_in(&mut command);
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            println!("export {}={}", key.display(), quoted(&value.to_string_lossy()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn shells_read_back_what_was_quoted() {
        for text in ["/usr/bin", "", "a b", "it's", "''", "$HOME `x` \\ \"", "line\nline"] {
            let echo = format!("printf %s {}", super::quoted(text));
            let said = std::process::Command::new("sh").args(["-c", &echo]).output();
            assert_eq!(said.expect("a shell").stdout, text.as_bytes());
        }
    }
}
