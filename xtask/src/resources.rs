//! What each kernel takes of a multiprocessor, as the assembler reports it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::{Result, run};

/// One kernel on one architecture.
struct Usage {
    kernel: String,
    /// 90 for sm_90.
    machine: u32,
    registers: u32,
    stack: u32,
    spilled: u32,
}

/// Fails where a kernel spills or has local memory; prints registers of all of them where asked. `build` is a
/// command that builds the crate and speaks JSON.
pub fn check(build: &mut Command, print: bool) -> Result<String> {
    let folder = kernels(build)?;
    let refused = |error| format!("{}: {error}", folder.display());
    // By machine, and by kernel in each.
    let mut machines = BTreeMap::<u32, Usages>::new();
    for entry in fs::read_dir(&folder).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        if path.extension().is_none_or(|extension| extension != "ptxas") {
            continue;
        }
        let usages = parse(&fs::read_to_string(&path).map_err(refused)?);
        if usages.is_empty() {
            return Err(format!("{} tells of no kernel", path.display()));
        }
        for usage in usages {
            machines.entry(usage.machine).or_default().insert(usage.kernel.clone(), usage);
        }
    }
    let Some(kernels) = machines.values().next() else {
        return Err(format!("the assembler's reports are not in {}", folder.display()));
    };
    if print {
        table(kernels, &machines);
    }
    let bad: Vec<String> = machines
        .iter()
        .flat_map(|(machine, usages)| usages.values().map(move |usage| (machine, usage)))
        .filter(|(_, usage)| usage.spilled > 0 || usage.stack > 0)
        .map(|(machine, Usage { kernel, spilled, stack, .. })| {
            format!("{kernel} on sm_{machine}: {spilled} bytes spilled, {stack} bytes of stack")
        })
        .collect();
    if bad.is_empty() {
        let (kernels, machines) = (kernels.len(), machines.len());
        Ok(format!("{kernels} kernels on {machines} architectures, no spills, no local memory"))
    } else {
        Err(format!("kernels must not spill:\n{}", bad.join("\n")))
    }
}

type Usages = BTreeMap<String, Usage>;

fn table(kernels: &Usages, machines: &BTreeMap<u32, Usages>) {
    let heads: String =
        machines.keys().map(|machine| format!("{:>8}", format!("sm_{machine}"))).collect();
    println!("{:28}{heads}", "registers");
    for kernel in kernels.keys() {
        let registers = machines.values().map(|usages| match usages.get(kernel) {
            Some(usage) => format!("{:>8}", usage.registers),
            None => format!("{:>8}", "-"),
        });
        println!("{kernel:28}{}", registers.collect::<String>());
    }
}

/// Where build.rs leaves the machine code and what the assembler said of it.
fn kernels(build: &mut Command) -> Result<PathBuf> {
    let messages = run::output(build).ok_or_else(|| format!("{build:?} did not end well"))?;
    let folder = |line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let variables = message.get("env")?.as_array()?.iter();
        let [_, folder] = variables
            .filter_map(|variable| <&[Value; 2]>::try_from(variable.as_array()?.as_slice()).ok())
            .find(|[name, _]| name == "CONDENSED_ROPE_KERNELS")?;
        Some(PathBuf::from(folder.as_str()?))
    };
    let found = messages.lines().find_map(folder);
    found.ok_or_else(|| "build.rs does not say where the kernels are".to_owned())
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
            let mut quoted = rest.split('\'');
            let (name, machine) = (quoted.next(), quoted.nth(1));
            let machine = machine.and_then(|machine| machine.strip_prefix("sm_")?.parse().ok());
            kernel = name.map(str::to_owned).zip(machine);
        } else if line.contains("bytes stack frame") {
            stack = number_before(line, " bytes stack frame");
            spilled = number_before(line, " bytes spill stores")
                + number_before(line, " bytes spill loads");
        } else if line.contains(" registers")
            && let Some((kernel, machine)) = kernel.take()
        {
            usages.push(Usage {
                kernel,
                machine,
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
        let seen: Vec<_> = usages
            .iter()
            .map(|u| (u.kernel.as_str(), u.machine, u.registers, u.stack, u.spilled))
            .collect();
        assert_eq!(seen, [("good", 90, 40, 0, 0), ("bad", 90, 255, 16, 20)]);
    }
}
