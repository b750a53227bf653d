//! The cache of a call, as it is launched.

use super::tensor::rows;
use crate::call::{CheckedCache, CheckedScale, Pages};
use crate::plan::params::{
    Divisor, FlatKvPages, Ids, KvPages, PageTable, Rows, Scale, SlotMapping,
};
use crate::{Slots, Stored};

pub(super) fn kv_pages(pages: &Pages) -> KvPages {
    let Rows { first, batch, token, head } =
        rows(pages.stored.size(), pages.address, &pages.layout.0);
    KvPages { first, page: batch, slot: token, head }
}

pub(super) fn storage(stored: Stored) -> u8 {
    match stored {
        Stored::Element(_) => 0,
        Stored::Fp8E4M3 => 1,
        Stored::Fp8E5M2 => 2,
    }
}

pub(super) fn scale(scale: &CheckedScale) -> Scale {
    match *scale {
        CheckedScale::Value(value) => Scale { first: 0, stride: 0, reciprocal: 1.0 / value },
        CheckedScale::Tensor { address, per_head } => {
            Scale { first: address, stride: per_head.into(), reciprocal: 1.0 }
        }
    }
}

impl FlatKvPages {
    /// `None` where strides do not fit.
    pub(super) fn of(pages: &KvPages) -> Option<Self> {
        let [page, slot, head] =
            [pages.page, pages.slot, pages.head].map(|stride| u32::try_from(stride).ok());
        Some(Self { first: pages.first, page: page?, slot: slot?, head: head?, reserved: 0 })
    }
}

pub(super) fn slots(cache: &CheckedCache, tokens: usize) -> SlotMapping {
    let pages = cache.pages.iter().flatten().next();
    let [pages, page_size, ..] = pages.map_or([0; 4], |pages| pages.layout.shape());
    let (first, count) = (cache.slots.reserved, pages * page_size - cache.slots.reserved);
    // Ids of 32 bits without a sign are read as if they had one: no cache has so many slots that it matters.
    let ids = Ids::new(cache.slots.buffer(), false);
    let tokens = match cache.slots.slots {
        Slots::Ids(ids) => ids.len.min(tokens),
        Slots::PageTable { .. } => 0,
    };
    SlotMapping {
        ids,
        first: first as u32,
        count: count as u32,
        tokens: tokens as u32,
        page_size: Divisor::new(page_size.max(1) as u32),
    }
}

pub(super) fn page_table(cache: &CheckedCache) -> PageTable {
    match cache.slots.slots {
        Slots::Ids(_) => PageTable::default(),
        Slots::PageTable { width, row_stride, .. } => {
            let page = Ids::new(cache.slots.buffer(), false).stride;
            let row_stride = row_stride as u64 * u64::from(page);
            PageTable { row_stride, width: width as u32, reserved: 0 }
        }
    }
}
