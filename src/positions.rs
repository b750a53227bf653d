use crate::{Error, Result, Sections};

/// The position of each token. Every `i64` is a valid position, negative ones too.
///
/// `I` is the backend's buffer of `i32` or `i64`: [`cpu::Ids`](crate::cpu::Ids) over slices,
/// `cuda::Ids` over device memory. The kernel reads it, so a replayed CUDA graph
/// sees what it holds then.
///
/// Where a rope has several sets of frequencies, [`with_sets`](Self::with_sets) says by which one each
/// sequence turns.
#[derive(Clone, Copy, Debug)]
pub struct Positions<I> {
    pub(crate) kind: PositionKind<I>,
    pub(crate) sets: Option<I>,
}

/// Where positions come from.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum PositionKind<I> {
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
    /// M-RoPE: three ids a token, `[3, tokens]` or `[3, batch, seq]`, by time, height and width.
    Axes {
        /// The ids.
        ids: I,
        /// Which of them turns which pairs.
        sections: Sections,
    },
}

impl<I> From<PositionKind<I>> for Positions<I> {
    fn from(kind: PositionKind<I>) -> Self {
        Self { kind, sets: None }
    }
}

impl<I> Positions<I> {
    /// The same positions, where sequence `i` turns by set `sets[i]` of the rope's frequencies. One
    /// index a sequence: of the batch, or of `cu_seqlens`. What is below zero or beyond the last set is
    /// the last set.
    pub fn with_sets(self, sets: impl Into<I>) -> Self {
        Self { sets: Some(sets.into()), ..self }
    }

    /// M-RoPE: three ids a token, `[3, tokens]` or `[3, batch, seq]`, and which of them turns which
    /// pairs.
    pub fn axes(ids: impl Into<I>, sections: Sections) -> Self {
        PositionKind::Axes { ids: ids.into(), sections }.into()
    }

    /// Where positions come from.
    pub fn kind(&self) -> &PositionKind<I> {
        &self.kind
    }

    /// By which set of frequencies each sequence turns.
    pub fn sets(&self) -> Option<&I> {
        self.sets.as_ref()
    }

    /// One id a token, `[tokens]` or `[batch, seq]`.
    pub fn ids(ids: impl Into<I>) -> Self {
        PositionKind::Ids(ids.into()).into()
    }

    /// One row of ids, `[seq]`, that every sequence of the batch shares.
    pub fn shared_ids(ids: impl Into<I>) -> Self {
        PositionKind::SharedIds(ids.into()).into()
    }

    /// `start, start + 1, …` in every sequence of the batch.
    pub fn from(start: i64) -> Self {
        PositionKind::From(start).into()
    }

    /// `starts[b], starts[b] + 1, …` in sequence `b`.
    pub fn starts(starts: impl Into<I>) -> Self {
        PositionKind::Starts(starts.into()).into()
    }

    /// Sequences of different lengths end to end, each starting at position zero.
    pub fn ragged(cu_seqlens: impl Into<I>) -> Self {
        PositionKind::Ragged { cu_seqlens: cu_seqlens.into(), starts: None }.into()
    }

    /// Sequences of different lengths end to end, each from its own start.
    pub fn ragged_from(cu_seqlens: impl Into<I>, starts: impl Into<I>) -> Self {
        PositionKind::Ragged { cu_seqlens: cu_seqlens.into(), starts: Some(starts.into()) }.into()
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
        use PositionKind as Kind;
        let kind = match &self.kind {
            Kind::Ids(ids) => Kind::Ids(ids),
            Kind::SharedIds(ids) => Kind::SharedIds(ids),
            Kind::From(start) => Kind::From(*start),
            Kind::Starts(starts) => Kind::Starts(starts),
            Kind::Ragged { cu_seqlens, starts } => {
                Kind::Ragged { cu_seqlens, starts: starts.as_ref() }
            }
            Kind::Axes { ids, sections } => Kind::Axes { ids, sections: *sections },
        };
        Positions { kind, sets: self.sets.as_ref() }
    }

    /// The same positions over other buffers: from host slices to device memory, say.
    pub fn map<J>(self, mut f: impl FnMut(I) -> J) -> Positions<J> {
        use PositionKind as Kind;
        let kind = match self.kind {
            Kind::Ids(ids) => Kind::Ids(f(ids)),
            Kind::SharedIds(ids) => Kind::SharedIds(f(ids)),
            Kind::From(start) => Kind::From(start),
            Kind::Starts(starts) => Kind::Starts(f(starts)),
            Kind::Ragged { cu_seqlens, starts } => {
                Kind::Ragged { cu_seqlens: f(cu_seqlens), starts: starts.map(&mut f) }
            }
            Kind::Axes { ids, sections } => Kind::Axes { ids: f(ids), sections },
        };
        Positions { kind, sets: self.sets.map(f) }
    }

    /// The buffers are as long as `[batch, seq]` tokens need, and sections as many as pairs.
    pub(crate) fn check(&self, batch: usize, seq: usize, rotary_dim: usize) -> Result<()>
    where
        I: Indices,
    {
        let expect = |what, expected, given| {
            if expected == given { Ok(()) } else { Err(Error::Positions { what, expected, given }) }
        };
        let mut sequences = batch;
        match &self.kind {
            PositionKind::From(_) => {}
            PositionKind::Ids(ids) => {
                expect("position ids", batch.saturating_mul(seq), ids.len())?;
            }
            PositionKind::SharedIds(ids) => expect("shared position ids", seq, ids.len())?,
            PositionKind::Starts(starts) => expect("starts", batch, starts.len())?,
            PositionKind::Ragged { cu_seqlens, starts } => {
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
                if given != expected {
                    return Err(Error::CuSeqlens { expected, given });
                }
                sequences = given - 1;
            }
            PositionKind::Axes { ids, sections } => {
                sections.check(rotary_dim / 2)?;
                let tokens = batch.saturating_mul(seq);
                expect("position ids of three axes", tokens.saturating_mul(3), ids.len())?;
            }
        }
        self.sets.as_ref().map_or(Ok(()), |sets| expect("sets", sequences, sets.len()))
    }
}
