//! The shape of a launch: how threads divide pairs, heads and tokens.
//!
//! What is best depends on how many threads a multiprocessor gets. The borders between the cuts are the
//! best of sweeps on an H100 (bf16, half-split: 32 + 8 and 32 + 32 heads of 128 from one token to 32768,
//! and two dozen models' heads, from 12 + 12 to 128 + 1, at 1024, 4096 and 32768 tokens).

use super::Entry;

/// Threads in a block, at most: `ROPE_MAX_THREADS` of `kernels/variants.h`.
const MAX_THREADS: usize = 512;
/// Heads up to which two a thread are better than four, where a block holds all of a token's.
const BY_TWO: usize = 40;
/// Threads that a head's pairs take, below which it is a short run of memory: partial rotations.
const NARROW: usize = 8;

/// How heads are cut: what a thread takes, rows of heads in a block at most, and a block's threads where
/// tokens can fill it.
struct Cut {
    entry: Entry,
    rows: usize,
    block: usize,
}

impl Cut {
    /// By the threads that a multiprocessor would have, were each to take one head.
    fn of(work: &Work, threads: usize) -> Self {
        let Work { width, heads: [q, k], many, tokens_inside, overlaps, .. } = *work;
        // Heads spread over blocks: for a few tokens, on many multiprocessors.
        let spread =
            |entry, rows: usize, block| Self { entry, rows: rows.min(block / width), block };
        // Heads of a token in one block, if they fit: long runs of memory suit DRAM.
        let whole = |entry, block| Self { entry, rows: MAX_THREADS / width, block };
        // With as many key heads as query heads, or nearly, nothing is gained by a block for both.
        let grouped = k > 0 && q >= 2 * k;
        let heads = q.max(k);
        let two = tokens_inside || heads <= BY_TWO && heads.div_ceil(2) * width <= MAX_THREADS;
        let narrow = width < NARROW && !tokens_inside;
        match threads {
            // Fewer cuts where a thread may have to choose: kernels of their own.
            0..=4096 if many => spread(Entry::ManyRotate2, 8, 128),
            _ if many && grouped => whole(Entry::ManyRotate2And1, 256),
            _ if many => whole(Entry::ManyRotate2, 256),
            0..=256 => spread(Entry::Rotate1, 8, 128),
            257..=1024 => spread(Entry::Rotate2, 8, 128),
            2049.. if narrow => whole(Entry::Rotate1, 256),
            // The next launch's blocks fit beside this one's, where it may start early.
            1025..=4096 if grouped => spread(Entry::Rotate2, 4, 128),
            // Enough to hide memory behind one another: what heads share counts.
            1025..=4096 => spread(Entry::Rotate4, 2, 128),
            // Better out of L2 than from memory: it is the kernel before that has just written q and k.
            4097..=8192 if overlaps && !grouped => spread(Entry::Rotate4, 2, 128),
            4097..=12_288 if grouped => whole(Entry::Rotate4And1, 128),
            _ if grouped && two => whole(Entry::Rotate2And1, 256),
            _ if grouped => whole(Entry::Rotate4And1, 256),
            _ if two => whole(Entry::Rotate2, 256),
            _ => whole(Entry::Rotate4, 256),
        }
    }
}

/// Blocks and threads of one launch, as the kernels' `Thread` reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub entry: Entry,
    pub grid: (u32, u32, u32),
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
    /// Whether there are many positions a token, or many sets of frequencies.
    pub many: bool,
    /// Whether the launch may start beside the one before it.
    pub overlaps: bool,
}

impl Geometry {
    pub fn rotation(work: Work, multiprocessors: usize) -> Self {
        let Work { width, heads, tokens, .. } = work;
        let threads = width.saturating_mul(heads[0] + heads[1]).saturating_mul(tokens);
        let Cut { entry, rows, block } = Cut::of(&work, threads / multiprocessors);
        let [of_q, of_k] = entry.heads();
        let [q, k] = [heads[0].div_ceil(of_q), heads[1].div_ceil(of_k)];
        let most = if work.tokens_inside { 1 } else { rows.max(1) };
        // As many slices as that takes, and no more rows than fill them.
        let rows = q.max(k).div_ceil(q.max(k).div_ceil(most));
        let (q_slices, k_slices) = (q.div_ceil(rows), k.div_ceil(rows));
        let slices = if entry.is_together() { q_slices.max(k_slices) } else { q_slices + k_slices };
        let cut = Cut { entry, rows, block };
        Self { q_slices: q_slices as u32, ..Self::of(&cut, width, tokens, slices) }
    }

    /// For a table of `rows` rows.
    pub fn table(width: usize, rows: usize) -> Self {
        Self::of(&Cut { entry: Entry::CosSin, rows: 1, block: 128 }, width, rows, 1)
    }

    fn of(&Cut { entry, rows, block }: &Cut, width: usize, tokens: usize, slices: usize) -> Self {
        let lanes = (block / (width * rows)).clamp(1, 64).min(tokens.next_power_of_two());
        debug_assert!(width * rows * lanes <= MAX_THREADS);
        Self {
            entry,
            grid: (tokens.div_ceil(lanes) as u32, slices as u32, 1),
            block: (width as u32, rows as u32, lanes as u32),
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
        const MOST: usize = i16::MAX as usize;
        for width in [1, 2, 5, 8, 16, 20, 64, 120, 512] {
            for heads in [[1, 0], [0, 3], [2, 2], [7, 1], [32, 8], [64, 64], [71, 1], [MOST, MOST]]
            {
                for tokens in [1, 2, 31, 512, 70_000, (1 << 31) - 1] {
                    for flags in 0..8 {
                        let [tokens_inside, many, overlaps] = [1, 2, 4].map(|bit| flags & bit != 0);
                        let work = Work { width, heads, tokens, tokens_inside, many, overlaps };
                        let g = Geometry::rotation(work, 132);
                        let (x, y, z) = g.block;
                        assert!(
                            x as usize == width && x * y * z <= MAX_THREADS as u32 && z <= 64,
                            "{g:?}"
                        );
                        assert!(g.grid.0 < 1 << 31 && g.grid.1 <= 65_535, "{g:?}");
                        assert!(u64::from(g.grid.0) * u64::from(z) >= tokens as u64);
                        let [q, k] = g.entry.heads().map(|heads| heads * y as usize);
                        let slices = g.grid.1 as usize;
                        let (of_q, of_k) = match g.entry.is_together() {
                            true => (slices, slices),
                            false => (g.q_slices as usize, slices - g.q_slices as usize),
                        };
                        assert!(of_q * q >= heads[0] && of_k * k >= heads[1], "{g:?}");
                    }
                }
            }
        }
    }
}
