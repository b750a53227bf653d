// FlashInfer's own host functions, from the headers in its wheel: they pick kernels and grids.
#include <cuda_fp8.h>
#include <flashinfer/page.cuh>
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

// Rotation, conversion to e4m3 and append in one launch, of packed bf16 rows: q to `q_out`, k and v to pages of 16 slots.
// `slots` are the tokens' places in the one request that has all pages. Sizes: tokens, q heads, kv heads, head_dim, pages.
extern "C" int flashinfer_rope_append(void* qkv, void* q_out, void* keys, void* values, int32_t* pages,
                                      int32_t* zeros, int32_t* slots, int32_t* ids, float* table,
                                      const uint32_t* sizes, cudaStream_t stream) {
    using Element = __nv_bfloat16;
    using Quant = __nv_fp8_e4m3;
    const uint32_t tokens = sizes[0], q_heads = sizes[1], kv_heads = sizes[2], dim = sizes[3];
    const size_t row = (q_heads + 2 * kv_heads) * static_cast<size_t>(dim);
    Element* q = static_cast<Element*>(qkv);
    Element* k = q + q_heads * dim;
    Element* v = k + kv_heads * dim;
    Quant* to = static_cast<Quant*>(q_out);
    // One request, whose pages begin at 0.
    flashinfer::paged_kv_t<Quant, int32_t> cache(
        kv_heads, 16, dim, 1, flashinfer::QKVLayout::kNHD, static_cast<Quant*>(keys),
        static_cast<Quant*>(values), pages, zeros, nullptr);
    try {
        return flashinfer::RopeQuantizeAppendPagedKVCache<Element, int32_t, int32_t, Quant>(
            q, k, q, k, v, to, to, cache, zeros, slots, table, ids, tokens, q_heads, kv_heads, dim, 0,
            row, dim, row, dim, static_cast<size_t>(q_heads) * dim, dim,
            static_cast<size_t>(q_heads) * dim, dim, row, dim, row, dim, row, dim, 1.0f, 1.0f, false,
            false, stream);
    } catch (const std::exception&) {
        return -1;
    }
}
