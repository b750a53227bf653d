//! What each kernel takes of a multiprocessor, as the assembler reports it.

use std::fs;
use std::process::Command;

use crate::tools::Nvcc;
use crate::{Result, run};

/// What build.rs ships machine code for, and the PTX that it is made of.
const MACHINES: [(u32, u32); 5] = [(75, 75), (80, 75), (90, 90), (100, 90), (120, 90)];
const SOURCES: [&str; 2] = ["rotate", "cos_sin"];

/// One kernel on one architecture.
struct Usage {
    kernel: String,
    registers: u32,
    stack: u32,
    spilled: u32,
}

/// Prints registers of every kernel, and fails where one spills or has local memory.
pub fn check(nvcc: &Nvcc) -> Result<String> {
    let folder = run::root().join("target/resources");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut rows: Vec<(String, Vec<u32>)> = Vec::new();
    let mut bad = Vec::new();
    let mut compilers = Vec::new();
    let ptx = |source: &str, architecture: u32| folder.join(format!("{source}.{architecture}.ptx"));
    for source in SOURCES {
        for architecture in [75, 90] {
            let mut compiler = Command::new(&nvcc.path);
            compiler.args(["-std=c++17", "-O3", "--fmad=false", "-ptx", "-o"]);
            compiler.arg(ptx(source, architecture)).arg(format!("-arch=sm_{architecture}"));
            compiler.arg(run::root().join(format!("kernels/{source}.cu")));
            compilers.push(compiler.spawn().map_err(|error| format!("{compiler:?}: {error}"))?);
        }
    }
    for mut compiler in compilers {
        if !compiler.wait().is_ok_and(|status| status.success()) {
            return Err("nvcc could not compile the kernels".to_owned());
        }
    }
    let ptxas = nvcc.path.with_file_name("ptxas");
    for (machine, architecture) in MACHINES {
        for source in SOURCES {
            let output = Command::new(&ptxas)
                .args(["-v", &format!("-arch=sm_{machine}"), "-o"])
                .arg(folder.join(format!("{source}.sm_{machine}.cubin")))
                .arg(ptx(source, architecture))
                .output()
                .map_err(|error| format!("{}: {error}", ptxas.display()))?;
            let report = String::from_utf8_lossy(&output.stderr);
            if !output.status.success() {
                return Err(format!("ptxas could not assemble {source}:\n{report}"));
            }
            let usages = parse(&report);
            if usages.is_empty() {
                return Err(format!("ptxas reported no kernel of kernels/{source}.cu:\n{report}"));
            }
            for usage in usages {
                if usage.spilled > 0 || usage.stack > 0 {
                    bad.push(format!(
                        "{} on sm_{machine}: {} bytes spilled, {} bytes of stack",
                        usage.kernel, usage.spilled, usage.stack
                    ));
                }
                match rows.iter_mut().find(|(kernel, _)| *kernel == usage.kernel) {
                    Some((_, registers)) => registers.push(usage.registers),
                    None => rows.push((usage.kernel, vec![usage.registers])),
                }
            }
        }
    }
    rows.sort();
    println!(
        "{:28}{}",
        "registers",
        MACHINES.map(|(machine, _)| format!("{:>8}", format!("sm_{machine}"))).concat()
    );
    for (kernel, registers) in &rows {
        let registers: String = registers.iter().map(|n| format!("{n:>8}")).collect();
        println!("{kernel:28}{registers}");
    }
    if bad.is_empty() {
        Ok(format!(
            "{} kernels on {} architectures, no spills, no local memory",
            rows.len(),
            MACHINES.len()
        ))
    } else {
        Err(format!("kernels must not spill:\n{}", bad.join("\n")))
    }
}

/// Reads `ptxas -v`: a "Compiling entry function" line, a spill line and a "Used" line a kernel.
fn parse(report: &str) -> Vec<Usage> {
    let number_before = |line: &str, what: &str| -> u32 {
        let before = line.split(what).next().unwrap_or("");
        before.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let mut usages = Vec::new();
    let (mut kernel, mut stack, mut spilled) = (None, 0, 0);
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().map(str::to_owned);
        } else if line.contains("bytes stack frame") {
            stack = number_before(line, " bytes stack frame");
            spilled = number_before(line, " bytes spill stores")
                + number_before(line, " bytes spill loads");
        } else if line.contains(" registers")
            && let Some(kernel) = kernel.take()
        {
            usages.push(Usage {
                kernel,
                registers: number_before(line, " registers"),
                stack,
                spilled,
            });
        }
    }
    usages
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn spills_are_seen() {
        let report = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'good' for 'sm_90'
ptxas info    : Function properties for good
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers
ptxas info    : Compiling entry function 'bad' for 'sm_90'
ptxas info    : Function properties for bad
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 16 bytes cumulative stack size";
        let usages = parse(report);
        let seen: Vec<_> =
            usages.iter().map(|u| (u.kernel.as_str(), u.registers, u.stack, u.spilled)).collect();
        assert_eq!(seen, [("good", 40, 0, 0), ("bad", 255, 16, 20)]);
    }
}
