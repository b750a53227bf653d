// The C interface from CUDA C++: a stream of its own, a captured graph, every device there is. What a device makes equals
// what the CPU makes, bit for bit.
//
//   cargo xtask install --prefix DIR
//   nvcc -I DIR/include -L DIR/lib -lcondensed_rope -lcuda -o cuda capi/examples/cuda.cu && LD_LIBRARY_PATH=DIR/lib ./cuda

#include <condensed_rope.h>
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#define CUDA(call)                                                                              \
    do {                                                                                        \
        const cudaError_t error = (call);                                                       \
        if (error != cudaSuccess) {                                                             \
            std::printf("line %d: %s\n", __LINE__, cudaGetErrorString(error));                  \
            std::exit(1);                                                                       \
        }                                                                                       \
    } while (0)
#define DRIVER(call) CHECK((call) == CUDA_SUCCESS)
#define ROPE(call)                                                                              \
    do {                                                                                        \
        if ((call) != 0) {                                                                      \
            std::printf("line %d: %s\n", __LINE__, crope_last_error());                         \
            std::exit(1);                                                                       \
        }                                                                                       \
    } while (0)
#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            std::printf("line %d: %s\n", __LINE__, #condition);                                 \
            std::exit(1);                                                                       \
        }                                                                                       \
    } while (0)

constexpr int64_t TOKENS = 300, Q_HEADS = 8, K_HEADS = 2, DIM = 128;

crope_heads heads(void* data, int64_t count) {
    crope_heads out = {};
    out.size = sizeof out, out.data = data, out.dtype = CROPE_BF16;
    const int64_t shape[4] = {1, TOKENS, count, DIM}, strides[3] = {TOKENS * count * DIM, count * DIM, DIM};
    std::memcpy(out.shape, shape, sizeof shape);
    std::memcpy(out.strides, strides, sizeof strides);
    return out;
}

crope_positions ids_at(const void* ids) {
    crope_positions out = {};
    out.size = sizeof out, out.kind = CROPE_IDS, out.ids_dtype = CROPE_I32;
    out.ids = ids, out.ids_len = TOKENS, out.ids_stride = TOKENS;
    return out;
}

int main() {
    crope_frequencies* frequencies;
    ROPE(crope_frequencies_new(DIM, 10000.0, &frequencies));
    ROPE(crope_frequencies_condense(frequencies, 8.0));
    const crope_frequencies* only = frequencies;
    uint64_t count;
    ROPE(crope_words_len(DIM, 1, &count));
    std::vector<uint64_t> words(count);
    ROPE(crope_words_write(&only, 1, words.data(), count));
    crope_rope rope = {};
    rope.size = sizeof rope, rope.words_len = count, rope.rotary_dim = DIM;
    rope.factor = crope_frequencies_factor(frequencies);

    std::vector<__nv_bfloat16> q(TOKENS * Q_HEADS * DIM), k(TOKENS * K_HEADS * DIM);
    for (size_t i = 0; i < q.size(); ++i) q[i] = __float2bfloat16(float(i % 251) / 125 - 1);
    for (size_t i = 0; i < k.size(); ++i) k[i] = __float2bfloat16(float(i % 127) / 63 - 1);
    std::vector<int32_t> ids[2] = {std::vector<int32_t>(TOKENS), std::vector<int32_t>(TOKENS)};
    for (int t = 0; t < TOKENS; ++t) ids[0][t] = t * 7, ids[1][t] = 100000 - t;

    // By the CPU.
    crope_kernels* cpu;
    ROPE(crope_kernels_cpu(&cpu));
    std::vector<__nv_bfloat16> q_true[2] = {q, q}, k_true[2] = {k, k};
    for (int i = 0; i < 2; ++i) {
        rope.words = words.data();
        const crope_heads q_heads = heads(q_true[i].data(), Q_HEADS), k_heads = heads(k_true[i].data(), K_HEADS);
        const crope_positions positions = ids_at(ids[i].data());
        ROPE(crope_rotate(cpu, nullptr, &rope, &q_heads, &k_heads, &positions));
    }

    int devices;
    CUDA(cudaGetDeviceCount(&devices));
    std::vector<crope_kernels*> kernels(devices);
    for (int device = 0; device < devices; ++device) {
        // Made while device 0 is the caller's, which it stays.
        CUDA(cudaSetDevice(0));
        ROPE(crope_kernels_cuda(device, &kernels[device]));
        int current;
        CUDA(cudaGetDevice(&current));
        CHECK(current == 0);
    }
    for (int device = 0; device < devices; ++device) {
        CUDA(cudaSetDevice(device));
        cudaStream_t stream;
        CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        void *q_on, *k_on, *ids_on, *words_on;
        CUDA(cudaMalloc(&q_on, q.size() * 2));
        CUDA(cudaMalloc(&k_on, k.size() * 2));
        CUDA(cudaMalloc(&ids_on, TOKENS * 4));
        CUDA(cudaMalloc(&words_on, count * 8));
        CUDA(cudaMemcpy(words_on, words.data(), count * 8, cudaMemcpyHostToDevice));
        rope.words = static_cast<const uint64_t*>(words_on);
        const crope_heads q_heads = heads(q_on, Q_HEADS), k_heads = heads(k_on, K_HEADS);
        const crope_positions positions = ids_at(ids_on);

        // The current device is another one while the call runs, and stays it.
        const int other = (device + 1) % devices;
        cudaGraph_t graph;
        cudaGraphExec_t executable;
        CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        CUDA(cudaSetDevice(other));
        ROPE(crope_rotate(kernels[device], stream, &rope, &q_heads, &k_heads, &positions));
        int current;
        CUDA(cudaGetDevice(&current));
        CHECK(current == other);
        CUDA(cudaSetDevice(device));
        CUDA(cudaStreamEndCapture(stream, &graph));
        CUDA(cudaGraphInstantiate(&executable, graph, 0));
        for (int i = 0; i < 3; ++i) {
            std::vector<__nv_bfloat16> q_out(q.size()), k_out(k.size());
            CUDA(cudaMemcpyAsync(q_on, q.data(), q.size() * 2, cudaMemcpyHostToDevice, stream));
            CUDA(cudaMemcpyAsync(k_on, k.data(), k.size() * 2, cudaMemcpyHostToDevice, stream));
            CUDA(cudaMemcpyAsync(ids_on, ids[i % 2].data(), TOKENS * 4, cudaMemcpyHostToDevice, stream));
            if (i < 2) {
                CUDA(cudaGraphLaunch(executable, stream));
            } else {
                ROPE(crope_rotate(kernels[device], stream, &rope, &q_heads, &k_heads, &positions));
            }
            CUDA(cudaMemcpyAsync(q_out.data(), q_on, q.size() * 2, cudaMemcpyDeviceToHost, stream));
            CUDA(cudaMemcpyAsync(k_out.data(), k_on, k.size() * 2, cudaMemcpyDeviceToHost, stream));
            CUDA(cudaStreamSynchronize(stream));
            CHECK(std::memcmp(q_out.data(), q_true[i % 2].data(), q.size() * 2) == 0);
            CHECK(std::memcmp(k_out.data(), k_true[i % 2].data(), k.size() * 2) == 0);
        }
        crope_kernels_free(kernels[device]);
        std::printf("device %d: the CPU's bits, replayed with other positions\n", device);
    }
    // In a context that is nobody's primary one, borrowed while it is current; and in the primary one, asked for so.
    for (const bool primary : {false, true}) {
        CUcontext context;
        if (primary) CUDA(cudaSetDevice(0));
        else DRIVER(cuCtxCreate(&context, nullptr, 0, 0));
        DRIVER(cuCtxGetCurrent(&context));
        crope_kernels* borrowed;
        ROPE(crope_kernels_cuda_current(&borrowed));
        CUdeviceptr q_on, ids_on, words_on;
        DRIVER(cuMemAlloc(&q_on, q.size() * 2));
        DRIVER(cuMemAlloc(&ids_on, TOKENS * 4));
        DRIVER(cuMemAlloc(&words_on, count * 8));
        DRIVER(cuMemcpyHtoD(q_on, q.data(), q.size() * 2));
        DRIVER(cuMemcpyHtoD(ids_on, ids[0].data(), TOKENS * 4));
        DRIVER(cuMemcpyHtoD(words_on, words.data(), count * 8));
        rope.words = reinterpret_cast<const uint64_t*>(words_on);
        const crope_heads q_heads = heads(reinterpret_cast<void*>(q_on), Q_HEADS);
        const crope_positions positions = ids_at(reinterpret_cast<const void*>(ids_on));
        ROPE(crope_check(borrowed, &rope, &q_heads, nullptr, &positions));
        // From a thread that has no context current, before and after.
        CUcontext now;
        std::thread([&] {
            ROPE(crope_rotate(borrowed, nullptr, &rope, &q_heads, nullptr, &positions));
            DRIVER(cuCtxGetCurrent(&now));
            CHECK(now == nullptr);
        }).join();
        std::vector<__nv_bfloat16> q_out(q.size());
        DRIVER(cuMemcpyDtoH(q_out.data(), q_on, q.size() * 2));
        CHECK(std::memcmp(q_out.data(), q_true[0].data(), q.size() * 2) == 0);
        crope_kernels_free(borrowed);
        DRIVER(cuCtxGetCurrent(&now));
        CHECK(now == context);
        if (!primary) DRIVER(cuCtxDestroy(context));
        std::printf("%s context, borrowed: the CPU's bits\n", primary ? "the primary" : "another");
    }
    crope_kernels* none;
    std::thread([&] {
        CHECK(crope_kernels_cuda_current(&none) != 0);
        std::printf("no context: %s\n", crope_last_error());
    }).join();
    CHECK(crope_kernels_cuda(99, &none) != 0);
    std::printf("device 99: %s\n", crope_last_error());
    crope_kernels_free(cpu);
    crope_frequencies_free(frequencies);
    return 0;
}
