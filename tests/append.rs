//! What a call of norm, rotation and append refuses, each with its own error, before anything is written; and what is not
//! its business.

use condensed_rope::{
    Append, Dtype, Error, IndexType, KvCache, KvLayout, Layout, Pairing, Positions, QkNorm,
    Queries, Raw, RawBuffer, RawIds, RawMemory, RawOperand, RawTensor, RopeSpec, Rows, Scale,
    Sections, SlotMapping, Stored,
};

const Q: u64 = 1 << 20;
const K: u64 = 1 << 21;
const V: u64 = 1 << 22;
const KEYS: u64 = 1 << 23;
const VALUES: u64 = 1 << 24;
const LISTS: u64 = 1 << 25;
const BF16: Dtype = Dtype::BF16;

fn layout(heads: usize) -> Layout {
    Layout::thd(4, heads, 8)
}

fn pages(heads: usize) -> KvLayout {
    KvLayout::nhd(3, 2, heads, 8)
}

fn q(layout: Layout) -> Option<Queries<Raw>> {
    Some(RawOperand::in_place(BF16, Q, layout).into())
}

fn rows(dtype: Dtype, at: u64, layout: Layout) -> Rows<Raw> {
    Rows::new(RawTensor::new(dtype, RawBuffer::unbounded(at)), layout)
}

fn memory(stored: impl Into<Stored>, at: u64) -> RawMemory {
    RawMemory::new(stored, RawBuffer::unbounded(at))
}

fn list(dtype: Dtype, len: usize) -> RawTensor {
    RawTensor::new(dtype, RawBuffer::new(LISTS, len))
}

fn ids(len: usize) -> RawIds {
    RawIds::new(IndexType::I64, LISTS, len)
}

fn cache() -> KvCache<Raw> {
    KvCache::new(memory(BF16, KEYS), pages(1), memory(BF16, VALUES), pages(1))
}

fn slots() -> SlotMapping<RawIds> {
    SlotMapping::ids(ids(4))
}

/// Two query heads, a key and a value head of eight channels.
fn call() -> Append<Raw> {
    Append::new(q(layout(2)), Some(rows(BF16, K, layout(1)).into()), Some(rows(BF16, V, layout(1))))
}

fn check_at(call: Append<Raw>, positions: Positions<RawIds>) -> Result<(), Error> {
    let spec = RopeSpec::new(8, Pairing::HalfSplit).expect("valid");
    call.checked(&spec, positions).map(|_| ())
}

fn check(call: Append<Raw>) -> Result<(), Error> {
    check_at(call, Positions::consecutive(0))
}

#[test]
fn good_calls_pass() {
    assert_eq!(check(call().with_cache(cache(), slots())), Ok(()));
    // Fewer slots than tokens, none at all, and all of them reserved.
    assert_eq!(check(call().with_cache(cache(), SlotMapping::ids(ids(0)).reserved(6))), Ok(()));
    // q alone, normalised; q and k without a cache.
    let norm = || QkNorm::rms(1e-6).q(list(BF16, 8)).k(list(BF16, 8));
    assert_eq!(check(Append::new(q(layout(2)), None, None).with_norm(norm())), Ok(()));
    let k = RawOperand::in_place(BF16, K, layout(1));
    assert_eq!(check(Append::new(q(layout(2)), Some(k.into()), None).with_norm(norm())), Ok(()));
    // Keys alone in a cache; both caches in one buffer, side by side.
    let keys = KvCache::keys(memory(BF16, KEYS), pages(1));
    let k = Some(rows(BF16, K, layout(1)).into());
    assert_eq!(check(Append::new(None, k, None).with_cache(keys, slots())), Ok(()));
    let row = pages(1).with_strides([32, 16, 8]);
    let both = KvCache::shared(memory(Stored::Fp8E5M2, KEYS), row, row.at(8));
    assert_eq!(check(call().with_cache(both, slots())), Ok(()));
    // An odd head that rotates in place, and in part: nothing else of it matters.
    assert_eq!(check(Append::new(q(Layout::thd(4, 2, 9)), None, None)), Ok(()));
}

#[test]
fn tensors_go_together() {
    let missing = |what, expected| Err(Error::Cache { what, expected });
    assert_eq!(check(Append::new(None, None, None)), Err(Error::NoTensors));
    assert_eq!(check(call()), missing("v", "a cache for it"));
    let k = || Some(rows(BF16, K, layout(1)).into());
    let v = || Some(rows(BF16, V, layout(1)));
    let read = "k that is only read";
    assert_eq!(check(Append::new(q(layout(2)), k(), None)), missing(read, "a cache for it"));
    let with = |call: Append<Raw>| check(call.with_cache(cache(), slots()));
    assert_eq!(with(Append::new(None, k(), None)), missing("value cache", "v"));
    assert_eq!(with(Append::new(None, None, v())), missing("key cache", "k"));
    let keys = KvCache::keys(memory(BF16, KEYS), pages(1));
    assert_eq!(check(call().with_cache(keys, slots())), missing("v", "value cache"));
    let tokens = |tensor| Error::Tokens { tensor, expected: [1, 4], given: [1, 3] };
    let short = Some(rows(BF16, K, Layout::thd(3, 1, 8)).into());
    assert_eq!(with(Append::new(q(layout(2)), short, v())), Err(tokens("k")));
    let short = Some(rows(BF16, V, Layout::thd(3, 1, 8)));
    assert_eq!(with(Append::new(q(layout(2)), k(), short)), Err(tokens("v")));
    let half = Some(rows(Dtype::F16, V, layout(1)));
    let expected = Error::Dtype { tensor: "v", expected: "bf16", given: "f16".to_owned() };
    assert_eq!(with(Append::new(q(layout(2)), k(), half)), Err(expected));
}

#[test]
fn caches_fit() {
    let with = |cache| check(call().with_cache(cache, slots()));
    let new =
        |k: KvLayout, v: KvLayout| KvCache::new(memory(BF16, KEYS), k, memory(BF16, VALUES), v);
    let shape =
        |tensor, what, expected, given| Err(Error::CacheShape { tensor, what, expected, given });
    let (key, value) = ("key cache", "value cache");
    assert_eq!(with(new(pages(2), pages(1))), shape(key, "the number of heads", 1, 2));
    assert_eq!(with(new(pages(1), pages(2))), shape(value, "the number of heads", 1, 2));
    let wide = KvLayout::nhd(3, 2, 1, 16);
    assert_eq!(with(new(wide, pages(1))), shape(key, "head_dim", 8, 16));
    let more = KvLayout::nhd(4, 2, 1, 8);
    assert_eq!(with(new(pages(1), more)), shape(value, "the number of pages", 3, 4));
    let larger = KvLayout::nhd(3, 4, 1, 8);
    assert_eq!(with(new(pages(1), larger)), shape(value, "page_size", 2, 4));
    let strides = [4, 8, 8];
    let overlap = Error::OverlappingRows { tensor: key, strides };
    assert_eq!(with(new(pages(1).with_strides(strides), pages(1))), Err(overlap));
    let other = KvCache::new(memory(Dtype::F16, KEYS), pages(1), memory(BF16, VALUES), pages(1));
    let expected = "bf16, fp8_e4m3 or fp8_e5m2";
    let wrong = Error::Dtype { tensor: key, expected, given: "f16".to_owned() };
    assert_eq!(with(other), Err(wrong));
    let at =
        |address| KvCache::new(memory(BF16, address), pages(1), memory(BF16, VALUES), pages(1));
    assert_eq!(with(at(0)), Err(Error::Null { tensor: key }));
    let odd = Error::Alignment { tensor: key, expected: 2, given: KEYS + 1 };
    assert_eq!(with(at(KEYS + 1)), Err(odd));
    let short = RawMemory::new(BF16, RawBuffer::new(KEYS, 47));
    let short = KvCache::new(short, pages(1), memory(BF16, VALUES), pages(1));
    assert_eq!(with(short), Err(Error::OutOfBounds { tensor: key, needed: 48, given: 47 }));
    // Too many slots for their numbers.
    let huge = KvLayout::nhd(1 << 30, 2, 1, 8);
    assert!(matches!(with(new(huge, pages(1))), Err(Error::TooLarge { tensor: "key cache", .. })));
}

#[test]
fn what_is_written_shares_memory_with_nothing() {
    let overlap = |a, b| Err(Error::OverlappingTensors { tensors: [a, b] });
    let caches =
        |keys, values| KvCache::new(memory(BF16, keys), pages(1), memory(BF16, values), pages(1));
    let with = |cache| check(call().with_cache(cache, slots()));
    assert_eq!(with(caches(KEYS, KEYS + 94)), overlap("key cache", "value cache"));
    assert_eq!(with(caches(KEYS, KEYS + 96)), Ok(()));
    assert_eq!(with(caches(Q, VALUES)), overlap("q", "key cache"));
    assert_eq!(with(caches(K, VALUES)), overlap("key cache", "k"));
    assert_eq!(with(caches(KEYS, V + 62)), overlap("value cache", "v"));
    // Of another element size: by extents.
    let fp8 = |keys| {
        let of = |at| memory(Stored::Fp8E4M3, at);
        KvCache::new(of(keys), pages(1), of(VALUES), pages(1))
    };
    assert_eq!(with(fp8(Q + 127)), overlap("q", "key cache"));
    assert_eq!(with(fp8(Q + 128)), Ok(()));
    let k = RawOperand::in_place(BF16, Q + 64, layout(1));
    let shared = Append::new(q(layout(2)), Some(k.into()), None);
    assert_eq!(check(shared), overlap("q", "k"));
    // Packed views may interlock, and must not overlap.
    let view = |heads, at| Layout::thd(4, heads, 8).with_strides([0, 32, 8]).at(at);
    let packed = |v: Layout| {
        let call = Append::packed(memory(BF16, Q), Some(view(2, 0)), Some(view(1, 16)), Some(v));
        check(call.with_cache(cache(), slots()))
    };
    assert_eq!(packed(view(1, 24)), Ok(()));
    assert_eq!(packed(view(1, 17)), overlap("k", "v"));
    let packed = Append::packed(memory(Stored::Fp8E4M3, Q), Some(view(2, 0)), None, None);
    assert!(matches!(check(packed), Err(Error::Dtype { tensor: "qkv", .. })));
}

#[test]
fn norms_have_weights_and_an_epsilon() {
    let with = |norm| check(Append::new(q(layout(2)), None, None).with_norm(norm));
    let wrong = |expected, given| Err(Error::Positions { what: "q weights", expected, given });
    assert_eq!(with(QkNorm::rms(1e-6).q(list(BF16, 7))), wrong(8, 7));
    assert_eq!(with(QkNorm::rms(1e-6).q(list(BF16, 16))), wrong(8, 16));
    let dtype = Error::Dtype { tensor: "q weights", expected: "bf16", given: "f32".to_owned() };
    assert_eq!(with(QkNorm::rms(1e-6).q(list(Dtype::F32, 8))), Err(dtype));
    for eps in [0.0, -1e-6, 1e-31, f32::NAN, f32::INFINITY] {
        let refused = with(QkNorm::rms(eps).q(list(BF16, 8)));
        assert!(matches!(refused, Err(Error::Epsilon { .. })), "{eps}: {refused:?}");
        // Nobody asks for it where nothing is normalised.
        assert_eq!(with(QkNorm::rms(eps)), Ok(()));
    }
    assert_eq!(with(QkNorm::rms(2f32.powi(-101)).q(list(BF16, 8))), Ok(()));
    let odd = Append::new(q(Layout::thd(4, 2, 9)), None, None);
    let odd = odd.with_norm(QkNorm::rms(1e-6).q(list(BF16, 9)));
    assert_eq!(check(odd), Err(Error::OddHeadDim { tensor: "q", given: 9 }));
}

#[test]
fn scales_are_numbers_or_lists() {
    let fp8 = || {
        let of = |at| memory(Stored::Fp8E4M3, at);
        KvCache::new(of(KEYS), KvLayout::nhd(3, 2, 2, 8), of(VALUES), KvLayout::nhd(3, 2, 2, 8))
    };
    let two =
        || Append::new(None, Some(rows(BF16, K, layout(2)).into()), Some(rows(BF16, V, layout(2))));
    let with = |k, v| check(two().with_cache(fp8().with_scales(k, v), slots()));
    for given in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        let refused = with(Scale::ONE, Scale::Value(given));
        let is_it = matches!(refused, Err(Error::Scale { tensor: "value scale", .. }));
        assert!(is_it, "{given}: {refused:?}");
    }
    let of = |len| Scale::Tensor(list(Dtype::F32, len));
    assert_eq!(with(of(1), of(2)), Ok(()));
    let wrong = Error::Positions { what: "key scale", expected: 2, given: 3 };
    assert_eq!(with(of(3), Scale::ONE), Err(wrong));
    let dtype = Error::Dtype { tensor: "key scale", expected: "f32", given: "bf16".to_owned() };
    assert_eq!(with(Scale::Tensor(list(BF16, 1)), Scale::ONE), Err(dtype));
    // q of another type goes to bytes, and to no elements.
    let queries = |stored: Stored| Queries::Converted {
        rows: rows(BF16, Q, layout(2)),
        target: memory(stored, KEYS),
        layout: layout(2),
        scale: Scale::ONE,
    };
    assert_eq!(check(Append::new(Some(queries(Stored::Fp8E5M2)), None, None)), Ok(()));
    let refused = check(Append::new(Some(queries(BF16.into())), None, None));
    assert!(matches!(refused, Err(Error::Dtype { tensor: "q", .. })));
}

#[test]
fn slots_are_counted_and_their_values_are_not_asked() {
    let with = |slots| check(call().with_cache(cache(), slots));
    let many = Error::Positions { what: "slot_mapping", expected: 4, given: 5 };
    assert_eq!(with(SlotMapping::ids(ids(5))), Err(many));
    let limit = 6;
    let what = "the number of reserved slots";
    let reserved = Error::TooLarge { tensor: "slot_mapping", what, limit };
    assert_eq!(with(slots().reserved(7)), Err(reserved));
    let odd = RawIds::new(IndexType::I64, LISTS + 4, 4);
    let refused = with(SlotMapping::ids(odd));
    assert!(matches!(refused, Err(Error::Alignment { tensor: "slot_mapping", .. })));
    // A table: one row a sequence.
    assert_eq!(with(SlotMapping::page_table(ids(3), 3)), Ok(()));
    let short = Error::Positions { what: "page table", expected: 3, given: 2 };
    assert_eq!(with(SlotMapping::page_table(ids(2), 3)), Err(short));
    let wide = with(SlotMapping::page_table(ids(3), 1 << 31));
    assert!(matches!(wide, Err(Error::TooLarge { tensor: "page table", .. })));
    let axes = Positions::axes(ids(8), Sections::blocks([2, 2]).expect("small"));
    let refused = check_at(call().with_cache(cache(), SlotMapping::page_table(ids(3), 3)), axes);
    assert!(matches!(refused, Err(Error::Tensor { tensor: "page table", .. })));
}
