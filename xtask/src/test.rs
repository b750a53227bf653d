//! Every test that this machine can run.

use std::process::Command;
use std::time::Instant;

use crate::toolchain::{self, Tool};
use crate::{Result, python, resources, run};

/// What cargo's test runners said at their ends.
#[derive(Default)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    pub ignored: usize,
}

impl Counts {
    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    pub fn read(&mut self, line: &str) {
        // pytest: 26 passed, 1 warning in 20.26s
        let counts = match line.split_once("test result: ") {
            Some((_, counts)) => counts,
            None if line.contains(" passed") && line.contains(" in ") => line,
            None => return,
        };
        let number = |what: &str| -> usize {
            let before = counts.split(what).next().unwrap_or("");
            before.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        self.passed += number(" passed");
        self.failed += number(" failed");
        // pytest's word is the other one.
        self.ignored += number(" ignored") + number(" skipped");
    }
}

/// Of every kind: pairings, parts, two ropes, layers without one, MLA, M-RoPE, backwards, none.
const SAMPLE: [&str; 9] = [
    "llama",
    "glm",
    "gemma3_text",
    "smollm3",
    "deepseek_v3",
    "qwen3_vl",
    "nanochat",
    "gpt_oss",
    "bert",
];

struct Row {
    what: &'static str,
    counts: Counts,
    ok: bool,
    seconds: f64,
}

pub fn test(registers: bool) -> Result<()> {
    let nvcc = toolchain::nvcc()?;
    let libtorch = toolchain::libtorch()?;
    let gpu = toolchain::gpu();
    let gpu_arguments: &[&str] = if gpu.is_some() { &["--", "--include-ignored"] } else { &[] };

    let with_gpu = |arguments: &[&str]| run::cargo(&[arguments, gpu_arguments].concat());
    let host_kernels = ["test", "--no-fail-fast", "-p", "testkit", "--features", "kernel-on-host"];
    let program = ["test", "--no-fail-fast", "-p", "condensed-rope-cli"];
    let program_on_cpu = [&program[..], &["--no-default-features"]].concat();
    let plain = ["test", "--no-fail-fast", "--no-default-features", "--features", "config"];
    let cuda = ["test", "--no-fail-fast", "--features", "nvtx,config", "--lib", "--tests"];
    let mut steps: Vec<(&'static str, Command)> = vec![
        ("without CUDA", run::cargo(&plain)),
        ("kernels' source on the host", run::cargo(&host_kernels)),
        ("xtask", run::cargo(&["test", "-p", "xtask"])),
        ("the program, without CUDA", run::cargo(&program_on_cpu)),
        ("the program", with_gpu(&program)),
        ("CUDA, NVTX, config.json", with_gpu(&cuda)),
        ("examples in the docs", run::cargo(&["test", "--features", "nvtx,config", "--doc"])),
        ("the C interface", run::cargo(&["test", "-p", "condensed-rope-capi"])),
        (
            "candle, on the CPU",
            run::cargo(&["test", "--no-fail-fast", "-p", "condensed-rope-candle"]),
        ),
        ("tch", with_gpu(&["test", "--features", "tch", "--test", "tch"])),
    ];
    let mut rows = Vec::new();
    for (what, command) in &mut steps {
        run::step(what);
        nvcc.put_in(command);
        libtorch.put_in(command);
        let start = Instant::now();
        let mut counts = Counts::default();
        let ok = run::lines(command, |line| counts.read(line))?;
        rows.push(Row { what, counts, ok, seconds: start.elapsed().as_secs_f64() });
    }
    run::step("registers and spills of every kernel");
    let mut build = run::cargo(&["check", "--features", "nvtx,config", "--message-format", "json"]);
    nvcc.put_in(&mut build);
    let resources = resources::check(&mut build, registers)?;

    let python_path = toolchain::transformers(&libtorch, toolchain::TRANSFORMERS)?;
    if let Some(path) = &python_path {
        run::step("the Python package, on the CPU");
        let start = Instant::now();
        let mut counts = Counts::default();
        let ok = run::lines(&mut python::tests(path)?, |line| counts.read(line))?;
        rows.push(Row {
            what: "the Python package",
            counts,
            ok,
            seconds: start.elapsed().as_secs_f64(),
        });
    }
    run::step("model types: a sample run anew, by transformers' own classes");
    let sample = match python_path {
        Some(path) => {
            let script = "tests/golden/model_types.py";
            let mut python = Command::new("python3");
            python.args([script, "--check"]).args(SAMPLE).env("PYTHONPATH", path);
            run::check(&mut python)?;
            format!("{} model types run anew", SAMPLE.len())
        }
        None => {
            "not run: the Python package and the sample of model types, which need torch as a Python package".to_owned()
        }
    };

    println!("\n{:30}{:>8}{:>8}{:>8}{:>9}", "", "passed", "failed", "not run", "seconds");
    let mut sum = Counts::default();
    for Row { what, counts, seconds, .. } in &rows {
        let Counts { passed, failed, ignored } = counts;
        println!("{what:30}{passed:>8}{failed:>8}{ignored:>8}{seconds:>9.1}");
        sum.passed += passed;
        sum.failed += failed;
        sum.ignored += ignored;
    }
    println!("{resources}");
    println!("{sample}");
    match gpu {
        Some(gpu) => println!("GPU tests ran on {gpu}"),
        None => println!(
            "not run: {} GPU tests, since this machine has no CUDA device (nvidia-smi finds none). \
             The kernels' source ran on the host; `cargo xtask bundle` takes the rest to a GPU",
            sum.ignored
        ),
    }
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.ignored);
    if let Some(row) = rows.iter().find(|row| !row.ok || row.counts.failed > 0) {
        return Err(format!("tests failed: {}", row.what));
    }
    if let Some(row) = rows.iter().find(|row| row.counts.passed == 0) {
        return Err(format!("no test ran: {}", row.what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn counts_are_read() {
        let mut counts = Counts::default();
        counts.read("test result: ok. 15 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out");
        counts.read("test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured");
        counts.read("test some::result ... ok");
        counts.read("1 failed, 70 passed, 4 skipped, 6 warnings in 20.26s");
        assert_eq!((counts.passed, counts.failed, counts.ignored), (86, 4, 6));
    }
}
