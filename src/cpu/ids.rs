//! Lists of ids, read one by one.

use crate::{IndexType, RawIds};

/// A list of ids whose memory is there.
#[derive(Clone, Copy)]
pub(super) struct IdList(RawIds);

impl IdList {
    /// # Safety
    /// The memory is valid and nobody writes it as long as the list is used, and it passed its checks.
    pub unsafe fn of(ids: &RawIds) -> Self {
        Self(*ids)
    }

    pub fn len(&self) -> usize {
        self.0.len
    }

    #[inline(always)]
    pub fn get(&self, index: usize) -> i64 {
        let RawIds { address, len, dtype } = self.0;
        assert!(index < len, "the checks count the values that a call reads");
        let first = std::ptr::with_exposed_provenance::<u8>(address as usize);
        // SAFETY: within the list.
        let id = unsafe { first.add(index * dtype.size()) };
        match dtype {
            // SAFETY: `of`'s caller promised a list of these, aligned.
            IndexType::I32 => unsafe { id.cast::<i32>().read() }.into(),
            // SAFETY: as above.
            IndexType::I64 => unsafe { id.cast::<i64>().read() },
            // SAFETY: as above.
            IndexType::U32 => unsafe { id.cast::<u32>().read() }.into(),
        }
    }
}
