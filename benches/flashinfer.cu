// FlashInfer's own host functions, from the headers in its wheel: they pick kernels and grids.
#include <flashinfer/pos_enc.cuh>

namespace {

template <class T>
cudaError_t rope(T* q, T* k, float* table, int32_t* ids, const uint32_t* sizes,
                 const size_t* strides, bool interleaved, cudaStream_t stream) {
    const uint32_t tokens = sizes[0], q_heads = sizes[1], kv_heads = sizes[2];
    const uint32_t rotary_dim = sizes[3], head_dim = sizes[4];
    const size_t q_token = strides[0], q_head = strides[1];
    const size_t k_token = strides[2], k_head = strides[3];
    if (table != nullptr) {
        return flashinfer::BatchQKApplyRotaryPosIdsCosSinCache<T, int32_t>(
            q, k, q, k, table, ids, tokens, q_heads, kv_heads, rotary_dim, head_dim, q_token,
            q_head, k_token, k_head, q_token, q_head, k_token, k_head, interleaved, stream);
    }
    return flashinfer::BatchQKApplyRotaryPosIds<T, int32_t>(
        q, k, q, k, ids, tokens, q_heads, kv_heads, rotary_dim, head_dim, q_token, q_head, k_token,
        k_head, q_token, q_head, k_token, k_head, interleaved, 1.0f, 1e4f, stream);
}

}  // namespace

// cos and sin as they come out of the rotation on the fly, in f32: `q` holds heads of 128, (1, 0) a pair.
extern "C" int flashinfer_angles(float* q, int32_t* ids, uint32_t tokens, cudaStream_t stream) {
    const uint32_t sizes[] = {tokens, 1, 0, 128, 128};
    const size_t strides[] = {128, 128, 128, 128};
    try {
        return rope(q, q, nullptr, ids, sizes, strides, false, stream);
    } catch (const std::exception&) {
        return -1;
    }
}

// In place. `table` is f32 [positions, rotary_dim], cos then sin; null works angles out on the fly.
// Sizes: tokens, q heads, k heads, rotary_dim, head_dim. Strides in elements: q token, q head, k
// token, k head. Returns a cudaError_t, or -1 for what FlashInfer throws on.
extern "C" int flashinfer_rope(void* q, void* k, float* table, int32_t* ids, const uint32_t* sizes,
                               const size_t* strides, int bf16, int interleaved,
                               cudaStream_t stream) {
    try {
        return bf16 ? rope(static_cast<__nv_bfloat16*>(q), static_cast<__nv_bfloat16*>(k), table,
                           ids, sizes, strides, interleaved, stream)
                    : rope(static_cast<half*>(q), static_cast<half*>(k), table, ids, sizes,
                           strides, interleaved, stream);
    } catch (const std::exception&) {
        return -1;
    }
}
