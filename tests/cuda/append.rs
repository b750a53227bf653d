//! Norm, rotation and append on a device: the safe calls, graphs, and conversions to 8-bit floats.

use condensed_rope::cuda::{self, Buffer, Heads, Kernels, Pdl, Rope};
use condensed_rope::{
    Error, Frequencies, KvCache, KvLayout, Layout, Pairing, Positions, QkNorm, Rows, Scale,
    SlotMapping, Stored, cpu,
};
use half::bf16;
use testkit::call::noise;

use crate::capture::{captured, context_and_stream};
use crate::gpu::{Gpu, bits};

/// Qwen3's attention in small: 4 + 2 + 2 heads of 128, packed; pages of 16.
const ROW: usize = 8 * 128;
const SLOTS: usize = 4 * 16;

fn views(tokens: usize) -> [Layout; 3] {
    let view =
        |heads, at: usize| Layout::thd(tokens, heads, 128).with_strides([0, ROW, 128]).at(at * 128);
    [view(4, 0), view(2, 4), view(2, 6)]
}

fn pages() -> KvLayout {
    KvLayout::nhd(4, 16, 2, 128)
}

fn rope(kernels: &Kernels) -> Rope {
    let frequencies = Frequencies::new(128, 1e6).expect("valid");
    Rope::new(kernels, &frequencies, Pairing::HalfSplit).expect("room")
}

/// What the CPU makes of packed rows: the rows, the keys and the values.
fn on_cpu(
    qkv: &[bf16],
    weights: &[Vec<bf16>; 2],
    slots: &[i64],
    positions: &[i64],
) -> [Vec<bf16>; 3] {
    let frequencies = Frequencies::new(128, 1e6).expect("valid");
    let rope = cpu::Rope::new(&frequencies, Pairing::HalfSplit);
    let mut qkv = qkv.to_vec();
    let mut cache = [0, 1].map(|_| vec![bf16::ZERO; SLOTS * 2 * 128]);
    let [q, k, v] = views(positions.len()).map(Some);
    let [keys, values] = &mut cache;
    let call = cpu::Append::packed(&mut qkv, q, k, v)
        .with_norm(QkNorm::rms(1e-6).q(&weights[0]).k(&weights[1]))
        .with_cache(KvCache::new(keys, pages(), values, pages()), SlotMapping::ids(slots));
    rope.rotate_append(call, Positions::ids(positions)).expect("a valid call");
    let [keys, values] = cache;
    [qkv, keys, values]
}

#[test]
#[ignore = "needs a CUDA GPU"]
fn a_replayed_graph_sees_changed_slots_and_positions() {
    let (context, stream) = context_and_stream();
    let kernels = Kernels::load(&context).expect("kernels load");
    let given = noise::<bf16>(5 * ROW, 1);
    let weights = [2, 3].map(|seed| noise::<bf16>(128, seed));
    let mut qkv = stream.clone_htod(&given).expect("a copy");
    let on_device = weights.each_ref().map(|w| stream.clone_htod(w).expect("a copy"));
    let mut cache =
        [0, 1].map(|_| stream.alloc_zeros::<bf16>(SLOTS * 2 * 128).expect("device memory"));
    let mut slots = stream.clone_htod(&[-1i64; 5]).expect("a copy");
    let mut ids = stream.clone_htod(&[0i64; 5]).expect("a copy");
    stream.synchronize().expect("done");

    for pdl in [Pdl::Off, Pdl::On, Pdl::PositionsReady] {
        let rope = rope(&kernels).with_pdl(pdl);
        // The first call of all loads its kernels, and may do so in a capture.
        let graph = captured(&stream, || {
            let [q, k, v] = views(5).map(Some);
            let [keys, values] = &mut cache;
            let call = cuda::Append::packed(&mut qkv, q, k, v)
                .with_norm(QkNorm::rms(1e-6).q(&on_device[0]).k(&on_device[1]))
                .with_cache(KvCache::new(keys, pages(), values, pages()), SlotMapping::ids(&slots));
            rope.rotate_append(&stream, call, Positions::ids(&ids)).expect("a call under capture");
        });
        for (to, at) in [
            ([3i64, 17, -1, 63, 5], [0i64, 1, 2, 3, 4]),
            ([64, 1 << 40, i64::MIN, 0, 31], [70_000, -5, 9, 12, 1 << 31]),
        ] {
            stream.memcpy_htod(&given, &mut qkv).expect("a copy");
            stream.memcpy_htod(&to, &mut slots).expect("a copy");
            stream.memcpy_htod(&at, &mut ids).expect("a copy");
            for cache in &mut cache {
                stream.memset_zeros(cache).expect("a fill");
            }
            graph.launch().expect("a replay");
            let [keys, values] = &cache;
            for (got, expected) in
                [&qkv, keys, values].into_iter().zip(on_cpu(&given, &weights, &to, &at))
            {
                assert_eq!(bits(&stream.clone_dtoh(got).expect("a copy")), bits(&expected));
            }
        }
    }
}

/// Every cut of a large device, early launches' too.
#[test]
#[ignore = "needs a CUDA GPU"]
fn runs_of_any_size_are_the_cpus() {
    for pdl in [Pdl::Off, Pdl::On, Pdl::PositionsReady] {
        let gpu = Gpu::get().with_pdl(pdl);
        testkit::conformance::append::runs_of_any_size(&&gpu);
    }
}

/// The safe call takes tensors apart, and 8-bit caches with scales on the device.
#[test]
#[ignore = "needs a CUDA GPU"]
fn safe_calls_take_everything() {
    let gpu = Gpu::get();
    let stream = gpu.stream();
    let (rope, tokens) = (rope(&gpu.kernels), 6);
    let frequencies = Frequencies::new(128, 1e6).expect("valid");
    let on_cpu = cpu::Rope::new(&frequencies, Pairing::HalfSplit);
    let (q_layout, kv_layout) = (Layout::thd(tokens, 4, 128), Layout::thd(tokens, 2, 128));
    let [mut q, k, v] = [4, 2, 2].map(|heads| noise::<bf16>(tokens * heads * 128, heads as u64));
    let slots = [9i32, 8, 7, -1, 0, 400];
    let scales = [0.5f32, 0.125];
    let mut cache = [0, 1].map(|_| vec![0u8; SLOTS * 2 * 128]);
    let mut cache_on_device =
        [0, 1].map(|_| stream.alloc_zeros::<u8>(SLOTS * 2 * 128).expect("device memory"));
    let [mut q_d, k_d, v_d] = [&q, &k, &v].map(|x| stream.clone_htod(x).expect("a copy"));
    let slots_d = stream.clone_htod(&slots).expect("a copy");
    let scales_d = stream.clone_htod(&scales).expect("a copy");
    {
        let [keys, values] = &mut cache_on_device;
        let fp8 = |bytes| Buffer::fp8(Stored::Fp8E4M3, bytes);
        let call = cuda::Append::new(
            Some(Heads::in_place(&mut q_d, q_layout).into()),
            Some(Rows::new(&k_d, kv_layout).into()),
            Some(Rows::new(&v_d, kv_layout)),
        );
        let kv = KvCache::new(fp8(keys), pages(), fp8(values), pages())
            .with_scales(Scale::Tensor((&scales_d).into()), Scale::Value(0.25));
        let call = call.with_cache(kv, SlotMapping::ids(&slots_d).reserved(1));
        rope.rotate_append(&stream, call, Positions::consecutive(70)).expect("a valid call");
    }
    {
        let [keys, values] = &mut cache;
        let fp8 = |bytes| cpu::Buffer::fp8(Stored::Fp8E4M3, bytes);
        let call = cpu::Append::new(
            Some(cpu::Heads::in_place(&mut q, q_layout).into()),
            Some(Rows::new(&k, kv_layout).into()),
            Some(Rows::new(&v, kv_layout)),
        );
        let kv = KvCache::new(fp8(keys), pages(), fp8(values), pages())
            .with_scales(Scale::Tensor(scales.as_slice().into()), Scale::Value(0.25));
        let call = call.with_cache(kv, SlotMapping::ids(&slots).reserved(1));
        on_cpu.rotate_append(call, Positions::consecutive(70)).expect("a valid call");
    }
    assert_eq!(bits(&stream.clone_dtoh(&q_d).expect("a copy")), bits(&q));
    for (on_device, cache) in cache_on_device.iter().zip(&cache) {
        assert_eq!(&stream.clone_dtoh(on_device).expect("a copy"), cache);
        // Slot 0 is reserved.
        assert!(cache[..256].iter().all(|byte| *byte == 0) && cache.iter().any(|byte| *byte != 0));
    }
    // A buffer of another handle of the same context is refused.
    let other = cuda::context(0).expect("a device").default_stream();
    let foreign = other.clone_htod(&slots).expect("a copy");
    let [keys, values] = &mut cache_on_device;
    let fp8 = |bytes| Buffer::fp8(Stored::Fp8E4M3, bytes);
    let call = cuda::Append::new(
        None,
        Some(Rows::new(&k_d, kv_layout).into()),
        Some(Rows::new(&v_d, kv_layout)),
    )
    .with_cache(KvCache::new(fp8(keys), pages(), fp8(values), pages()), SlotMapping::ids(&foreign));
    let refused = rope.rotate_append(&stream, call, Positions::consecutive(0));
    assert_eq!(refused, Err(Error::Context { what: "slot_mapping" }));
}

/// Every f32 there is becomes the 8-bit float that the CPU makes of it.
#[test]
#[ignore = "needs a CUDA GPU"]
fn every_float_has_its_8_bits() {
    const CHUNK: usize = 1 << 24;
    let gpu = Gpu::get();
    let stream = gpu.stream();
    let rope = {
        let frequencies = Frequencies::new(2, 1e6).expect("valid");
        gpu.rope(&frequencies, Pairing::HalfSplit)
    };
    let (heads, dim) = (1, 512);
    let tokens = CHUNK / dim;
    let k = stream.alloc_zeros::<f32>(tokens * 2).expect("device memory");
    let mut keys = stream.alloc_zeros::<u8>(tokens * 2).expect("device memory");
    let mut values = stream.alloc_zeros::<u8>(CHUNK).expect("device memory");
    let slots = stream.clone_htod(&(0..tokens as i32).collect::<Vec<_>>()).expect("a copy");
    for stored in [Stored::Fp8E4M3, Stored::Fp8E5M2] {
        for chunk in 0..256u32 {
            let floats: Vec<f32> =
                (0..CHUNK as u32).map(|i| f32::from_bits(chunk << 24 | i)).collect();
            let v = stream.clone_htod(&floats).expect("a copy");
            let call = cuda::Append::new(
                None,
                Some(Rows::new(&k, Layout::thd(tokens, 1, 2)).into()),
                Some(Rows::new(&v, Layout::thd(tokens, heads, dim))),
            );
            let kv = KvCache::new(
                Buffer::fp8(stored, &mut keys),
                KvLayout::flat(tokens, 1, 2),
                Buffer::fp8(stored, &mut values),
                KvLayout::flat(tokens, heads, dim),
            );
            let call = call.with_cache(kv, SlotMapping::ids(&slots));
            rope.rotate_append(&stream, call, Positions::consecutive(0)).expect("a valid call");
            let got = stream.clone_dtoh(&values).expect("a copy");
            std::thread::scope(|scope| {
                for (floats, got) in floats.chunks(CHUNK / 16).zip(got.chunks(CHUNK / 16)) {
                    scope.spawn(move || {
                        let pairs = floats.iter().zip(got);
                        let wrong = pairs.into_iter().find(|(f, got)| stored.narrow(**f) != **got);
                        assert_eq!(wrong, None, "{stored:?}");
                    });
                }
            });
        }
    }
}
