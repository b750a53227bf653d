//! Calls by address.

use condensed_rope::cuda::Rope;
use condensed_rope::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut, DeviceRepr};
use condensed_rope::{
    Dtype, Error, Frequencies, IndexType, Layout, Pairing, Positions, RawBuffer, RawIds,
    RawOperand, RopeSpec, cpu,
};
use half::bf16;
use testkit::call::noise;

use crate::gpu::{Gpu, bits, on_cpu};

fn address<T: DeviceRepr>(slice: &mut CudaSlice<T>, stream: &CudaStream) -> u64 {
    slice.device_ptr_mut(stream).0
}

#[test]
#[ignore = "needs a CUDA GPU"]
fn the_raw_entry_rotates_and_refuses() {
    let gpu = Gpu::get();
    let stream = gpu.stream();
    let given = noise::<bf16>(3 * 4 * 128, 5);
    let mut q = stream.clone_htod(&given).expect("a copy");
    let mut ids = stream.clone_htod(&[5i32, -6, 700]).expect("a copy");
    let layout = Layout::thd(3, 4, 128);
    let (address, ids) = (address(&mut q, &stream), address(&mut ids, &stream));
    let buffer = RawBuffer::new(address, given.len());
    let heads = RawOperand::in_place(Dtype::BF16, buffer, layout);
    let rotate = |q: Option<RawOperand>, k: Option<RawOperand>, positions: Positions<RawIds>| {
        // SAFETY: the buffers outlive the synchronisation below, and nothing else uses them.
        unsafe { gpu.rope.rotate_raw(stream.cu_stream().cast(), q, k, positions) }
    };
    let raw = |dtype, address| Positions::ids(RawIds::new(dtype, address, 3));
    let positions = raw(IndexType::I32, ids);
    let other = RawOperand::in_place(Dtype::F16, address + (1 << 20), layout);
    let dtype = Error::Dtype { tensor: "k", expected: "bf16", given: "f16".to_owned() };
    assert_eq!(rotate(Some(heads), Some(other), positions), Err(dtype));
    let odd = RawOperand::in_place(Dtype::BF16, address + 1, layout);
    let alignment = |tensor| Error::Alignment { tensor, expected: 2, given: address + 1 };
    assert_eq!(rotate(Some(odd), None, positions), Err(alignment("q")));
    assert_eq!(rotate(None, Some(odd), positions), Err(alignment("k")));
    let overlap = |a, b| Err(Error::OverlappingTensors { tensors: [a, b] });
    assert_eq!(rotate(Some(heads), Some(heads), positions), overlap("q", "k"));
    let shifted = RawOperand::out_of_place(Dtype::BF16, address + 2, layout, address, layout);
    assert_eq!(rotate(Some(shifted), None, positions), overlap("q", "q source"));
    let tensor = "position ids";
    let alignment = Error::Alignment { tensor, expected: 8, given: ids + 4 };
    assert_eq!(rotate(Some(heads), None, raw(IndexType::I64, ids + 4)), Err(alignment));
    let null = rotate(Some(heads), None, raw(IndexType::I32, 0));
    assert_eq!(null, Err(Error::Null { tensor }));
    let short = RawBuffer::new(address, given.len() - 1);
    let short = RawOperand::in_place(Dtype::BF16, short, layout);
    let (needed, len) = (given.len(), given.len() - 1);
    let bounds = Error::OutOfBounds { tensor: "q", needed, given: len };
    assert_eq!(rotate(Some(short), None, positions), Err(bounds));
    assert_eq!(rotate(None, None, positions), Err(Error::NoTensors));
    // A source that is its target is in place.
    let own = RawOperand::out_of_place(Dtype::BF16, address, layout, buffer, layout);
    assert_eq!(rotate(Some(own), None, positions), Ok(()));
    stream.synchronize().expect("done");
    let got = stream.clone_dtoh(&q).expect("a copy");
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    assert_eq!(bits(&got), bits(&on_cpu(&frequencies, given, 4, &[5, -6, 700])));
}

/// A rope over words in the caller's memory: rotations, tables, both directions, and words that change.
#[test]
#[ignore = "needs a CUDA GPU"]
fn words_can_be_borrowed() {
    let gpu = Gpu::get();
    let stream = gpu.stream();
    let frequencies = |base| Frequencies::new(128, base).expect("valid");
    let host = frequencies(10_000.0).phase_words();
    let mut words = stream.clone_htod(host.words()).expect("a copy");
    let spec = RopeSpec::new(128, Pairing::HalfSplit).expect("valid");
    let (len, at) = (host.words().len(), address(&mut words, &stream));
    let borrow = |address, len| {
        // SAFETY: the words outlive the launches.
        unsafe { Rope::borrowing(&gpu.kernels, address, len, spec) }
    };
    let rope = borrow(at, len).expect("as many as one set has");
    for base in [10_000.0, 77.0] {
        let new = frequencies(base);
        stream.memcpy_htod(new.phase_words().words(), &mut words).expect("a copy");
        let given = noise::<bf16>(2 * 3 * 128, 9);
        let mut q = stream.clone_htod(&given).expect("a copy");
        let heads =
            RawOperand::in_place(Dtype::BF16, address(&mut q, &stream), Layout::thd(2, 3, 128));
        let positions = Positions::consecutive(1 << 20);
        // SAFETY: all of it is on one stream, which is waited for by the copy below.
        let call =
            unsafe { rope.rotate_raw(stream.cu_stream().cast(), None, Some(heads), positions) };
        call.expect("a valid call");
        let expected = on_cpu(&new, given, 3, &[1 << 20, (1 << 20) + 1]);
        assert_eq!(bits(&stream.clone_dtoh(&q).expect("a copy")), bits(&expected));

        let mut tables = [stream.alloc_zeros::<f32>(5 * 128), stream.alloc_zeros::<f32>(5 * 128)]
            .map(|table| table.expect("device memory"));
        let [cos, sin] = &mut tables;
        let [on_cos, on_sin] =
            [cos, sin].map(|table| RawBuffer::new(address(table, &stream), 5 * 128));
        let back = rope.inverse();
        // SAFETY: as above.
        let made = unsafe {
            back.cos_sin_raw(stream.cu_stream().cast(), Dtype::F32, -2, 5, on_cos, on_sin)
        };
        made.expect("a valid call");
        let (mut cos, mut sin) = (vec![0f32; 5 * 128], vec![0f32; 5 * 128]);
        let on_cpu = cpu::Rope::new(&new, Pairing::HalfSplit).inverse();
        on_cpu.cos_sin(-2, &mut cos, &mut sin).expect("a table");
        assert_eq!(stream.clone_dtoh(&tables[0]).expect("a copy"), cos);
        assert_eq!(stream.clone_dtoh(&tables[1]).expect("a copy"), sin);
    }
    let refused = rope.set_frequencies(&stream, 0, &frequencies(5.0));
    assert_eq!(refused, Err(Error::BorrowedWords));
    let tensor = "phase words";
    let refused = |address, len| borrow(address, len).map(|_| ());
    assert_eq!(refused(at, len - 2), Err(Error::WordsLen { expected: len, given: len - 2 }));
    let alignment = Error::Alignment { tensor, expected: 16, given: at + 8 };
    assert_eq!(refused(at + 8, len), Err(alignment));
    assert_eq!(refused(0, len), Err(Error::Null { tensor }));
}
