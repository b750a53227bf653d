// The kernels' own source, driven over the launch grid by a loop.
#include <string.h>

#include "cos_sin.cuh"
#include "variants.h"

namespace {

using Run = void (*)(const rope::Request&, const rope::Thread&);

struct Kernel {
    const char* name;
    Run run;
};

const Kernel KERNELS[] = {
#define ROTATE(element, Element, order, JOINED, BYTES, name, Q, K, MANY) \
    {#name "_" #element "_" #order "_" #BYTES,                           \
     rope::rotate_thread<rope::Element, JOINED, BYTES, Q, K, MANY>},
#define ENTRY(name, Q, K, MANY) ROPE_VARIANTS(ROTATE, name, Q, K, MANY)
    ROPE_ENTRIES(ENTRY)
#define COS_SIN(element, Element, order, JOINED, BYTES, name) \
    {#name "_" #element "_" #order "_" #BYTES,                \
     rope::cos_sin_thread<rope::Element, JOINED, BYTES>},
    ROPE_VARIANTS(COS_SIN, cos_sin)
};

}  // namespace

// Runs every thread of the grid, one after another. Returns 0, or 1 where there is no such kernel
// or the block is larger than a GPU would take.
extern "C" int rope_run_on_host(const char* name, const rope::Request* request,
                                const uint32_t grid[3], const uint32_t block[3]) {
    if (block[0] * block[1] * block[2] > ROPE_MAX_THREADS) return 1;
    for (const Kernel& kernel : KERNELS) {
        if (strcmp(kernel.name, name) != 0) continue;
        rope::Thread at = {};
        at.width = block[0];
        for (at.block_y = 0; at.block_y < grid[1]; ++at.block_y)
            for (at.block_x = 0; at.block_x < grid[0]; ++at.block_x)
                for (at.z = 0; at.z < block[2]; ++at.z)
                    for (at.y = 0; at.y < block[1]; ++at.y)
                        for (at.x = 0; at.x < block[0]; ++at.x) kernel.run(*request, at);
        return 0;
    }
    return 1;
}
