//! The sweep behind the tiling table: every way to cut a rotation's heads into threads and blocks, beside the
//! one that the table takes; then the table that follows from it. For the owner of another device than an H100.
//!
//! DRAM-cold and, where q and k fit L2, L2-hot; bf16, half-split. Twenty seconds on an H100.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::c_void;

use condensed_rope::cuda::Pdl;
use condensed_rope::cuda::cudarc::driver::{CudaFunction, result, sys};
use condensed_rope::cuda::cudarc::nvrtc::Ptx;
use condensed_rope::plan::{Call, Cut, DeviceProps, Entry, Kernel, Launch, Planner, RotateParams};
use condensed_rope::{Dtype, Frequencies, Layout, Pairing, Positions, RawOperand, RopeSpec};

use crate::cases::Cache;
use crate::device::{Device, Replays};

const CODE: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/rotate.fatbin"));
const HEADS: [[usize; 2]; 6] = [[32, 8], [32, 32], [16, 8], [64, 8], [128, 1], [12, 12]];
const TOKENS: [usize; 8] = [1, 16, 128, 512, 1024, 2048, 4096, 32_768];
const HOT: usize = 44 << 20;
const HEAD_DIM: usize = 128;
const ROWS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const THREADS: [usize; 4] = [64, 128, 256, 512];
/// Threads a multiprocessor, at one head each, up to which a line of the table goes.
const BORDERS: [usize; 7] = [256, 1024, 2048, 4096, 8192, 12_288, usize::MAX];

pub fn run() -> Result<(), Box<dyn Error>> {
    let device = Device::open()?;
    let module = device.context().load_module(Ptx::from_binary(CODE.to_vec()))?;
    let attribute = |attribute| device.context().attribute(attribute);
    use sys::CUdevice_attribute as Attribute;
    let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
    let l2_bytes = attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize;
    let words = device.stream().context().default_stream();
    let host_words = Frequencies::new(HEAD_DIM, 10_000.0)?.phase_words();
    let on_device = words.clone_htod(host_words.words())?;
    words.synchronize()?;
    let spec = RopeSpec::of(&host_words, Pairing::HalfSplit);
    let address = on_device.leak();
    let planner = Planner {
        words: address,
        spec,
        device: DeviceProps { multiprocessors, l2_bytes },
        pdl: Pdl::Off,
    };
    println!("{}: {multiprocessors} multiprocessors", device.name());
    println!(
        "{:>9}{:>8}{:>10}{:>10}{:>8}   the fastest (entry, heads a block, threads); the table's",
        "heads", "tokens", "cache", "best us", "table"
    );
    let cuts = cuts();
    let mut lines = BTreeMap::<(usize, bool), Line>::new();
    for heads in HEADS {
        for tokens in TOKENS {
            for cache in [Cache::Rotating, Cache::Hot] {
                let bytes = tokens * (heads[0] + heads[1]) * HEAD_DIM * 2;
                if cache == Cache::Hot && bytes > HOT {
                    continue;
                }
                let replays = Replays::new(device.pool(), bytes.next_multiple_of(256), cache);
                let sweep = Sweep { device: &device, planner: &planner, heads, tokens };
                let time = |cut: Cut| -> Result<f64, Box<dyn Error>> {
                    let name = sweep.launch(0, Some(cut)).name();
                    let function = module.load_function(&name)?;
                    let count = replays.launches.min(256);
                    let graph = device.capture(&replays, count, &|i| {
                        sweep.submit(&function, replays.address(i), cut);
                    });
                    Ok(device.median::<3>(&graph))
                };
                let of_table = sweep.table();
                let table = time(of_table)?;
                // Cuts that make the same launch are timed once.
                let mut launches = BTreeMap::new();
                let mut times = Vec::with_capacity(cuts.len());
                for &cut in &cuts {
                    let launch = sweep.launch(0, Some(cut));
                    let key = (launch.name(), launch.tiling.grid, launch.tiling.block);
                    let us = match launches.get(&key) {
                        Some(us) => *us,
                        None => time(cut)?,
                    };
                    launches.insert(key, us);
                    times.push(us);
                }
                let (best, least) = cheapest(&cuts, &times);
                let (cut, us) = if least < table { (best, least) } else { (of_table, table) };
                print!("{:>9}{tokens:>8}", format!("{}+{}", heads[0], heads[1]));
                print!("{:>10}{us:>10.2}{:>8.3}   ", cache.name(), table / us);
                println!("{}; {}", shown(cut), shown(of_table));
                let threads = HEAD_DIM / 8 * (heads[0] + heads[1]) * tokens / multiprocessors;
                let border = BORDERS.into_iter().find(|border| threads <= *border);
                let key = (border.unwrap_or(usize::MAX), heads[0] >= 2 * heads[1]);
                let line = lines.entry(key).or_default();
                line.cases += 1;
                line.table += (table / us).ln();
                line.cuts.resize(cuts.len(), 0.0);
                for (sum, time) in line.cuts.iter_mut().zip(times) {
                    *sum += (time / us).ln();
                }
            }
        }
    }
    println!(
        "\nthe table that follows: the cut that loses least to each case's best, DRAM-cold and L2-hot"
    );
    println!("{:>12}{:>12}{:>16}{:>8}{:>10}", "threads/SM", "heads", "cut", "loses", "today's");
    for ((border, grouped), Line { cases, table, cuts: sums }) in &lines {
        let (cut, sum) = cheapest(&cuts, sums);
        let border = if *border == usize::MAX { "more".to_owned() } else { format!("<= {border}") };
        let heads = if *grouped { "q >= 2 k" } else { "q < 2 k" };
        let percent =
            |sum: f64| format!("{:.1} %", 100.0 * ((sum / f64::from(*cases)).exp() - 1.0));
        println!(
            "{border:>12}{heads:>12}{:>16}{:>8}{:>10}",
            shown(cut),
            percent(sum),
            percent(*table)
        );
    }
    // SAFETY: what was leaked above.
    drop(unsafe { words.upgrade_device_ptr::<u64>(address, host_words.words().len()) });
    Ok(())
}

/// A line of the table: what its cases lost to their best, as sums of logarithms.
#[derive(Default)]
struct Line {
    cases: u32,
    table: f64,
    /// Of each cut.
    cuts: Vec<f64>,
}

/// The cut that costs least, and what it costs.
fn cheapest(cuts: &[Cut], costs: &[f64]) -> (Cut, f64) {
    let pairs = cuts.iter().copied().zip(costs.iter().copied());
    pairs.min_by(|a, b| a.1.total_cmp(&b.1)).expect("there are cuts")
}

/// Every entry, rows of heads and threads.
fn cuts() -> Vec<Cut> {
    let entries = Entry::ALL.into_iter().filter(|entry| !entry.general);
    let with_rows = entries.flat_map(|entry| ROWS.map(|rows| (entry, rows)));
    with_rows
        .flat_map(|(entry, heads_per_block)| {
            THREADS.map(|threads| Cut { entry, heads_per_block, threads })
        })
        .collect()
}

fn shown(Cut { entry, heads_per_block, threads }: Cut) -> String {
    format!("{}_{} {heads_per_block} {threads}", entry.q_heads, entry.k_heads)
}

/// One shape.
struct Sweep<'a> {
    device: &'a Device,
    planner: &'a Planner,
    heads: [usize; 2],
    tokens: usize,
}

impl Sweep<'_> {
    /// Another buffer than the pool's first one moves every address alike.
    fn launch(&self, address: u64, cut: Option<Cut>) -> Launch<RotateParams> {
        let address = if address == 0 { self.device.pool() } else { address };
        let q_bytes = (self.tokens * self.heads[0] * HEAD_DIM * 2) as u64;
        let operand = |address, heads| {
            let layout = Layout::thd(self.tokens, heads, HEAD_DIM);
            Some(RawOperand::in_place(Dtype::BF16, address, layout))
        };
        let (q, k) = (operand(address, self.heads[0]), operand(address + q_bytes, self.heads[1]));
        let call = Call { q, k, positions: Positions::consecutive(0) };
        let call = call.check(&self.planner.spec).expect("a valid call");
        let launch = self.planner.rotation_by(&call, |work, multiprocessors| {
            cut.unwrap_or_else(|| Cut::of(work, multiprocessors))
        });
        launch.expect("work")
    }

    /// The cut that the table takes.
    fn table(&self) -> Cut {
        let launch = self.launch(0, None);
        let Kernel::Rotate(entry) = launch.kernel else { unreachable!("a rotation") };
        let (x, y, z) = launch.tiling.block;
        let [x, y, z] = [x, y, z].map(|n| n as usize);
        Cut { entry, heads_per_block: y, threads: x * y * z }
    }

    fn submit(&self, function: &CudaFunction, address: u64, cut: Cut) {
        let mut launch = self.launch(address, Some(cut));
        let mut arguments = [(&raw mut launch.params).cast::<c_void>()];
        let (grid, block) = (launch.tiling.grid, launch.tiling.block);
        let (stream, function) = (self.device.stream().cu_stream(), function.cu_function());
        // SAFETY: the parameters name memory of the pool, which outlives the launches.
        unsafe { result::launch_kernel(function, grid, block, 0, stream, &mut arguments) }
            .expect("a launch");
    }
}
