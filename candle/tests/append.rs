//! Norm, rotation and append over tensors, held to the core over slices.

use candle_core::{DType, Device, Result, Tensor};
use condensed_rope::{KvLayout, Layout, QkNorm, Rows, SlotMapping, Stored, cpu};
use condensed_rope_candle::{
    Append, DimOrder, Frequencies, KvCache, Norm, Pairing, Positions, Rope, Slots,
};

const SEQ: usize = 5;
const HEADS: usize = 4;
const KV: usize = 2;
const DIM: usize = 64;
const PAGES: usize = 3;
const PAGE: usize = 4;

struct Given {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    slots: Tensor,
}

fn given() -> Result<Given> {
    let device = Device::Cpu;
    let new = |heads| Tensor::randn(0f32, 1.0, (1, heads, SEQ, DIM), &device);
    let weight = Tensor::rand(0.5f32, 1.5, DIM, &device)?;
    let slots = Tensor::new(&[3i64, -1, 11, 12, 0], &device)?;
    Ok(Given { q: new(HEADS)?, k: new(KV)?, v: new(KV)?, weight, slots })
}

fn list(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

fn frequencies() -> Frequencies {
    Frequencies::new(DIM, 1e6).expect("valid")
}

/// q, keys and values `[slots, heads, dim]` as the core makes them.
fn expected(given: &Given, norm: bool, positions: i64) -> Result<[Vec<f32>; 3]> {
    let (mut q, k, v) = (list(&given.q)?, list(&given.k)?, list(&given.v)?);
    let weight = list(&given.weight)?;
    let slots = given.slots.to_vec1::<i64>()?;
    let mut cache = [0, 1].map(|_| vec![0f32; PAGES * PAGE * KV * DIM]);
    let [keys, values] = &mut cache;
    let layout = KvLayout::nhd(PAGES, PAGE, KV, DIM);
    let rows = |heads| Layout::bhsd(1, heads, SEQ, DIM);
    let call = cpu::Append::new(
        Some(cpu::Heads::in_place(&mut q, rows(HEADS)).into()),
        Some(Rows::new(&k, rows(KV)).into()),
        Some(Rows::new(&v, rows(KV))),
    );
    let of = if norm { QkNorm::rms(1e-6).q(&weight).k(&weight) } else { QkNorm::none() };
    let kv = condensed_rope::KvCache::new(keys, layout, values, layout);
    let call = call.with_norm(of).with_cache(kv, SlotMapping::ids(&slots));
    let rope = cpu::Rope::new(&frequencies(), Pairing::HalfSplit);
    rope.rotate_append(call, condensed_rope::Positions::consecutive(positions))
        .map_err(candle_core::Error::wrap)?;
    let [keys, values] = cache;
    Ok([q, keys, values])
}

fn call<'a>(given: &'a Given, norm: bool, keys: &'a Tensor, values: &'a Tensor) -> Append<'a> {
    let weight = Some(&given.weight);
    Append {
        q: Some(&given.q),
        k: Some(&given.k),
        v: Some(&given.v),
        writes_k: false,
        norm: norm.then_some(Norm {
            q_weight: weight,
            k_weight: weight,
            eps: 1e-6,
            unit_offset: false,
        }),
        cache: Some(KvCache {
            keys,
            values: Some(values),
            slots: Slots::Ids(&given.slots),
            reserved: 0,
            scales: [None; 2],
        }),
    }
}

/// Pages with heads inside or outside, flat slots, and both caches in one tensor.
#[test]
fn caches_of_any_order_hold_what_the_core_stores() -> Result<()> {
    let device = Device::Cpu;
    let rope = Rope::new(&device, &frequencies(), Pairing::HalfSplit)?;
    for norm in [false, true] {
        for order in 0..4 {
            let given = given()?;
            let [q, keys, values] = expected(&given, norm, 9)?;
            let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device);
            let (k_cache, v_cache) = match order {
                0 => (zeros(&[PAGES, PAGE, KV, DIM])?, zeros(&[PAGES, PAGE, KV, DIM])?),
                1 => {
                    let new = || zeros(&[PAGES, KV, PAGE, DIM])?.transpose(1, 2);
                    (new()?, new()?)
                }
                2 => (zeros(&[PAGES * PAGE, KV, DIM])?, zeros(&[PAGES * PAGE, KV, DIM])?),
                _ => {
                    let both = zeros(&[PAGES, PAGE, KV, 2 * DIM])?;
                    (both.narrow(3, 0, DIM)?, both.narrow(3, DIM, DIM)?)
                }
            };
            let call = call(&given, norm, &k_cache, &v_cache);
            rope.rotate_append(DimOrder::Bhsd, &call, &Positions::consecutive(9))?;
            assert_eq!(list(&given.q)?, q);
            assert_eq!(list(&k_cache)?, keys, "order {order}");
            assert_eq!(list(&v_cache)?, values, "order {order}");
        }
    }
    Ok(())
}

#[test]
fn a_cache_of_8_bits_holds_what_the_core_stores() -> Result<()> {
    let device = Device::Cpu;
    let rope = Rope::new(&device, &frequencies(), Pairing::HalfSplit)?;
    let given = given()?;
    let [_, _, values] = expected(&given, true, 0)?;
    let zeros = || Tensor::zeros((PAGES, PAGE, KV, DIM), DType::F8E4M3, &device);
    let (keys, stored) = (zeros()?, zeros()?);
    let call = call(&given, true, &keys, &stored);
    rope.rotate_append(DimOrder::Bhsd, &call, &Positions::consecutive(0))?;
    let got = list(&stored.to_dtype(DType::F32)?)?;
    for (got, value) in got.iter().zip(values) {
        // What its bits stand for.
        let bits = Stored::Fp8E4M3.narrow(value);
        assert_eq!(bits, Stored::Fp8E4M3.narrow(*got), "{value} as {got}");
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_written() -> Result<()> {
    let device = Device::Cpu;
    let rope = Rope::new(&device, &frequencies(), Pairing::HalfSplit)?;
    let given = given()?;
    let before = list(&given.q)?;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device);
    let (keys, values) = (zeros(&[PAGES, PAGE, KV, DIM])?, zeros(&[PAGES, PAGE, KV, DIM])?);
    let refused = |call: &Append, word: &str| {
        let error = rope.rotate_append(DimOrder::Bhsd, call, &Positions::consecutive(0));
        let error = error.expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    };
    let good = call(&given, true, &keys, &values);
    let narrow = keys.narrow(2, 0, 1)?;
    let with = |keys| Append { cache: good.cache.map(|cache| KvCache { keys, ..cache }), ..good };
    refused(&with(&narrow), "heads");
    refused(&with(&values), "share");
    let half = keys.to_dtype(DType::F16)?;
    refused(&with(&half), "element type");
    refused(&Append { cache: None, ..good }, "cache");
    refused(&Append { q: None, k: None, v: None, ..good }, "neither");
    let long = Tensor::zeros(SEQ + 1, DType::I64, &device)?;
    let slots = Slots::Ids(&long);
    refused(
        &Append { cache: good.cache.map(|cache| KvCache { slots, ..cache }), ..good },
        "slot_mapping",
    );
    let short = Tensor::ones(DIM - 1, DType::F32, &device)?;
    let norm = good.norm.map(|norm| Norm { q_weight: Some(&short), ..norm });
    refused(&Append { norm, ..good }, "weights");
    assert_eq!(list(&given.q)?, before);
    Ok(())
}
