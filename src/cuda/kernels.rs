//! The compiled kernels in one context.

use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::sys::{self, CUfunction, CUmodule, CUresult, CUstream};
use cudarc::driver::{CudaContext, DriverError, result};

use super::context::{Current, OutsideCaptures, borrowed, driver, library};
use crate::plan::{DeviceProps, Entry, Form, Kernel, Launch, Params, Pdl, Variant};
use crate::{Error, Result};

/// Machine code and PTX; the driver takes what suits the device.
const FLAT: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/flat.fatbin"));
const ROTATE: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/rotate.fatbin"));
const APPEND: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/append.fatbin"));
const COS_SIN: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/cos_sin.fatbin"));
const OLDEST_DEVICE: (i32, i32) = (7, 5);
/// The CUDA release that their PTX is of. Drivers from its major version on run its machine code, and translate its PTX
/// from itself on.
const RELEASE: (i32, i32) =
    (number(env!("CONDENSED_ROPE_CUDA_MAJOR")), number(env!("CONDENSED_ROPE_CUDA_MINOR")));

/// What compiled the kernels that this build includes: `"nvcc 12.4.131, ptxas 12.9.86"`, say.
pub const COMPILER: &str = env!("CONDENSED_ROPE_COMPILER");

const fn number(digits: &str) -> i32 {
    match i32::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => panic!("build.rs writes numbers"),
    }
}

/// The kernels, loaded into one context. Cheap to clone: load them once a context, and make all ropes of them.
#[derive(Clone)]
pub struct Kernels(Arc<Loaded>);

struct Loaded {
    context: Arc<CudaContext>,
    device: DeviceProps,
    /// Whether launches may start early: compute capability 9.0 and newer.
    has_pdl: bool,
    plain: Functions<{ Kernel::PLAIN }>,
    /// Norm, rotation and append: loaded when they are first asked for, which a rope that only rotates never does.
    append: OnceLock<Functions<{ Kernel::COUNT - Kernel::PLAIN }>>,
}

/// Functions, and the modules that they are of.
struct Functions<const KERNELS: usize> {
    _modules: Vec<Module>,
    /// By places of the kernel and of the variant; null where there is no such variant.
    table: [[CUfunction; Variant::COUNT]; KERNELS],
}

impl<const KERNELS: usize> Functions<KERNELS> {
    /// The kernels from the `first` one on, each from the image that it is in, in the context, which is current.
    fn load(
        context: &Arc<CudaContext>,
        first: usize,
        images: &[&[u8]],
        image_of: impl Fn(Kernel) -> usize,
    ) -> std::result::Result<Self, DriverError> {
        let modules = images.iter().map(|image| Module::load(context, image));
        let modules = modules.collect::<std::result::Result<Vec<_>, _>>()?;
        let mut table = [[std::ptr::null_mut(); Variant::COUNT]; KERNELS];
        for (kernel, functions) in Kernel::all().skip(first).zip(&mut table) {
            for variant in kernel.variants() {
                let function = modules[image_of(kernel)].function(&kernel.name(variant))?;
                functions[variant.index()] = function;
            }
        }
        Ok(Self { _modules: modules, table })
    }
}

// SAFETY: modules and functions are handles of the context, which any thread may use.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernels on device {}", self.0.context.ordinal())
    }
}

impl Kernels {
    /// Loads the kernels into `context`. Slow: 6 to 10 ms where the fat binaries have the device's machine
    /// code, longer where the driver must compile their PTX. Leaves the caller's context current.
    ///
    /// # Errors
    /// [`Error::DeviceTooOld`] below compute capability 7.5; [`Error::DriverTooOld`] where the driver is of an older
    /// CUDA than the kernels; or [`Error::Driver`].
    pub fn load(context: &Arc<CudaContext>) -> Result<Self> {
        const DOING: &str = "loading the kernels";
        let loading = driver(DOING);
        let capability = context.compute_capability().map_err(&loading)?;
        if capability < OLDEST_DEVICE {
            return Err(Error::DeviceTooOld { expected: OLDEST_DEVICE, given: capability });
        }
        let (driver_release, oldest) = (driver_release().map_err(&loading)?, (RELEASE.0, 0));
        if driver_release < oldest {
            return Err(Error::DriverTooOld { expected: oldest, given: driver_release });
        }
        let attribute = |attribute| context.attribute(attribute).map_err(&loading);
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let l2_bytes = attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        let _current = Current::enter(context).map_err(&loading)?;
        let _relaxed = OutsideCaptures::enter();
        let plain = Functions::load(context, 0, &[FLAT, ROTATE, COS_SIN], |kernel| match kernel {
            Kernel::Rotate(Entry { form: Form::Flat(_), .. }) => 0,
            Kernel::Rotate(_) => 1,
            _ => 2,
        });
        let plain = plain.map_err(refused(DOING))?;
        let device = DeviceProps {
            multiprocessors: multiprocessors.max(1) as usize,
            l2_bytes: l2_bytes.max(0) as usize,
        };
        let has_pdl = capability >= (9, 0);
        let (context, append) = (context.clone(), OnceLock::new());
        Ok(Self(Arc::new(Loaded { context, device, has_pdl, plain, append })))
    }

    /// Loads the kernels of norm, rotation and append, which the first call of them does otherwise: some milliseconds.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn load_append(&self) -> Result<()> {
        self.append().map(drop)
    }

    fn append(&self) -> Result<&Functions<{ Kernel::COUNT - Kernel::PLAIN }>> {
        let Loaded { context, append, .. } = &*self.0;
        if let Some(functions) = append.get() {
            return Ok(functions);
        }
        const DOING: &str = "loading the kernels of norm, rotation and append";
        let _current = Current::enter(context).map_err(driver(DOING))?;
        let _relaxed = OutsideCaptures::enter();
        let functions = Functions::load(context, Kernel::PLAIN, &[APPEND], |_| 0);
        // Of two threads' the first one stays.
        Ok(append.get_or_init({
            let functions = functions.map_err(refused(DOING))?;
            || functions
        }))
    }

    /// Loads the kernels into the primary context of device `ordinal`, which the CUDA runtime and torch use, and leaves the
    /// caller's context current: for callers that have no cudarc context of their own.
    ///
    /// # Errors
    /// Those of [`context`](super::context) and [`load`](Self::load).
    pub fn of_device(ordinal: usize) -> Result<Self> {
        if library().is_none() {
            return Err(Error::NoDriver);
        }
        let _current = Current::kept();
        Self::load(&super::context(ordinal)?)
    }

    /// Loads the kernels into the calling thread's current context, whoever made it: for engines whose context is not a
    /// primary one. They do not own it.
    ///
    /// # Errors
    /// [`Error::NoContext`] where none is current; [`Error::NoDriver`]; those of [`load`](Self::load).
    ///
    /// # Safety
    /// Unless it is a device's primary context, the context is destroyed only after the kernels, their clones and their
    /// ropes have been dropped.
    pub unsafe fn of_current() -> Result<Self> {
        if library().is_none() {
            return Err(Error::NoDriver);
        }
        let current = Current::kept();
        let context = current.before().ok_or(Error::NoContext)?;
        // SAFETY: the driver says that it is current, and the caller that it stays.
        Self::load(&unsafe { borrowed(context) }?)
    }

    /// The context they were loaded into: the very handle.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.0.context
    }

    pub(super) fn device(&self) -> DeviceProps {
        self.0.device
    }

    /// As asked for, where the device can.
    pub(super) fn pdl(&self, pdl: Pdl) -> Pdl {
        if self.0.has_pdl { pdl } else { Pdl::Off }
    }

    /// # Safety
    /// The context is current and `stream` is one of it; until the launch has run, all memory that its
    /// parameters name is valid for what it does there, and nothing else writes to it.
    pub(super) unsafe fn submit<P: Params>(
        &self,
        stream: CUstream,
        launch: Option<Launch<P>>,
    ) -> Result<()> {
        let Some(launch) = launch else { return Ok(()) };
        let (kernel, variant) = (launch.kernel.index(), launch.variant.index());
        let function = match kernel.checked_sub(Kernel::PLAIN) {
            None => self.0.plain.table[kernel][variant],
            Some(kernel) => self.append()?.table[kernel][variant],
        };
        // SAFETY: the function is the launch's kernel; the rest is the caller's promise.
        unsafe { launch_on(stream, function, &launch) }.map_err(driver("launching"))
    }
}

/// For benches, which bring functions of their own.
///
/// # Safety
/// As of [`Kernels::submit`]; and `function` is the launch's kernel.
#[doc(hidden)]
pub unsafe fn launch_on<P: Params>(
    stream: CUstream,
    function: CUfunction,
    launch: &Launch<P>,
) -> std::result::Result<(), DriverError> {
    let (grid, block) = (launch.tiling.grid, launch.tiling.block);
    // Which the driver copies from, and does not write to.
    let mut arguments: [*mut c_void; 1] = [launch.params.argument().cast_mut()];
    if launch.pdl == Pdl::Off {
        // SAFETY: the kernel takes by value what the parameters point to; checks and tiling keep its
        // threads within the tensors, which the caller promised are valid.
        return unsafe { result::launch_kernel(function, grid, block, 0, stream, &mut arguments) };
    }
    let mut early = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: grid.0,
        gridDimY: grid.1,
        gridDimZ: grid.2,
        blockDimX: block.0,
        blockDimY: block.1,
        blockDimZ: block.2,
        sharedMemBytes: 0,
        hStream: stream,
        attrs: &raw mut early,
        numAttrs: 1,
    };
    let (arguments, extra) = (arguments.as_mut_ptr(), std::ptr::null_mut());
    // SAFETY: as above; and the kernel waits for the one before it.
    unsafe { sys::cuLaunchKernelEx(&config, function, arguments, extra) }.result()
}

/// The CUDA release that the driver is of.
fn driver_release() -> std::result::Result<(i32, i32), DriverError> {
    let mut version = 0;
    // SAFETY: a number to write to.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok((version / 1000, version % 1000 / 10))
}

/// A module that the driver would not load, which may be PTX that it is too old for.
fn refused(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| match (error.0, driver_release()) {
        (CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, Ok(given)) if given < RELEASE => {
            Error::DriverTooOld { expected: RELEASE, given }
        }
        _ => driver(doing)(error),
    }
}

/// A loaded fat binary.
struct Module {
    module: CUmodule,
    context: Arc<CudaContext>,
}

impl Module {
    /// Into the context, which is current.
    fn load(context: &Arc<CudaContext>, image: &[u8]) -> std::result::Result<Self, DriverError> {
        // SAFETY: a whole fat binary, which says how long it is.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }?;
        Ok(Self { module, context: context.clone() })
    }

    fn function(&self, name: &str) -> std::result::Result<CUfunction, DriverError> {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(self.module, name) }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _relaxed = OutsideCaptures::enter();
        let Ok(_current) = Current::enter(&self.context) else { return };
        // SAFETY: loaded into this context; no rope has its functions any more, and the words of the last one
        // were freed before, which waited for launches that were submitted. A refusal has nobody to go to.
        let _ = unsafe { result::module::unload(self.module) };
    }
}
