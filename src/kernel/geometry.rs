//! The shape of a launch: how threads divide pairs, heads and tokens.
//!
//! The constants are the best of a sweep on an H100 (bf16, half-split, 32 + 8 and 32 + 32 heads of
//! 128, from one token to 32768).

use super::Entry;

/// Threads in a block, at most: `ROPE_MAX_THREADS` of `kernels/variants.h`.
const MAX_THREADS: usize = 512;
/// A block's threads where tokens can fill it.
const BLOCK: usize = 128;
/// Threads of one head each, on one multiprocessor, from which on a thread takes several heads: sine
/// and cosine are made once for all of them, and there are still threads enough to hide memory.
const BUSY: usize = 1024;
/// Heads of one tensor in a block where there is much to do: long runs of memory suit DRAM.
const HEADS_PER_BLOCK: usize = 32;

/// Blocks and threads of one launch, as the kernels' `Thread` reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub entry: Entry,
    pub grid: (u32, u32, u32),
    pub block: (u32, u32, u32),
    /// Blocks in y that work on q.
    pub q_slices: u32,
}

impl Geometry {
    /// For rows of `width` threads, heads of q and k (at most one of them zero), and `tokens` tokens.
    pub fn rotation(
        width: usize,
        heads: [usize; 2],
        tokens: usize,
        multiprocessors: usize,
    ) -> Self {
        let busy = width * (heads[0] + heads[1]) * tokens > multiprocessors * BUSY;
        // Rows that two heads each of either tensor fill.
        let fewest = heads.into_iter().filter(|&heads| heads > 0).min().unwrap_or(1);
        let most = if busy { HEADS_PER_BLOCK / 2 } else { HEADS_PER_BLOCK / 4 };
        let rows = (fewest / 2).clamp(1, most).min((2 * BLOCK / width).max(1));
        let entry =
            if busy && 2 * rows < HEADS_PER_BLOCK { Entry::Rotate8 } else { Entry::Rotate2 };
        let [q_slices, k_slices] = heads.map(|heads| heads.div_ceil(rows * entry.heads()));
        let launch = Self::of(entry, [width, rows], tokens, q_slices + k_slices);
        Self { q_slices: q_slices as u32, ..launch }
    }

    /// For a table of `rows` rows.
    pub fn table(width: usize, rows: usize) -> Self {
        Self::of(Entry::CosSin, [width, 1], rows, 1)
    }

    fn of(entry: Entry, [width, rows]: [usize; 2], tokens: usize, slices: usize) -> Self {
        let lanes = (BLOCK / (width * rows)).clamp(1, 64).min(tokens.next_power_of_two());
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
                    let g = Geometry::rotation(width, heads, tokens, 132);
                    let (x, y, z) = g.block;
                    assert!(
                        x as usize == width && x * y * z <= MAX_THREADS as u32 && z <= 64,
                        "{g:?}"
                    );
                    assert!(g.grid.0 < 1 << 31 && g.grid.1 <= 65_535, "{g:?}");
                    assert!(u64::from(g.grid.0) * u64::from(z) >= tokens as u64);
                    let per_slice = y as usize * g.entry.heads();
                    assert!(g.q_slices as usize * per_slice >= heads[0]);
                    assert!((g.grid.1 - g.q_slices) as usize * per_slice >= heads[1]);
                }
            }
        }
    }
}
