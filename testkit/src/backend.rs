//! What every suite runs on.

use condensed_rope::{Element, Frequencies, Pairing, Positions, Result, cpu};

use crate::Call;
use crate::append::Built;
use crate::call::{Operand, TestElement, Values};

/// Something that rotates.
pub trait Backend {
    /// For messages.
    fn name(&self) -> &'static str;
    /// Elements a single case may have before only a sample of such cases runs.
    fn budget(&self) -> usize;
    /// Carries out the call, on the call's own memory.
    fn rotate<T: TestElement>(&self, call: &mut Call<T>) -> Result<()>;
    /// Carries out the call, on the memory it was built with.
    fn append(&self, call: &mut Built) -> Result<()>;
    /// Rows of the table from position `start`, into `cos` and `sin`.
    fn cos_sin<T: TestElement>(
        &self,
        frequencies: &Frequencies,
        pairing: Pairing,
        start: i64,
        cos: &mut [T],
        sin: &mut [T],
    ) -> Result<()>;
}

/// The portable backend.
#[derive(Clone, Copy, Debug)]
pub struct Cpu;

/// Borrows index values for the CPU backend.
pub fn borrow(positions: &Positions<Values>) -> Positions<cpu::Ids<'_>> {
    positions.as_ref().map(|values| match values {
        Values::I32(values) => values.into(),
        Values::I64(values) => values.into(),
        Values::U32(values) => values.into(),
    })
}

fn heads<T: Element>(operand: &mut Operand<T>) -> cpu::Heads<'_> {
    match &operand.source {
        None => cpu::Heads::in_place(&mut operand.buffer, operand.layout),
        Some((source, from)) => {
            cpu::Heads::out_of_place(source, *from, &mut operand.buffer, operand.layout)
        }
    }
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn budget(&self) -> usize {
        1 << 19
    }

    fn rotate<T: TestElement>(&self, call: &mut Call<T>) -> Result<()> {
        let rope = match call.sets.as_slice() {
            [one] => cpu::Rope::new(one, call.pairing),
            sets => cpu::Rope::with_frequency_sets(sets, call.pairing)?,
        };
        let rope = if call.inverse { rope.inverse() } else { rope };
        let positions = borrow(&call.positions);
        match (call.packed_k, &mut call.q) {
            (Some(k), Some(q)) => rope.rotate_packed(&mut q.buffer, q.layout, k, positions),
            (_, q) => rope.rotate(q.as_mut().map(heads), call.k.as_mut().map(heads), positions),
        }
    }

    fn append(&self, call: &mut Built) -> Result<()> {
        let rope = cpu::Rope::from_words(call.words.clone(), call.case.pairing);
        let rope = if call.case.inverse { rope.inverse() } else { rope };
        let (raw, positions) = call.addressed();
        // SAFETY: the call names its own buffers.
        unsafe { rope.rotate_append_raw(raw, positions) }
    }

    fn cos_sin<T: TestElement>(
        &self,
        frequencies: &Frequencies,
        pairing: Pairing,
        start: i64,
        cos: &mut [T],
        sin: &mut [T],
    ) -> Result<()> {
        cpu::Rope::new(frequencies, pairing).cos_sin(start, cos, sin)
    }
}
