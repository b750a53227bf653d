// sglang's rotation of q and k, with and without programmatic dependent launch, for benches/peers.py.
#include <elementwise/rope.cuh>
#include <tvm/ffi/function.h>

template <int DIM, bool PDL>
using Rope = sglang::FusedRopeKernel<true, DIM, PDL, __nv_bfloat16, __nv_bfloat16>;

#define EXPORT(DIM)                                                         \
    TVM_FFI_DLL_EXPORT_TYPED_FUNC(rope_##DIM, (Rope<DIM, false>::run));     \
    TVM_FFI_DLL_EXPORT_TYPED_FUNC(rope_pdl_##DIM, (Rope<DIM, true>::run));
EXPORT(64)
EXPORT(128)
EXPORT(256)
