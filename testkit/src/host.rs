//! The kernels' own source as a backend: compiled for the host, cut into the same threads as on a
//! GPU by the same code, and run one thread after another.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Mutex;

use condensed_rope::plan::{Call as RawCall, DeviceProps, Launch, Params, Pdl, Planner, Table};
use condensed_rope::{
    Frequencies, Pairing, PhaseWords, Positions, RawBuffer, RawIds, RawOperand, Result, RopeSpec,
    cpu,
};

use crate::append::Built;
use crate::backend::{Backend, borrow};
use crate::call::{Call, Operand, TestElement};

unsafe extern "C" {
    fn rope_run_on_host(
        name: *const c_char,
        params: *const c_void,
        grid: *const [u32; 3],
        block: *const [u32; 3],
    ) -> c_int;
    fn rope_params_field(
        index: usize,
        name: *mut *const c_char,
        offset: *mut usize,
        size: *mut usize,
    ) -> *const c_char;
}

/// The kernels on the host. Small GPUs and large ones cut a launch differently, so the number of
/// multiprocessors is part of it; so is the order in which a thread works.
#[derive(Clone, Copy, Debug)]
pub struct KernelOnHost {
    pub multiprocessors: usize,
    pub pdl: Pdl,
}

/// Phase words where the kernels want them: aligned to 16 bytes.
#[repr(align(16))]
#[derive(Clone, Copy)]
struct TwoWords(#[expect(dead_code, reason = "the kernels read it")] [u64; 2]);

struct OnHost {
    words: Vec<TwoWords>,
    spec: RopeSpec,
}

impl OnHost {
    fn of(sets: &[Frequencies], pairing: Pairing) -> Result<Self> {
        let words = PhaseWords::from_sets(sets)?;
        let spec = RopeSpec::of(&words, pairing);
        let words = words.words().as_chunks().0.iter().map(|&two| TwoWords(two)).collect();
        Ok(Self { words, spec })
    }
}

/// Names of the kernels that have run in this process.
pub static RAN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn run<P: Params>(launch: Option<Launch<P>>) {
    let Some(launch) = launch else { return };
    RAN.lock().expect("no test panics here").insert(launch.name());
    let name = CString::new(launch.name()).expect("a name without NUL");
    let [grid, block] = [launch.tiling.grid, launch.tiling.block].map(|(x, y, z)| [x, y, z]);
    let params = launch.params.argument();
    // SAFETY: the checks passed, so the parameters name only memory of the call that made them.
    let status = unsafe { rope_run_on_host(name.as_ptr(), params, &grid, &block) };
    assert_eq!(status, 0, "no kernel {} for a block of {block:?}", launch.name());
}

/// Struct, name, offset and size of every field of the kernels' parameters, as C++ has them; a field without a
/// name is the struct's own size.
pub fn params_fields() -> Vec<(String, String, usize, usize)> {
    let mut fields = Vec::new();
    let text = |text: *const c_char| {
        // SAFETY: a literal of host.cpp.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    loop {
        let (mut name, mut offset, mut size) = (std::ptr::null(), 0, 0);
        let (at, n, o, s) = (fields.len(), &raw mut name, &raw mut offset, &raw mut size);
        // SAFETY: places for all that it returns; null behind the last one.
        let of = unsafe { rope_params_field(at, n, o, s) };
        if of.is_null() {
            return fields;
        }
        fields.push((text(of), text(name), offset, size));
    }
}

fn operand<T: TestElement>(operand: &mut Operand<T>) -> RawOperand {
    let target = buffer(&mut operand.buffer);
    match &operand.source {
        None => RawOperand::in_place(T::DTYPE, target, operand.layout),
        Some((source, from)) => {
            let source = RawBuffer::new(source.as_ptr() as u64, source.len());
            RawOperand::out_of_place(T::DTYPE, source, *from, target, operand.layout)
        }
    }
}

fn buffer<T>(slice: &mut [T]) -> RawBuffer {
    RawBuffer::new(slice.as_mut_ptr() as u64, slice.len())
}

impl KernelOnHost {
    fn planner(&self, on_host: &OnHost, inverse: bool) -> Planner {
        Planner {
            words: on_host.words.as_ptr() as u64,
            spec: if inverse { on_host.spec.inverse() } else { on_host.spec },
            device: DeviceProps { multiprocessors: self.multiprocessors, ..DeviceProps::H100 },
            pdl: self.pdl,
        }
    }
}

impl Backend for KernelOnHost {
    fn name(&self) -> &'static str {
        "the kernels on the host"
    }

    fn budget(&self) -> usize {
        1 << 18
    }

    fn rotate<T: TestElement>(&self, call: &mut Call<T>) -> Result<()> {
        let on_host = OnHost::of(&call.sets, call.pairing)?;
        let planner = self.planner(&on_host, call.inverse);
        let k = match (call.packed_k, &mut call.q) {
            (Some(layout), Some(q)) => {
                Some(RawOperand::in_place(T::DTYPE, buffer(&mut q.buffer), layout))
            }
            _ => call.k.as_mut().map(operand),
        };
        let q = call.q.as_mut().map(operand);
        let positions = borrow(&call.positions).as_ref().map(cpu::Ids::raw);
        let checked = RawCall { q, k, positions }.check(&planner.spec)?;
        run(planner.rotation(&checked));
        Ok(())
    }

    fn append(&self, call: &mut Built) -> Result<()> {
        let on_host = OnHost::of(&call.case.sets(), call.case.pairing)?;
        let planner = self.planner(&on_host, call.case.inverse);
        let (raw, positions) = call.addressed();
        run(planner.append(&raw.checked(&planner.spec, positions)?));
        Ok(())
    }

    fn cos_sin<T: TestElement>(
        &self,
        frequencies: &Frequencies,
        pairing: Pairing,
        start: i64,
        cos: &mut [T],
        sin: &mut [T],
    ) -> Result<()> {
        let on_host = OnHost::of(std::slice::from_ref(frequencies), pairing)?;
        let planner = self.planner(&on_host, false);
        let (cos, sin) = (buffer(cos), buffer(sin));
        let table = Table::filling(T::DTYPE, cos, sin, start, frequencies.rotary_dim());
        run(planner.table(&table.check(&planner.spec)?));
        Ok(())
    }
}

impl crate::hostile::RawBackend for KernelOnHost {
    fn name(&self) -> &'static str {
        "the kernels on the host"
    }

    unsafe fn rotate_raw(
        &self,
        words: &PhaseWords,
        spec: RopeSpec,
        q: Option<RawOperand>,
        k: Option<RawOperand>,
        positions: Positions<RawIds>,
    ) -> Result<()> {
        let words: Vec<TwoWords> =
            words.words().as_chunks().0.iter().map(|&two| TwoWords(two)).collect();
        let (multiprocessors, pdl) = (self.multiprocessors, self.pdl);
        let device = DeviceProps { multiprocessors, ..DeviceProps::H100 };
        let planner = Planner { words: words.as_ptr() as u64, spec, device, pdl };
        let checked = RawCall { q, k, positions }.check(&spec)?;
        run(planner.rotation(&checked));
        Ok(())
    }
}
