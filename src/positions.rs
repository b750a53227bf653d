use crate::{Error, Result};

/// The position of each token. Every `i64` is a valid position, negative ones too.
///
/// `I` is the backend's buffer of `i32` or `i64`: [`cpu::Ids`](crate::cpu::Ids) over slices,
/// `cuda::Ids` over device memory. The kernel reads it, so a replayed CUDA graph
/// sees what it holds then.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Positions<I> {
    /// One id a token, `[tokens]` or `[batch, seq]`.
    Ids(I),
    /// One row of ids, `[seq]`, that every sequence of the batch shares.
    SharedIds(I),
    /// `start, start + 1, …` in every sequence of the batch.
    From(i64),
    /// `starts[b], starts[b] + 1, …` in sequence `b`: one start a sequence.
    Starts(I),
    /// Sequences of different lengths end to end, in a `[tokens, heads, head_dim]` tensor. Sequence
    /// `i` is tokens `cu_seqlens[i]` up to `cu_seqlens[i + 1]`.
    Ragged {
        /// `i32`, ascending, one entry more than there are sequences. Tokens before the first or
        /// from the last entry on count on from the nearest sequence.
        cu_seqlens: I,
        /// The position of each sequence's first token; zero without.
        starts: Option<I>,
    },
}

impl<I> Positions<I> {
    /// One id a token, `[tokens]` or `[batch, seq]`.
    pub fn ids(ids: impl Into<I>) -> Self {
        Self::Ids(ids.into())
    }

    /// One row of ids, `[seq]`, that every sequence of the batch shares.
    pub fn shared_ids(ids: impl Into<I>) -> Self {
        Self::SharedIds(ids.into())
    }

    /// `start, start + 1, …` in every sequence of the batch.
    pub fn from(start: i64) -> Self {
        Self::From(start)
    }

    /// `starts[b], starts[b] + 1, …` in sequence `b`.
    pub fn starts(starts: impl Into<I>) -> Self {
        Self::Starts(starts.into())
    }

    /// Sequences of different lengths end to end, each starting at position zero.
    pub fn ragged(cu_seqlens: impl Into<I>) -> Self {
        Self::Ragged { cu_seqlens: cu_seqlens.into(), starts: None }
    }

    /// Sequences of different lengths end to end, each from its own start.
    pub fn ragged_from(cu_seqlens: impl Into<I>, starts: impl Into<I>) -> Self {
        Self::Ragged { cu_seqlens: cu_seqlens.into(), starts: Some(starts.into()) }
    }
}

/// Length and width of an index buffer, whatever backend it lives on.
pub(crate) trait Indices {
    fn len(&self) -> usize;
    fn wide(&self) -> bool;
}

impl<I> Positions<I> {
    /// The same positions over borrowed buffers.
    pub fn as_ref(&self) -> Positions<&I> {
        match self {
            Self::Ids(ids) => Positions::Ids(ids),
            Self::SharedIds(ids) => Positions::SharedIds(ids),
            Self::From(start) => Positions::From(*start),
            Self::Starts(starts) => Positions::Starts(starts),
            Self::Ragged { cu_seqlens, starts } => {
                Positions::Ragged { cu_seqlens, starts: starts.as_ref() }
            }
        }
    }

    /// The same positions over other buffers: from host slices to device memory, say.
    pub fn map<J>(self, mut f: impl FnMut(I) -> J) -> Positions<J> {
        match self {
            Self::Ids(ids) => Positions::Ids(f(ids)),
            Self::SharedIds(ids) => Positions::SharedIds(f(ids)),
            Self::From(start) => Positions::From(start),
            Self::Starts(starts) => Positions::Starts(f(starts)),
            Self::Ragged { cu_seqlens, starts } => {
                Positions::Ragged { cu_seqlens: f(cu_seqlens), starts: starts.map(f) }
            }
        }
    }

    /// The buffers are as long as `[batch, seq]` tokens need.
    pub(crate) fn check(&self, batch: usize, seq: usize) -> Result<()>
    where
        I: Indices,
    {
        let expect = |what, expected, given| {
            if expected == given { Ok(()) } else { Err(Error::Positions { what, expected, given }) }
        };
        match self {
            Self::From(_) => Ok(()),
            Self::Ids(ids) => expect("position ids", batch.saturating_mul(seq), ids.len()),
            Self::SharedIds(ids) => expect("shared position ids", seq, ids.len()),
            Self::Starts(starts) => expect("starts", batch, starts.len()),
            Self::Ragged { cu_seqlens, starts } => {
                if batch != 1 {
                    return Err(Error::RaggedBatch { given: batch });
                }
                if cu_seqlens.wide() {
                    return Err(Error::Dtype {
                        tensor: "cu_seqlens",
                        expected: "i32",
                        given: "i64".to_owned(),
                    });
                }
                let given = cu_seqlens.len();
                let expected =
                    starts.as_ref().map_or(given.max(2), |starts| (starts.len() + 1).max(2));
                if given == expected { Ok(()) } else { Err(Error::CuSeqlens { expected, given }) }
            }
        }
    }
}
