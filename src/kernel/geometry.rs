//! The shape of a launch: how threads divide pairs, heads and tokens.

/// Threads in a block, at most: `ROPE_MAX_THREADS` of `kernels/variants.h`.
const MAX_THREADS: usize = 512;
/// A block's threads where there is a choice.
const BLOCK: usize = 256;
/// Threads that fill a multiprocessor well enough to hide memory behind one another.
const BUSY: usize = 1024;

/// Blocks and threads of one launch, as the kernels' `Thread` reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub grid: (u32, u32, u32),
    pub block: (u32, u32, u32),
    pub heads_per_slice: u32,
    pub tiles_per_block: u32,
}

impl Geometry {
    /// For rows of `width` threads, `heads` rows a token and `tokens` tokens.
    pub fn new(width: usize, heads: usize, tokens: usize, multiprocessors: usize) -> Self {
        // Sine and cosine are made once a thread and token, so a thread takes several heads where
        // there is work enough to keep all multiprocessors busy anyway.
        let one_head_each = width * heads * tokens;
        let per_thread = (one_head_each / (multiprocessors * BUSY)).clamp(1, 4);
        let rows_wanted = heads.div_ceil(per_thread);
        let rows = rows_wanted.min((BLOCK / width).max(1));
        let slices = rows_wanted.div_ceil(rows);
        let heads_per_slice = heads.div_ceil(slices);
        let slices = heads.div_ceil(heads_per_slice);
        // Few heads: several tokens a block.
        let lanes = (BLOCK / 2 / (width * rows)).clamp(1, 64).min(tokens.next_power_of_two());
        debug_assert!(width * rows * lanes <= MAX_THREADS);
        let tiles = tokens.div_ceil(lanes);
        Self {
            grid: (tiles as u32, slices as u32, 1),
            block: (width as u32, rows as u32, lanes as u32),
            heads_per_slice: heads_per_slice as u32,
            tiles_per_block: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every token and head has a thread, within the launch limits of every device.
    #[test]
    fn launches_cover_everything() {
        for width in [1, 2, 5, 8, 16, 20, 64, 120, 512] {
            for heads in [1, 2, 3, 7, 40, 64, 72, 129, 4096] {
                for tokens in [1, 2, 31, 512, 70_000, (1 << 31) - 1] {
                    let g = Geometry::new(width, heads, tokens, 132);
                    let (x, y, z) = g.block;
                    assert!(
                        x as usize == width && x * y * z <= MAX_THREADS as u32 && z <= 64,
                        "{g:?}"
                    );
                    assert!(g.grid.0 < 1 << 31 && g.grid.1 <= 65_535, "{g:?}");
                    let covered = u64::from(g.grid.0) * u64::from(z) * u64::from(g.tiles_per_block);
                    assert!(covered >= tokens as u64);
                    // The last slice starts before the last head, so no slice underflows.
                    assert!((g.grid.1 - 1) * g.heads_per_slice < heads as u32);
                    assert!(g.grid.1 * g.heads_per_slice >= heads as u32);
                }
            }
        }
    }
}
