//! The sweep behind the tiling table: every way to cut a rotation's heads into threads and blocks, beside the
//! one that the table takes; then the table that follows from it. For the owner of another device than an H100.
//!
//! DRAM-cold and, where q and k fit L2, L2-hot, launched plainly and with PDL; bf16, half-split. Three minutes on an H100.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use condensed_rope::cuda::cudarc::driver::{CudaFunction, sys};
use condensed_rope::cuda::cudarc::nvrtc::Ptx;
use condensed_rope::cuda::{self, Pdl};
use condensed_rope::plan::{
    Call, Checked, Cut, DeviceProps, Entry, Heads, Kernel, Launch, Planner, RotationParams,
};
use condensed_rope::{Dtype, Frequencies, Layout, Pairing, Positions, RawOperand, RopeSpec};

use crate::cases::Cache;
use crate::device::{Device, Replays};

const CODE: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/flat.fatbin"));
const HEADS: [[usize; 2]; 6] = [[32, 8], [32, 32], [16, 8], [64, 8], [128, 1], [12, 12]];
const TOKENS: [usize; 10] = [1, 4, 16, 64, 256, 512, 1024, 2048, 4096, 32_768];
const PDL: [Pdl; 2] = [Pdl::Off, Pdl::PositionsReady];
const HOT: usize = 44 << 20;
/// What DRAM-cold launches walk over, of 8192 buffers at most: more than L2.
const COLD: usize = 128 << 20;
const HEAD_DIM: usize = 128;
const ROWS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const THREADS: [usize; 4] = [64, 128, 256, 512];
/// Threads a multiprocessor, at one head each, up to which a line of the table goes.
const BORDERS: [usize; 9] = [16, 128, 512, 1600, 4096, 8192, 12_288, 37_000, usize::MAX];

/// Choices of a line that are printed.
const SHOWN: usize = 8;

/// What a cut says, apart from the kernels' form.
#[derive(Clone, Copy, PartialEq)]
struct Choice {
    heads: Heads,
    pairs: usize,
    rows: usize,
    threads: usize,
    rounds: usize,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heads, pairs, rows, threads, rounds } = self;
        write!(f, "{heads} {pairs} {rows} {threads}")?;
        if *rounds > 1 { write!(f, " x{rounds}") } else { Ok(()) }
    }
}

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
    println!("{}: {multiprocessors} multiprocessors", device.name());
    println!(
        "{:>9}{:>8}{:>10}{:>5}{:>10}{:>8}   the fastest (heads a thread, pairs, heads a block, threads, rounds); the table's",
        "heads", "tokens", "cache", "pdl", "best us", "table"
    );
    let choices = choices();
    let mut lines = BTreeMap::<(bool, usize, bool), Line>::new();
    for (pdl, heads, tokens, cache) in cases() {
        let device_props = DeviceProps { multiprocessors, l2_bytes };
        let planner = Planner { words: address, spec, device: device_props, pdl };
        let bytes = tokens * (heads[0] + heads[1]) * HEAD_DIM * 2;
        let replays = Replays::new(device.pool(), bytes.next_multiple_of(256), cache);
        let sweep = Sweep { device: &device, planner: &planner, heads, tokens };
        let time = |choice: Choice| -> Result<f64, Box<dyn Error>> {
            let name = sweep.launch(device.pool(), choice).name();
            let function = module.load_function(&name)?;
            let count = replays.launches.min((COLD / bytes).max(16));
            let graph = device.capture(&replays, count, &|i| {
                sweep.submit(&function, replays.address(i), choice);
            });
            Ok(device.median::<3>(&graph))
        };
        let of_table = sweep.table();
        let table = time(of_table)?;
        // Choices that make the same launch are timed once.
        let mut launches = BTreeMap::new();
        let mut times = Vec::with_capacity(choices.len());
        for &choice in &choices {
            let launch = sweep.launch(device.pool(), choice);
            let key = (launch.name(), launch.tiling.grid, launch.tiling.block);
            // Not every entry is compiled in every variant, nor for every launch's PDL.
            let is_compiled = Kernel::all().any(|kernel| kernel == launch.kernel)
                && launch.kernel.variants().any(|variant| variant == launch.variant);
            let us = match launches.get(&key) {
                Some(us) => *us,
                None if !is_compiled => f64::INFINITY,
                None => time(choice)?,
            };
            launches.insert(key, us);
            times.push(us);
        }
        let (best, least) = cheapest(&choices, &times);
        let (choice, us) = if least < table { (best, least) } else { (of_table, table) };
        let early = pdl != Pdl::Off;
        print!("{:>9}{tokens:>8}", format!("{}+{}", heads[0], heads[1]));
        print!("{:>10}{:>5}{us:>10.2}{:>8.3}   ", cache.name(), mark(early), table / us);
        println!("{choice}; {of_table}");
        let threads = HEAD_DIM / 8 * (heads[0] + heads[1]) * tokens / multiprocessors;
        let border = BORDERS.into_iter().find(|border| threads <= *border);
        let key = (early, border.unwrap_or(usize::MAX), heads[0] >= 2 * heads[1]);
        let line = lines.entry(key).or_default();
        line.cases += 1;
        line.table += (table / us).ln();
        line.choices.resize(choices.len(), 0.0);
        for (sum, time) in line.choices.iter_mut().zip(times) {
            *sum += (time / us).ln();
        }
    }
    println!(
        "\nthe table that follows: what loses least to each case's best, DRAM-cold and L2-hot"
    );
    println!("{:>5}{:>12}{:>10}{:>9}   what loses least", "pdl", "threads/SM", "heads", "today's");
    for ((early, border, grouped), Line { cases, table, choices: sums }) in &lines {
        let border = if *border == usize::MAX { "more".to_owned() } else { format!("<= {border}") };
        let heads = if *grouped { "q >= 2 k" } else { "q < 2 k" };
        let percent =
            |sum: f64| format!("{:.1} %", 100.0 * ((sum / f64::from(*cases)).exp() - 1.0));
        print!("{:>5}{border:>12}{heads:>10}{:>9}", mark(*early), percent(*table));
        let mut best: Vec<_> = choices.iter().zip(sums).collect();
        best.sort_by(|a, b| a.1.total_cmp(b.1));
        for (choice, sum) in best.into_iter().take(SHOWN) {
            print!("   {choice} {:>6}", percent(*sum));
        }
        println!();
    }
    // SAFETY: what was leaked above.
    drop(unsafe { words.upgrade_device_ptr::<u64>(address, host_words.words().len()) });
    Ok(())
}

fn mark(early: bool) -> &'static str {
    if early { "yes" } else { "no" }
}

/// What is swept; DRAM-cold and L2-hot.
fn cases() -> impl Iterator<Item = (Pdl, [usize; 2], usize, Cache)> {
    let shapes = HEADS.into_iter().flat_map(|heads| TOKENS.map(|tokens| (heads, tokens)));
    let shapes =
        shapes.flat_map(|(heads, tokens)| PDL.map(|pdl| (pdl, heads, tokens))).filter(fits_pdl);
    let caches = [Cache::Rotating, Cache::Hot];
    let cases = shapes
        .flat_map(move |(pdl, heads, tokens)| caches.map(|cache| (pdl, heads, tokens, cache)));
    cases.filter(|(_, heads, tokens, cache)| {
        *cache != Cache::Hot || tokens * (heads[0] + heads[1]) * HEAD_DIM * 2 <= HOT
    })
}

/// Larger launches are plain ones whatever is asked for.
fn fits_pdl(&(pdl, _, tokens): &(Pdl, [usize; 2], usize)) -> bool {
    pdl == Pdl::Off || tokens <= 2048
}

/// A line of the table: what its cases lost to their best, as sums of logarithms.
#[derive(Default)]
struct Line {
    cases: u32,
    table: f64,
    /// Of each choice.
    choices: Vec<f64>,
}

/// The choice that costs least, and what it costs.
fn cheapest(choices: &[Choice], costs: &[f64]) -> (Choice, f64) {
    let pairs = choices.iter().copied().zip(costs.iter().copied());
    pairs.min_by(|a, b| a.1.total_cmp(&b.1)).expect("there are choices")
}

/// Every entry, pairs, rows of heads, threads and rounds.
fn choices() -> Vec<Choice> {
    let apart =
        [1, 2, 4].into_iter().flat_map(|n| [4, 2, 1].map(|pairs| (Heads::Apart(n), pairs, 1)));
    // Of a list in the widest vectors alone.
    let lists = [4, 5, 8].into_iter().map(|n| (Heads::List(n), 4, 1));
    let walks = (2..=4).map(|rounds| (Heads::Walk(6), 4, rounds));
    let all = apart.chain(lists).chain(walks);
    let with_rows = all.flat_map(|entry| ROWS.map(|rows| (entry, rows)));
    with_rows
        .flat_map(|((heads, pairs, rounds), rows)| {
            THREADS.map(|threads| Choice { heads, pairs, rows, threads, rounds })
        })
        .filter(|choice| HEAD_DIM / 2 / choice.pairs <= choice.threads)
        .collect()
}

/// One shape.
struct Sweep<'a> {
    device: &'a Device,
    planner: &'a Planner,
    heads: [usize; 2],
    tokens: usize,
}

impl Sweep<'_> {
    fn call(&self, address: u64) -> Checked {
        let q_bytes = (self.tokens * self.heads[0] * HEAD_DIM * 2) as u64;
        let operand = |address, heads| {
            let layout = Layout::thd(self.tokens, heads, HEAD_DIM);
            Some(RawOperand::in_place(Dtype::BF16, address, layout))
        };
        let (q, k) = (operand(address, self.heads[0]), operand(address + q_bytes, self.heads[1]));
        let call = Call { q, k, positions: Positions::consecutive(0) };
        call.check(&self.planner.spec).expect("a valid call")
    }

    fn launch(&self, address: u64, choice: Choice) -> Launch<RotationParams> {
        let launch = self.planner.rotation_by(&self.call(address), |work, _| {
            let Choice { heads, pairs, rows, threads, rounds } = choice;
            let entry = Entry { form: work.form, heads };
            let heads_per_block = rows.min(threads / work.width(pairs));
            Cut { entry, pairs, heads_per_block, threads, rounds }
        });
        launch.expect("work")
    }

    /// What the table takes.
    fn table(&self) -> Choice {
        let mut taken = None;
        let call = self.call(self.device.pool());
        let launch = self.planner.rotation_by(&call, |work, multiprocessors| {
            let cut = Cut::of(work, multiprocessors);
            let Cut { entry, pairs, heads_per_block: rows, threads, rounds } = cut;
            taken = Some(Choice { heads: entry.heads, pairs, rows, threads, rounds });
            cut
        });
        launch.and(taken).expect("work")
    }

    fn submit(&self, function: &CudaFunction, address: u64, choice: Choice) {
        let launch = self.launch(address, choice);
        let (stream, function) = (self.device.stream().cu_stream(), function.cu_function());
        // SAFETY: the parameters name memory of the pool, which outlives the launches.
        unsafe { cuda::launch_on(stream, function, &launch) }.expect("a launch");
    }
}
