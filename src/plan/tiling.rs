//! How threads divide pairs, heads and tokens.
//!
//! What is best depends on how many threads a multiprocessor gets. The borders between the cuts are the
//! best of sweeps on an H100 (bf16, half-split: from 12 + 12 to 128 + 1 heads of 128, from one token to 32768).
//! `cargo bench --features bench --bench gpu -- tune` repeats them on another device, and prints the table that follows.

use super::{Entry, Form, Heads, Pdl};

/// Threads in a block, at most: `ROPE_MAX_THREADS` of `kernels/variants.h`.
pub(super) const MAX_THREADS: usize = 512;
/// Threads that a head's pairs take, below which it is a short run of memory: partial rotations.
const NARROW: usize = 8;
/// Threads a multiprocessor, at one head each, from which on a launch that starts early loses more to the
/// blocks that wait for the kernel before than it gains. 4096 tokens of 64 + 8 heads of 128 (35,700) gain
/// 1 %, 8192 of 32 + 8 (39,700) lose 2 %, 32768 lose 3 %.
pub(super) const PDL_THREADS: usize = 37_000;

/// Threads of 64 registers that fit a multiprocessor.
const RESIDENT: usize = 1024;
const WARP: usize = 32;

/// How a launch is cut: what a thread takes, rows of heads in a block at most, a block's threads where tokens can fill it,
/// and how often blocks that walk go over the list of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub entry: Entry,
    /// Pairs of a thread, at most.
    pub pairs: usize,
    pub heads_per_block: usize,
    pub threads: usize,
    pub rounds: usize,
}

impl Cut {
    /// The best of the sweeps.
    pub fn of(work: &Work, multiprocessors: usize) -> Self {
        let Work { widest, heads: [q, k], form, tokens_inside, is_fast, .. } = *work;
        let cut = |heads, pairs: usize, rows: usize, threads| {
            let pairs = pairs.min(widest);
            let heads_per_block = rows.min(threads / work.width(pairs));
            Self { entry: Entry { form, heads }, pairs, heads_per_block, threads, rounds: 1 }
        };
        // A token's heads in one block, if they fit: long runs of memory suit DRAM.
        let all = MAX_THREADS;
        let threads = work.threads() / multiprocessors;
        let Form::Flat(pdl) = form else {
            // With as many key heads as query heads, or nearly, nothing is gained by a block for both.
            let grouped = k > 0 && q >= 2 * k;
            // Fewer cuts where a thread may have to choose.
            return match threads {
                0..=4096 => cut(Heads::Apart(2), widest, 8, 128),
                _ if grouped => cut(Heads::Together(2, 1), widest, all, 256),
                _ => cut(Heads::Apart(2), widest, all, 256),
            };
        };
        let early = pdl != Pdl::Off;
        let grouped = q >= 2 * k;
        let narrow = work.width(widest) < NARROW && !tokens_inside;
        // All loads are on their way at once; or, as long as q and k fit L2, blocks walk. In more rounds, or where L2 ends,
        // that costs more DRAM-cold than it gains.
        if is_fast && !early && !narrow && (4501..=16_384).contains(&threads) {
            let walk = |rounds| Self { rounds, ..cut(Heads::Walk(6), 4, all, 128) };
            let cuts = [cut(Heads::List(8), 4, all, 128), walk(2), walk(3)];
            if let Some(cut) = cuts.into_iter().find(|cut| cut.is_resident(work, multiprocessors)) {
                return cut;
            }
        }
        match threads {
            0..=600 if early && (grouped || threads <= 128) => cut(Heads::Apart(1), 2, 4, 256),
            129..=600 if early => cut(Heads::Apart(1), 4, 8, 512),
            601..=1600 if early && grouped => cut(Heads::Apart(4), 2, 2, 128),
            601..=1600 if early => cut(Heads::Apart(4), 2, 4, 256),
            0..=32 => cut(Heads::Apart(1), 2, 4, 128),
            33..=200 => cut(Heads::Apart(2), 1, 2, 128),
            201..=700 => cut(Heads::Apart(4), 1, 2, 256),
            701..=900 => cut(Heads::Apart(4), 1, 4, 512),
            901..=1600 => cut(Heads::Apart(2), 2, 1, 128),
            2049.. if narrow => cut(Heads::Apart(1), widest, all, 256),
            1601..=12_288 if is_fast && early && (grouped || threads <= 4096) => {
                cut(Heads::List(5), 4, all, 128)
            }
            4097.. if is_fast && early && !grouped => cut(Heads::Apart(4), 2, 8, 512),
            1601..=2600 => cut(Heads::Apart(4), 2, 2, 128),
            2601..=4500 if is_fast => cut(Heads::List(4), 4, 8, 128),
            4501.. if is_fast && grouped => cut(Heads::List(5), 4, all, 512),
            4501.. if is_fast => cut(Heads::List(4), 4, 8, 512),
            2601..=4096 => cut(Heads::Apart(4), 4, 2, 128),
            4097..=12_288 => cut(Heads::Apart(4), 4, 4, 256),
            12_289..=37_000 => cut(Heads::Apart(4), 4, 8, 512),
            _ => cut(Heads::Apart(2), 2, 16, 512),
        }
    }

    /// Whether all blocks fit at once, of 64 registers a thread.
    fn is_resident(&self, work: &Work, multiprocessors: usize) -> bool {
        let Tiling { grid, block, .. } = Tiling::rotation(work, self);
        let threads = (block.0 * block.1 * block.2) as usize;
        let at_once = multiprocessors * (RESIDENT / threads.next_multiple_of(WARP));
        grid.0 as usize * grid.1 as usize <= at_once
    }
}

/// Blocks and threads of one launch, as the kernels' `Thread` reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    pub grid: (u32, u32, u32),
    /// Groups of pairs, heads and tokens.
    pub block: (u32, u32, u32),
    /// Blocks in y that work on q.
    pub q_slices: u32,
    /// Heads of a list that a token's blocks take at a time.
    pub heads_per_round: u32,
}

/// What a rotation works on.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Pairs of a head.
    pub pairs: usize,
    /// Pairs of the widest vectors that fit.
    pub widest: usize,
    /// Heads of q and of k, at most one of them zero.
    pub heads: [usize; 2],
    pub tokens: usize,
    /// Whether tokens are nearer to one another in memory than heads are.
    pub tokens_inside: bool,
    /// Which kernels it takes: [`Form::Flat`] by [`pdl`](Self::pdl).
    pub form: Form,
    /// Whether its variant is a fast one: of flat entries those have the lists.
    pub is_fast: bool,
}

impl Work {
    /// Threads that a head takes at so many pairs each.
    pub fn width(&self, pairs: usize) -> usize {
        self.pairs / pairs
    }

    /// Were each to take one head in the widest vectors. Saturates.
    pub fn threads(&self) -> usize {
        let heads = self.heads[0] + self.heads[1];
        self.width(self.widest).saturating_mul(heads).saturating_mul(self.tokens)
    }

    /// Whether to start early: as asked for, where the launch is small enough to gain by it.
    pub fn pdl(&self, asked: Pdl, multiprocessors: usize) -> Pdl {
        if self.threads() / multiprocessors > PDL_THREADS { Pdl::Off } else { asked }
    }
}

impl Tiling {
    pub fn rotation(work: &Work, cut: &Cut) -> Self {
        let Work { heads: [q, k], tokens, tokens_inside, .. } = *work;
        let Cut { entry, pairs, heads_per_block, threads, rounds } = *cut;
        let width = work.width(pairs);
        // Rows of heads: of q and of k, or of both together.
        let (of_a_row, [q, k]) = match entry.heads {
            Heads::Apart(n) => (n, [q.div_ceil(n), k.div_ceil(n)]),
            Heads::Together(of_q, of_k) => (of_q, [q.div_ceil(of_q).max(k.div_ceil(of_k)), 0]),
            Heads::List(n) => (n, [(q + k).div_ceil(n), 0]),
            Heads::Walk(n) => (n, [(q + k).div_ceil(n * rounds), 0]),
        };
        let most = if tokens_inside { 1 } else { heads_per_block.max(1) };
        // As many slices as that takes, and no more rows than fill them.
        let rows = q.max(k).div_ceil(q.max(k).div_ceil(most));
        let (q_slices, k_slices) = (q.div_ceil(rows), k.div_ceil(rows));
        let slices = q_slices + k_slices;
        Self {
            q_slices: q_slices as u32,
            heads_per_round: (slices * rows * of_a_row) as u32,
            ..Self::of(threads, [width, rows], tokens, slices)
        }
    }

    /// For a table of `rows` rows.
    pub fn table(width: usize, rows: usize) -> Self {
        Self::of(128, [width, 1], rows, 1)
    }

    fn of(threads: usize, [width, rows]: [usize; 2], tokens: usize, slices: usize) -> Self {
        let tokens_per_block =
            (threads / (width * rows)).clamp(1, 64).min(tokens.next_power_of_two());
        debug_assert!(width * rows * tokens_per_block <= MAX_THREADS);
        Self {
            grid: (tokens.div_ceil(tokens_per_block) as u32, slices as u32, 1),
            block: (width as u32, rows as u32, tokens_per_block as u32),
            q_slices: slices as u32,
            heads_per_round: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;
    use crate::plan::{Kernel, Variant};

    /// Every token and head has a thread, within the launch limits of every device.
    #[test]
    fn launches_cover_everything() {
        const MOST: usize = crate::limits::MAX_HEADS;
        for (pairs, widest) in
            [(1, 1), (2, 1), (10, 2), (32, 4), (64, 4), (20, 1), (64, 1), (480, 4), (512, 1)]
        {
            for heads in [[1, 0], [0, 3], [2, 2], [7, 1], [32, 8], [64, 64], [71, 1], [MOST, MOST]]
            {
                for tokens in [1, 2, 31, 512, 4096, 70_000, (1 << 31) - 1] {
                    for form in [Form::Flat(Pdl::Off), Form::Flat(Pdl::On), Form::General] {
                        for tokens_inside in [false, true] {
                            let is_fast = widest == 4;
                            let work =
                                Work { pairs, widest, heads, tokens, tokens_inside, form, is_fast };
                            check(&work);
                            check(&Work { is_fast: false, ..work });
                        }
                    }
                }
            }
        }
    }

    fn check(work: &Work) {
        let cut = Cut::of(work, 132);
        let g = Tiling::rotation(work, &cut);
        let (x, y, z) = g.block;
        let most = MAX_THREADS as u32;
        assert!(cut.pairs <= work.widest && x as usize == work.pairs / cut.pairs, "{g:?}");
        assert!(x * y * z <= most && z <= 64, "{g:?}");
        assert!(g.grid.0 < 1 << 31 && g.grid.1 <= 65_535, "{g:?}");
        assert!(u64::from(g.grid.0) * u64::from(z) >= work.tokens as u64);
        let [q, k] = work.heads;
        let (rows, slices, of_q) = (y as usize, g.grid.1 as usize, g.q_slices as usize);
        let (round, all) = (g.heads_per_round as usize, q + k);
        let covers = match cut.entry.heads {
            Heads::Apart(n) => of_q * n * rows >= q && (slices - of_q) * n * rows >= k,
            Heads::Together(n, m) => slices * n * rows >= q && slices * m * rows >= k,
            // A round is a slice of each block, and the last one of all is not empty.
            Heads::List(n) => round == slices * n * rows && round >= all,
            Heads::Walk(n) => {
                round == slices * n * rows && round * cut.rounds >= all && (all <= n || round < all)
            }
        };
        assert!(covers, "{cut:?} {g:?}");
        assert_eq!(cut.entry.form, work.form);
        // What is compiled in the variant that it takes.
        let dtype = if work.is_fast || work.widest < 4 { Dtype::BF16 } else { Dtype::F32 };
        let variant = Variant { dtype, joined: false, bytes: cut.pairs * dtype.size() };
        assert!(Kernel::Rotate(cut.entry).variants().any(|v| v == variant), "{cut:?}");
    }

    /// Large launches start when the kernel before has finished, whatever was asked for.
    #[test]
    fn large_launches_do_not_start_early() {
        let pdl = |tokens, heads| {
            let (form, tokens_inside, is_fast) = (Form::Strided, false, true);
            let work = Work { pairs: 64, widest: 4, heads, tokens, tokens_inside, form, is_fast };
            work.pdl(Pdl::PositionsReady, 132)
        };
        for (tokens, heads) in [(1, [32, 8]), (4096, [32, 8]), (4096, [64, 8])] {
            assert_eq!(pdl(tokens, heads), Pdl::PositionsReady);
        }
        for (tokens, heads) in [(8192, [32, 8]), (32_768, [32, 8]), (8192, [32, 32])] {
            assert_eq!(pdl(tokens, heads), Pdl::Off);
        }
    }
}
