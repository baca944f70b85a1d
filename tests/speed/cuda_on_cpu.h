// Runs the blocks of a CUDA kernel on the CPU, one thread of a block after another, to check arithmetic and
// indexing without a GPU. Include it, then the .cu file, then call run_blocks with a launch.
//
// Each thread of a block is a fiber; __syncthreads() hands over to the next one. Shared memory is filled with NaN
// before each block, and the threads take turns forward or backward, so a missing barrier shows as a wrong result.
// Warps, atomics, dynamic shared memory and the clock are not modelled.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
static dim3 gridDim, blockDim, blockIdx, threadIdx;

#define __global__
#define __device__
#define __forceinline__ inline
// A section of their own, so that all shared variables can be found and filled.
#define __shared__ static __attribute__((section("shared_memory")))
extern "C" float __start_shared_memory[] __attribute__((weak));
extern "C" float __stop_shared_memory[] __attribute__((weak));

struct Fiber {
    ucontext_t context;
    dim3 index;
    bool done;
};
static ucontext_t scheduler;
static Fiber* running;
static std::function<void()> body;

static void __syncthreads() { swapcontext(&running->context, &scheduler); }

static void enter() {
    body();
    running->done = true;
    swapcontext(&running->context, &scheduler);
}

// 0: every thread ended. 1: some threads ended while others waited at a barrier.
static int run_block(std::vector<Fiber>& fibers, std::vector<char>& stacks, size_t stack, bool backward) {
    for (float* p = __start_shared_memory; p < __stop_shared_memory; ++p) *p = NAN;
    for (size_t i = 0; i < fibers.size(); ++i) {
        Fiber& fiber = fibers[i];
        fiber.done = false;
        fiber.index = {unsigned(i % blockDim.x), unsigned(i / blockDim.x % blockDim.y),
                       unsigned(i / blockDim.x / blockDim.y)};
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = &stacks[i * stack];
        fiber.context.uc_stack.ss_size = stack;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
    }
    for (size_t ended = 0; ended < fibers.size();) {  // one pass: from barrier to barrier
        if (ended) return 1;
        for (size_t i = 0; i < fibers.size(); ++i) {
            running = &fibers[backward ? fibers.size() - 1 - i : i];
            threadIdx = running->index;
            swapcontext(&scheduler, &running->context);
            ended += running->done;
        }
    }
    return 0;
}

static int run_blocks(dim3 grid, dim3 block, bool backward, std::function<void()> kernel) {
    const size_t stack = 64 << 10;
    gridDim = grid, blockDim = block, body = kernel;
    std::vector<Fiber> fibers(size_t(block.x) * block.y * block.z);
    std::vector<char> stacks(fibers.size() * stack);
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                if (run_block(fibers, stacks, stack, backward)) return 1;
            }
    return 0;
}
