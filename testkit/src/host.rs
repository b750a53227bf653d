//! The kernels' own source as a backend: compiled for the host, cut into the same threads as on a
//! GPU by the same code, and run one thread after another.

use std::collections::BTreeSet;
use std::ffi::{CString, c_char, c_int};
use std::sync::Mutex;

use condensed_rope::kernel::{
    Device, Launch, Overlap, RawHeads, RawIds, Request, SetShape, Sets, Spec, check_raw,
    check_table,
};
use condensed_rope::{Direction, Error, Frequencies, Layout, Pairing, Result, cpu};

use crate::backend::{Backend, borrow};
use crate::call::{Call, Operand, TestElement};

unsafe extern "C" {
    fn rope_run_on_host(
        name: *const c_char,
        request: *const Request,
        grid: *const [u32; 3],
        block: *const [u32; 3],
    ) -> c_int;
}

/// The kernels on the host. Small GPUs and large ones cut a launch differently, so the number of
/// multiprocessors is part of it; so is the order in which a thread works.
#[derive(Clone, Copy, Debug)]
pub struct KernelOnHost {
    pub multiprocessors: usize,
    pub overlap: Overlap,
}

/// Sets of frequencies where the kernels want them: aligned to 16 bytes.
#[repr(align(16))]
#[derive(Clone, Copy)]
struct TwoWords(#[expect(dead_code, reason = "the kernels read it")] [u64; 2]);

struct OnHost {
    words: Vec<TwoWords>,
    shape: SetShape,
    factor: f32,
}

impl OnHost {
    fn of(sets: &[Frequencies]) -> Self {
        let sets = Sets::new(sets).expect("cases have valid sets");
        let words = sets.words.as_chunks().0.iter().map(|&two| TwoWords(two)).collect();
        Self { words, shape: sets.shape, factor: sets.factor }
    }
}

/// Names of the kernels that have run in this process.
pub static RAN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn run(launch: Option<Launch>) {
    let Some(launch) = launch else { return };
    RAN.lock().expect("no test panics here").insert(launch.name());
    let name = CString::new(launch.name()).expect("a name without NUL");
    let [grid, block] = [launch.geometry.grid, launch.geometry.block].map(|(x, y, z)| [x, y, z]);
    // SAFETY: the checks passed, so the request names only memory of the call that made it.
    let status = unsafe { rope_run_on_host(name.as_ptr(), &launch.request, &grid, &block) };
    assert_eq!(status, 0, "no kernel {} for a block of {block:?}", launch.name());
}

fn heads<T: TestElement>(operand: &mut Operand<T>) -> RawHeads {
    let target = operand.buffer.as_mut_ptr() as u64;
    let raw = RawHeads::in_place(T::DTYPE, target, operand.layout);
    match &operand.source {
        None => raw,
        Some((source, from)) => raw.reading(source.as_ptr() as u64, *from),
    }
}

/// The address of borrowed index values.
fn address(ids: cpu::Ids<'_>) -> RawIds {
    match ids {
        cpu::Ids::I32(ids) => RawIds { address: ids.as_ptr() as u64, len: ids.len(), wide: false },
        cpu::Ids::I64(ids) => RawIds { address: ids.as_ptr() as u64, len: ids.len(), wide: true },
        _ => panic!("a width of ids that the tests do not know"),
    }
}

impl KernelOnHost {
    fn spec(&self, sets: &OnHost, pairing: Pairing, inverse: bool) -> Spec {
        Spec {
            steps: sets.words.as_ptr() as u64,
            sets: sets.shape,
            pairing,
            direction: if inverse { Direction::Inverse } else { Direction::Forward },
            factor: sets.factor,
            device: Device { multiprocessors: self.multiprocessors, ..Device::H100 },
            overlap: self.overlap,
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
        let in_bounds = |layout: &Layout, buffer: &[T], tensor| {
            let needed = crate::call::end(layout);
            if needed <= buffer.len() {
                Ok(())
            } else {
                Err(Error::OutOfBounds { tensor, needed, given: buffer.len() })
            }
        };
        let sets = OnHost::of(&call.sets);
        let q = heads(&mut call.q);
        let k = match call.packed_k {
            Some(layout) => {
                Some(RawHeads::in_place(T::DTYPE, call.q.buffer.as_mut_ptr() as u64, layout))
            }
            None => call.k.as_mut().map(heads),
        };
        let positions = borrow(&call.positions).map(address);
        check_raw(&q, k.as_ref(), &positions, call.sets[0].rotary_dim())?;
        in_bounds(&call.q.layout, &call.q.buffer, "q")?;
        let spec = self.spec(&sets, call.pairing, call.inverse);
        run(Launch::rotation(&spec, &q, k.as_ref(), &positions)?);
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
        let sets = OnHost::of(std::slice::from_ref(frequencies));
        let rows = check_table(cos.len(), sin.len(), frequencies.rotary_dim())?;
        let spec = self.spec(&sets, pairing, false);
        let to = [cos.as_mut_ptr() as u64, sin.as_mut_ptr() as u64];
        run(Launch::table(&spec, T::DTYPE, to, start, rows)?);
        Ok(())
    }
}
