//! Bad calls: each one is refused with its own error, and nothing is written.

use condensed_rope::{Error, Layout, PositionKind, Positions, Sections};

use crate::{Backend, Case, Values};

/// Every refusal that a call can meet on any backend.
pub fn refusals(backend: &impl Backend) {
    let good = || Case::of(8, Layout::thd(4, 2, 8), Some(Layout::thd(4, 1, 8)));
    let short_by_one = |layout: Layout| layout.at(layout.offset() + 14);
    let refused: Vec<(Case, Error)> = vec![
        (
            Case { q: Layout::thd(4, 2, 6), ..good() },
            Error::RotaryRange { tensor: "q", offset: 0, rotary_dim: 8, head_dim: 6 },
        ),
        (
            Case { k: Some(Layout::thd(4, 1, 12).rotate_from(5)), ..good() },
            Error::RotaryRange { tensor: "k", offset: 5, rotary_dim: 8, head_dim: 12 },
        ),
        (
            Case { q: Layout::thd(4, 2, 1025), ..good() },
            Error::HeadDim { tensor: "q", given: 1025 },
        ),
        (Case { q: Layout::thd(4, 2, 0), ..good() }, Error::HeadDim { tensor: "q", given: 0 }),
        (
            Case { k: Some(Layout::thd(3, 1, 8)), ..good() },
            Error::Tokens { tensor: "k", expected: [1, 4], given: [1, 3] },
        ),
        (
            Case { k: Some(Layout::bshd(2, 2, 1, 8)), ..good() },
            Error::Tokens { tensor: "k", expected: [1, 4], given: [2, 2] },
        ),
        (
            Case { q: Layout::thd(4, 2, 8).with_strides([0, 16, 7]), ..good() },
            Error::OverlappingRows { tensor: "q", strides: [0, 16, 7] },
        ),
        (
            Case { k: Some(Layout::thd(4, 1, 8).with_strides([0, 0, 8])), ..good() },
            Error::OverlappingRows { tensor: "k", strides: [0, 0, 8] },
        ),
        (
            Case { packed: true, k: Some(Layout::thd(4, 2, 8)), ..good() },
            Error::OverlappingTensors { tensors: ["q", "k"] },
        ),
        (
            Case { positions: Positions::ids(Values::I32(vec![0; 3])), ..good() },
            Error::Positions { what: "position ids", expected: 4, given: 3 },
        ),
        (
            Case { positions: Positions::ids(Values::I64(vec![0; 5])), ..good() },
            Error::Positions { what: "position ids", expected: 4, given: 5 },
        ),
        (
            Case { positions: Positions::shared_ids(Values::I64(vec![0; 2])), ..good() },
            Error::Positions { what: "shared position ids", expected: 4, given: 2 },
        ),
        (
            Case { positions: Positions::starts(Values::I64(vec![0; 4])), ..good() },
            Error::Positions { what: "starts", expected: 1, given: 4 },
        ),
        (
            Case { positions: Positions::from(0).with_sets(Values::I32(vec![0; 2])), ..good() },
            Error::Positions { what: "sets", expected: 1, given: 2 },
        ),
        (
            Case {
                positions: ragged(Values::I32(vec![0, 2, 4]), None).with_sets(Values::I64(vec![0])),
                ..good()
            },
            Error::Positions { what: "sets", expected: 2, given: 1 },
        ),
        (
            Case { positions: axes(4, [1, 1, 2]), ..good() },
            Error::Positions { what: "position ids of three axes", expected: 12, given: 4 },
        ),
        (
            Case { positions: axes(12, [1, 1, 1]), ..good() },
            Error::Sections { expected: 4, given: [1, 1, 1] },
        ),
        (
            Case { positions: ragged(Values::I32(vec![0]), None), ..good() },
            Error::CuSeqlens { expected: 2, given: 1 },
        ),
        (
            Case {
                positions: ragged(Values::I32(vec![0, 2, 4]), Some(Values::I32(vec![0; 3]))),
                ..good()
            },
            Error::CuSeqlens { expected: 4, given: 3 },
        ),
        (
            Case { positions: ragged(Values::I64(vec![0, 4]), None), ..good() },
            Error::Dtype { tensor: "cu_seqlens", expected: "i32", given: "i64".to_owned() },
        ),
        (
            Case {
                q: Layout::bshd(2, 2, 2, 8),
                k: None,
                positions: ragged(Values::I32(vec![0, 4]), None),
                ..good()
            },
            Error::RaggedBatch { given: 2 },
        ),
    ];
    for (case, expected) in refused {
        let before = case.build::<f32>();
        refuse(backend, &before, &expected, &format!("{case:?}"));
    }

    // Views that end past their buffers, and sources that do not match their targets.
    let out_of_place = || Case { out_of_place: true, ..good() }.build::<f32>();
    let mut call = good().build::<f32>();
    call.q.layout = short_by_one(call.q.layout);
    let (len, needed) = (call.q.buffer.len(), call.q.buffer.len() + 1);
    refuse(backend, &call, &Error::OutOfBounds { tensor: "q", needed, given: len }, "q too short");
    let mut call = out_of_place();
    call.q.source = call.q.source.map(|(buffer, _)| (buffer, Layout::thd(4, 1, 8)));
    let expected = Error::Shape { tensor: "q source", expected: [1, 4, 2, 8], given: [1, 4, 1, 8] };
    refuse(backend, &call, &expected, "source of another shape");
    let mut call =
        Case { q: Layout::thd(4, 2, 12), k: None, out_of_place: true, ..good() }.build::<f32>();
    call.q.source = call.q.source.map(|(buffer, from)| (buffer, from.rotate_from(2)));
    let expected = Error::RotaryOffset { tensor: "q source", expected: 0, given: 2 };
    refuse(backend, &call, &expected, "source with another rotary range");
    let mut call = good().build::<f32>();
    call.q.layout = Layout::bshd(1 << 20, 1 << 20, 1, 8);
    let expected =
        Error::TooLarge { tensor: "q", what: "the number of tokens", limit: (1 << 31) - 1 };
    refuse(backend, &call, &expected, "too many tokens");

    // Tables of half a row, and of two lengths.
    let frequencies = good().frequencies();
    let pairing = good().pairing;
    let (mut cos, mut sin) = (vec![7.0f32; 12], vec![7.0f32; 16]);
    let error = backend.cos_sin(&frequencies, pairing, 0, &mut cos, &mut sin);
    assert_eq!(error, Err(Error::OutOfBounds { tensor: "cos", needed: 16, given: 12 }));
    let mut cos = vec![7.0f32; 8];
    let error = backend.cos_sin(&frequencies, pairing, 0, &mut cos, &mut sin);
    assert_eq!(error, Err(Error::OutOfBounds { tensor: "sin", needed: 8, given: 16 }));
    assert!(cos.iter().chain(&sin).all(|&value| value == 7.0), "a refused table was written");
}

fn ragged(cu_seqlens: Values, starts: Option<Values>) -> Positions<Values> {
    PositionKind::Ragged { cu_seqlens, starts }.into()
}

fn axes(ids: usize, sections: [usize; 3]) -> Positions<Values> {
    Positions::axes(Values::I64(vec![0; ids]), Sections::blocks(sections).expect("small"))
}

fn refuse(backend: &impl Backend, before: &crate::Call<f32>, expected: &Error, what: &str) {
    let mut after = before.clone();
    let result = backend.rotate(&mut after);
    assert_eq!(result.as_ref(), Err(expected), "{} on {what}", backend.name());
    after.assert_same_bits(before, what);
    let message = expected.to_string();
    assert!(message.contains("given") || message.contains("share"), "{message}");
}

/// Calls with nothing to do are fine.
pub fn nothing_to_do(backend: &impl Backend) {
    for (q, k) in [
        (Layout::thd(0, 2, 8), Some(Layout::thd(0, 1, 8))),
        (Layout::thd(4, 0, 8), None),
        (Layout::bshd(0, 4, 2, 8), None),
        (Layout::thd(4, 0, 8), Some(Layout::thd(4, 1, 8))),
    ] {
        crate::check(backend, &Case::of(8, q, k));
    }
    let (mut cos, mut sin) = ([0f32; 0], [0f32; 0]);
    let case = Case::of(8, Layout::thd(0, 2, 8), None);
    assert_eq!(backend.cos_sin(&case.frequencies(), case.pairing, 0, &mut cos, &mut sin), Ok(()));
}
