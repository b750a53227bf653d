//! Which slot of the cache a token's key and value go to.

use super::memory::{Lower, Memory};
use crate::{RawIds, Result};

/// Which slots tokens go to. A token whose slot is negative, reserved or beyond the cache is not stored, and nothing else
/// is wrong with it: its query and key rotate all the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotMapping<I> {
    pub(crate) slots: Slots<I>,
    pub(crate) reserved: usize,
}

/// Where slots come from.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Slots<I> {
    /// One id a token, vLLM's `slot_mapping`: tokens beyond the last id are not stored.
    Ids(I),
    /// By position: row `i` of the table has the pages of sequence `i`, and a token at position `p` goes to entry
    /// `p % page_size` of its page `p / page_size`. Tokens at positions beyond the row are not stored.
    PageTable {
        /// `[sequences, width]` page numbers.
        pages: I,
        /// Pages in a row.
        width: usize,
        /// From one row to the next, in ids.
        row_stride: usize,
    },
}

impl<I> SlotMapping<I> {
    /// One slot a token.
    pub fn ids(ids: impl Into<I>) -> Self {
        Self { slots: Slots::Ids(ids.into()), reserved: 0 }
    }

    /// By a contiguous page table, `[sequences, width]`, and the tokens' positions.
    pub fn page_table(pages: impl Into<I>, width: usize) -> Self {
        Self::strided_page_table(pages, width, width)
    }

    /// The same, whose rows are `row_stride` ids apart.
    pub fn strided_page_table(pages: impl Into<I>, width: usize, row_stride: usize) -> Self {
        let slots = Slots::PageTable { pages: pages.into(), width, row_stride };
        Self { slots, reserved: 0 }
    }

    /// The same with so many first slots that nothing is stored in: slot 0, say, that padding names.
    pub fn reserved(self, slots: usize) -> Self {
        Self { reserved: slots, ..self }
    }

    /// The buffer of ids.
    pub(crate) fn buffer(&self) -> &I {
        match &self.slots {
            Slots::Ids(ids) | Slots::PageTable { pages: ids, .. } => ids,
        }
    }

    pub(crate) fn lower<'a, M: Memory<Ids = I>>(
        &'a self,
        by: &mut impl Lower<'a, M>,
    ) -> Result<SlotMapping<RawIds>> {
        let reserved = self.reserved;
        let slots = match &self.slots {
            Slots::Ids(ids) => Slots::Ids(by.ids(SLOTS, ids)?),
            Slots::PageTable { pages, width, row_stride } => Slots::PageTable {
                pages: by.ids(PAGES, pages)?,
                width: *width,
                row_stride: *row_stride,
            },
        };
        Ok(SlotMapping { slots, reserved })
    }
}

pub(crate) const SLOTS: &str = "slot_mapping";
pub(crate) const PAGES: &str = "page table";
