//! The shape of a launch: how threads divide pairs, heads and tokens.
//!
//! The constants are the best of a sweep on an H100 (bf16, half-split, 32 + 8 and 32 + 32 heads of
//! 128, from one token to 32768).

use super::Entry;

/// Threads in a block, at most: `ROPE_MAX_THREADS` of `kernels/variants.h`.
const MAX_THREADS: usize = 512;
/// A block's threads where tokens can fill it.
const BLOCK: usize = 128;
/// Threads of one head each, on one multiprocessor, from which on there are enough to hide memory
/// behind one another, and what is shared between heads counts.
const BUSY: usize = 1024;
/// Rows of heads in a block, at most: few, so that a token alone spreads over many multiprocessors;
/// or many, where long runs of memory suit DRAM.
const ROWS: usize = 8;
const LONG_ROWS: usize = 16;

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
        let [q, k] = heads;
        let busy = width * (q + k) * tokens > multiprocessors * BUSY;
        let fewest = if q == 0 || k == 0 { q + k } else { q.min(k) };
        // As many key heads as query heads, or nearly: nothing is gained by one block for both.
        let entry = if busy && q >= 2 * k { Entry::Together } else { Entry::Apart };
        let [of_q, of_k] = entry.heads();
        let rows = match entry {
            Entry::Together => q.div_ceil(of_q).max(k).min(ROWS),
            _ if busy => fewest.div_ceil(of_q).min(LONG_ROWS),
            _ => fewest.min(ROWS),
        };
        let rows = rows.min((2 * BLOCK / width).max(1));
        let (q_slices, k_slices) = (q.div_ceil(rows * of_q), k.div_ceil(rows * of_k));
        let slices =
            if entry == Entry::Together { q_slices.max(k_slices) } else { q_slices + k_slices };
        Self { q_slices: q_slices as u32, ..Self::of(entry, [width, rows], tokens, slices) }
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
                    let [q, k] = g.entry.heads().map(|heads| heads * y as usize);
                    let slices = g.grid.1 as usize;
                    let (of_q, of_k) = match g.entry {
                        Entry::Together => (slices, slices),
                        _ => (g.q_slices as usize, slices - g.q_slices as usize),
                    };
                    assert!(of_q * q >= heads[0] && of_k * k >= heads[1], "{g:?}");
                }
            }
        }
    }
}
