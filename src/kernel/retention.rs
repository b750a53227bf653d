//! How soon L2 lets go of what a launch reads and writes (devices of compute capability 9.0 and newer).
//!
//! In place, a line is read, waits for its sine and cosine, and is written. Were it gone by then, or
//! did it push out one that is still to be written, memory would be asked twice. So what has been read
//! is the last to go, until it is written; then it is as any other line, and nothing of the hint is
//! left behind. Out of place what is read is not written, and the hint would stay: there is none.
//!
//! What is more than L2 keeps goes by halves. Of lines that go in the order of their use, the next
//! kernel finds none, since each that it fetches pushes out the one that it wants next; where one half
//! goes first, it finds the other. Not where heads rotate in part: several instructions write a line
//! then, and it would go before the last of them.

/// Which lines go before which: of CUDA's `cudaAccessProperty`, and a normal one that ends what another
/// had asked for.
#[derive(Clone, Copy)]
enum Priority {
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

/// What a launch asks of L2, as the kernels take it: upper words of access properties, encoded as
/// CUDA's own header does for `cuda::access_property` (libcu++, `cuda/std/detail/__access_property`).
/// The lower words are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub reading: u32,
    pub writing: u32,
}

impl Retention {
    /// As without a hint.
    pub const PLAIN: Self = {
        let plain = property(Priority::Unchanged, 16, Priority::Unchanged);
        Self { reading: plain, writing: plain }
    };
    const LAST: u32 = property(Priority::Last, 16, Priority::Unchanged);
    pub const UNTIL_WRITTEN: Self =
        Self { reading: Self::LAST, writing: property(Priority::Normal, 16, Priority::Unchanged) };
    pub const BY_HALVES: Self =
        Self { reading: Self::LAST, writing: property(Priority::Normal, 8, Priority::First) };

    /// More than half of L2 goes by halves: an H100's is two, and what is in one may be in both.
    pub fn of(traffic: Traffic, l2_bytes: usize) -> Self {
        match traffic {
            Traffic { in_place: false, .. } => Self::PLAIN,
            Traffic { whole_heads: true, bytes, .. } if bytes > l2_bytes / 2 => Self::BY_HALVES,
            _ => Self::UNTIL_WRITTEN,
        }
    }
}

/// So many sixteenths of the lines by one priority, and the others by the other.
const fn property(some: Priority, sixteenths: u32, others: Priority) -> u32 {
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
        assert_eq!(property(Priority::Unchanged, 16, Priority::Unchanged), 0x10f0_0000);
        assert_eq!(property(Priority::First, 16, Priority::Unchanged), 0x12f0_0000);
        assert_eq!(property(Priority::Last, 16, Priority::Unchanged), 0x14f0_0000);
        assert_eq!(property(Priority::Normal, 16, Priority::Unchanged), 0x16f0_0000);
        assert_eq!(property(Priority::Normal, 8, Priority::First), 0x1770_0000);
    }
}
