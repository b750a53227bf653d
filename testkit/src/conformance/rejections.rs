//! Bad calls: each one is refused with its own error, and nothing is written.

use condensed_rope::{Error, Layout, PositionKind, Positions, Sections};

use crate::{Backend, Call, Case, Values};

/// Four tokens of two heads of eight channels, and of one.
fn good() -> Case {
    Case::of(8, Layout::thd(4, 2, 8), Some(Layout::thd(4, 1, 8)))
}

/// Every refusal that a call can meet on any backend, but for lengths of tensors.
pub fn refusals(backend: &impl Backend) {
    let positions = |positions| Case { positions, ..good() };
    let q = |q| Case { q: Some(q), ..good() };
    let k = |k| Case { k: Some(k), ..good() };
    let batched = |positions| Case { positions, ..Case::of(8, Layout::bshd(2, 2, 2, 8), None) };
    let i32s = |n: usize| Values::I32(vec![0; n]);
    let i64s = |n: usize| Values::I64(vec![0; n]);
    let wrong_length = |what, expected, given| Error::Positions { what, expected, given };
    let refused: Vec<(Case, Error)> = vec![
        (
            q(Layout::thd(4, 2, 6)),
            Error::RotaryRange { tensor: "q", offset: 0, rotary_dim: 8, head_dim: 6 },
        ),
        (
            k(Layout::thd(4, 1, 12).rotate_from(5)),
            Error::RotaryRange { tensor: "k", offset: 5, rotary_dim: 8, head_dim: 12 },
        ),
        (q(Layout::thd(4, 2, 1025)), Error::HeadDim { tensor: "q", given: 1025 }),
        (k(Layout::thd(4, 2, 1025)), Error::HeadDim { tensor: "k", given: 1025 }),
        (q(Layout::thd(4, 2, 0)), Error::HeadDim { tensor: "q", given: 0 }),
        (k(Layout::thd(3, 1, 8)), Error::Tokens { tensor: "k", expected: [1, 4], given: [1, 3] }),
        (
            k(Layout::bshd(2, 2, 1, 8)),
            Error::Tokens { tensor: "k", expected: [1, 4], given: [2, 2] },
        ),
        (
            q(Layout::thd(4, 2, 8).with_strides([0, 16, 7])),
            Error::OverlappingRows { tensor: "q", strides: [0, 16, 7] },
        ),
        (
            k(Layout::thd(4, 1, 8).with_strides([0, 0, 8])),
            Error::OverlappingRows { tensor: "k", strides: [0, 0, 8] },
        ),
        (
            Case { q: None, ..k(Layout::thd(4, 1, 8).with_strides([0, 0, 8])) },
            Error::OverlappingRows { tensor: "k", strides: [0, 0, 8] },
        ),
        (
            Case { packed: true, ..k(Layout::thd(4, 2, 8)) },
            Error::OverlappingTensors { tensors: ["q", "k"] },
        ),
        (positions(Positions::ids(i32s(3))), wrong_length("position ids", 4, 3)),
        (positions(Positions::ids(i64s(5))), wrong_length("position ids", 4, 5)),
        (positions(Positions::ids(Values::U32(vec![0; 5]))), wrong_length("position ids", 4, 5)),
        (positions(Positions::shared_ids(i64s(2))), wrong_length("shared position ids", 4, 2)),
        (batched(Positions::strided_ids(i64s(6), 5)), wrong_length("position ids", 7, 6)),
        (positions(Positions::starts(i64s(0))), wrong_length("starts", 1, 0)),
        (positions(Positions::starts(i64s(4))), wrong_length("starts", 1, 4)),
        (positions(Positions::consecutive(0).with_sets(i32s(2))), wrong_length("sets", 1, 2)),
        (
            positions(ragged(Values::I32(vec![0, 2, 4]), None).with_sets(i64s(1))),
            wrong_length("sets", 2, 1),
        ),
        (positions(axes(4, [1, 1, 2])), wrong_length("position ids of all axes", 12, 4)),
        (positions(axes(12, [1, 1, 1])), Error::Sections { expected: 4, given: vec![1, 1, 1] }),
        (positions(ragged(i32s(0), None)), Error::CuSeqlens { given: 0 }),
        (positions(ragged(i32s(1), None)), Error::CuSeqlens { given: 1 }),
        (positions(ragged(i32s(1), Some(i32s(0)))), Error::CuSeqlens { given: 1 }),
        // No start at all, and one too many, for one sequence and for two.
        (positions(ragged(Values::I32(vec![0, 4]), Some(i64s(0)))), wrong_length("starts", 1, 0)),
        (positions(ragged(Values::I32(vec![0, 4]), Some(i64s(2)))), wrong_length("starts", 1, 2)),
        (
            positions(ragged(Values::I32(vec![0, 2, 4]), Some(i32s(3)))),
            wrong_length("starts", 2, 3),
        ),
        (
            positions(ragged(i64s(2), None)),
            Error::Dtype { tensor: "cu_seqlens", expected: "i32", given: "i64".to_owned() },
        ),
        (
            positions(ragged(Values::U32(vec![0, 4]), None)),
            Error::Dtype { tensor: "cu_seqlens", expected: "i32", given: "u32".to_owned() },
        ),
        (batched(ragged(Values::I32(vec![0, 4]), None)), Error::RaggedBatch { given: 2 }),
        (Case { q: None, k: None, ..good() }, Error::NoTensors),
        (
            Case { sets: frequencies(&[8, 6]), ..good() },
            Error::SetRotaryDim { expected: 8, given: 6 },
        ),
        (
            Case { sets: frequencies(&[8]), from: [Some(Layout::thd(4, 1, 8)), None], ..good() },
            Error::Shape { tensor: "q source", expected: [1, 4, 2, 8], given: [1, 4, 1, 8] },
        ),
        (
            Case { from: [None, Some(Layout::thd(4, 1, 12))], ..good() },
            Error::Shape { tensor: "k source", expected: [1, 4, 1, 8], given: [1, 4, 1, 12] },
        ),
        (
            Case {
                from: [Some(Layout::thd(4, 2, 12).rotate_from(2)), None],
                ..q(Layout::thd(4, 2, 12))
            },
            Error::RotaryOffset { tensor: "q source", expected: 0, given: 2 },
        ),
    ];
    for (case, expected) in refused {
        let call = case.build::<f32>();
        refuse(backend, &call, &expected, &format!("{case:?}"));
    }

    // Sizes that no buffer is made for.
    let mut call = good().build::<f32>();
    call.q().layout = Layout::bshd(1 << 20, 1 << 20, 1, 8);
    let too_large = |what, limit| Error::TooLarge { tensor: "q", what, limit };
    let limit = (1 << 31) - 1;
    refuse(backend, &call, &too_large("the number of tokens", limit), "too many tokens");
    call.q().layout = Layout::thd(4, 32_768, 8);
    refuse(backend, &call, &too_large("the number of heads", 32_767), "too many heads");

    // Tables of half a row, and of two lengths.
    let (frequencies, pairing) = (good().frequencies(), good().pairing);
    for (len, other, error) in [
        (12, 16, Error::OutOfBounds { tensor: "cos", needed: 16, given: 12 }),
        (8, 16, Error::OutOfBounds { tensor: "sin", needed: 8, given: 16 }),
        (16, 8, Error::OutOfBounds { tensor: "sin", needed: 16, given: 8 }),
        (0, 8, Error::OutOfBounds { tensor: "sin", needed: 0, given: 8 }),
    ] {
        let (mut cos, mut sin) = (vec![7.0f32; len], vec![7.0f32; other]);
        let result = backend.cos_sin(&frequencies, pairing, 0, &mut cos, &mut sin);
        assert_eq!(result, Err(error), "{} on tables of {len} and {other}", backend.name());
        assert!(cos.iter().chain(&sin).all(|&value| value == 7.0), "a refused table was written");
    }
}

/// A target and a source of q and of k, each too short by one element, through its offset, its strides and its
/// buffer.
pub fn short_buffers(backend: &impl Backend) {
    let layout = Layout::thd(4, 2, 8);
    let both = || Case::of(8, layout, Some(layout)).out_of_place().build::<f32>();
    // What ends one element further on.
    type Lengthen = fn(Layout) -> Layout;
    let longer: [Lengthen; 2] = [
        |layout| layout.at(layout.offset() + 1),
        |layout| {
            let [batch, token, head] = layout.strides();
            layout.with_strides([batch, token, head + 1])
        },
    ];
    for tensor in ["q", "q source", "k", "k source"] {
        for lengthen in longer.into_iter().map(Some).chain([None]) {
            let mut call = both();
            let operand = if tensor.starts_with('q') { &mut call.q } else { &mut call.k };
            let operand = operand.as_mut().expect("both are there");
            let (buffer, layout) = match &mut operand.source {
                Some((buffer, layout)) if tensor.ends_with("source") => (buffer, layout),
                _ => (&mut operand.buffer, &mut operand.layout),
            };
            buffer.truncate(crate::call::end(layout));
            match lengthen {
                Some(lengthen) => *layout = lengthen(*layout),
                None => buffer.truncate(buffer.len() - 1),
            }
            let (needed, given) = (crate::call::end(layout), buffer.len());
            assert_eq!(needed, given + 1, "{tensor}");
            let what = format!("{tensor} too short, {layout:?}");
            let expected = Error::OutOfBounds { tensor, needed, given };
            refuse(backend, &call, &expected, &what);
        }
    }
}

fn frequencies(dims: &[usize]) -> Vec<condensed_rope::Frequencies> {
    let new = |&dim| condensed_rope::Frequencies::new(dim, 10_000.0).expect("valid");
    dims.iter().map(new).collect()
}

fn ragged(cu_seqlens: Values, starts: Option<Values>) -> Positions<Values> {
    PositionKind::Ragged { cu_seqlens, starts }.into()
}

fn axes(ids: usize, sections: [usize; 3]) -> Positions<Values> {
    Positions::axes(Values::I64(vec![0; ids]), Sections::blocks(sections).expect("small"))
}

fn refuse(backend: &impl Backend, before: &Call<f32>, expected: &Error, what: &str) {
    let mut after = before.clone();
    let result = backend.rotate(&mut after);
    assert_eq!(result.as_ref(), Err(expected), "{} on {what}", backend.name());
    after.assert_same_bits(before, what);
    let message = expected.to_string();
    assert!(message.contains("given"), "{message}");
}

/// Calls with nothing to do are fine.
pub fn nothing_to_do(backend: &impl Backend) {
    for (q, k) in [
        (Layout::thd(0, 2, 8), Some(Layout::thd(0, 1, 8))),
        (Layout::thd(4, 0, 8), None),
        (Layout::bshd(0, 4, 2, 8), None),
        (Layout::bshd(3, 0, 2, 8), None),
        (Layout::thd(4, 0, 8), Some(Layout::thd(4, 0, 8))),
        // No heads of the one, and some of the other.
        (Layout::thd(4, 0, 8), Some(Layout::thd(4, 1, 8))),
        (Layout::thd(4, 2, 8), Some(Layout::thd(4, 0, 8))),
    ] {
        crate::check(backend, &Case::of(8, q, k));
        crate::check(backend, &Case::of(8, q, k).out_of_place());
        crate::check(backend, &Case { q: k, k: Some(q), ..Case::of(8, q, k) });
    }
    let (mut cos, mut sin) = ([0f32; 0], [0f32; 0]);
    let case = Case::of(8, Layout::thd(0, 2, 8), None);
    assert_eq!(backend.cos_sin(&case.frequencies(), case.pairing, 0, &mut cos, &mut sin), Ok(()));
}

/// Sizes, strides and offsets of empty tensors are held to the same limits, and so are positions of no tokens.
pub fn empty_calls_are_checked(backend: &impl Backend) {
    let huge = usize::MAX;
    let tokens = Layout::thd(huge, 0, 8);
    let heads = Layout::thd(0, huge, 8);
    let batch = Layout::bshd(huge, 0, 1, 8);
    let strides = Layout::thd(4, 0, 8).with_strides([0, huge, 8]);
    let offset = Layout::thd(4, 0, 8).at(huge / 2);
    for layout in [tokens, heads, batch, strides, offset] {
        // Through both tensors; buffers of nothing.
        for alone in [true, false] {
            let mut call = Case::of(8, Layout::thd(0, 1, 8), None).build::<f32>();
            let (q, k) = (call.q.clone(), call.q.clone());
            call.q().layout = layout;
            if !alone {
                (call.q, call.k) = (q, k);
                call.k.as_mut().expect("set").layout = layout;
            }
            let before = call.clone();
            let result = backend.rotate(&mut call);
            assert!(
                matches!(result, Err(Error::TooLarge { .. } | Error::Tokens { .. })),
                "{} on {layout:?}: {result:?}",
                backend.name()
            );
            call.assert_same_bits(&before, "an empty call");
        }
    }
    let none = |positions| Case { positions, ..Case::of(8, Layout::thd(0, 2, 8), None) };
    let starts = ragged(Values::I32(vec![0, 4]), Some(Values::I64(Vec::new())));
    for (positions, expected) in [
        (starts, Error::Positions { what: "starts", expected: 1, given: 0 }),
        (ragged(Values::I32(vec![0]), None), Error::CuSeqlens { given: 1 }),
        (
            Positions::ids(Values::I32(vec![1])),
            Error::Positions { what: "position ids", expected: 0, given: 1 },
        ),
    ] {
        let call = none(positions).build::<f32>();
        refuse(backend, &call, &expected, "no tokens");
    }
}
