//! The cases: two models' heads at every size, four more models' at half of them, every other shape at four.

use condensed_rope::{Dtype, Layout, Pairing};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Rotate,
    Inverse,
    OutOfPlace,
    /// Three positions a token (M-RoPE).
    Axes,
    /// A choice among sets of frequencies.
    Sets,
    CosSin,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rotate => "rotate",
            Self::Inverse => "inverse",
            Self::OutOfPlace => "out_of_place",
            Self::Axes => "mrope",
            Self::Sets => "sets",
            Self::CosSin => "cos_sin",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Thd,
    Bhsd,
    PackedQkv,
}

impl Order {
    pub fn name(self) -> &'static str {
        match self {
            Self::Thd => "thd",
            Self::Bhsd => "bhsd",
            Self::PackedQkv => "packed_qkv",
        }
    }
}

/// Where a launch finds q and k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// In memory: launches walk over buffers of at least 400 MB.
    Rotating,
    /// In L2, where the same launch before left them.
    Hot,
    /// In L2, where another kernel has just written them, which lets this one start early: its time is
    /// taken off.
    Written,
    /// The same behind a kernel that does not let this one start early.
    WrittenClosed,
}

impl Cache {
    pub const ALL: [Self; 4] = [Self::Rotating, Self::Hot, Self::Written, Self::WrittenClosed];

    /// Whether another kernel writes q and k first.
    pub fn is_written(self) -> bool {
        matches!(self, Self::Written | Self::WrittenClosed)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Rotating => "rotating",
            Self::Hot => "hot",
            Self::Written => "written",
            Self::WrittenClosed => "written_closed",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub op: Op,
    pub dtype: Dtype,
    pub pairing: Pairing,
    pub order: Order,
    pub heads: [usize; 2],
    pub head_dim: usize,
    pub rotary_dim: usize,
    pub tokens: usize,
}

impl Case {
    /// A model's shape that every other case is a change of.
    const BASE: Self = Self {
        op: Op::Rotate,
        dtype: Dtype::BF16,
        pairing: Pairing::HalfSplit,
        order: Order::Thd,
        heads: [32, 8],
        head_dim: 128,
        rotary_dim: 128,
        tokens: 1,
    };

    /// Whether it is measured at every size.
    pub fn is_base(&self) -> bool {
        let Self { heads, tokens, .. } = *self;
        *self == Self { tokens, heads, ..Self::BASE } && matches!(heads, [32, 8 | 32])
    }

    pub fn pairing_name(&self) -> &'static str {
        match self.pairing {
            Pairing::HalfSplit => "half_split",
            Pairing::Interleaved => "interleaved",
            _ => "another",
        }
    }

    /// What criterion calls it.
    pub fn id(&self, implementation: &str, cache: Cache) -> String {
        format!(
            "{implementation}/{} {} {} {} {}+{}x{}r{} {}/{}",
            self.op.name(),
            self.dtype.name(),
            self.pairing_name(),
            self.order.name(),
            self.heads[0],
            self.heads[1],
            self.head_dim,
            self.rotary_dim,
            cache.name(),
            self.tokens,
        )
    }

    /// Bytes that must move: rotated channels read once and written once, a table written once.
    pub fn bytes(&self) -> usize {
        let channels = match self.op {
            Op::CosSin => 2 * self.rotary_dim,
            Op::OutOfPlace => 2 * self.head_dim * (self.heads[0] + self.heads[1]),
            Op::Rotate | Op::Inverse | Op::Axes | Op::Sets => {
                2 * self.rotary_dim * (self.heads[0] + self.heads[1])
            }
        };
        channels * self.tokens * self.dtype.size()
    }

    /// Bytes of a run of memory that moves as a whole, and from one such run to the next; the same
    /// number where one run is all.
    pub fn runs(&self) -> (usize, usize) {
        let size = self.dtype.size();
        if self.op != Op::CosSin && self.rotary_dim != self.head_dim {
            return (self.rotary_dim * size, self.head_dim * size);
        }
        let [q, k] = self.heads;
        match self.order {
            Order::PackedQkv => {
                ((q + k) * self.head_dim * size, (q + 2 * k) * self.head_dim * size)
            }
            _ => (self.footprint(), self.footprint()),
        }
    }

    /// Bytes of memory that one call works on, sources not counted.
    pub fn footprint(&self) -> usize {
        let heads = match self.order {
            _ if self.op == Op::CosSin => {
                return 2 * self.rotary_dim * self.tokens * self.dtype.size();
            }
            Order::PackedQkv => self.heads[0] + 2 * self.heads[1],
            _ => self.heads[0] + self.heads[1],
        };
        heads * self.head_dim * self.tokens * self.dtype.size()
    }

    /// q and k in one buffer, from element 0.
    pub fn layouts(&self) -> [Layout; 2] {
        let Self { order, heads: [q, k], head_dim, tokens, .. } = *self;
        let behind_q = q * head_dim * tokens;
        match order {
            Order::Thd => {
                [Layout::thd(tokens, q, head_dim), Layout::thd(tokens, k, head_dim).at(behind_q)]
            }
            Order::Bhsd => [
                Layout::bhsd(1, q, tokens, head_dim),
                Layout::bhsd(1, k, tokens, head_dim).at(behind_q),
            ],
            Order::PackedQkv => {
                let strides = [0, (q + 2 * k) * head_dim, head_dim];
                [
                    Layout::thd(tokens, q, head_dim).with_strides(strides),
                    Layout::thd(tokens, k, head_dim).with_strides(strides).at(q * head_dim),
                ]
            }
        }
    }
}

pub fn all() -> Vec<Case> {
    let base = Case::BASE;
    let mut cases = Vec::new();
    for heads in [[32, 8], [32, 32]] {
        for tokens in [1, 4, 16, 64, 256, 512, 1024, 2048, 4096, 8192, 32_768, 131_072] {
            cases.push(Case { heads, tokens, ..base });
        }
    }
    // Llama-3.1-70B, Gemma-3-12b, gpt-oss-120b, Phi-4-mini's heads.
    for (heads, dim) in [([64, 8], 128), ([16, 8], 256), ([64, 8], 64), ([24, 8], 128)] {
        for tokens in [1, 16, 256, 1024, 4096, 32_768] {
            cases.push(Case { heads, head_dim: dim, rotary_dim: dim, tokens, ..base });
        }
    }
    for tokens in [1, 128, 4096, 32_768] {
        let base = Case { tokens, ..base };
        cases.extend([
            Case { dtype: Dtype::F16, ..base },
            Case { dtype: Dtype::F32, ..base },
            Case { pairing: Pairing::Interleaved, ..base },
            Case { order: Order::Bhsd, ..base },
            Case { order: Order::PackedQkv, ..base },
            Case { head_dim: 64, rotary_dim: 64, ..base },
            Case { head_dim: 96, rotary_dim: 96, ..base },
            Case { head_dim: 80, rotary_dim: 20, ..base },
            Case { rotary_dim: 64, ..base },
            Case { heads: [71, 1], head_dim: 64, rotary_dim: 64, ..base },
            Case { heads: [128, 1], ..base },
            Case { op: Op::Inverse, ..base },
            Case { op: Op::OutOfPlace, ..base },
            Case { op: Op::Axes, ..base },
            Case { op: Op::Sets, ..base },
            Case { op: Op::CosSin, ..base },
        ]);
    }
    cases
}
