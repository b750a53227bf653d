//! Every check of a call, once: what passes can be planned without another one.

#![allow(missing_docs, reason = "not part of the interface: for the crate and its tests")]

use super::operand::{Names, check_address};
use crate::limits::MAX_TOKENS;
use crate::{Dtype, Error, Layout, Positions, RawBuffer, RawIds, RawOperand, Result, RopeSpec};

/// One rotation, as every entry of every backend hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub q: Option<RawOperand>,
    pub k: Option<RawOperand>,
    pub positions: Positions<RawIds>,
}

/// A call that passed every check for a rope.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    call: Call,
    dtype: Dtype,
    batch_seq: [usize; 2],
}

impl Checked {
    /// q and k.
    pub fn operands(&self) -> [Option<&RawOperand>; 2] {
        [self.call.q.as_ref(), self.call.k.as_ref()]
    }

    pub fn positions(&self) -> &Positions<RawIds> {
        &self.call.positions
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// `[batch, seq]` of every operand.
    pub fn batch_seq(&self) -> [usize; 2] {
        self.batch_seq
    }

    /// Below 2^31.
    pub fn tokens(&self) -> usize {
        self.batch_seq[0] * self.batch_seq[1]
    }

    /// Of q and of k.
    pub fn heads(&self) -> [usize; 2] {
        self.operands().map(|operand| operand.map_or(0, |operand| operand.layout.shape()[2]))
    }

    /// No row is there to rotate.
    pub fn is_empty(&self) -> bool {
        self.tokens() == 0 || self.heads() == [0, 0]
    }
}

impl Call {
    /// Types, shapes, strides, bounds, alignment and ranges of q, of k and of their sources; that what is
    /// written shares no memory; positions.
    pub fn check(self, spec: &RopeSpec) -> Result<Checked> {
        let rotary_dim = spec.rotary_dim();
        let operands = [(self.q.as_ref(), Names::Q), (self.k.as_ref(), Names::K)];
        let given = || operands.into_iter().filter_map(|(operand, names)| Some((operand?, names)));
        let Some((first, _)) = given().next() else { return Err(Error::NoTensors) };
        let [batch, seq, ..] = first.layout.shape();
        for (operand, names) in given() {
            operand.check(names, rotary_dim)?;
            if operand.dtype != first.dtype {
                return Err(Error::dtype(names.target, first.dtype, operand.dtype));
            }
            let [b, s, ..] = operand.layout.shape();
            if [b, s] != [batch, seq] {
                let (expected, given) = ([batch, seq], [b, s]);
                return Err(Error::Tokens { tensor: names.target, expected, given });
            }
        }
        check_disjoint(&operands)?;
        self.positions.check(batch, seq, rotary_dim)?;
        Ok(Checked { dtype: first.dtype, batch_seq: [batch, seq], call: self })
    }
}

/// No tensor that is written shares memory with another one.
fn check_disjoint(operands: &[(Option<&RawOperand>, Names); 2]) -> Result<()> {
    for (i, (written, names)) in operands.iter().enumerate() {
        let Some(written) = written else { continue };
        for (j, (other, other_names)) in operands.iter().enumerate() {
            let Some(other) = other else { continue };
            let shares = |buffer: &RawBuffer, layout: &Layout, name| {
                if written.disjoint(buffer, layout) {
                    Ok(())
                } else {
                    Err(Error::OverlappingTensors { tensors: [names.target, name] })
                }
            };
            if let Some((source, layout)) = &other.source {
                shares(source, layout, other_names.source)?;
            }
            if i < j {
                shares(&other.target, &other.layout, other_names.target)?;
            }
        }
    }
    Ok(())
}

/// One cos/sin table: `rows` rows of consecutive positions from `start`, contiguous `[rows, rotary_dim]`
/// each.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub dtype: Dtype,
    pub cos: RawBuffer,
    pub sin: RawBuffer,
    pub start: i64,
    pub rows: usize,
}

/// A table that passed every check for a rope.
#[derive(Clone, Copy, Debug)]
pub struct CheckedTable(Table);

impl CheckedTable {
    pub fn table(&self) -> &Table {
        &self.0
    }
}

impl Table {
    /// For buffers whose length says how many rows they hold.
    pub fn filling(
        dtype: Dtype,
        cos: RawBuffer,
        sin: RawBuffer,
        start: i64,
        rotary_dim: usize,
    ) -> Self {
        let rows = cos.len.unwrap_or(0).div_ceil(rotary_dim);
        Self { dtype, cos, sin, start, rows }
    }

    /// Buffers hold the rows and no more, aligned, and share no memory.
    pub fn check(self, spec: &RopeSpec) -> Result<CheckedTable> {
        let (size, dim) = (self.dtype.size(), spec.rotary_dim());
        let limit = MAX_TOKENS;
        if self.rows > limit {
            return Err(Error::TooLarge { tensor: "cos", what: "the number of rows", limit });
        }
        // Below 2^31 times 2^10 elements.
        let needed = self.rows * dim;
        for (tensor, buffer) in [("cos", &self.cos), ("sin", &self.sin)] {
            if let Some(given) = buffer.len.filter(|&given| given != needed) {
                return Err(Error::OutOfBounds { tensor, needed, given });
            }
            check_address(tensor, buffer.address, size, needed * size)?;
        }
        let apart = self.cos.address.abs_diff(self.sin.address) >= (needed * size) as u64;
        if apart {
            Ok(CheckedTable(self))
        } else {
            Err(Error::OverlappingTensors { tensors: ["cos", "sin"] })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IndexType, Pairing};

    fn spec() -> RopeSpec {
        RopeSpec::new(8, Pairing::HalfSplit).expect("valid")
    }

    fn check(q: Option<RawOperand>, k: Option<RawOperand>) -> Result<()> {
        Call { q, k, positions: Positions::consecutive(0) }.check(&spec()).map(|_| ())
    }

    const BASE: u64 = 1 << 20;
    const DTYPE: Dtype = Dtype::BF16;

    /// Four tokens of two heads of eight channels: 128 bytes.
    fn layout() -> Layout {
        Layout::thd(4, 2, 8)
    }

    /// Every two tensors of a call, in every relation of their addresses and layouts.
    #[test]
    fn what_is_written_shares_memory_with_nothing() {
        let far = 1 << 30;
        // Rows of q with room for another row behind each.
        let spread = layout().with_strides([128, 32, 16]);
        // Where the second tensor of a pair lies, and whether that is apart from the first.
        let relations = [
            ("equal", layout(), BASE, layout(), false),
            ("shifted by one element", layout(), BASE + 2, layout(), false),
            ("shifted down by one element", layout(), BASE - 2, layout(), false),
            ("the same address, another layout", layout(), BASE, Layout::bhsd(1, 2, 4, 8), false),
            ("interleaved rows", spread, BASE + 16, spread, true),
            ("interleaved rows, too near", spread, BASE + 14, spread, false),
            ("end to end", layout(), BASE + 128, layout(), true),
            ("the other way round", layout(), BASE - 128, layout(), true),
            ("apart", layout(), far, layout(), true),
            ("the other end of memory", layout(), u64::MAX - 129, layout(), true),
        ];
        let elsewhere = |n: u64| RawBuffer::unbounded(far * (n + 2));
        for (what, first, address, second, apart) in relations {
            let [a, b] = [BASE, address].map(RawBuffer::unbounded);
            let in_place = |buffer, layout| RawOperand::in_place(DTYPE, buffer, layout);
            let copy = |source, from, target, to| {
                RawOperand::out_of_place(DTYPE, source, from, target, to)
            };
            let expect = |result: Result<()>, tensors: [&'static str; 2], apart: bool| {
                let expected =
                    if apart { Ok(()) } else { Err(Error::OverlappingTensors { tensors }) };
                assert_eq!(result, expected, "{tensors:?}, {what}");
            };
            let (q, k) = (Some(in_place(a, first)), Some(in_place(b, second)));
            expect(check(q, k), ["q", "k"], apart);
            expect(check(k, q), ["q", "k"], apart);
            // A source that is its target, by address and layout, is in place.
            let own = apart || what == "equal";
            expect(check(Some(copy(b, second, a, first)), None), ["q", "q source"], own);
            expect(check(None, Some(copy(b, second, a, first))), ["k", "k source"], own);
            let from_b = Some(copy(b, second, elsewhere(1), first));
            let from_a = Some(copy(a, first, elsewhere(1), second));
            expect(check(q, from_b), ["q", "k source"], apart);
            expect(check(from_b, q), ["k", "q source"], apart);
            expect(check(k, from_a), ["q", "k source"], apart);
            // Two sources may share everything.
            let to = |n| Some(copy(a, first, elsewhere(n), first));
            expect(check(to(1), to(2)), ["q source", "k source"], true);
        }
    }

    #[test]
    fn q_and_k_alone_go_by_their_own_names() {
        let operand = RawOperand::in_place(DTYPE, BASE, Layout::thd(4, 2, 1025));
        let refused = |tensor| Err(Error::HeadDim { tensor, given: 1025 });
        assert_eq!(check(Some(operand), None), refused("q"));
        assert_eq!(check(None, Some(operand)), refused("k"));
        assert_eq!(check(None, None), Err(Error::NoTensors));
    }

    #[test]
    fn addresses_are_checked_where_something_lies_there() {
        let at = |address| RawOperand::in_place(DTYPE, address, layout());
        assert_eq!(check(Some(at(0)), None), Err(Error::Null { tensor: "q" }));
        let odd = Error::Alignment { tensor: "k", expected: 2, given: BASE + 1 };
        assert_eq!(check(None, Some(at(BASE + 1))), Err(odd));
        assert!(matches!(check(Some(at(u64::MAX - 63)), None), Err(Error::TooLarge { .. })));
        let source = RawOperand::out_of_place(DTYPE, BASE + 1, layout(), 2 * BASE, layout());
        let odd = Error::Alignment { tensor: "q source", expected: 2, given: BASE + 1 };
        assert_eq!(check(Some(source), None), Err(odd));
        let none = RawOperand::in_place(DTYPE, 0, Layout::thd(0, 2, 8));
        assert_eq!(check(Some(none), None), Ok(()));
    }

    /// Bounds of targets and of sources, where their lengths are given: through offset, stride and buffer.
    #[test]
    fn every_view_ends_within_its_buffer() {
        let names = [["q", "q source"], ["k", "k source"]];
        for (layout, needed) in [
            (layout(), 64),
            (layout().at(3), 67),
            (layout().with_strides([0, 20, 9]), 77),
            (Layout::bshd(2, 2, 2, 8).with_strides([50, 20, 9]), 87),
        ] {
            for (missing, ok) in [(0, true), (1, false)] {
                let given = needed - missing;
                let short = RawBuffer::new(BASE, given);
                let long = RawBuffer::new(1 << 30, needed);
                for (i, [target, source]) in names.into_iter().enumerate() {
                    let call = |operand| {
                        let [q, k] = [0, 1].map(|n| (n == i).then_some(operand));
                        check(q, k)
                    };
                    let expect = |tensor| {
                        if ok { Ok(()) } else { Err(Error::OutOfBounds { tensor, needed, given }) }
                    };
                    let in_place = RawOperand::in_place(DTYPE, short, layout);
                    assert_eq!(call(in_place), expect(target));
                    let from = RawOperand::out_of_place(DTYPE, short, layout, long, layout);
                    assert_eq!(call(from), expect(source));
                    let to = RawOperand::out_of_place(DTYPE, long, layout, short, layout);
                    assert_eq!(call(to), expect(target));
                    // One buffer of two lengths is as long as the shorter one.
                    let long = RawBuffer::new(BASE, needed);
                    let own = RawOperand::out_of_place(DTYPE, short, layout, long, layout);
                    assert_eq!(call(own), expect(target));
                }
            }
        }
    }

    #[test]
    fn tables_are_checked() {
        let table = |cos: RawBuffer, sin: RawBuffer, rows| {
            let table = Table { dtype: Dtype::F32, cos, sin, start: 0, rows };
            table.check(&spec()).map(|_| ())
        };
        let [a, b] = [BASE, 2 * BASE].map(|address| RawBuffer::new(address, 16));
        assert_eq!(table(a, b, 2), Ok(()));
        let short = |tensor, needed| Err(Error::OutOfBounds { tensor, needed, given: 16 });
        assert_eq!(table(a, b, 3), short("cos", 24));
        assert_eq!(table(a, b, 1), short("cos", 8));
        assert_eq!(table(BASE.into(), b, 3), short("sin", 24));
        assert_eq!(table(BASE.into(), (2 * BASE).into(), 3), Ok(()));
        let overlap = Err(Error::OverlappingTensors { tensors: ["cos", "sin"] });
        assert_eq!(table(BASE.into(), (BASE + 32).into(), 2), overlap);
        assert_eq!(table(BASE.into(), (BASE + 64).into(), 2), Ok(()));
        assert_eq!(table(0.into(), b, 2), Err(Error::Null { tensor: "cos" }));
        let odd = Error::Alignment { tensor: "sin", expected: 4, given: BASE + 2 };
        assert_eq!(table(a, RawBuffer::unbounded(BASE + 2), 2), Err(odd));
        let limit = MAX_TOKENS;
        let many = Error::TooLarge { tensor: "cos", what: "the number of rows", limit };
        assert_eq!(table(BASE.into(), b, limit + 1), Err(many));
        assert_eq!(table(0.into(), 0.into(), 0), Ok(()));
    }

    /// The first tensor says what the other must agree with, whichever it is.
    #[test]
    fn q_and_k_agree() {
        let q = RawOperand::in_place(DTYPE, BASE, layout());
        let k = RawOperand::in_place(Dtype::F16, 2 * BASE, layout());
        assert_eq!(check(Some(q), Some(k)), Err(Error::dtype("k", Dtype::BF16, Dtype::F16)));
        let k = RawOperand::in_place(DTYPE, 2 * BASE, Layout::bshd(2, 2, 2, 8));
        let tokens = Error::Tokens { tensor: "k", expected: [1, 4], given: [2, 2] };
        assert_eq!(check(Some(q), Some(k)), Err(tokens));
        let ids = RawIds::new(IndexType::U32, BASE, 3);
        let call = Call { q: None, k: Some(k), positions: Positions::shared_ids(ids) };
        let short = Error::Positions { what: "shared position ids", expected: 2, given: 3 };
        assert_eq!(call.check(&spec()).map(|_| ()), Err(short));
    }
}
