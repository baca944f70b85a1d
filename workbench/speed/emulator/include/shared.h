// The shared memory of a block: where it lies, and who leaves an array of it.
#pragma once
#include "fibers.h"

// Shared memory has a section of its own, so that it can be poisoned and has addresses that fit 32 bits. This opens it,
// before any array comes to lie in it, with 64 MB that nobody may touch, and ends it with as many (subsection 1 comes
// after all arrays, in whatever order the compiler places them). They cost addresses, no memory.
asm(R"(
.pushsection .bss.workbench_shared, "aw", %nobits
.balign 65536
workbench_shared_front:
.zero 0x4000000
workbench_shared_start:
.subsection 1
workbench_shared_end:
.balign 65536
workbench_shared_back:
.zero 0x4000000
.popsection
)");
#define EMU_SHARED __attribute__((section(".bss.workbench_shared"), used))
#define EMU_FENCE EMU_SHARED __attribute__((aligned(1))) static unsigned char
#define EMU_LABEL extern "C" __attribute__((visibility("hidden"))) unsigned char
EMU_LABEL workbench_shared_front[], workbench_shared_start[], workbench_shared_end[], workbench_shared_back[];

namespace emu {

constexpr unsigned MOST_ARRAYS = 64;
constexpr size_t SHARED_GUARD = 64 << 20, FENCE = 512;
alignas(1024) EMU_SHARED static unsigned char dynamic_shared[MOST_SHARED + MARGIN];
// Compilers place variables in the order of their declarations or in the reverse. With this one before the first array,
// and one behind each, every array has a fence on both sides; it begins where the array ends.
EMU_FENCE first_fence[FENCE];

constexpr unsigned MOST_AXES = 4;
struct Array {  // static, in shared memory
    const char* name;
    const unsigned char *start, *end;
    unsigned axes, element;  // bytes of one element
    size_t extent[MOST_AXES];
};
struct Fence {  // FENCE bytes that belong to no array
    const unsigned char* start;
    bool tight;  // up to the next array there is nothing but what its alignment costs
};

static Array arrays[MOST_ARRAYS];
static Fence fences[MOST_ARRAYS];
static unsigned array_count, fence_count;
static const char* dynamic_name = "dynamic shared memory";
static unsigned dynamic_element = 1;

// source.py calls these behind the declaration of static arrays: what they are called, and the fence laid behind them.
template <class T>
void measure(Array& array, T&) {
    array.element = sizeof(T);
}
template <class T, size_t N>
void measure(Array& array, T (&of)[N]) {
    if (array.axes < MOST_AXES) array.extent[array.axes++] = N;
    measure(array, of[0]);
}
template <class T>
bool known(const char* name, T& of) {
    const auto& first = const_cast<const unsigned char&>(reinterpret_cast<const volatile unsigned char&>(of));
    const unsigned char* start = &first;
    Array array{name, start, start + sizeof of, 0, 1, {}};
    measure(array, of);
    if (array_count < MOST_ARRAYS) arrays[array_count++] = array;
    return true;
}
inline bool fenced(const unsigned char* fence, bool tight) {
    if (fence_count < MOST_ARRAYS) fences[fence_count++] = {fence, tight};
    return true;
}

// Somebody touched what belongs to no array of shared memory: which arrays lie beside it?
[[noreturn]] static void stray(const unsigned char* at, const char* did) {
    const char* who = request->precise || at < workbench_shared_start || at >= workbench_shared_back ? "" : "somebody ";
    const unsigned char* dynamic_end = dynamic_shared + request->shared;
    const Array *below = nullptr, *above = nullptr;
    for (unsigned i = 0; i < array_count; ++i) {
        const Array& a = arrays[i];
        if (a.end <= at && (!below || a.end > below->end)) below = &a;
        if (a.start > at && (!above || a.start < above->start)) above = &a;
    }
    if (request->shared && at >= dynamic_end && (!below || below->end < dynamic_end))
        violation("out of bounds", "%s%s %td bytes beyond the %u of dynamic shared memory", who, did, at - dynamic_end,
                  request->shared);
    if (below && above)
        violation("out of bounds", "%s%s shared memory of no array: %td bytes beyond %s, %td bytes before %s", who, did,
                  at - below->end, below->name, above->start - at, above->name);
    if (below)
        violation("out of bounds", "%s%s %td bytes beyond %s in shared memory", who, did, at - below->end, below->name);
    if (above)
        violation("out of bounds", "%s%s %td bytes before %s in shared memory", who, did, above->start - at,
                  above->name);
    violation("out of bounds", "%s%s shared memory that belongs to no array", who, did);
}
static void check_poison(const unsigned char* from, const unsigned char* to) {
    if (from >= to || (*from == POISON && memcmp(from, from + 1, to - from - 1) == 0)) return;
    while (*from == POISON) ++from;
    stray(from, "wrote");
}
static void check_shared() {
    check_poison(dynamic_shared + request->shared, dynamic_shared + sizeof dynamic_shared);
    check_poison(first_fence, first_fence + FENCE);
    for (unsigned i = 0; i < fence_count; ++i) {
        const unsigned char *to = fences[i].start + FENCE, *next = to + 64;  // alignment costs less
        for (unsigned k = 0; k < array_count && fences[i].tight; ++k)
            if (arrays[k].start >= to && arrays[k].start < next) next = arrays[k].start;
        check_poison(fences[i].start, next < to + 64 ? next : to);
    }
    check_poison(workbench_shared_end, workbench_shared_back);
}
static void check_margin() {
    const unsigned char* end = dynamic_shared + request->shared;
    for (unsigned i = 0; i < 64; ++i)  // check_slack looks at all of it when the block has ended
        if (end[i] != POISON) stray(end + i, "wrote");
}
static void poison_shared() {
    memset(workbench_shared_start, POISON, workbench_shared_back - workbench_shared_start);
}

}  // namespace emu
