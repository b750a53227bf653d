//! GPU times by CUDA events over graph replays, against the memory limit: `cargo xtask bench`, or
//! from the bundle `bash run.sh bench`.
//!
//! Every row goes to criterion and, as a median, to a JSON file (`CONDENSED_ROPE_BENCH_JSON`, else
//! `bench.json` in the working folder). "Rotating" replays walk over buffers of at least 400 MB (or
//! 8192 of them, which is more than L2 in any case), "hot" ones stay on one that fits L2, and before
//! every launch of "written" ones another kernel writes that buffer: one that lets the next kernel start
//! early, or ("written_closed") one that does not.
//!
//! `cargo bench --features bench --bench gpu -- tune` is the sweep behind `src/plan/tiling.rs`.

mod append;
mod cases;
mod device;
mod limit;
mod peers;
mod row;
mod tune;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    if std::env::args().any(|argument| argument == "tune") {
        return match tune::run() {
            Ok(()) => {}
            Err(error) => println!("no sweep: {error}"),
        };
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(30))
        .measurement_time(Duration::from_millis(100))
        .without_plots()
        .configure_from_args();
    let device = match device::Device::open() {
        Ok(device) => device,
        Err(error) => return println!("no GPU benches: {error}"),
    };
    let mut rows = row::Rows::new(&device.name());
    // `append` alone, or all but that, where the command line says so.
    let only = |word: &str| std::env::var("CONDENSED_ROPE_BENCH_OP").is_ok_and(|op| op == word);
    if !only("append") {
        for case in cases::all() {
            device.bench(&case, &mut criterion, &mut rows);
        }
    }
    if !only("rotate") {
        match append::Appends::open(&device) {
            Ok(appends) => appends.bench(&mut criterion, &mut rows),
            Err(error) => println!("no benches of norm, rotation and append: {error}"),
        }
    }
    rows.write();
    criterion.final_summary();
}
