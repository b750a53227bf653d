//! A graph keeps what its launches read: the rope's kernels and phase words.

use std::ffi::{c_uint, c_void};
use std::sync::LazyLock;
use std::thread;

use cudarc::driver::sys::{self, CUgraph, CUgraphNode, CUresult, CUstream, CUstreamCaptureStatus};

use super::Rope;
use super::context::{driver, library};
use crate::{Error, Result};

const DOING: &str = "handing the rope to the graph";

/// cuda.h: `cuStreamGetCaptureInfo_v2`, since CUDA 11.3. cudarc's bindings have it under another name for each
/// version of the toolkit, so it is asked of the driver by its exported one.
type GetCaptureInfo = unsafe extern "C" fn(
    stream: CUstream,
    status: *mut CUstreamCaptureStatus,
    id: *mut u64,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    count: *mut usize,
) -> CUresult;

static GET_CAPTURE_INFO: LazyLock<Option<GetCaptureInfo>> = LazyLock::new(|| {
    let library = library()?;
    // SAFETY: the signature of that name in cuda.h.
    let function = unsafe { library.get::<GetCaptureInfo>(b"cuStreamGetCaptureInfo_v2\0") };
    let function = *function.ok()?;
    // It stays loaded, as it is by cudarc.
    std::mem::forget(library);
    Some(function)
});

/// Makes the graph that `stream` is being captured into share the rope, as long as it or an executable made of
/// it is there.
///
/// # Safety
/// The rope's context is current, and `stream` is a stream of it that is being captured by this thread.
pub(super) unsafe fn retain(stream: CUstream, rope: &Rope) -> Result<()> {
    let missing = || Error::Driver {
        doing: DOING,
        reason: "the driver has no cuStreamGetCaptureInfo_v2".to_owned(),
    };
    let get_capture_info = GET_CAPTURE_INFO.ok_or_else(missing)?;
    let refused = driver(DOING);
    let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    let (mut id, mut graph, mut dependencies, mut count) =
        (0, std::ptr::null_mut(), std::ptr::null(), 0);
    // SAFETY: a stream that is being captured, and places for all that it returns.
    let asked = unsafe {
        get_capture_info(
            stream,
            &raw mut status,
            &raw mut id,
            &raw mut graph,
            &raw mut dependencies,
            &raw mut count,
        )
    };
    asked.result().map_err(&refused)?;
    let shared = Box::into_raw(Box::new(rope.clone())).cast::<c_void>();
    let mut object = std::ptr::null_mut();
    let flag = sys::CUuserObject_flags::CU_USER_OBJECT_NO_DESTRUCTOR_SYNC as c_uint;
    // SAFETY: `release` takes back the box, once.
    let created =
        unsafe { sys::cuUserObjectCreate(&raw mut object, shared, Some(release), 1, flag) };
    if let Err(error) = created.result() {
        // SAFETY: nobody else has the box.
        drop(unsafe { Box::from_raw(shared.cast::<Rope>()) });
        return Err(refused(error));
    }
    let flag = sys::CUuserObjectRetain_flags::CU_GRAPH_USER_OBJECT_MOVE as c_uint;
    // SAFETY: the graph of a capture, and our one reference, which becomes its own.
    let moved = unsafe { sys::cuGraphRetainUserObject(graph, object, 1, flag) };
    if let Err(error) = moved.result() {
        // SAFETY: the reference is still ours.
        let _ = unsafe { sys::cuUserObjectRelease(object, 1) };
        return Err(refused(error));
    }
    Ok(())
}

/// A rope that a graph had shared.
struct Shared(*mut Rope);

// SAFETY: whoever has it is its only owner, and ropes are `Send`.
unsafe impl Send for Shared {}

impl Shared {
    fn free(self) {
        // SAFETY: the box that `retain` handed over, once.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// The last graph is gone. The driver calls this, and forbids calls of its own from here: another thread frees
/// the rope; where there can be none, nobody does.
unsafe extern "C" fn release(shared: *mut c_void) {
    let shared = Shared(shared.cast());
    let _ = thread::Builder::new().name("rope-release".to_owned()).spawn(move || shared.free());
}
