//! How threads divide pairs, heads and tokens of norm, rotation and append.

use crate::plan::Pdl;
use crate::plan::tiling::MAX_THREADS;
use crate::plan::variant::{AppendEntry, AppendForm};

/// Threads of a warp: a block is of whole ones, since lanes of a head meet.
const WARP: usize = 32;
/// Blocks in the grid's second dimension, and in its third.
const MAX_GRID: usize = 65_535;

/// How heads are cut: as [`Cut`](super::Cut), of the entries of `append.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AppendCut {
    pub entry: AppendEntry,
    heads_per_block: usize,
    threads: usize,
}

/// What a launch works on.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppendWork {
    /// Lanes of a head: a power of two.
    pub width: usize,
    /// Of q and k, and of v, or its parts.
    pub heads: [usize; 3],
    pub tokens: usize,
    pub is_normalised: bool,
    /// Whether threads take four pairs.
    pub is_full: bool,
}

impl AppendWork {
    /// A multiprocessor's threads, were each to take one head: 2979 for 512 tokens of 32 + 8 + 8 heads of 128 on an H100, where
    /// the borders here were measured. Saturates.
    pub fn threads(&self, multiprocessors: usize) -> usize {
        let heads: usize = self.heads.iter().sum();
        self.width.saturating_mul(heads).saturating_mul(self.tokens) / multiprocessors
    }
}

/// As many threads as 2048 tokens of 64 + 8 + 8 heads of 128. Of more than these the time is DRAM's.
const MANY: usize = 20_000;

/// When a launch starts, and what it waits for.
pub(super) struct AppendStart {
    pub pdl: Pdl,
    /// For the kernel before, ahead of everything else; else ahead of q, k and v.
    pub waits: bool,
}

impl AppendStart {
    /// As asked for; of many threads loads of q and k are to go out first, whatever is ready (1 to 3 % from DRAM). Other kernels
    /// than those of runs lose more to blocks that wait than they gain: 1024 tokens 2 %.
    pub fn of(asked: Pdl, is_run: bool, threads: usize) -> Self {
        let pdl = if is_run || threads <= 5500 { asked } else { Pdl::Off };
        Self { pdl, waits: pdl == Pdl::On || threads > MANY }
    }
}

impl AppendCut {
    /// The best of the sweeps, for a multiprocessor's `threads` of one head.
    pub fn of(form: AppendForm, work: &AppendWork, threads: usize) -> Self {
        use AppendForm::{Flat, FlatEarly, General, Strided};
        let heads = match (form, threads) {
            (Strided, ..=1000) if work.is_full => 1,
            (Flat, ..=1150) | (FlatEarly, ..=800) => 1,
            (Strided | General, _) | (Flat, ..=MANY) => 2,
            // As many as fit at once: 1024 threads of two heads, 768 of four.
            (FlatEarly, ..=2048) => 2,
            (FlatEarly, ..=3072) => 4,
            (FlatEarly, ..=5500) => 2,
            (FlatEarly, ..=MANY) => 4,
            // Four with norm take 1 to 2 % less from DRAM, and 4 to 5 % to 8 bits.
            (Flat | FlatEarly, _) if work.is_normalised => 4,
            (Flat | FlatEarly, _) => 2,
        };
        let (rows, threads) = match (heads, form) {
            (1, _) => (8, 128),
            (4, _) => (2, 128),
            // Larger blocks, and so fewer, since they take places while they wait.
            (_, FlatEarly) => (4, 128),
            _ => (4, 64),
        };
        let entry = AppendEntry { form, heads };
        let heads_per_block = (Self::most_threads(entry) / work.width).min(rows);
        Self { entry, heads_per_block, threads }
    }

    /// Threads of a block: `most_threads` of `kernels/append.cu`.
    fn most_threads(entry: AppendEntry) -> usize {
        if entry.heads > 2 { MAX_THREADS / 2 } else { MAX_THREADS }
    }
}

/// Blocks of whole warps.
pub(super) struct AppendTiling {
    pub grid: (u32, u32, u32),
    pub block: (u32, u32, u32),
    /// Of q and of k.
    pub slices: [usize; 2],
}

impl AppendTiling {
    pub fn of(work: &AppendWork, cut: &AppendCut) -> Self {
        let AppendWork { width, heads, tokens, .. } = *work;
        // Rows of threads that each tensor's heads take.
        let rows_of = heads.map(|heads| heads.div_ceil(cut.entry.heads));
        let longest = rows_of.into_iter().fold(1, usize::max);
        // As few slices as the blocks' rows allow, and no more rows than fill them; slices fit 16 bits.
        let rows = cut.heads_per_block.max(longest.div_ceil(MAX_GRID / 3)).max(1);
        let rows = longest.div_ceil(longest.div_ceil(rows));
        let rows = Self::whole_warps(width, rows);
        let [q, k, v] = rows_of.map(|n| n.div_ceil(rows));
        let in_warp = (WARP / (width * rows).min(WARP)).max(1);
        let per_block = (cut.threads / (width * rows)).clamp(1, 64).min(tokens.next_power_of_two());
        let tokens_per_block = per_block.next_multiple_of(in_warp);
        debug_assert!(width * rows * tokens_per_block <= AppendCut::most_threads(cut.entry));
        debug_assert!(tokens_per_block <= 64);
        let [x, y, z] = [width, rows, tokens_per_block].map(|extent| extent as u32);
        let tiles = tokens.div_ceil(tokens_per_block);
        let slices = (q + k + v) as u32;
        let grid = if cut.entry.is_by_slices() {
            let in_y = tiles.min(MAX_GRID);
            (slices, in_y as u32, tiles.div_ceil(in_y) as u32)
        } else {
            (tiles as u32, slices, 1)
        };
        Self { grid, block: (x, y, z), slices: [q, k] }
    }

    /// Rows, some of them without a head, that fill warps; or, of less than a warp, that divide one.
    fn whole_warps(width: usize, rows: usize) -> usize {
        let in_warp = (WARP / width).max(1);
        if rows >= in_warp { rows.next_multiple_of(in_warp) } else { rows.next_power_of_two() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every token and head has a thread, in blocks of whole warps, within the launch limits of every device.
    #[test]
    fn launches_cover_everything() {
        const MOST: usize = crate::limits::MAX_HEADS;
        const FORMS: [AppendForm; 4] =
            [AppendForm::Flat, AppendForm::FlatEarly, AppendForm::Strided, AppendForm::General];
        let heads = [
            [1, 0, 0],
            [0, 3, 3],
            [2, 2, 2],
            [7, 1, 1],
            [32, 8, 8],
            [128, 1, 8],
            [64, 64, 0],
            [MOST, MOST, MOST],
        ];
        for width in (0..10).map(|shift| 1 << shift) {
            for heads in heads {
                for tokens in [1, 2, 31, 512, 70_000, (1 << 31) - 1] {
                    for form in FORMS {
                        let is_full = width <= crate::limits::MAX_HEAD_DIM / 8;
                        let is_flat = matches!(form, AppendForm::Flat | AppendForm::FlatEarly);
                        if is_flat && !is_full {
                            continue;
                        }
                        let is_normalised = tokens % 2 == 0;
                        let work = AppendWork { width, heads, tokens, is_normalised, is_full };
                        let cut = AppendCut::of(form, &work, work.threads(132));
                        let AppendTiling { grid, block, slices } = AppendTiling::of(&work, &cut);
                        let (x, y, z) = block;
                        let threads = (x * y * z) as usize;
                        assert!(x as usize == width, "{block:?}");
                        assert!(threads <= AppendCut::most_threads(cut.entry), "{block:?}");
                        assert!(threads.is_multiple_of(WARP) && z <= 64, "{block:?}");
                        assert!(grid.0 < 1 << 31 && grid.1 <= 65_535 && grid.2 <= 65_535);
                        let (tiles, all) = match cut.entry.is_by_slices() {
                            true => (u64::from(grid.1) * u64::from(grid.2), grid.0),
                            false => (grid.0.into(), grid.1),
                        };
                        // And no tile's first token wraps.
                        assert!((tokens as u64..1 << 32).contains(&(tiles * u64::from(z))));
                        let (all, [q, k]) = (all as usize, slices);
                        let covered =
                            [q, k, all - q - k].map(|slices| slices * cut.entry.heads * y as usize);
                        for (covered, heads) in covered.into_iter().zip(heads) {
                            assert!(covered >= heads, "{work:?}: {cut:?}");
                        }
                        assert_eq!(cut.entry.form, form);
                    }
                }
            }
        }
    }
}
