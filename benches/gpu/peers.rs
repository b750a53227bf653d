//! What others do: candle-nn's kernel, vLLM's cut, and FlashInfer where the `peers` feature is on.

use condensed_rope::Dtype;
use condensed_rope::cuda::cudarc::driver::CudaFunction;

use crate::cases::{Case, Op, Order};
use crate::device::Device;

/// candle-nn's kernel does whole heads, contiguous, and is built for bf16.
pub fn candle_can(case: &Case) -> bool {
    case.op == Op::Rotate
        && case.order == Order::Thd
        && case.dtype == Dtype::BF16
        && case.tokens * case.heads[0] < 1 << 23
        && case.rotary_dim == case.head_dim
}

/// q, then k, onto themselves (which is kinder to it than a second buffer), by tables of any values.
pub fn candle(device: &Device, kernel: &CudaFunction, case: &Case, address: u64) {
    let mut src = address;
    for heads in case.heads {
        let (mut dst, mut cos) = (src, device.tables());
        let mut sin = cos + (case.tokens * case.head_dim) as u64;
        let (mut bh, mut td, mut d) =
            (heads as u32, (case.tokens * case.head_dim) as u32, case.head_dim as u32);
        let mut arguments = [
            (&raw mut src).cast(),
            (&raw mut cos).cast(),
            (&raw mut sin).cast(),
            (&raw mut dst).cast(),
            (&raw mut bh).cast(),
            (&raw mut td).cast(),
            (&raw mut d).cast(),
        ];
        let pairs = heads * case.tokens * case.head_dim / 2;
        device.launch(kernel, pairs.div_ceil(1024), 1024, &mut arguments);
        src += (heads * case.tokens * case.head_dim * 2) as u64;
    }
}

/// vLLM's cut, in the same cases.
pub fn vllm(device: &Device, kernel: &CudaFunction, case: &Case, address: u64) {
    let [q_heads, k_heads] = case.heads;
    let (mut ids, mut q, mut table) = (device.ids(), address, device.tables());
    let mut k = q + (case.tokens * q_heads * case.head_dim * 2) as u64;
    let [mut dim, mut of_q, mut of_k] = [case.head_dim, q_heads, k_heads].map(|n| n as u32);
    let mut arguments = [
        (&raw mut ids).cast(),
        (&raw mut q).cast(),
        (&raw mut k).cast(),
        (&raw mut table).cast(),
        (&raw mut dim).cast(),
        (&raw mut of_q).cast(),
        (&raw mut of_k).cast(),
    ];
    let threads = (q_heads * case.head_dim / 2).min(512);
    device.launch(kernel, case.tokens, threads, &mut arguments);
}

/// FlashInfer's ways of doing a case, by name and whether it reads a table.
pub fn flashinfer_ways(case: &Case) -> &'static [(&'static str, bool)] {
    const TABLE: (&str, bool) = ("flashinfer_table", true);
    const ON_THE_FLY: (&str, bool) = ("flashinfer_on_the_fly", false);
    // It crashes on the host where rotary_dim is no multiple of its vectors of 16.
    let can =
        case.op == Op::Rotate && case.dtype != Dtype::F32 && case.rotary_dim.is_multiple_of(16);
    if !cfg!(feature = "peers") || !can {
        &[]
    } else if [64, 128, 256].contains(&case.head_dim) {
        &[TABLE, ON_THE_FLY]
    } else {
        &[TABLE]
    }
}

#[cfg(feature = "peers")]
pub fn flashinfer(device: &Device, case: &Case, address: u64, table: bool) {
    use condensed_rope::Pairing;
    use std::ffi::{c_int, c_void};

    unsafe extern "C" {
        fn flashinfer_rope(
            q: u64,
            k: u64,
            table: u64,
            ids: u64,
            sizes: *const [u32; 5],
            strides: *const [usize; 4],
            bf16: c_int,
            interleaved: c_int,
            stream: *mut c_void,
        ) -> c_int;
    }

    let layouts = case.layouts();
    let [q, k] = layouts.map(|layout| address + (layout.offset() * case.dtype.size()) as u64);
    let [q_strides, k_strides] = layouts.map(|layout| layout.strides());
    let sizes = [case.tokens, case.heads[0], case.heads[1], case.rotary_dim, case.head_dim];
    let sizes = sizes.map(|size| size as u32);
    let strides = [q_strides[1], q_strides[2], k_strides[1], k_strides[2]];
    let table = if table { device.tables() } else { 0 };
    let bf16 = c_int::from(case.dtype == Dtype::BF16);
    let interleaved = c_int::from(case.pairing == Pairing::Interleaved);
    let stream = device.stream().cu_stream().cast();
    // SAFETY: the layouts lie in the pool, tables and ids hold as many positions as there are tokens,
    // and the stream is of the primary context, which FlashInfer's runtime uses too.
    let status = unsafe {
        let (sizes, strides) = (&raw const sizes, &raw const strides);
        let ids = device.ids_i32();
        flashinfer_rope(q, k, table, ids, sizes, strides, bf16, interleaved, stream)
    };
    assert_eq!(status, 0, "FlashInfer refused {case:?}");
}

#[cfg(not(feature = "peers"))]
pub fn flashinfer(_: &Device, _: &Case, _: u64, _: bool) {}
