//! How threads divide pairs, heads and tokens.
//!
//! What is best depends on how many threads a multiprocessor gets. The borders between the cuts are the
//! best of sweeps on an H100 (bf16, half-split: 32 + 8 and 32 + 32 heads of 128 from one token to 32768,
//! and two dozen models' heads, from 12 + 12 to 128 + 1, at 1024, 4096 and 32768 tokens).
//! `cargo bench --features bench --bench gpu -- tune` repeats them on another device, and prints the table that follows.

use super::{Entry, Pdl};

/// Threads in a block, at most: `ROPE_MAX_THREADS` of `kernels/variants.h`.
pub(super) const MAX_THREADS: usize = 512;
/// Heads up to which two a thread are better than four, where a block holds all of a token's.
const BY_TWO: usize = 40;
/// Threads that a head's pairs take, below which it is a short run of memory: partial rotations.
const NARROW: usize = 8;
/// Threads a multiprocessor, at one head each, from which on a launch that starts early loses more to the
/// blocks that wait for the kernel before than it gains. 4096 tokens of 64 + 8 heads of 128 (35,700) gain
/// 1 %, 8192 of 32 + 8 (39,700) lose 2 %, 32768 lose 3 %.
pub(super) const PDL_THREADS: usize = 37_000;

/// How heads are cut: what a thread takes, rows of heads in a block at most, and a block's threads where
/// tokens can fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub entry: Entry,
    pub heads_per_block: usize,
    pub threads: usize,
}

impl Cut {
    /// The best of the sweeps.
    pub fn of(work: &Work, multiprocessors: usize) -> Self {
        let Work { width, heads: [q, k], general, tokens_inside, .. } = *work;
        let overlaps = work.pdl(multiprocessors) != Pdl::Off;
        // Heads spread over blocks: for a few tokens, on many multiprocessors.
        let spread = |entry, rows: usize, threads| Self {
            entry,
            heads_per_block: rows.min(threads / width),
            threads,
        };
        // Heads of a token in one block, if they fit: long runs of memory suit DRAM.
        let whole = |entry, threads| Self { entry, heads_per_block: MAX_THREADS / width, threads };
        let (one, two_heads, four) = (Entry::plain(1, 0), Entry::plain(2, 0), Entry::plain(4, 0));
        // With as many key heads as query heads, or nearly, nothing is gained by a block for both.
        let grouped = k > 0 && q >= 2 * k;
        let heads = q.max(k);
        let two = tokens_inside || heads <= BY_TWO && heads.div_ceil(2) * width <= MAX_THREADS;
        let narrow = width < NARROW && !tokens_inside;
        match work.threads() / multiprocessors {
            // Fewer cuts where a thread may have to choose: kernels of their own.
            0..=4096 if general => spread(Entry::general(2, 0), 8, 128),
            _ if general && grouped => whole(Entry::general(2, 1), 256),
            _ if general => whole(Entry::general(2, 0), 256),
            0..=256 => spread(one, 8, 128),
            257..=1024 => spread(two_heads, 8, 128),
            2049.. if narrow => whole(one, 256),
            // The next launch's blocks fit beside this one's, where it may start early.
            1025..=4096 if grouped && overlaps => spread(two_heads, 4, 128),
            // Enough to hide memory behind one another: what heads share counts.
            1025..=4096 => spread(four, 2, 128),
            // Better L2-hot than DRAM-cold: it is the kernel before that has just written q and k.
            4097..=8192 if overlaps && !grouped => spread(four, 2, 128),
            4097..=12_288 if !grouped => spread(four, 4, 256),
            4097..=12_288 => whole(Entry::plain(4, 1), 128),
            _ if grouped && two => whole(Entry::plain(2, 1), 256),
            _ if grouped => whole(Entry::plain(4, 1), 256),
            _ if two => whole(two_heads, 256),
            _ => whole(four, 256),
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
    /// Threads that a head's pairs take.
    pub width: usize,
    /// Heads of q and of k, at most one of them zero.
    pub heads: [usize; 2],
    pub tokens: usize,
    /// Whether tokens are nearer to one another in memory than heads are.
    pub tokens_inside: bool,
    /// Whether it takes the general kernels.
    pub general: bool,
    /// What was asked for.
    pub pdl: Pdl,
}

impl Work {
    /// Were each to take one head. Saturates.
    fn threads(&self) -> usize {
        self.width.saturating_mul(self.heads[0] + self.heads[1]).saturating_mul(self.tokens)
    }

    /// Whether to start early: as asked for, where the launch is small enough to gain by it.
    pub fn pdl(&self, multiprocessors: usize) -> Pdl {
        if self.threads() / multiprocessors > PDL_THREADS { Pdl::Off } else { self.pdl }
    }
}

impl Tiling {
    pub fn rotation(work: &Work, cut: &Cut) -> Self {
        let Work { width, heads, tokens, tokens_inside, .. } = *work;
        let Cut { entry, heads_per_block, threads } = *cut;
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
        for width in [1, 2, 5, 8, 16, 20, 64, 120, 512] {
            for heads in [[1, 0], [0, 3], [2, 2], [7, 1], [32, 8], [64, 64], [71, 1], [MOST, MOST]]
            {
                for tokens in [1, 2, 31, 512, 70_000, (1 << 31) - 1] {
                    for flags in 0..8 {
                        let [tokens_inside, general, early] = [1, 2, 4].map(|bit| flags & bit != 0);
                        let pdl = if early { Pdl::On } else { Pdl::Off };
                        let work = Work { width, heads, tokens, tokens_inside, general, pdl };
                        let cut = Cut::of(&work, 132);
                        let g = Tiling::rotation(&work, &cut);
                        let (x, y, z) = g.block;
                        assert!(
                            x as usize == width && x * y * z <= MAX_THREADS as u32 && z <= 64,
                            "{g:?}"
                        );
                        assert!(g.grid.0 < 1 << 31 && g.grid.1 <= 65_535, "{g:?}");
                        assert!(u64::from(g.grid.0) * u64::from(z) >= tokens as u64);
                        let [q, k] = cut.entry.heads().map(|heads| heads * y as usize);
                        let slices = g.grid.1 as usize;
                        let (of_q, of_k) = match cut.entry.is_together() {
                            true => (slices, slices),
                            false => (g.q_slices as usize, slices - g.q_slices as usize),
                        };
                        assert!(of_q * q >= heads[0] && of_k * k >= heads[1], "{g:?}");
                        assert_eq!(cut.entry.general, general);
                    }
                }
            }
        }
    }

    /// Large launches start when the kernel before has finished, whatever was asked for.
    #[test]
    fn large_launches_do_not_start_early() {
        let pdl = |tokens, heads| {
            let (width, tokens_inside, general) = (16, false, false);
            let pdl = Pdl::PositionsReady;
            Work { width, heads, tokens, tokens_inside, general, pdl }.pdl(132)
        };
        for (tokens, heads) in [(1, [32, 8]), (4096, [32, 8]), (4096, [64, 8])] {
            assert_eq!(pdl(tokens, heads), Pdl::PositionsReady);
        }
        for (tokens, heads) in [(8192, [32, 8]), (32_768, [32, 8]), (8192, [32, 32])] {
            assert_eq!(pdl(tokens, heads), Pdl::Off);
        }
    }
}
