//! torch's in-place operator as a kernel of torch's stable C interface (aoti_torch_*): no libtorch at link time, and no
//! Python between the dispatcher and the launch. Where torch has no such interface, `ops.py` registers its own.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use condensed_rope::{Dtype, IndexType};
use libloading::os::unix::{Library, RTLD_LAZY, Symbol};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::call::{self, Kind, Place, Refusal, Strided, Turn, Words};

/// dlopen's flag for a library that is loaded already, and not to be loaded (Linux).
const RTLD_NOLOAD: i32 = 4;
/// An argument: a number's bytes, or a tensor's handle.
type StableValue = u64;
type Handle = *mut c_void;
type Kernel = unsafe extern "C-unwind" fn(*mut StableValue, u64, u64);

/// torch's functions, as they are named in torch/csrc/inductor/aoti_torch/c/shim.h. Those that return an i32 return 0, or
/// 1 for a failure.
struct Torch {
    data_ptr: unsafe extern "C" fn(Handle, *mut *mut c_void) -> i32,
    dim: unsafe extern "C" fn(Handle, *mut i64) -> i32,
    sizes: unsafe extern "C" fn(Handle, *mut *const i64) -> i32,
    strides: unsafe extern "C" fn(Handle, *mut *const i64) -> i32,
    dtype: unsafe extern "C" fn(Handle, *mut i32) -> i32,
    device_type: unsafe extern "C" fn(Handle, *mut i32) -> i32,
    device_index: unsafe extern "C" fn(Handle, *mut i32) -> i32,
    delete: unsafe extern "C" fn(Handle) -> i32,
    /// Throws a C++ exception, which torch's dispatcher turns into a RuntimeError.
    check: unsafe extern "C-unwind" fn(bool, *const c_char, *const c_char, u32, *const c_char),
    stream: Option<unsafe extern "C" fn(i32, *mut *mut c_void) -> i32>,
    /// torch's numbers of element types: float32, float16, bfloat16; int32, int64, uint32.
    elements: [i32; 3],
    indices: [i32; 3],
    cpu: i32,
}

static TORCH: OnceLock<Torch> = OnceLock::new();

thread_local! {
    /// Why the last call of this thread was refused, until Python asks.
    static REFUSED: RefCell<Option<Refusal>> = const { RefCell::new(None) };
}

fn open(path: &str) -> Result<ManuallyDrop<Library>, libloading::Error> {
    // SAFETY: it is loaded already, so nothing of it runs. It is never unloaded: torch cannot be.
    unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_NOLOAD) }.map(ManuallyDrop::new)
}

/// # Safety
/// The library has a function of this name and type.
unsafe fn function<F: Copy>(library: &Library, name: &str) -> Result<F, libloading::Error> {
    // SAFETY: the caller's promise.
    let symbol: Symbol<F> = unsafe { library.get(name.as_bytes()) }?;
    Ok(*symbol)
}

/// Looks torch's functions up and registers the kernel of `condensed_rope::rotate_ids_` for the CPU and for CUDA.
///
/// Errors where torch, or its interface, is not there: then nothing is registered.
#[pyfunction]
pub fn register_torch(libtorch_cpu: &str, libtorch_cuda: Option<&str>) -> PyResult<()> {
    // SAFETY: the libraries are torch's.
    let registered = unsafe { register(libtorch_cpu, libtorch_cuda) };
    registered.map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

/// # Safety
/// The libraries are torch's.
unsafe fn register(cpu: &str, cuda: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    type Init = unsafe extern "C" fn(
        *const c_char,
        *const c_char,
        *const c_char,
        u32,
        *mut *mut c_void,
    ) -> i32;
    type Impl = unsafe extern "C" fn(*mut c_void, *const c_char, Kernel) -> i32;
    let library = open(cpu)?;
    macro_rules! of {
        ($library:expr, $name:literal) => {
            // SAFETY: the types are those of torch's header.
            unsafe { function(&$library, $name) }?
        };
    }
    let number = |name: &str| -> Result<i32, libloading::Error> {
        // SAFETY: as above.
        let of: unsafe extern "C" fn() -> i32 = unsafe { function(&library, name) }?;
        // SAFETY: it returns a constant.
        Ok(unsafe { of() })
    };
    let torch = Torch {
        data_ptr: of!(library, "aoti_torch_get_data_ptr"),
        dim: of!(library, "aoti_torch_get_dim"),
        sizes: of!(library, "aoti_torch_get_sizes"),
        strides: of!(library, "aoti_torch_get_strides"),
        dtype: of!(library, "aoti_torch_get_dtype"),
        device_type: of!(library, "aoti_torch_get_device_type"),
        device_index: of!(library, "aoti_torch_get_device_index"),
        delete: of!(library, "aoti_torch_delete_tensor_object"),
        check: of!(library, "aoti_torch_check"),
        stream: match cuda.map(open).transpose()? {
            Some(cuda) => Some(of!(cuda, "aoti_torch_get_current_cuda_stream")),
            None => None,
        },
        elements: [
            number("aoti_torch_dtype_float32")?,
            number("aoti_torch_dtype_float16")?,
            number("aoti_torch_dtype_bfloat16")?,
        ],
        indices: [
            number("aoti_torch_dtype_int32")?,
            number("aoti_torch_dtype_int64")?,
            number("aoti_torch_dtype_uint32")?,
        ],
        cpu: number("aoti_torch_device_type_cpu")?,
    };
    let init: Init = of!(library, "aoti_torch_library_init_impl");
    let implement: Impl = of!(library, "aoti_torch_library_impl");
    TORCH.set(torch).map_err(|_| "registered already")?;
    for key in [c"CPU", c"CUDA"] {
        let mut fragment = std::ptr::null_mut();
        let (namespace, file) = (c"condensed_rope", c"torch_abi.rs");
        let (namespace, key, file) = (namespace.as_ptr(), key.as_ptr(), file.as_ptr());
        // SAFETY: C strings, and where a handle may be written.
        let made = unsafe { init(namespace, key, file, 1, &raw mut fragment) };
        if made != 0 {
            return Err("torch made no library".into());
        }
        // SAFETY: a fragment, which registers as long as it lives: it is never deleted.
        if unsafe { implement(fragment, c"rotate_ids_".as_ptr(), rotate_ids) } != 0 {
            return Err("torch refused the kernel".into());
        }
    }
    Ok(())
}

/// Raises what the last refused call of this thread was refused for, where `message` is torch's of that.
#[pyfunction]
pub fn raise_refused(message: &str) -> PyResult<()> {
    match REFUSED.take() {
        Some(refusal) if message.contains(&refusal.to_string()) => Err(refusal.into()),
        _ => Ok(()),
    }
}

/// `rotate_ids_(q, k, ids, steps, seq_dim, rotary_dim, rotary_offset, interleaved, inverse, factor) -> ()`.
///
/// # Safety
/// torch's dispatcher calls it: `stack` holds the arguments of the schema, and the tensors' handles are ours to delete.
unsafe extern "C-unwind" fn rotate_ids(stack: *mut StableValue, arguments: u64, _: u64) {
    const ARGUMENTS: usize = 10;
    let Some(torch) = TORCH.get() else { return };
    let message = {
        // SAFETY: the dispatcher's promise; a schema of another length would be another operator's.
        let stack = unsafe { std::slice::from_raw_parts(stack, arguments as usize) };
        let tensors = stack.get(..4).unwrap_or_default();
        let tensors: Vec<Tensor> =
            tensors.iter().map(|&handle| Tensor(torch, handle as Handle)).collect();
        let body = || match <&[u64; ARGUMENTS]>::try_from(stack) {
            // SAFETY: as above.
            Ok(stack) => unsafe { run(torch, &tensors, stack) },
            Err(_) => Err(Refusal::Machine(format!("expected {ARGUMENTS} arguments"))),
        };
        let defect = || "a defect of condensed-rope: please report it".to_owned();
        let result = catch_unwind(AssertUnwindSafe(body));
        match result.unwrap_or_else(|_| Err(Refusal::Machine(defect()))) {
            Ok(()) => return,
            Err(refusal) => {
                let message = refusal.to_string().replace('\0', " ");
                REFUSED.set(Some(refusal));
                CString::new(message).unwrap_or_default()
            }
        }
    };
    throw(torch, &message);
}

/// Nothing of Rust's is left to drop above this but the message, which the unwinding drops.
fn throw(torch: &Torch, message: &CStr) {
    let (function, file) = (c"condensed_rope::rotate_ids_", c"condensed_rope");
    // SAFETY: C strings. The exception passes through frames of "C-unwind" alone.
    unsafe { (torch.check)(false, function.as_ptr(), file.as_ptr(), 0, message.as_ptr()) }
}

/// A tensor that the dispatcher gave us.
struct Tensor<'a>(&'a Torch, Handle);

impl Drop for Tensor<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours.
        unsafe { (self.0.delete)(self.1) };
    }
}

impl Tensor<'_> {
    /// What one of torch's functions says of it.
    fn ask<T: Default>(
        &self,
        of: unsafe extern "C" fn(Handle, *mut T) -> i32,
    ) -> Result<T, Refusal> {
        let mut out = T::default();
        // SAFETY: a tensor's handle, and where the answer may be written.
        match unsafe { of(self.1, &raw mut out) } {
            0 => Ok(out),
            _ => Err(Refusal::Machine("torch did not say what a tensor is".to_owned())),
        }
    }

    /// The same of those that answer with an address.
    fn address<T>(&self, of: unsafe extern "C" fn(Handle, *mut T) -> i32) -> Result<T, Refusal> {
        let mut out = std::mem::MaybeUninit::uninit();
        // SAFETY: as above.
        match unsafe { of(self.1, out.as_mut_ptr()) } {
            // SAFETY: an answer has been written.
            0 => Ok(unsafe { out.assume_init() }),
            _ => Err(Refusal::Machine("torch did not say where a tensor is".to_owned())),
        }
    }

    /// Type, address, sizes and strides; on this device, else an error.
    fn strided<D: Copy>(
        &self,
        device: (i32, i32),
        what: &str,
        known: [(i32, D); 3],
    ) -> Result<Strided<'_, D>, Refusal> {
        let torch = self.0;
        let own = (self.ask(torch.device_type)?, self.ask(torch.device_index)?);
        if own != device {
            return Err(Refusal::Rope(condensed_rope::Error::Tensor {
                tensor: "tensors",
                expected: "on one device, the CPU or a CUDA one",
                given: "two devices".to_owned(),
            }));
        }
        let number = self.ask(torch.dtype)?;
        let dtype = known.iter().find(|(of, _)| *of == number).map(|(_, dtype)| *dtype);
        let dtype = dtype.ok_or_else(|| Refusal::Type(what.to_owned()))?;
        let rank = usize::try_from(self.ask(torch.dim)?).unwrap_or(0);
        let list = |at: *const i64| match rank {
            0 => &[][..],
            // SAFETY: as many numbers as there are dimensions, alive as long as the tensor is.
            _ => unsafe { std::slice::from_raw_parts(at, rank) },
        };
        let (sizes, strides) = (self.address(torch.sizes)?, self.address(torch.strides)?);
        let address = self.address(torch.data_ptr)? as u64;
        Ok(Strided { dtype, address, sizes: list(sizes), strides: list(strides) })
    }
}

/// # Safety
/// `tensors` are q, k, ids and steps, alive; the device's memory is freed in the order of its stream.
unsafe fn run(torch: &Torch, tensors: &[Tensor<'_>], stack: &[u64; 10]) -> Result<(), Refusal> {
    let [q, k, ids, steps] = tensors else { return Ok(()) };
    let [_, _, _, _, seq_dim, rotary_dim, rotary_offset, interleaved, inverse, factor] = *stack;
    let device = (q.ask(torch.device_type)?, q.ask(torch.device_index)?);
    let place = if device.0 == torch.cpu {
        Place { device: -1, stream: 0 }
    } else {
        let missing = || Refusal::Machine("torch has no CUDA library".to_owned());
        let mut stream = std::ptr::null_mut();
        // SAFETY: a device of torch's, and where a stream may be written.
        if unsafe { (torch.stream.ok_or_else(missing)?)(device.1, &raw mut stream) } != 0 {
            return Err(Refusal::Machine("torch did not say which stream is current".to_owned()));
        }
        Place { device: device.1, stream: stream as usize }
    };
    let [f32, f16, bf16] = torch.elements;
    let elements = [(f32, Dtype::F32), (f16, Dtype::F16), (bf16, Dtype::BF16)];
    let [i32, i64, u32] = torch.indices;
    let indices = [(i32, IndexType::I32), (i64, IndexType::I64), (u32, IndexType::U32)];
    let size = |value: u64| usize::try_from(value as i64).unwrap_or(usize::MAX);
    let operand = |name, tensor: &Tensor<'_>| {
        let what = "element type must be float32, float16 or bfloat16: given another one";
        let tensor = tensor.strided(device, what, elements)?;
        call::operand(name, seq_dim as i64, size(rotary_offset), &tensor, None)
    };
    let (q, k) = (operand("q", q)?, operand("k", k)?);
    let what = "position ids must be int32, int64 or uint32: given another type";
    let ids = ids.strided(device, what, indices)?;
    let batch_seq = call::batch_seq(Some(&q), None);
    let positions = call::positions(Kind::Ids, Some(&ids), None, None, &[], 0, batch_seq)?;
    let what = "steps must be contiguous int64, of one dimension: given something else";
    let words = steps.strided(device, what, [(i64, ()); 3])?;
    let (&[len], &[1]) = (words.sizes, words.strides) else {
        return Err(Refusal::Type(what.to_owned()));
    };
    let words = Words { address: words.address, len: size(len as u64) };
    let turn = Turn {
        rotary_dim: size(rotary_dim),
        interleaved: interleaved as u8 != 0,
        inverse: inverse as u8 != 0,
        factor: f64::from_bits(factor) as f32,
    };
    // SAFETY: the caller's promise; the stream is torch's current one of the device.
    unsafe { call::rotate(place, words, turn, Some(q), Some(k), positions) }
}
