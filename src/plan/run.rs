//! Tokens in one run: what steps from one to the next, whichever sequence they are of.

use super::params::{FlatRows, Ids, Rows, TokenPositions};

/// Sequences, and tokens of each.
type BatchSeq = [usize; 2];

/// From one token to the next, by what steps from one sequence to the next and within one. `None` where the two differ, or it
/// does not fit.
fn stride([batch, seq]: BatchSeq, outer: u64, inner: u64) -> Option<u32> {
    let stride = match (batch, seq) {
        (1, _) => inner,
        (_, 1) => outer,
        _ if inner.checked_mul(seq as u64) == Some(outer) => inner,
        _ => return None,
    };
    u32::try_from(stride).ok()
}

impl FlatRows {
    /// `None` where tokens are not in one run, or strides do not fit.
    pub(super) fn of(batch_seq: BatchSeq, rows: &Rows) -> Option<Self> {
        let Rows { first, batch, token, head } = *rows;
        let token = stride(batch_seq, batch as u64, token as u64)?;
        Some(Self { first, token, head: u32::try_from(head).ok()? })
    }
}

/// The positions of a run.
pub(super) struct RunIds {
    pub ids: Ids,
    /// 1 where a token's number is added to its id.
    pub counts: u32,
}

impl RunIds {
    /// `None` where there is more to a position, ids are not in one run, or the last one's offset does not fit.
    pub fn of(batch_seq: BatchSeq, positions: &TokenPositions) -> Option<Self> {
        let TokenPositions { ids, row_stride, cu_seqlens, counts, .. } = *positions;
        if cu_seqlens != 0 {
            return None;
        }
        let ids = Ids { stride: stride(batch_seq, row_stride, ids.stride.into())?, ..ids };
        let [batch, seq] = batch_seq;
        ids.stride.checked_mul(u32::try_from(batch * seq).ok()?)?;
        Some(Self { ids, counts: stride(batch_seq, 0, counts.into())? })
    }
}
