//! The CUDA backend as the suites' backend: calls uploaded, run and fetched back.

use std::sync::{Arc, LazyLock};

use condensed_rope::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use condensed_rope::cuda::{self, Heads, Ids, Kernels, Pdl, Rope, View, ViewMut};
use condensed_rope::{Dtype, Frequencies, Layout, Pairing, Positions, Result, cpu};
use half::{bf16, f16};
use testkit::append::{Built, Memory};
use testkit::call::TestElement;
use testkit::{Backend, Call, Operand, Values};

/// Device 0, with the kernels loaded once for all tests.
#[derive(Clone)]
pub struct Gpu {
    pub kernels: Kernels,
    pub rope: Rope,
    /// Of the suites' calls.
    pdl: Pdl,
    /// cudarc waits for the whole context where a handle's first stream is made, which a capture on another thread does not
    /// survive: so this one is made before any capture, and stays.
    _stream: Arc<CudaStream>,
}

impl Gpu {
    pub fn get() -> &'static Self {
        static GPU: LazyLock<Gpu> = LazyLock::new(|| {
            let context = cuda::context(0).expect("a CUDA device");
            let kernels = Kernels::load(&context).expect("kernels load");
            let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
            let rope = Rope::new(&kernels, &frequencies, Pairing::HalfSplit).expect("room");
            let _stream = context.new_stream().expect("a stream");
            Gpu { kernels, rope, pdl: Pdl::Off, _stream }
        });
        &GPU
    }

    pub fn with_pdl(&self, pdl: Pdl) -> Self {
        Self { pdl, ..self.clone() }
    }

    pub fn context(&self) -> &Arc<CudaContext> {
        self.kernels.context()
    }

    pub fn rope(&self, frequencies: &Frequencies, pairing: Pairing) -> Rope {
        Rope::new(&self.kernels, frequencies, pairing).expect("room for the words")
    }

    pub fn stream(&self) -> Arc<CudaStream> {
        self.context().new_stream().expect("a stream")
    }
}

/// The bytes of a buffer, as the type that they are of.
macro_rules! by_dtype {
    ($dtype:expr, $T:ident => $run:expr) => {
        match $dtype {
            Dtype::F32 => {
                type $T = f32;
                $run
            }
            Dtype::F16 => {
                type $T = f16;
                $run
            }
            Dtype::BF16 => {
                type $T = bf16;
                $run
            }
            other => panic!("a type that the tests do not know: {other:?}"),
        }
    };
}

/// Elements of any type, in device memory.
pub struct Buffer {
    bytes: CudaSlice<u8>,
    len: usize,
}

impl Buffer {
    fn upload<T: TestElement>(stream: &Arc<CudaStream>, values: &[T]) -> Self {
        // SAFETY: elements are plain numbers, so their bytes are initialised.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        // An empty allocation is refused by the driver.
        let mut slice = stream.alloc_zeros(bytes.len().max(1)).expect("device memory");
        stream.memcpy_htod(bytes, &mut slice).expect("a copy");
        Self { bytes: slice, len: values.len() }
    }

    fn download<T: TestElement>(&self, stream: &Arc<CudaStream>, values: &mut [T]) {
        let bytes = stream.clone_dtoh(&self.bytes).expect("a copy");
        assert!(size_of_val(values) <= bytes.len());
        // SAFETY: as many bytes as the elements have, and any bits are a number.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                values.as_mut_ptr().cast(),
                size_of_val(values),
            );
        }
    }

    fn view<T>(&self) -> View<'_, T> {
        // SAFETY: the bytes are those of `len` numbers.
        unsafe { self.bytes.transmute(self.len) }.expect("long enough").into()
    }

    fn view_mut<T>(&mut self) -> ViewMut<'_, T> {
        // SAFETY: the bytes are those of `len` numbers.
        unsafe { self.bytes.transmute_mut(self.len) }.expect("long enough").into()
    }
}

/// An operand in device memory: the target, and the source if there is one.
pub struct OnDevice {
    target: Buffer,
    layout: Layout,
    source: Option<(Buffer, Layout)>,
}

impl OnDevice {
    fn upload<T: TestElement>(stream: &Arc<CudaStream>, operand: &Operand<T>) -> Self {
        Self {
            target: Buffer::upload(stream, &operand.buffer),
            layout: operand.layout,
            source: operand
                .source
                .as_ref()
                .map(|(buffer, from)| (Buffer::upload(stream, buffer), *from)),
        }
    }

    fn heads(&mut self, dtype: Dtype) -> Heads<'_> {
        let Self { target, layout, source } = self;
        by_dtype!(dtype, T => match source {
            None => Heads::in_place(target.view_mut::<T>(), *layout),
            Some((source, from)) => {
                Heads::out_of_place(source.view::<T>(), *from, target.view_mut::<T>(), *layout)
            }
        })
    }
}

/// Index values in device memory.
pub enum IdsOnDevice {
    I32(CudaSlice<i32>),
    I64(CudaSlice<i64>),
    U32(CudaSlice<u32>),
    /// The driver refuses an empty allocation: nothing of one value.
    None(CudaSlice<i32>, Values),
}

impl IdsOnDevice {
    fn upload(stream: &Arc<CudaStream>, values: &Values) -> Self {
        if values.len() == 0 {
            return Self::None(stream.alloc_zeros(1).expect("device memory"), values.clone());
        }
        match values {
            Values::I32(values) => Self::I32(stream.clone_htod(values).expect("a copy")),
            Values::I64(values) => Self::I64(stream.clone_htod(values).expect("a copy")),
            Values::U32(values) => Self::U32(stream.clone_htod(values).expect("a copy")),
        }
    }

    fn ids(&self) -> Ids<'_> {
        match self {
            Self::I32(slice) => slice.into(),
            Self::I64(slice) => slice.into(),
            Self::U32(slice) => slice.into(),
            Self::None(slice, Values::I32(_)) => slice.slice(..0).into(),
            Self::None(slice, Values::I64(_)) => {
                // SAFETY: no values, of any type.
                unsafe { slice.transmute::<i64>(0) }.expect("long enough").into()
            }
            Self::None(slice, Values::U32(_)) => {
                // SAFETY: as above.
                unsafe { slice.transmute::<u32>(0) }.expect("long enough").into()
            }
        }
    }
}

impl Backend for &Gpu {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn budget(&self) -> usize {
        1 << 20
    }

    fn rotate<T: TestElement>(&self, call: &mut Call<T>) -> Result<()> {
        let stream = self.stream();
        let rope = Rope::with_frequency_sets(&self.kernels, &call.sets, call.pairing)?;
        let rope = rope.with_pdl(self.pdl);
        let rope = if call.inverse { rope.inverse() } else { rope };
        let upload = |operand: &Option<Operand<T>>| {
            operand.as_ref().map(|operand| OnDevice::upload(&stream, operand))
        };
        let (mut q, mut k) = (upload(&call.q), upload(&call.k));
        let uploaded = call.positions.as_ref().map(|values| IdsOnDevice::upload(&stream, values));
        let positions = uploaded.as_ref().map(IdsOnDevice::ids);
        match (call.packed_k, &mut q) {
            (Some(k), Some(OnDevice { target, layout, .. })) => by_dtype!(T::DTYPE, U => {
                let buffer = target.view_mut::<U>();
                rope.rotate_packed(&stream, buffer, *layout, k, positions)?;
            }),
            (_, q) => {
                let [q, k] =
                    [q, &mut k].map(|tensor| tensor.as_mut().map(|tensor| tensor.heads(T::DTYPE)));
                rope.rotate(&stream, q, k, positions)?;
            }
        }
        for (on_device, operand) in [(&q, &mut call.q), (&k, &mut call.k)] {
            if let (Some(on_device), Some(operand)) = (on_device, operand) {
                on_device.target.download(&stream, &mut operand.buffer);
            }
        }
        Ok(())
    }

    /// By address: every buffer uploaded, and all of them fetched back.
    fn append(&self, call: &mut Built) -> Result<()> {
        let stream = self.stream();
        let rope = Rope::from_words(&self.kernels, &call.words, call.case.pairing)?;
        let rope = rope.with_pdl(self.pdl);
        let rope = if call.case.inverse { rope.inverse() } else { rope };
        let upload = |memory: &Memory| stream.clone_htod(memory.bytes()).expect("device memory");
        let uploaded: Vec<CudaSlice<u8>> = call.buffers.iter().map(upload).collect();
        let addresses: Vec<u64> =
            uploaded.iter().map(|slice| slice.device_ptr(&stream).0).collect();
        let (raw, positions) = call.call(&addresses);
        // SAFETY: the call names its own buffers, on the stream that they were copied on.
        unsafe { rope.rotate_append_raw(stream.cu_stream().cast(), raw, positions) }?;
        for (memory, slice) in call.buffers.iter_mut().zip(&uploaded) {
            stream.memcpy_dtoh(slice, memory.bytes_mut()).expect("a copy");
        }
        Ok(())
    }

    fn cos_sin<T: TestElement>(
        &self,
        frequencies: &Frequencies,
        pairing: Pairing,
        start: i64,
        cos: &mut [T],
        sin: &mut [T],
    ) -> Result<()> {
        let stream = self.stream();
        let [mut on_cos, mut on_sin] = [&*cos, &*sin].map(|values| Buffer::upload(&stream, values));
        let rope = self.rope(frequencies, pairing);
        by_dtype!(T::DTYPE, U => {
            rope.cos_sin(&stream, start, on_cos.view_mut::<U>(), on_sin.view_mut::<U>())?;
        });
        on_cos.download(&stream, cos);
        on_sin.download(&stream, sin);
        Ok(())
    }
}

pub fn bits(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// `rows` of q, `[tokens, heads, 128]`, as the CPU rotates them.
pub fn on_cpu(
    frequencies: &Frequencies,
    mut rows: Vec<bf16>,
    heads: usize,
    ids: &[i64],
) -> Vec<bf16> {
    let layout = Layout::thd(ids.len(), heads, 128);
    cpu::Rope::new(frequencies, Pairing::HalfSplit)
        .rotate(Some(cpu::Heads::in_place(&mut rows, layout)), None, Positions::ids(ids))
        .expect("a valid call");
    rows
}
