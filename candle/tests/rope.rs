//! Every way into a rotation of candle tensors gives the same bits, those of the core; gradients, refusals, locks.

#[macro_use]
mod on_devices;

use std::sync::mpsc;
use std::time::Duration;

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use condensed_rope_candle::{DimOrder, Frequencies, Pairing, Positions, Rope, Sections};
use half::{bf16, f16};

const BHSD: DimOrder = DimOrder::Bhsd;
const PAIRINGS: [Pairing; 2] = [Pairing::HalfSplit, Pairing::Interleaved];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

on_devices!(
    every_way_gives_the_same_bits,
    is_candle_nns_within_its_rounding,
    gradients_are_the_inverse,
    what_cannot_be_rotated_is_refused,
    keys_go_straight_to_a_cache,
    tables_are_candle_nns,
    positions_of_every_kind,
    threads_do_not_wait_for_one_another,
);

fn frequencies(dim: usize) -> Frequencies {
    Frequencies::new(dim, 10_000.0).and_then(|f| f.condensed(8.0)).expect("valid")
}

/// Elements' bits, in order.
fn bits(tensor: &Tensor) -> Result<Vec<u32>> {
    let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    Ok(match flat.dtype() {
        DType::F32 => flat.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect(),
        DType::F16 => flat.to_vec1::<f16>()?.into_iter().map(|x| x.to_bits().into()).collect(),
        _ => flat.to_vec1::<bf16>()?.into_iter().map(|x| x.to_bits().into()).collect(),
    })
}

/// Noise, the same on every device.
fn noise(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

/// What the core's CPU backend makes of `[batch, heads, seq, dim]`.
fn truth(x: &Tensor, rope: &condensed_rope::cpu::Rope, start: i64) -> Result<Vec<u32>> {
    let (b, h, s, d) = x.dims4()?;
    let layout = condensed_rope::Layout::bhsd(b, h, s, d);
    let flat = x.to_device(&Device::Cpu)?.contiguous()?.flatten_all()?;
    macro_rules! rotated {
        ($type:ty) => {{
            let mut values = flat.to_vec1::<$type>()?;
            let heads = condensed_rope::cpu::Heads::in_place(&mut values, layout);
            let positions = condensed_rope::Positions::consecutive(start);
            rope.rotate(Some(heads), None, positions).expect("a valid call");
            bits(&Tensor::new(values, &Device::Cpu)?)
        }};
    }
    match flat.dtype() {
        DType::F32 => rotated!(f32),
        DType::F16 => rotated!(f16),
        _ => rotated!(bf16),
    }
}

fn every_way_gives_the_same_bits(device: &Device) -> Result<()> {
    for pairing in PAIRINGS {
        let core = condensed_rope::cpu::Rope::new(&frequencies(64), pairing);
        let rope = Rope::new(device, &frequencies(64), pairing)?;
        for dtype in DTYPES {
            // As models have them: [batch, seq, heads, dim] transposed.
            let q = noise(&[2, 37, 9, 64], dtype, device)?.transpose(1, 2)?;
            let k = noise(&[2, 37, 3, 64], dtype, device)?.transpose(1, 2)?;
            let (q_true, k_true) = (truth(&q, &core, 100)?, truth(&k, &core, 100)?);
            let same = |way: &str, (q, k): (Tensor, Tensor)| -> Result<()> {
                assert!(bits(&q)? == q_true && bits(&k)? == k_true, "{way} {pairing:?} {dtype:?}");
                Ok(())
            };
            let start = Positions::consecutive(100);
            let ids: Vec<i64> = (100..137).collect();
            let ids = Tensor::new(ids, device)?;
            same("a start", rope.rotate(BHSD, &q, &k, &start)?)?;
            let both = rope.rotate(BHSD, &q, &k, &start)?;
            assert!(both.0.is_contiguous() && both.1.is_contiguous());
            same("i64 ids", rope.rotate(BHSD, &q, &k, &Positions::ids(ids.clone()))?)?;
            let expanded = ids.unsqueeze(0)?.expand((2, 37))?;
            same("expanded ids", rope.rotate(BHSD, &q, &k, &Positions::ids(expanded))?)?;
            let narrow = ids.to_dtype(DType::U32)?;
            same("u32 ids", rope.rotate(BHSD, &q, &k, &Positions::ids(narrow))?)?;
            let starts = Positions::starts(Tensor::new(vec![100i64, 100], device)?);
            same("starts", rope.rotate(BHSD, &q, &k, &starts)?)?;
            let one = (rope.rotate_one(BHSD, &q, &start)?, rope.rotate_one(BHSD, &k, &start)?);
            same("one by one", one)?;
            let tracked = Var::from_tensor(&q)?;
            same("a gradient", rope.rotate(BHSD, tracked.as_tensor(), &k, &start)?)?;
            let tracked = Var::from_tensor(&k)?;
            same("k's gradient", rope.rotate(BHSD, &q, tracked.as_tensor(), &start)?)?;

            let (q_copy, k_copy) = (q.copy()?, k.copy()?);
            rope.rotate_in_place(BHSD, &q_copy, Some(&k_copy), &start)?;
            same("in place", (q_copy.clone(), k_copy.clone()))?;
            // And back: within rounding.
            rope.inverse().rotate_in_place(BHSD, &q_copy, Some(&k_copy), &start)?;
            let off = (q_copy.to_dtype(DType::F32)? - q.to_dtype(DType::F32)?)?.abs()?;
            assert!(off.max_all()?.to_scalar::<f32>()? < 0.02);

            // q and k of one packed tensor.
            let packed = Tensor::cat(&[&q, &k, &k], 1)?;
            let (q_view, k_view) = (packed.narrow(1, 0, 9)?, packed.narrow(1, 9, 3)?);
            same("packed", rope.rotate(BHSD, &q_view, &k_view, &start)?)?;
            rope.rotate_in_place(BHSD, &q_view, Some(&k_view), &start)?;
            same("packed in place", (q_view, k_view))?;
            assert_eq!(bits(&packed.narrow(1, 12, 3)?.contiguous()?)?, bits(&k.contiguous()?)?);
        }
    }
    Ok(())
}

fn is_candle_nns_within_its_rounding(device: &Device) -> Result<()> {
    let plain = Frequencies::new(64, 10_000.0).expect("valid");
    let inv_freq: Vec<f32> = plain.inv_freq().map(|f| f as f32).collect();
    let angles = Tensor::arange(0f32, 50.0, device)?
        .unsqueeze(1)?
        .matmul(&Tensor::new(inv_freq, device)?.unsqueeze(0)?)?;
    for (dtype, allowed) in [(DType::F32, 4e-6), (DType::F16, 4e-3), (DType::BF16, 2.5e-2)] {
        let (cos, sin) = (angles.cos()?.to_dtype(dtype)?, angles.sin()?.to_dtype(dtype)?);
        let x = noise(&[1, 3, 50, 64], dtype, device)?;
        for pairing in PAIRINGS {
            let theirs = match pairing {
                Pairing::HalfSplit => candle_nn::rotary_emb::rope(&x, &cos, &sin)?,
                _ => candle_nn::rotary_emb::rope_i(&x, &cos, &sin)?,
            };
            let rope = Rope::new(device, &plain, pairing)?;
            let ours = rope.rotate_one(BHSD, &x, &Positions::consecutive(0))?;
            let off = (ours.to_dtype(DType::F32)? - theirs.to_dtype(DType::F32)?)?;
            let off = off.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(off < allowed, "{dtype:?} {pairing:?}: {off}");
        }
    }
    Ok(())
}

fn gradients_are_the_inverse(device: &Device) -> Result<()> {
    let rope = Rope::new(device, &frequencies(16), Pairing::HalfSplit)?.rotate_from(4);
    let positions = Positions::ids(Tensor::new(vec![3u32, 1, 900, 7, 7], device)?);
    let q = Var::from_tensor(&noise(&[1, 4, 5, 24], DType::F32, device)?)?;
    let k = Var::from_tensor(&noise(&[1, 2, 5, 24], DType::F32, device)?)?;
    let (q_weights, k_weights) = (
        noise(&[1, 4, 5, 24], DType::F32, device)?.sin()?,
        noise(&[1, 2, 5, 24], DType::F32, device)?.cos()?,
    );
    let (q_true, k_true) = rope.inverse().rotate(BHSD, &q_weights, &k_weights, &positions)?;
    for (first, second) in [(&q, &k), (&k, &q)] {
        // Either order of addresses.
        let is_q = std::ptr::eq(first, &q);
        let weights = if is_q { [&q_weights, &k_weights] } else { [&k_weights, &q_weights] };
        let (a, b) = rope.rotate(BHSD, first, second, &positions)?;
        let loss = ((a * weights[0])?.sum_all()? + (b * weights[1])?.sum_all()?)?;
        let gradients = loss.backward()?;
        for (var, expected) in [(&q, &q_true), (&k, &k_true)] {
            let gradient = gradients.get(var).expect("a gradient");
            assert_eq!(bits(&gradient.contiguous()?)?, bits(expected)?);
        }
    }
    let loss = (rope.rotate_one(BHSD, &q, &positions)? * &q_weights)?.sum_all()?;
    let gradients = loss.backward()?;
    assert_eq!(bits(gradients.get(&q).expect("a gradient"))?, bits(&q_true)?);
    // Where only q is used, k's gradient is zero.
    let (a, _) = rope.rotate(BHSD, &q, &k, &positions)?;
    let gradients = a.sum_all()?.backward()?;
    let zero = gradients.get(&k).expect("a gradient").abs()?.max_all()?.to_scalar::<f32>()?;
    assert_eq!(zero, 0.0);
    Ok(())
}

fn what_cannot_be_rotated_is_refused(device: &Device) -> Result<()> {
    let rope = Rope::new(device, &frequencies(16), Pairing::HalfSplit)?;
    let tensor = |shape: &[usize]| noise(shape, DType::F32, device);
    let (q, k) = (tensor(&[1, 4, 5, 16])?, tensor(&[1, 2, 5, 16])?);
    let start = Positions::consecutive(0);
    let var = Var::from_tensor(&q)?;
    let expanded = tensor(&[1, 1, 5, 16])?.expand((1, 4, 5, 16))?;
    let ids = |n: usize, dtype| Tensor::zeros(n, dtype, device).map(Positions::ids);
    let wide = tensor(&[1, 4, 5, 32])?;
    let strided = wide.transpose(2, 3)?;
    for (error, word) in [
        (rope.rotate_in_place(BHSD, &var, None, &start).err(), "gradient"),
        (rope.rotate_in_place(BHSD, &q, Some(&var), &start).err(), "gradient"),
        (
            rope.rotate_in_place(BHSD, &expanded, None, &start).err(),
            "must not share memory|repeated elements",
        ),
        (rope.rotate_in_place(BHSD, &q, Some(&q), &start).err(), "must not share memory"),
        (rope.rotate(BHSD, &q, &tensor(&[1, 2, 6, 16])?, &start).err(), "[batch, seq]"),
        (rope.rotate(BHSD, &q, &k.to_dtype(DType::BF16)?, &start).err(), "element type"),
        (rope.rotate_one(BHSD, &q.to_dtype(DType::F64)?, &start).err(), "f64"),
        (rope.rotate_one(BHSD, &q.i(0)?, &start).err(), "4 dimensions"),
        (rope.rotate_one(DimOrder::Thd, &q, &start).err(), "3 dimensions"),
        (rope.rotate_one(BHSD, &strided, &start).err(), "contiguous channels"),
        (rope.rotate_one(BHSD, &tensor(&[1, 4, 5, 8])?, &start).err(), "within head_dim 8"),
        (rope.rotate_one(BHSD, &q, &ids(4, DType::I64)?).err(), "4 values|given 4|expected 5"),
        (rope.rotate_one(BHSD, &q, &ids(5, DType::F32)?).err(), "u32, i32 or i64"),
        (rope.rotate_one(BHSD, &q, &ids(5, DType::U8)?).err(), "u32, i32 or i64"),
        (rope.rotate_and_append(BHSD, &q, &k, &tensor(&[1, 2, 8, 16])?, 4, &start).err(), "narrow"),
        (
            rope.rotate_and_append(BHSD, &q, &k, &tensor(&[1, 3, 8, 16])?, 0, &start).err(),
            "[batch, seq, heads, head_dim]",
        ),
        (rope.cos_sin(0, usize::MAX, DType::F32).err(), "rows"),
        (rope.cos_sin(0, 4, DType::U32).err(), "u32"),
    ] {
        let error = error.expect(word).to_string();
        assert!(word.split('|').any(|word| error.contains(word)), "{word}: {error}");
    }
    // Expanded tensors are fine where a new one is made.
    assert!(rope.rotate_one(BHSD, &expanded, &start).is_ok());
    // No tokens at all.
    let none = tensor(&[1, 4, 0, 16])?;
    assert_eq!(rope.rotate_one(BHSD, &none, &start)?.dims(), [1, 4, 0, 16]);
    rope.rotate_in_place(BHSD, &none, None, &start)
}

fn keys_go_straight_to_a_cache(device: &Device) -> Result<()> {
    let rope = Rope::new(device, &frequencies(32), Pairing::Interleaved)?;
    let cache = Tensor::ones((2, 3, 20, 32), DType::BF16, device)?.affine(7.0, 0.0)?;
    let (mut kept, mut at) = (Vec::new(), 0);
    for seq in [5, 1, 1, 8] {
        let q = noise(&[2, 6, seq, 32], DType::BF16, device)?;
        let k = noise(&[2, seq, 3, 32], DType::BF16, device)?.transpose(1, 2)?;
        let positions = Positions::consecutive(at as i64);
        let (q_out, filled) = rope.rotate_and_append(BHSD, &q, &k, &cache, at, &positions)?;
        let (q_true, k_true) = rope.rotate(BHSD, &q, &k, &positions)?;
        at += seq;
        kept.push(k_true);
        assert_eq!(bits(&q_out)?, bits(&q_true)?);
        assert_eq!(filled.dims(), [2, 3, at, 32]);
        assert_eq!(bits(&filled.contiguous()?)?, bits(&Tensor::cat(&kept, 2)?)?);
        // The rest of the cache is untouched.
        let rest = cache.narrow(2, at, 20 - at)?.contiguous()?;
        assert!(bits(&rest)?.iter().all(|&bits| bits == u32::from(bf16::from_f32(7.0).to_bits())));
    }
    // k may lie in the cache's own storage, elsewhere.
    let packed = noise(&[1, 3, 10, 32], DType::F32, device)?;
    let (k, q) = (packed.narrow(2, 0, 2)?, noise(&[1, 3, 2, 32], DType::F32, device)?);
    let k_true = rope.rotate_one(BHSD, &k, &Positions::consecutive(4))?;
    rope.rotate_and_append(BHSD, &q, &k, &packed, 4, &Positions::consecutive(4))?;
    assert_eq!(bits(&packed.narrow(2, 4, 2)?.contiguous()?)?, bits(&k_true)?);
    Ok(())
}

fn tables_are_candle_nns(device: &Device) -> Result<()> {
    for pairing in PAIRINGS {
        let rope = Rope::new(device, &frequencies(64), pairing)?;
        let (cos, sin) = rope.cos_sin(5, 30, DType::F32)?;
        assert_eq!((cos.dims(), sin.dims()), (&[30, 32][..], &[30, 32][..]));
        let x = noise(&[1, 2, 30, 64], DType::F32, device)?;
        let theirs = match pairing {
            Pairing::HalfSplit => candle_nn::rotary_emb::rope(&x, &cos, &sin)?,
            _ => candle_nn::rotary_emb::rope_i(&x, &cos, &sin)?,
        };
        let ours = rope.rotate_one(BHSD, &x, &Positions::consecutive(5))?;
        let off = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(off < 3e-7, "{pairing:?}: {off}");
    }
    Ok(())
}

/// Ragged sequences, axes and sets, held to rotations of each token by itself.
fn positions_of_every_kind(device: &Device) -> Result<()> {
    let thd = DimOrder::Thd;
    let rope = Rope::new(device, &frequencies(16), Pairing::HalfSplit)?;
    let x = noise(&[6, 2, 16], DType::F32, device)?;
    let at = |rope: &Rope, ids: [i64; 6]| {
        rope.rotate_one(thd, &x, &Positions::ids(Tensor::new(ids.to_vec(), device)?))
    };
    let cu_seqlens = Tensor::new(vec![0i32, 2, 6], device)?;
    let starts = Tensor::new(vec![7u32, 100], device)?;
    let ragged = Positions::ragged_from(cu_seqlens.clone(), starts);
    let ragged_true = at(&rope, [7, 8, 100, 101, 102, 103])?;
    assert_eq!(bits(&rope.rotate_one(thd, &x, &ragged)?)?, bits(&ragged_true)?);

    // Three rows of ids, of which each pair takes one.
    let sections = Sections::blocks([2, 3, 3]).expect("8 pairs");
    let rows = [[0, 1, 2, 3, 4, 5], [9, 9, 8, 8, 7, 7], [50, 51, 52, 53, 54, 55]];
    let ids = Tensor::new(rows.concat(), device)?;
    let axes = rope.rotate_one(thd, &x, &Positions::axes(ids.clone(), sections))?;
    let by_row = [at(&rope, rows[0])?, at(&rope, rows[1])?, at(&rope, rows[2])?];
    for pair in 0..8 {
        for channel in [pair, pair + 8] {
            let row = &by_row[sections.axis(pair)];
            assert_eq!(
                bits(&axes.i((.., .., channel))?.contiguous()?)?,
                bits(&row.i((.., .., channel))?.contiguous()?)?
            );
        }
    }
    // As transformers has them: [axes, batch, seq], one row for a batch.
    let batch = Tensor::stack(&[&x, &x], 0)?;
    let shared = Positions::axes(ids.reshape((3, 1, 6))?, sections);
    let both = rope.rotate_one(DimOrder::Bshd, &batch, &shared)?;
    assert_eq!(bits(&both.i(1)?)?, bits(&axes)?);
    let expanded = Positions::axes(ids.reshape((3, 1, 6))?.expand((3, 2, 6))?, sections);
    let both = rope.rotate_one(DimOrder::Bshd, &batch, &expanded)?;
    assert_eq!(bits(&both.i(0)?)?, bits(&axes)?);

    let sets = [frequencies(16), Frequencies::new(16, 500_000.0).expect("valid")];
    let several = Rope::with_frequency_sets(device, &sets, Pairing::HalfSplit)?;
    let other = Rope::new(device, &sets[1], Pairing::HalfSplit)?;
    let chosen = Positions::ragged(cu_seqlens).with_sets(Tensor::new(vec![1u32, 0], device)?);
    let mixed = several.rotate_one(thd, &x, &chosen)?;
    let (first, second) = (at(&other, [0, 1, 0, 1, 2, 3])?, at(&rope, [0, 1, 0, 1, 2, 3])?);
    let expected = Tensor::cat(&[first.narrow(0, 0, 2)?, second.narrow(0, 2, 4)?], 0)?;
    assert_eq!(bits(&mixed)?, bits(&expected)?);
    // And written over.
    rope.set_frequencies(0, &sets[1])?;
    assert_eq!(bits(&at(&rope, rows[2])?)?, bits(&at(&other, rows[2])?)?);
    Ok(())
}

/// In place with q and k either way round, and out of place beside it, from two threads.
fn threads_do_not_wait_for_one_another(device: &Device) -> Result<()> {
    let rope = Rope::new(device, &frequencies(16), Pairing::HalfSplit)?;
    let (q, k) = (
        noise(&[1, 2, 3, 16], DType::F32, device)?,
        noise(&[1, 2, 3, 16], DType::F32, device)?.affine(2.0, 0.0)?,
    );
    let var = Var::from_tensor(&q)?;
    let (done, ended) = mpsc::channel();
    for mode in 0..4 {
        let (rope, q, k, done) = (rope.clone(), q.clone(), k.clone(), done.clone());
        let var = var.clone();
        std::thread::spawn(move || {
            let start = Positions::consecutive(1);
            for _ in 0..2000 {
                match mode {
                    0 => rope.rotate_in_place(BHSD, &q, Some(&k), &start),
                    1 => rope.rotate_in_place(BHSD, &k, Some(&q), &start),
                    2 => rope.rotate(BHSD, &k, &q, &start).map(drop),
                    _ => rope.rotate(BHSD, var.as_tensor(), &k, &start).map(drop),
                }
                .expect("rotated");
            }
            done.send(()).expect("somebody waits");
        });
    }
    for _ in 0..4 {
        ended.recv_timeout(Duration::from_secs(120)).expect("no thread waits for another for ever");
    }
    Ok(())
}
