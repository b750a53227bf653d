//! An engine that owns contexts, streams and memory: by cudarc 0.19's types, and by addresses of another cudarc.

use std::error::Error;

use condensed_rope::{
    Dtype, Frequencies, IndexType, Layout, Pairing, Positions, RawBuffer, RawIds, RawOperand, cpu,
    cuda,
};
use half::bf16;
use other_cudarc::driver::{CudaContext, DevicePtr, DevicePtrMut};

const SHAPE: [usize; 3] = [7, 4, 128];

fn main() -> Result<(), Box<dyn Error>> {
    let frequencies = Frequencies::new(128, 500_000.0)?.condensed(4.0)?;
    let (ids, layout) =
        ([5i32, 0, 1 << 20, -3, 70_000, 1, 2], Layout::thd(SHAPE[0], SHAPE[1], SHAPE[2]));
    let given: Vec<f32> = (0..SHAPE.iter().product::<usize>()).map(|i| (i as f32).sin()).collect();
    let mut expected = given.clone();
    cpu::Rope::new(&frequencies, Pairing::HalfSplit).rotate(
        Some(cpu::Heads::in_place(&mut expected, layout)),
        None,
        Positions::ids(&ids),
    )?;
    if let Err(error) = cuda::context(0) {
        println!("GPU: not run: {error}");
        return Ok(());
    }

    // cudarc 0.19: its types, the engine's version of it.
    let context = cudarc::driver::CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let rope = cuda::Rope::new(&cuda::Kernels::load(&context)?, &frequencies, Pairing::HalfSplit)?;
    let (mut q, positions) = (stream.clone_htod(&given)?, stream.clone_htod(&ids)?);
    let heads = cuda::Heads::in_place(&mut q, layout);
    rope.rotate(&stream, Some(heads), None, Positions::ids(&positions))?;
    assert_eq!(stream.clone_dtoh(&q)?, expected);
    let zeros = stream.alloc_zeros::<bf16>(1)?;
    assert_eq!(stream.clone_dtoh(&zeros)?, [bf16::ZERO]);

    // cudarc 0.17: a current context, a stream and addresses; none of its types.
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    // SAFETY: the current context is device 0's primary one.
    let kernels = unsafe { cuda::Kernels::of_current() }?;
    let rope = cuda::Rope::new(&kernels, &frequencies, Pairing::HalfSplit)?;
    let (mut q, positions) = (stream.memcpy_stod(&given)?, stream.memcpy_stod(&ids)?);
    {
        let (address, _q) = q.device_ptr_mut(&stream);
        let (at, _positions) = positions.device_ptr(&stream);
        let heads = RawOperand::in_place(Dtype::F32, RawBuffer::new(address, given.len()), layout);
        let positions = Positions::ids(RawIds::new(IndexType::I32, at, ids.len()));
        // SAFETY: memory and stream are of the rope's context, and outlive the copy below, which waits.
        unsafe { rope.rotate_raw(stream.cu_stream().cast(), Some(heads), None, positions) }?;
    }
    assert_eq!(stream.memcpy_dtov(&q)?, expected);
    println!("GPU: rotated by both cudarcs, the CPU's bits");
    Ok(())
}
