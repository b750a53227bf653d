//! The reference flows in tch held to real code, and the fused rotation held to them.
#![cfg(feature = "tch")]

use condensed_rope::tch::{fastchat, hf_llama, truth};
use condensed_rope::{CondensedRotaryEmbedding, Frequencies, Layout, Pairing, Positions, cpu};
use half::bf16;

use tch::{Kind, Tensor};
use testkit::call::noise;
use testkit::golden::{FASTCHAT, Golden, LLAMA, Stored, dtype, number, size};
use testkit::{tolerance, with_dtype};

fn kind(case: &serde_json::Value) -> Kind {
    match dtype(case) {
        condensed_rope::Dtype::F32 => Kind::Float,
        condensed_rope::Dtype::F16 => Kind::Half,
        condensed_rope::Dtype::BF16 => Kind::BFloat16,
        other => panic!("no kind for {other:?}"),
    }
}

/// A golden tensor of any float type, in f64.
fn golden(golden: &Golden, case: usize, name: &str, dtype: condensed_rope::Dtype) -> Vec<f64> {
    fn read<T: Stored>(golden: &Golden, case: usize, name: &str) -> Vec<f64> {
        golden.values::<T>(case, name).into_iter().map(|x| x.value()).collect()
    }
    with_dtype!(dtype, read(golden, case, name))
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).expect("f64 values")
}

/// Within one unit in the last place of the type: libtorch's vectorised cos differs that much
/// between processors.
fn assert_close(ours: &[f64], theirs: &[f64], dtype: condensed_rope::Dtype, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let allowed = 4.0 * tolerance::unit_roundoff(dtype) * theirs.abs().max(1.0);
        assert!((ours - theirs).abs() <= allowed, "{what} [{i}]: {ours} is not {theirs}");
    }
}

#[test]
fn the_fastchat_flow_is_fastchats() {
    for (i, case) in FASTCHAT.cases().iter().enumerate() {
        let (dim, seq_len) = (size(case, "dim") as i64, size(case, "seq_len") as i64);
        let (ratio, base) = (number(case, "ratio"), number(case, "base"));
        let (cos, sin) = fastchat(dim, ratio, base, seq_len, kind(case));
        assert_eq!(serde_json::json!(cos.size()), case["shape"]);
        let rows = Tensor::from_slice(&FASTCHAT.i64s(i, "rows"));
        for (table, name) in [(cos, "cos"), (sin, "sin")] {
            let dtype = dtype(case);
            let rows = values(&table.index_select(2, &rows));
            assert_close(
                &rows,
                &golden(&FASTCHAT, i, name, dtype),
                dtype,
                &format!("{case} {name}"),
            );
        }
    }
}

#[test]
fn the_llama_flow_is_transformers() {
    for (i, case) in LLAMA.cases().iter().enumerate() {
        let dtype = dtype(case);
        let ids = Tensor::from_slice(&LLAMA.i64s(i, "ids")).view([2, 5]);
        let inv_freq = Tensor::from_slice(&LLAMA.f32s(i, "inv_freq"));
        for (name, heads) in [("q", "heads"), ("k", "kv_heads")] {
            let shape = [2, size(case, heads) as i64, 5, size(case, "head_dim") as i64];
            let x =
                Tensor::from_slice(&golden(&LLAMA, i, name, dtype)).view(shape).to_kind(kind(case));
            let rotated = values(&hf_llama(&x, &ids, &inv_freq));
            let theirs = golden(&LLAMA, i, &format!("{name}_out"), dtype);
            assert_close(&rotated, &theirs, dtype, &format!("{case} {name}"));
        }
    }
}

/// Our rotation against the f64 truth, and HF's flow further from it than ours.
#[test]
fn the_cpu_backend_is_nearer_to_the_truth_than_hfs_flow() {
    let frequencies =
        Frequencies::new(128, 10_000.0).and_then(|f| f.condensed(8.0)).expect("valid");
    let inv_freq: Vec<f64> = frequencies.inv_freq().collect();
    let ids: Vec<i64> = (0..64).map(|i| i * 256).collect();
    for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
        let mut x = noise::<bf16>(4 * 64 * 128, 3);
        let as_f32: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
        let tensor = Tensor::from_slice(&as_f32).view([1, 4, 64, 128]).to_kind(Kind::BFloat16);
        let on_ids = Tensor::from_slice(&ids).view([1, 64]);
        let exact = values(&truth(&tensor, &on_ids, &inv_freq, pairing));
        cpu::Rope::new(&frequencies, pairing)
            .rotate(
                Some(cpu::Heads::in_place(&mut x, Layout::bhsd(1, 4, 64, 128))),
                None,
                Positions::ids(&ids),
            )
            .expect("a valid call");
        let mut ours = 0.0;
        for (i, (x, exact)) in x.iter().zip(&exact).enumerate() {
            let allowed = tolerance::rotated(condensed_rope::Dtype::BF16, *exact, 4.0, 2e-7);
            assert!((x.to_f64() - exact).abs() <= allowed, "{i}: {x} is not {exact}");
            ours += (x.to_f64() - exact).powi(2);
        }
        if pairing == Pairing::HalfSplit {
            let list: Vec<f32> = inv_freq.iter().map(|&f| f as f32).collect();
            let hf = values(&hf_llama(&tensor, &on_ids, &Tensor::from_slice(&list)));
            let theirs: f64 = hf.iter().zip(&exact).map(|(hf, exact)| (hf - exact).powi(2)).sum();
            println!("squared error against f64: ours {ours:.4}, HF's flow {theirs:.4}");
            assert!(ours < theirs);
        }
    }
}

/// FastChat's table and ours, as tensors: within the error of its f32 angles.
#[test]
fn fastchats_table_drifts_and_ours_does_not() {
    let mut embedding = CondensedRotaryEmbedding::new(128, 8.0).expect("valid");
    let ours = embedding.forward::<f32>(16_384).expect("a table");
    let (cos, _) = fastchat(128, 8.0, 10_000.0, 16_384, Kind::Float);
    let inv_freq: Vec<f64> = embedding.frequencies().inv_freq().collect();
    let theirs = values(&cos);
    let (mut ours_off, mut theirs_off) = (0.0f64, 0.0f64);
    for (at, (ours, theirs)) in ours.cos.iter().zip(&theirs).enumerate() {
        let exact = ((at / 128) as f64 * inv_freq[at % 64]).cos();
        ours_off = ours_off.max((f64::from(*ours) - exact).abs());
        theirs_off = theirs_off.max((theirs - exact).abs());
    }
    println!("largest error of cos against f64: ours {ours_off:e}, FastChat's {theirs_off:e}");
    assert!(ours_off < tolerance::COS_SIN && theirs_off > 10.0 * ours_off);
}

/// The fused rotation, on a device.
mod fused {
    use super::*;
    use condensed_rope::tch::rotate;
    use condensed_rope::{AnyRope, DimOrder, Error};
    use tch::Device;

    pub fn rope(device: Device, pairing: Pairing) -> AnyRope {
        let frequencies =
            Frequencies::new(128, 10_000.0).and_then(|f| f.condensed(8.0)).expect("valid");
        match device {
            Device::Cpu => cpu::Rope::new(&frequencies, pairing).into(),
            #[cfg(feature = "cuda")]
            _ => {
                use condensed_rope::cuda;
                // The linker leaves libtorch's CUDA half out of a program that names nothing of it.
                // SAFETY: loading it registers its operations with libtorch, as when it is linked.
                let library = unsafe { libloading::Library::new("libtorch_cuda.so") };
                std::mem::forget(library.expect("a libtorch with CUDA"));
                let context = cuda::context(0).expect("a CUDA device");
                let kernels = cuda::Kernels::load(&context).expect("kernels load");
                cuda::Rope::new(&kernels, &frequencies, pairing).expect("room").into()
            }
            #[cfg(not(feature = "cuda"))]
            _ => panic!("built without CUDA"),
        }
    }

    /// In place, in every order of dimensions, as views, after work that tch has queued.
    pub fn tensors_rotate_where_they_lie(device: Device) {
        let inv_freq: Vec<f64> = Frequencies::new(128, 10_000.0)
            .and_then(|f| f.condensed(8.0))
            .expect("valid")
            .inv_freq()
            .collect();
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            let rope = rope(device, pairing);
            let ids = Tensor::arange_start_step(0, 16_384, 129, (Kind::Int64, device)); // 128 of them
            for (kind, dtype) in [
                (Kind::Float, condensed_rope::Dtype::F32),
                (Kind::Half, condensed_rope::Dtype::F16),
                (Kind::BFloat16, condensed_rope::Dtype::BF16),
            ] {
                // [batch, seq, heads, dim] memory, seen in the order that is asked for.
                let new = |heads| Tensor::rand([2, 128, heads, 128], (kind, device));
                for order in [DimOrder::Bhsd, DimOrder::Bshd, DimOrder::Sbhd] {
                    let seen = |x: Tensor| match order {
                        DimOrder::Bhsd => x.transpose(1, 2),
                        DimOrder::Sbhd => x.transpose(0, 1),
                        _ => x,
                    };
                    let (mut q, mut k) = (seen(new(4)), seen(new(2)));
                    let before = [q.copy(), k.copy()];
                    rotate(&rope, order, Some(&mut q), Some(&mut k), &ids).expect("a valid call");
                    for (before, after) in before.iter().zip([&q, &k]) {
                        let in_order = |x: &Tensor| match order {
                            DimOrder::Bshd => x.transpose(1, 2),
                            DimOrder::Sbhd => x.transpose(0, 1).transpose(1, 2),
                            _ => x.shallow_clone(),
                        };
                        let both = ids.unsqueeze(0).repeat([2, 1]);
                        let exact = values(&truth(&in_order(before), &both, &inv_freq, pairing));
                        for (got, exact) in values(&in_order(after)).iter().zip(&exact) {
                            let allowed = tolerance::rotated(dtype, *exact, 2.0, 2e-7);
                            assert!((got - exact).abs() <= allowed, "{got} is not {exact}");
                        }
                    }
                }
            }
        }
    }

    /// Flat ids, one row for all, an expanded row, rows with gaps: the same as ids one by one.
    pub fn ids_of_every_shape(device: Device) {
        let rope = rope(device, Pairing::HalfSplit);
        let given = Tensor::rand([2, 5, 3, 128], (Kind::Float, device));
        let rotated = |ids: &Tensor| {
            let mut q = given.copy();
            rotate(&rope, DimOrder::Bshd, Some(&mut q), None, ids).expect("a valid call");
            values(&q)
        };
        for kind in [Kind::Int, Kind::Int64] {
            let row = Tensor::arange_start_step(7, 500, 99, (kind, device)); // 5 of them
            let both = row.unsqueeze(0).repeat([2, 1]);
            let expected = rotated(&both);
            assert_eq!(rotated(&row), expected);
            assert_eq!(rotated(&row.unsqueeze(0)), expected);
            assert_eq!(rotated(&row.unsqueeze(0).expand([2, 5], false)), expected);
            assert_eq!(rotated(&both.flatten(0, -1)), expected);
            let apart = Tensor::arange(16, (kind, device)).view([2, 8]).narrow(1, 2, 5);
            assert_eq!(rotated(&apart), rotated(&apart.contiguous()));
        }
        // k alone.
        let (mut q, mut k) = (given.copy(), given.copy());
        let ids = Tensor::arange(5, (Kind::Int64, device));
        rotate(&rope, DimOrder::Bshd, Some(&mut q), None, &ids).expect("a valid call");
        rotate(&rope, DimOrder::Bshd, None, Some(&mut k), &ids).expect("a valid call");
        assert_eq!(values(&q), values(&k));
    }

    pub fn tensors_that_do_not_fit_are_refused(device: Device) {
        let rope = rope(device, Pairing::HalfSplit);
        let ids = Tensor::arange(5, (Kind::Int64, device));
        let new = |kind| Tensor::ones([1, 2, 5, 128], (kind, device));
        let mut q = new(Kind::Float);
        let call = |q: &mut Tensor, k: Option<&mut Tensor>, ids: &Tensor| {
            rotate(&rope, DimOrder::Bhsd, Some(q), k, ids).expect_err("a bad call")
        };
        let error = call(&mut Tensor::ones([2, 5, 128], (Kind::Float, device)), None, &ids);
        assert_eq!(error, Error::Rank { tensor: "q", expected: 4, given: 3 });
        let elsewhere = |device| matches!(rope, AnyRope::Cpu(_)) != matches!(device, Device::Cpu);
        if elsewhere(Device::Cpu) {
            let mut there = Tensor::ones([1, 2, 5, 128], (Kind::Float, Device::Cpu));
            let error = call(&mut there, None, &ids);
            assert!(matches!(error, Error::Tensor { tensor: "q", .. }), "{error}");
        }
        let error = call(&mut new(Kind::Double), None, &ids);
        assert!(matches!(error, Error::Dtype { tensor: "q", .. }), "{error}");
        let error = call(&mut q, Some(&mut new(Kind::Half)), &ids);
        assert!(matches!(error, Error::Dtype { tensor: "k", .. }), "{error}");
        let error = call(&mut q, None, &ids.to_kind(Kind::Float));
        assert!(matches!(error, Error::Dtype { tensor: "position ids", .. }), "{error}");
        let error = call(&mut q, None, &Tensor::arange(4, (Kind::Int64, device)));
        assert!(matches!(error, Error::Positions { expected: 5, given: 4, .. }), "{error}");
        for sizes in [vec![2, 5], vec![5, 1], vec![1, 1, 5]] {
            let error = call(&mut q, None, &Tensor::zeros(sizes, (Kind::Int64, device)));
            assert!(matches!(error, Error::Tensor { tensor: "position ids", .. }), "{error}");
        }
        let strided = Tensor::arange(10, (Kind::Int64, device)).slice(0, 0, 10, 2);
        let error = call(&mut q, None, &strided);
        assert!(matches!(error, Error::Tensor { tensor: "position ids", .. }), "{error}");
        let expanded = Tensor::ones([1, 1, 5, 128], (Kind::Float, device));
        let error = call(&mut expanded.expand([1, 2, 5, 128], false), None, &ids);
        assert!(matches!(error, Error::OverlappingRows { tensor: "q", .. }), "{error}");
        let apart = Tensor::ones([1, 2, 5, 256], (Kind::Float, device));
        let error = call(&mut apart.slice(3, 0, 256, 2), None, &ids);
        assert!(matches!(error, Error::Stride { tensor: "q", dimension: 3, .. }), "{error}");
        let mut same = q.shallow_clone();
        let error = call(&mut q, Some(&mut same), &ids);
        assert!(matches!(error, Error::OverlappingTensors { .. }), "{error}");
        // Ids in q's own memory, sparse tensors, tensors that are not there.
        let own = q.view_dtype(Kind::Int).flatten(0, -1).narrow(0, 700, 5);
        let error = call(&mut q, None, &own);
        assert_eq!(error, Error::OverlappingTensors { tensors: ["q", "position ids"] });
        for sparse in [q.to_sparse_sparse_dim(4), q.view([10, 128]).to_sparse_csr(None)] {
            let error = call(&mut sparse.shallow_clone(), None, &ids);
            assert!(matches!(error, Error::Tensor { tensor: "q", .. }), "{error}");
        }
        let error = call(&mut Tensor::new(), None, &ids);
        assert!(matches!(error, Error::Tensor { .. } | Error::Dtype { .. }), "{error}");
        let error = rotate(&rope, DimOrder::Bhsd, None, None, &ids);
        assert_eq!(error, Err(Error::NoTensors));
        assert!(values(&q).iter().all(|&x| x == 1.0), "a refused call wrote");
    }
}

mod on_the_cpu {
    use super::fused;
    use tch::Device::Cpu;

    #[test]
    fn tensors_rotate_where_they_lie() {
        fused::tensors_rotate_where_they_lie(Cpu);
    }

    #[test]
    fn ids_of_every_shape() {
        fused::ids_of_every_shape(Cpu);
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused() {
        fused::tensors_that_do_not_fit_are_refused(Cpu);
    }
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::fused;
    use tch::Device::Cuda;

    #[test]
    #[ignore = "needs a CUDA GPU that libtorch can use"]
    fn tensors_rotate_where_they_lie() {
        fused::tensors_rotate_where_they_lie(Cuda(0));
    }

    #[test]
    #[ignore = "needs a CUDA GPU that libtorch can use"]
    fn ids_of_every_shape() {
        fused::ids_of_every_shape(Cuda(0));
    }

    #[test]
    #[ignore = "needs a CUDA GPU that libtorch can use"]
    fn tensors_that_do_not_fit_are_refused() {
        fused::tensors_that_do_not_fit_are_refused(Cuda(0));
    }
}
