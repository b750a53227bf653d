//! How threads divide pairs, heads and tokens.
//!
//! What is best depends on how many threads a multiprocessor gets. The borders between the cuts are the
//! best of sweeps on an H100 (bf16, half-split: from 12 + 12 to 128 + 1 heads of 128, from one token to 32768).
//! `cargo bench --features bench --bench gpu -- tune` repeats them on another device, and prints the table that follows.

use super::{Entry, Form, Pdl};

/// Threads in a block, at most: `ROPE_MAX_THREADS` of `kernels/variants.h`.
pub(super) const MAX_THREADS: usize = 512;
/// Threads that a head's pairs take, below which it is a short run of memory: partial rotations.
const NARROW: usize = 8;
/// Threads a multiprocessor, at one head each, from which on a launch that starts early loses more to the
/// blocks that wait for the kernel before than it gains. 4096 tokens of 64 + 8 heads of 128 (35,700) gain
/// 1 %, 8192 of 32 + 8 (39,700) lose 2 %, 32768 lose 3 %.
pub(super) const PDL_THREADS: usize = 37_000;

/// How a launch is cut: what a thread takes, rows of heads in a block at most, and a block's threads where
/// tokens can fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub entry: Entry,
    /// Pairs of a thread, at most.
    pub pairs: usize,
    pub heads_per_block: usize,
    pub threads: usize,
}

impl Cut {
    /// The best of the sweeps.
    pub fn of(work: &Work, multiprocessors: usize) -> Self {
        let Work { widest, heads: [q, k], form, tokens_inside, .. } = *work;
        // Heads spread over blocks: for a few tokens, on many multiprocessors.
        let spread = |q_heads, pairs: usize, rows: usize, threads| {
            let pairs = pairs.min(widest);
            let entry = Entry::new(form, q_heads, 0);
            Self { entry, pairs, heads_per_block: rows.min(threads / work.width(pairs)), threads }
        };
        // Heads of a token in one block, if they fit: long runs of memory suit DRAM.
        let whole = |q_heads, k_heads, threads| {
            let entry = Entry::new(form, q_heads, k_heads);
            let heads_per_block = MAX_THREADS / work.width(widest);
            Self { entry, pairs: widest, heads_per_block, threads }
        };
        // With as many key heads as query heads, or nearly, nothing is gained by a block for both.
        let grouped = work.together && k > 0 && q >= 2 * k;
        let threads = work.threads() / multiprocessors;
        if !matches!(form, Form::Flat(_)) {
            // Fewer cuts where a thread may have to choose.
            return match threads {
                0..=4096 => spread(2, widest, 8, 128),
                _ if grouped => whole(2, 1, 256),
                _ => whole(2, 0, 256),
            };
        }
        let early = form != Form::Flat(Pdl::Off);
        let narrow = work.width(widest) < NARROW && !tokens_inside;
        match threads {
            0..=16 => spread(1, 2, 4, if early { 512 } else { 128 }),
            17..=128 if early => spread(1, 2, 4, 512),
            129..=600 if early => spread(1, if grouped { 2 } else { 4 }, 4, 512),
            17..=512 => spread(2, 1, 2, 256),
            601..=1600 if early => spread(4, 2, 4, if grouped { 128 } else { 256 }),
            513..=1600 => spread(2, 2, 1, 128),
            2049.. if narrow => whole(1, 0, 256),
            1601..=4096 if early && grouped => whole(4, 1, 128),
            1601..=4096 if early => spread(4, 4, 2, 256),
            1601..=2600 => spread(4, 2, 2, 128),
            2601..=4096 => spread(4, 4, 2, 128),
            // Enough to hide memory behind one another: what heads share counts.
            4097..=12_288 if grouped => whole(4, 1, 128),
            4097..=12_288 => spread(4, 4, 4, 256),
            _ if grouped => whole(4, 1, 512),
            12_289..=37_000 => spread(4, 4, 8, 512),
            _ => spread(2, 2, 16, 512),
        }
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
    /// Whether they take q and k together: of flat ones the widest vectors alone do.
    pub together: bool,
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
        let Work { heads, tokens, tokens_inside, .. } = *work;
        let Cut { entry, pairs, heads_per_block, threads } = *cut;
        let width = work.width(pairs);
        let [of_q, of_k] = entry.heads();
        let [q, k] = [heads[0].div_ceil(of_q), heads[1].div_ceil(of_k)];
        let most = if tokens_inside { 1 } else { heads_per_block.max(1) };
        // As many slices as that takes, and no more rows than fill them.
        let rows = q.max(k).div_ceil(q.max(k).div_ceil(most));
        let (q_slices, k_slices) = (q.div_ceil(rows), k.div_ceil(rows));
        let slices = if entry.is_together() { q_slices.max(k_slices) } else { q_slices + k_slices };
        Self { q_slices: q_slices as u32, ..Self::of(threads, [width, rows], tokens, slices) }
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                        for [tokens_inside, together] in [[false; 2], [true, false], [false, true]]
                        {
                            check(&Work {
                                pairs,
                                widest,
                                heads,
                                tokens,
                                tokens_inside,
                                form,
                                together,
                            });
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
        let [q, k] = cut.entry.heads().map(|heads| heads * y as usize);
        let slices = g.grid.1 as usize;
        let (of_q, of_k) = match cut.entry.is_together() {
            true => (slices, slices),
            false => (g.q_slices as usize, slices - g.q_slices as usize),
        };
        assert!(of_q * q >= work.heads[0] && of_k * k >= work.heads[1], "{g:?}");
        assert_eq!(cut.entry.form, work.form);
        assert!(work.together || !cut.entry.is_together());
    }

    /// Large launches start when the kernel before has finished, whatever was asked for.
    #[test]
    fn large_launches_do_not_start_early() {
        let pdl = |tokens, heads| {
            let (form, tokens_inside, together) = (Form::Strided, false, true);
            let work = Work { pairs: 64, widest: 4, heads, tokens, tokens_inside, form, together };
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
