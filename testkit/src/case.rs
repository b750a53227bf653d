//! A call described, built, run and checked.

use condensed_rope::{Dtype, Frequencies, Layout, Pairing, Positions};
use half::{bf16, f16};

use crate::call::{TestElement, buffer_len, noise};
use crate::{Backend, Call, Cpu, Operand, Values};

/// Everything but the numbers in the tensors, which `seed` decides.
#[derive(Clone, Debug)]
pub struct Case {
    pub dtype: Dtype,
    pub pairing: Pairing,
    pub rotary_dim: usize,
    pub base: f64,
    pub ratio: f64,
    pub factor: f32,
    /// Other frequencies than those, or several sets of them.
    pub sets: Vec<Frequencies>,
    pub inverse: bool,
    pub q: Option<Layout>,
    pub k: Option<Layout>,
    /// k is a view of q's buffer.
    pub packed: bool,
    /// Where q and k are read instead of in place.
    pub from: [Option<Layout>; 2],
    pub positions: Positions<Values>,
    pub seed: u64,
}

impl Case {
    /// Half-split bf16 in place by consecutive positions, to change from there.
    pub fn of(rotary_dim: usize, q: Layout, k: Option<Layout>) -> Self {
        Self {
            dtype: Dtype::BF16,
            pairing: Pairing::HalfSplit,
            rotary_dim,
            base: 10_000.0,
            ratio: 1.0,
            factor: 1.0,
            sets: Vec::new(),
            inverse: false,
            q: Some(q),
            k,
            packed: false,
            from: [None; 2],
            positions: Positions::consecutive(0),
            seed: 0,
        }
    }

    /// The same, read from contiguous copies three elements into their buffers.
    pub fn out_of_place(self) -> Self {
        let copy = |layout: Layout| {
            let [batch, seq, heads, head_dim] = layout.shape();
            let copy = Layout::bshd(batch, seq, heads, head_dim).at(3);
            copy.rotate_from(layout.rotary_offset())
        };
        Self { from: [self.q.map(copy), self.k.map(copy)], ..self }
    }

    /// Elements of q and k.
    pub fn elements(&self) -> usize {
        let elements = |layout: Layout| layout.shape().iter().product::<usize>();
        [self.q, self.k].into_iter().flatten().map(elements).sum()
    }

    pub fn frequencies(&self) -> Frequencies {
        Frequencies::new(self.rotary_dim, self.base)
            .and_then(|frequencies| frequencies.condensed(self.ratio))
            .and_then(|frequencies| frequencies.with_factor(self.factor))
            .expect("cases have valid frequencies")
    }

    pub fn build<T: TestElement>(&self) -> Call<T> {
        let operand = |layout: Option<Layout>, from: Option<Layout>, seed: u64| {
            layout.map(|layout| Operand {
                buffer: noise(buffer_len(&layout), seed),
                layout,
                source: from.map(|from| (noise(buffer_len(&from), seed ^ 0x55), from)),
            })
        };
        let mut q = operand(self.q, self.from[0], self.seed * 2);
        let (mut k, mut packed_k) = (None, None);
        match (&mut q, self.k) {
            (Some(q), Some(layout)) if self.packed => {
                q.buffer = noise(buffer_len(&layout).max(q.buffer.len()), self.seed * 2);
                packed_k = Some(layout);
            }
            _ => k = operand(self.k, self.from[1], self.seed * 2 + 1),
        }
        Call {
            sets: if self.sets.is_empty() { vec![self.frequencies()] } else { self.sets.clone() },
            pairing: self.pairing,
            inverse: self.inverse,
            q,
            k,
            packed_k,
            positions: self.positions.clone(),
        }
    }
}

/// Above this, f64 truth is the CPU backend's business: others are held to its bits.
const TRUTH_ELEMENTS: usize = 1 << 14;

/// Runs the case on `backend` and panics unless it gives the exact result within the tolerance,
/// touches nothing else, and gives the CPU backend's bits.
pub fn check(backend: &impl Backend, case: &Case) {
    match case.dtype {
        Dtype::F32 => check_as::<f32>(backend, case),
        Dtype::F16 => check_as::<f16>(backend, case),
        Dtype::BF16 => check_as::<bf16>(backend, case),
        _ => panic!("a type that the tests do not know"),
    }
}

fn check_as<T: TestElement>(backend: &impl Backend, case: &Case) {
    let what = format!("{} on {case:?}", backend.name());
    let before = case.build::<T>();
    let mut after = before.clone();
    backend.rotate(&mut after).unwrap_or_else(|error| panic!("{what}: {error}"));
    let is_cpu = backend.name() == Cpu.name();
    if is_cpu || case.elements() <= TRUTH_ELEMENTS {
        before.verify(&after, &what);
    }
    if !is_cpu {
        let mut cpu = before;
        Cpu.rotate(&mut cpu).unwrap_or_else(|error| panic!("cpu on {case:?}: {error}"));
        after.assert_same_bits(&cpu, &what);
    }
}

/// How a tensor's dimensions are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Bshd,
    Bhsd,
    /// `[batch, seq, heads, head_dim + 64]`, sliced.
    Padded,
}

impl Order {
    pub const ALL: [Self; 3] = [Self::Bshd, Self::Bhsd, Self::Padded];

    pub fn layout(self, batch: usize, seq: usize, heads: usize, head_dim: usize) -> Layout {
        match self {
            Self::Bshd => Layout::bshd(batch, seq, heads, head_dim),
            Self::Bhsd => Layout::bhsd(batch, heads, seq, head_dim),
            Self::Padded => {
                let head = head_dim + 64;
                let token = heads * head;
                Layout::bshd(batch, seq, heads, head_dim).with_strides([seq * token, token, head])
            }
        }
    }
}

/// Views of q and k in `[batch, seq, (q + 2 kv) heads, dim]`.
pub fn packed_qkv(batch: usize, seq: usize, heads: [usize; 2], head_dim: usize) -> [Layout; 2] {
    let token = (heads[0] + 2 * heads[1]) * head_dim;
    let strides = [seq * token, token, head_dim];
    let view = |heads| Layout::bshd(batch, seq, heads, head_dim).with_strides(strides);
    [view(heads[0]), view(heads[1]).at(heads[0] * head_dim)]
}
