//! L2 eviction hints (devices of compute capability 9.0 and newer).
//!
//! In place, a line is read, waits for its sine and cosine, and is written. Were it evicted by then, or did
//! it evict one that is still to be written, DRAM would be asked twice. So loads ask for evict_last, and
//! stores for evict_normal, which ends that: nothing of the hint is left behind. Out of place what is read
//! is not written, and the hint would stay: there is none.
//!
//! A launch of more than L2 holds stores half of its lines as evict_first. Of lines that leave in the order
//! of their use the next kernel finds none, since each that it fetches evicts the one that it wants next;
//! where one half leaves first, it finds the other. Not where heads rotate in part: several instructions
//! write a line then, and it would leave before the last of them.

/// CUDA's eviction priorities; `Normal` ends what another had asked for.
#[derive(Clone, Copy)]
enum Evict {
    Unchanged = 0,
    First = 1,
    Last = 2,
    Normal = 3,
}

/// What a launch moves.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// All of it is written where it was read.
    pub in_place: bool,
    /// Every channel of a head rotates.
    pub whole_heads: bool,
    /// That rotate.
    pub bytes: usize,
}

/// The hints of a launch's loads and stores, as the kernels take them: upper words of access properties,
/// encoded as CUDA's own header does for `cuda::access_property` (libcu++,
/// `cuda/std/detail/__access_property`). The lower words are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L2Hint {
    pub load: u32,
    pub store: u32,
}

impl L2Hint {
    /// As without a hint.
    pub const NONE: Self = {
        let unchanged = property(Evict::Unchanged, 16, Evict::Unchanged);
        Self { load: unchanged, store: unchanged }
    };
    const LAST: u32 = property(Evict::Last, 16, Evict::Unchanged);
    /// Loads evict_last, stores evict_normal.
    pub const LAST_THEN_NORMAL: Self =
        Self { load: Self::LAST, store: property(Evict::Normal, 16, Evict::Unchanged) };
    /// The same, half of the stores evict_first.
    pub const LAST_THEN_HALF_FIRST: Self =
        Self { load: Self::LAST, store: property(Evict::Normal, 8, Evict::First) };

    /// Loads evict_first: what is read once and written elsewhere.
    pub const READ_ONCE: u32 = property(Evict::First, 16, Evict::Unchanged);

    /// By halves from half of L2 on: an H100's is two, and what is in one may be in both.
    pub fn of(traffic: Traffic, l2_bytes: usize) -> Self {
        match traffic {
            Traffic { in_place: false, .. } => Self::NONE,
            Traffic { whole_heads: true, bytes, .. } if bytes > l2_bytes / 2 => {
                Self::LAST_THEN_HALF_FIRST
            }
            _ => Self::LAST_THEN_NORMAL,
        }
    }
}

/// So many sixteenths of the lines by one priority, and the others by the other.
const fn property(some: Evict, sixteenths: u32, others: Evict) -> u32 {
    const INTERLEAVED: u32 = 2;
    INTERLEAVED << 27 | (some as u32) << 25 | (others as u32) << 24 | (sixteenths - 1) << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nvcc 13.0 makes of `createpolicy.fractional` with these priorities, and of
    /// `cuda::access_property::normal`, `persisting` and `streaming`.
    #[test]
    fn properties_are_cudas() {
        assert_eq!(property(Evict::Unchanged, 16, Evict::Unchanged), 0x10f0_0000);
        assert_eq!(property(Evict::First, 16, Evict::Unchanged), 0x12f0_0000);
        assert_eq!(property(Evict::Last, 16, Evict::Unchanged), 0x14f0_0000);
        assert_eq!(property(Evict::Normal, 16, Evict::Unchanged), 0x16f0_0000);
        assert_eq!(property(Evict::Normal, 8, Evict::First), 0x1770_0000);
    }
}
