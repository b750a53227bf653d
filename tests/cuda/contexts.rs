//! Handles, contexts and devices: what belongs together, and what a call leaves behind.

use std::sync::Arc;

use condensed_rope::cuda::cudarc::driver::{CudaContext, DevicePtrMut, result, sys};
use condensed_rope::cuda::{self, Heads, Kernels, Rope};
use condensed_rope::{
    Dtype, Error, Frequencies, Layout, Pairing, Positions, RawBuffer, RawOperand,
};
use half::bf16;
use testkit::call::noise;

use crate::gpu::{Gpu, bits, on_cpu};

/// A second context of device 0, which nobody else has.
fn other_context() -> Arc<CudaContext> {
    let device = Gpu::get().context().cu_device();
    let mut handle = std::ptr::null_mut();
    // By its exported name: cudarc's bindings have another one for each version of the toolkit.
    type Create = unsafe extern "C" fn(*mut sys::CUcontext, u32, sys::CUdevice) -> sys::CUresult;
    // SAFETY: the driver, which is loaded already.
    let driver = unsafe { libloading::Library::new("libcuda.so.1") }.expect("the driver");
    // SAFETY: the signature of cuCtxCreate_v2 in cuda.h.
    let create = unsafe { driver.get::<Create>(b"cuCtxCreate_v2") }.expect("the driver's function");
    // SAFETY: the driver is initialised, and `handle` receives the new context.
    let created = unsafe { create(&mut handle, 0, device) };
    assert_eq!(created, sys::CUresult::CUDA_SUCCESS);
    // SAFETY: a context of that device, which nobody else has.
    unsafe { CudaContext::from_raw_context(0, device, handle) }.expect("a context")
}

/// Buffers and streams of another context, and of another handle of the same one: cudarc orders streams by state
/// of each handle.
#[test]
#[ignore = "needs a CUDA GPU"]
fn what_belongs_to_another_handle_is_refused() {
    let gpu = Gpu::get();
    let stream = gpu.stream();
    let same_context = cuda::context(0).expect("a second handle of the primary context");
    assert!(same_context == *gpu.context() && !Arc::ptr_eq(&same_context, gpu.context()));
    for other in [other_context(), same_context] {
        let theirs_stream = other.default_stream();
        let mut theirs = theirs_stream.alloc_zeros::<f32>(128).expect("device memory");
        let their_ids = theirs_stream.alloc_zeros::<i32>(1).expect("device memory");
        gpu.context().bind_to_thread().expect("binds");
        let mut ours = stream.alloc_zeros::<f32>(128).expect("device memory");
        let mut copy = stream.alloc_zeros::<f32>(128).expect("device memory");
        let layout = Layout::thd(1, 1, 128);
        let refused = |what| Err(Error::Context { what });
        let at = || Positions::consecutive(0);
        let call = Heads::in_place(&mut theirs, layout);
        assert_eq!(gpu.rope.rotate(&stream, Some(call), None, at()), refused("q"));
        let (q, k) = (Heads::in_place(&mut ours, layout), Heads::in_place(&mut theirs, layout));
        assert_eq!(gpu.rope.rotate(&stream, Some(q), Some(k), at()), refused("k"));
        let q = Heads::out_of_place(&theirs, layout, &mut copy, layout);
        assert_eq!(gpu.rope.rotate(&stream, Some(q), None, at()), refused("q source"));
        let q = Heads::in_place(&mut ours, layout);
        let ids = Positions::ids(&their_ids);
        assert_eq!(gpu.rope.rotate(&stream, Some(q), None, ids), refused("position ids"));
        let q = Heads::in_place(&mut ours, layout);
        assert_eq!(gpu.rope.rotate(&theirs_stream, Some(q), None, at()), refused("stream"));
        let packed = gpu.rope.rotate_packed(&stream, &mut theirs, layout, layout, at());
        assert_eq!(packed, refused("qkv"));
        let table = gpu.rope.cos_sin(&stream, 0, &mut ours, &mut theirs);
        assert_eq!(table, refused("sin"));
        let frequencies = Frequencies::new(128, 5.0).expect("valid");
        let written = gpu.rope.set_frequencies(&theirs_stream, 0, &frequencies);
        assert_eq!(written, refused("stream"));
    }
}

fn current() -> Option<sys::CUcontext> {
    result::ctx::get_current().expect("the driver")
}

/// Loading kernels, making and dropping ropes, raw calls, right and wrong ones: the caller's context is current
/// afterwards; or none, where there was none.
#[test]
#[ignore = "needs a CUDA GPU"]
fn the_callers_context_comes_back() {
    let other = other_context();
    leaves_current(&other);
}

/// The same where the other context is another device's.
#[test]
#[ignore = "needs two CUDA GPUs; with one it says so"]
fn the_callers_device_comes_back() {
    // Counted first: memcheck takes the driver's refusal of a device for an error.
    match CudaContext::device_count() {
        Ok(2..) => leaves_current(&cuda::context(1).expect("a second device")),
        count => println!("not shown, of devices there are {count:?}"),
    }
}

fn leaves_current(other: &Arc<CudaContext>) {
    let context = cuda::context(0).expect("a device");
    let stream = context.default_stream();
    let given = noise::<bf16>(2 * 3 * 128, 3);
    let mut q = stream.clone_htod(&given).expect("a copy");
    let address = q.device_ptr_mut(&stream).0;
    stream.synchronize().expect("done");
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    for before in [Some(other.cu_ctx()), None, Some(context.cu_ctx())] {
        // SAFETY: contexts that are there, or none.
        unsafe { result::ctx::set_current(before.unwrap_or(std::ptr::null_mut())) }.expect("set");
        let unchanged = |what: &str| assert_eq!(current(), before, "after {what}");
        let kernels = Kernels::load(&context).expect("kernels load");
        unchanged("loading the kernels");
        let of_device = Kernels::of_device(0).expect("kernels load");
        assert_eq!(of_device.context().ordinal(), 0);
        unchanged("loading a device's kernels");
        let rope = Rope::new(&kernels, &frequencies, Pairing::HalfSplit).expect("room");
        unchanged("making a rope");
        let layout = Layout::thd(2, 3, 128);
        let heads = RawOperand::in_place(Dtype::BF16, address, layout);
        let raw = |rope: &Rope, heads| {
            let stream = stream.cu_stream().cast();
            // SAFETY: the buffer outlives the launch, and nothing else uses it meanwhile.
            unsafe { rope.rotate_raw(stream, Some(heads), None, Positions::consecutive(7)) }
        };
        raw(&rope, heads).expect("a valid call");
        unchanged("a raw call");
        raw(&rope.inverse(), heads).expect("a valid call");
        raw(&rope, RawOperand::in_place(Dtype::BF16, address + 1, layout)).expect_err("odd");
        unchanged("a raw call that is refused");
        let table = RawBuffer::new(address, 128);
        let sin = RawBuffer::new(address + 256, 128);
        // SAFETY: the table lies in q's buffer; q is written anew below.
        let made =
            unsafe { rope.cos_sin_raw(stream.cu_stream().cast(), Dtype::BF16, 0, 1, table, sin) };
        made.expect("a valid call");
        unchanged("a raw table");
        // SAFETY: a stream of the rope's context.
        let written =
            unsafe { rope.set_frequencies_raw(stream.cu_stream().cast(), 0, &frequencies) };
        written.expect("the same frequencies");
        unchanged("writing frequencies");
        drop(rope);
        unchanged("dropping a rope");
        drop(kernels);
        unchanged("dropping the kernels");
        // And they did what they should.
        stream.memcpy_htod(&given, &mut q).expect("a copy");
        let rope =
            Rope::new(&Kernels::load(&context).expect("loads"), &frequencies, Pairing::HalfSplit);
        raw(&rope.expect("room"), heads).expect("a valid call");
        let got = stream.clone_dtoh(&q).expect("a copy");
        assert_eq!(bits(&got), bits(&on_cpu(&frequencies, given.clone(), 3, &[7, 8])));
    }
}

/// What an earlier failure left in the handle is reported, and not as a launch that was made.
#[test]
#[ignore = "needs a CUDA GPU"]
fn refusals_that_cudarc_keeps_are_reported() {
    let context = other_context();
    let stream = context.new_stream().expect("a stream");
    let kernels = Kernels::load(&context).expect("kernels load");
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    let rope = Rope::new(&kernels, &frequencies, Pairing::HalfSplit).expect("room");
    let mut q = stream.alloc_zeros::<f32>(128).expect("device memory");
    stream.synchronize().expect("done");
    let layout = Layout::thd(1, 1, 128);
    let refusal = result::DriverError(sys::CUresult::CUDA_ERROR_INVALID_HANDLE);
    context.record_err::<()>(Err(refusal));
    let call = rope.rotate(
        &stream,
        Some(Heads::in_place(&mut q, layout)),
        None,
        Positions::consecutive(0),
    );
    assert!(matches!(call, Err(Error::Driver { .. })), "{call:?}");
    // A wait that cannot be made: under capture, on an event that was recorded outside of it.
    let other = context.new_stream().expect("a stream");
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    other.begin_capture(mode).expect("captures");
    let call =
        rope.rotate(&other, Some(Heads::in_place(&mut q, layout)), None, Positions::consecutive(0));
    match call {
        Err(Error::Driver { doing, .. }) => println!("refused while {doing}"),
        other => panic!("{other:?}"),
    }
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let _ = other.end_capture(flags);
    let _ = context.check_err();
    // The handle is as good as before.
    let mut fresh = stream.alloc_zeros::<f32>(128).expect("device memory");
    let heads = Heads::in_place(&mut fresh, layout);
    assert_eq!(rope.rotate(&stream, Some(heads), None, Positions::consecutive(0)), Ok(()));
    stream.synchronize().expect("done");
}
