// What kernels/machine.cuh wraps, on the CPU: the same names, the same layouts of registers and shared memory.
//
// Products are exact in float within one instruction, in the order of k; tensor cores add in an order of their own and
// truncate. Layouts: PTX ISA 8.7, sections "Matrix Fragments for mma.m16n8k16", "ldmatrix", "Asynchronous Warpgroup
// Level Matrix Instructions".
#pragma once
#include "cuda.h"

inline unsigned shared_address(const void* p) { return emu::shared_address(p); }

// ---- cp.async: lands at once or when it is waited for -----------------------------------------------------------

namespace emu {
static void perform(const Copy& c) {
    const Unseen unseen;
    memcpy(c.to, c.from, c.bytes);
    memset(static_cast<char*>(c.to) + c.bytes, 0, c.zeros);
}
static void copy_async(void* to, const void* from, unsigned size, int bytes, int line) {
    Thread& me = self();
    me.line = line;
    shared_address(to);
    if (reinterpret_cast<uintptr_t>(to) % size || reinterpret_cast<uintptr_t>(from) % size)
        violation("alignment", "cp.async of %u bytes from or to an address that is no multiple of them", size);
    if (bytes < 0 || unsigned(bytes) > size) violation("cp.async", "%d bytes of a copy of %u", bytes, size);
    const Copy copy{to, from, unsigned(bytes), size - unsigned(bytes)};
    // Read now: a copy from memory that is not there is this instruction's fault, whenever it lands.
    for (unsigned i = 0; i < copy.bytes; i += 4) (void)*(static_cast<const volatile char*>(from) + i);
    race_copy(to, size, line);
    if (!late()) return perform(copy);
    if (me.copy_count == MOST_COPIES)
        violation("cp.async", "more than %u copies of a thread under way are not modelled", MOST_COPIES);
    me.copies[me.copy_count++] = copy;
}
static void wait_copies(unsigned newest) {
    Thread& me = self();
    if (me.group_count <= newest) return;
    unsigned done = 0, groups = me.group_count - newest;
    for (unsigned g = 0; g < groups; ++g) done += me.groups[g];
    for (unsigned i = 0; i < done; ++i) {
        perform(me.copies[i]);
        race_copied(me.copies[i].to, me.copies[i].bytes + me.copies[i].zeros);
    }
    memmove(me.copies, me.copies + done, (me.copy_count -= done) * sizeof(Copy));
    memmove(me.groups, me.groups + groups, (me.group_count -= groups) * sizeof(unsigned));
}
}  // namespace emu

inline void cp_async_16(void* to, const void* from, int bytes = 16, int line = __builtin_LINE()) {
    emu::copy_async(to, from, 16, bytes, line);
}
inline void cp_async_8(void* to, const void* from, int bytes = 8, int line = __builtin_LINE()) {
    emu::copy_async(to, from, 8, bytes, line);
}
inline void cp_async_4(void* to, const void* from, int bytes = 4, int line = __builtin_LINE()) {
    emu::copy_async(to, from, 4, bytes, line);
}
inline void cp_async_commit(int line = __builtin_LINE()) {
    if (emu::without(line)) return;
    emu::Thread& me = emu::self();
    unsigned in_groups = 0;
    for (unsigned g = 0; g < me.group_count; ++g) in_groups += me.groups[g];
    if (me.group_count == emu::MOST_GROUPS)
        emu::violation("cp.async", "more than %u groups are not modelled", emu::MOST_GROUPS);
    me.groups[me.group_count++] = me.copy_count - in_groups;
}
template <int newest>
void cp_async_wait(int line = __builtin_LINE()) {
    if (!emu::without(line)) emu::wait_copies(newest);
}

// ---- ldmatrix and mma ------------------------------------------------------------------------------------------

namespace emu {

struct Matrices {
    unsigned* r;
    const void* row;
    unsigned count;
    bool transposed;
};
static void load_matrices(void** arguments, unsigned mask) {
    if (mask != ~0u) violation("warp", "ldmatrix needs all 32 lanes");
    const auto& first = *static_cast<Matrices*>(arguments[0]);
    const Unseen unseen;
    for (unsigned m = 0; m < first.count; ++m) {
        uint16_t tile[8][8];
        for (unsigned i = 0; i < 8; ++i) {
            const void* row = static_cast<Matrices*>(arguments[8 * m + i])->row;
            shared_address(row);
            if (reinterpret_cast<uintptr_t>(row) % 16)
                violation("alignment", "ldmatrix from a row that does not begin at a multiple of 16 bytes");
            race_read(current / 32 * 32 + 8 * m + i, row, 16, self().line);
            memcpy(tile[i], row, 16);
        }
        for (unsigned t = 0; t < 32; ++t) {
            const unsigned i = t / 4, j = t % 4 * 2;
            const uint16_t lo = first.transposed ? tile[j][i] : tile[i][j],
                           hi = first.transposed ? tile[j + 1][i] : tile[i][j + 1];
            static_cast<Matrices*>(arguments[t])->r[m] = uint32_t(hi) << 16 | lo;
        }
    }
}
struct Product {
    void* d;
    const unsigned *a, *b;
    unsigned e;
};
inline float bf16_at(const unsigned* r, unsigned i) { return bf16_to_float(r[i / 2] >> i % 2 * 16); }
inline float fp16_at(const unsigned* r, unsigned i) { return half_to_float(r[i / 2] >> i % 2 * 16); }

// m16n8k16: a[16][16] in 8 halves a lane, b[16][8] in 4, d[16][8] in 4 floats. Group g = lane / 4, t = lane % 4.
template <float (*AT)(const unsigned*, unsigned)>
void multiply_16(void** arguments, unsigned mask) {
    if (mask != ~0u) violation("warp", "mma needs all 32 lanes");
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < 32; ++lane) {
        const auto& p = *static_cast<Product*>(arguments[lane]);
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 8; ++i) a[g + i / 2 % 2 * 8][2 * t + i % 2 + i / 4 * 8] = AT(p.a, i);
        for (unsigned i = 0; i < 4; ++i) b[2 * t + i % 2 + i / 2 * 8][g] = AT(p.b, i);
    }
    float d[16][8] = {};
    for (unsigned i = 0; i < 16; ++i)
        for (unsigned k = 0; k < 16; ++k)
            for (unsigned j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    for (unsigned lane = 0; lane < 32; ++lane) {
        auto* own = static_cast<float*>(static_cast<Product*>(arguments[lane])->d);
        for (unsigned i = 0; i < 4; ++i) own[i] += d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}
// m16n8k32 of bytes: a[16][32] in 16 bytes a lane, b[32][8] in 8.
static void multiply_s8(void** arguments, unsigned mask) {
    if (mask != ~0u) violation("warp", "mma needs all 32 lanes");
    int a[16][32], b[32][8];
    for (unsigned lane = 0; lane < 32; ++lane) {
        const auto& p = *static_cast<Product*>(arguments[lane]);
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 16; ++i)
            a[g + i / 4 % 2 * 8][4 * t + i % 4 + i / 8 * 16] = int8_t(p.a[i / 4] >> i % 4 * 8);
        for (unsigned i = 0; i < 8; ++i) b[4 * t + i % 4 + i / 4 * 16][g] = int8_t(p.b[i / 4] >> i % 4 * 8);
    }
    int d[16][8] = {};
    for (unsigned i = 0; i < 16; ++i)
        for (unsigned k = 0; k < 32; ++k)
            for (unsigned j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    for (unsigned lane = 0; lane < 32; ++lane) {
        auto* own = static_cast<int*>(static_cast<Product*>(arguments[lane])->d);
        for (unsigned i = 0; i < 4; ++i) own[i] += d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}
// m16n8k32, a 2:4 sparse: 16 columns kept of 32, their places two bits each in the metadata. With selector 0, lanes
// 4g and 4g+1 hold those of rows g (low half) and g + 8 (high half): lane 4g columns 0 to 15, lane 4g+1 the rest.
template <float (*AT)(const unsigned*, unsigned)>
void multiply_sparse(void** arguments, unsigned mask) {
    if (mask != ~0u) violation("warp", "mma.sp needs all 32 lanes");
    float a[16][32] = {}, b[32][8];
    for (unsigned lane = 0; lane < 32; ++lane) {
        const auto& p = *static_cast<Product*>(arguments[lane]);
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 8; ++i) {
            const unsigned row = g + i / 2 % 2 * 8, kept = 2 * t + i % 2 + i / 4 * 8;  // of 16
            const unsigned e = static_cast<Product*>(arguments[4 * g + kept / 8])->e >> (row >= 8 ? 16 : 0);
            a[row][kept / 2 * 4 + (e >> kept % 8 * 2 & 3)] = AT(p.a, i);
            if (kept % 2 && (e >> kept % 8 * 2 & 3) <= (e >> (kept - 1) % 8 * 2 & 3))
                violation("metadata", "the two places of a group of four are not in order");
        }
        for (unsigned i = 0; i < 8; ++i) b[2 * t + i % 2 + i / 2 * 8][g] = AT(p.b, i);
    }
    float d[16][8] = {};
    for (unsigned i = 0; i < 16; ++i)
        for (unsigned k = 0; k < 32; ++k)
            for (unsigned j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    for (unsigned lane = 0; lane < 32; ++lane) {
        auto* own = static_cast<float*>(static_cast<Product*>(arguments[lane])->d);
        for (unsigned i = 0; i < 4; ++i) own[i] += d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}
}  // namespace emu

#define EMU_LDMATRIX(name, count, transposed)                                              \
    inline void name(unsigned (&r)[count], const void* row, int line = __builtin_LINE()) { \
        emu::Matrices m{r, row, count, transposed};                                        \
        emu::together(~0u, #name, line, &m, emu::load_matrices);                           \
    }
EMU_LDMATRIX(ldmatrix_x4, 4, false)
EMU_LDMATRIX(ldmatrix_x2, 2, false)
EMU_LDMATRIX(ldmatrix_x4_trans, 4, true)
EMU_LDMATRIX(ldmatrix_x2_trans, 2, true)
#define EMU_MMA(name, D, A, B, act)                                                                           \
    inline void name(D(&d)[4], const unsigned (&a)[A], const unsigned (&b)[B], int line = __builtin_LINE()) { \
        emu::Product p{d, a, b, 0};                                                                           \
        emu::together(~0u, #name, line, &p, act);                                                             \
    }
EMU_MMA(mma_bf16, float, 4, 2, emu::multiply_16<emu::bf16_at>)
EMU_MMA(mma_fp16, float, 4, 2, emu::multiply_16<emu::fp16_at>)
EMU_MMA(mma_s8, int, 4, 2, emu::multiply_s8)
#define EMU_MMA_SPARSE(name, at)                                                                \
    inline void name(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[4], unsigned e, \
                     int line = __builtin_LINE()) {                                             \
        emu::Product p{d, a, b, e};                                                             \
        emu::together(~0u, #name, line, &p, emu::multiply_sparse<at>);                          \
    }
EMU_MMA_SPARSE(mma_sparse_bf16, emu::bf16_at)
EMU_MMA_SPARSE(mma_sparse_fp16, emu::fp16_at)
template <int table>
unsigned lop3(unsigned a, unsigned b, unsigned c) {
    unsigned r = 0;
    for (int i = 0; i < 8; ++i)
        if (table >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return r;
}

// ---- wgmma: four warps multiply from shared memory, and wait for it apart ---------------------------------------

namespace emu {

constexpr unsigned MOST_WGMMAS = 64;
struct Warpgroup {
    struct Call {
        float* d[128];
        uint64_t a, b;
        unsigned n, group;
        bool accumulate;
    } calls[MOST_WGMMAS];
    unsigned count, open;  // calls under way; number of the group that is open
    bool fenced;
};
static Warpgroup warpgroups[MOST_THREADS / 128];
static void forget_warpgroups() {
    for (Warpgroup& w : warpgroups) w.count = w.open = 0, w.fenced = false;
}

static void group_together(const char* what, int line, void* mine, void (*act)(Warpgroup&, void**)) {
    const unsigned group = current / 128, at = current % 128;
    if ((group + 1) * 128 > thread_count) violation("warpgroup", "%s in line %d needs 128 threads", what, line);
    Meeting& m = group_meetings[group];
    const bool first = !(m.arrived[0] | m.arrived[1]);
    if (first) m.what = what, m.line = line;
    if (m.what != what)
        violation("warpgroup", "came to %s in line %d, while threads of its warpgroup wait in %s of line %d", what,
                  line, m.what, m.line);
    m.arguments[at] = mine;
    m.arrived[at / 64] |= 1ULL << at % 64;
    if ((m.arrived[0] & m.arrived[1]) != ~0ULL) {
        wait(WAITS_WARP, what, line);
        return;
    }
    self().line = line;
    act(warpgroups[group], m.arguments);
    m.arrived[0] = m.arrived[1] = 0;
    for (unsigned i = 0; i < 128; ++i)
        if (i != at) set_ready(group * 128 + i);
}
// One element of a tile of bf16 with K last, as the descriptor says: swizzle of 128 bytes, rows of 64 elements in
// groups of 8 that lie `stride` apart.
inline float tile_at(uint64_t descriptor, unsigned row, unsigned k) {
    const unsigned start = (descriptor & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
    const unsigned logical = start + row / 8 * stride + row % 8 * 128 + k * 2;
    uint16_t bits;  // the swizzle works on bits of the address
    memcpy(&bits, dynamic_shared + swizzled(logical), 2);
    return bf16_to_float(bits);
}
// A tile of so many rows and 16 columns is being read, until the group of that number has been waited for.
static void touch_tile(uint64_t descriptor, unsigned rows, unsigned group) {
    const unsigned start = (descriptor & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
    for (unsigned row = 0; row < rows; ++row)
        for (unsigned chunk = 0; chunk < 2; ++chunk) {  // the swizzle moves 16 bytes at a time
            const unsigned logical = start + row / 8 * stride + row % 8 * 128 + chunk * 16;
            race_wgmma(dynamic_shared + swizzled(logical), 16, group, self().line);
        }
}
static void check_descriptor(uint64_t descriptor) {
    if (descriptor >> 62 != 1) violation("wgmma", "only descriptors with the 128-byte swizzle are modelled");
    if ((descriptor >> 49 & 7) != 0)
        violation("wgmma", "a base offset is not modelled: tiles begin at multiples of 1024 bytes");
    if ((descriptor & 0x3FFF) << 4 >= request->shared)
        violation("wgmma", "a descriptor points beyond the shared memory");
}
static void multiply_group(const Warpgroup::Call& c) {
    const Unseen unseen;
    static float a[64][16], b[16][256];
    for (unsigned k = 0; k < 16; ++k) {
        for (unsigned i = 0; i < 64; ++i) a[i][k] = tile_at(c.a, i, k);
        for (unsigned j = 0; j < c.n; ++j) b[k][j] = tile_at(c.b, j, k);
    }
    for (unsigned i = 0; i < 64; ++i) {
        float d[256] = {};
        for (unsigned k = 0; k < 16; ++k)
            for (unsigned j = 0; j < c.n; ++j) d[j] += a[i][k] * b[k][j];
        // Row i belongs to warp i / 16; in it lane 4g + t holds columns 8q + 2t, + 1 of rows g and g + 8.
        for (unsigned j = 0; j < c.n; ++j) {
            float& own = c.d[i / 16 * 32 + i % 8 * 4 + j % 8 / 2][j / 8 * 4 + i % 16 / 8 * 2 + j % 2];
            own = (c.accumulate ? own : 0) + d[j];
        }
    }
}
static void finish_groups(Warpgroup& w, unsigned newest) {
    unsigned kept = 0;
    for (unsigned i = 0; i < w.count; ++i) {
        if (w.calls[i].group + newest < w.open)
            multiply_group(w.calls[i]);
        else if (kept++ != i)
            w.calls[kept - 1] = w.calls[i];
    }
    w.count = kept;
}
struct Wgmma {
    float* d;
    uint64_t a, b;
    unsigned n;
    bool accumulate;
};
static void issue_wgmma(Warpgroup& w, void** arguments) {
    const auto& first = *static_cast<Wgmma*>(arguments[0]);
    if (!w.fenced) violation("wgmma", "no wgmma_fence before the first wgmma after a wait");
    if (w.count == MOST_WGMMAS) violation("wgmma", "more than %u wgmma under way are not modelled", MOST_WGMMAS);
    check_descriptor(first.a), check_descriptor(first.b);
    Warpgroup::Call& c = w.calls[w.count++];
    for (unsigned i = 0; i < 128; ++i) c.d[i] = static_cast<Wgmma*>(arguments[i])->d;
    c.a = first.a, c.b = first.b, c.n = first.n, c.group = w.open, c.accumulate = first.accumulate;
    touch_tile(c.a, 64, c.group), touch_tile(c.b, c.n, c.group);
    // Early: it reads shared memory now. Late: when its group is waited for, and so in order for both.
    if (request->schedule == 1) multiply_group(c), --w.count;
}
}  // namespace emu

#define EMU_WGMMA(n)                                                                                \
    inline void wgmma_m64n##n##k16_bf16(float (&d)[n / 2], uint64_t a, uint64_t b, bool accumulate, \
                                        int line = __builtin_LINE()) {                              \
        emu::Wgmma w{d, a, b, n, accumulate};                                                       \
        emu::group_together("wgmma", line, &w, emu::issue_wgmma);                                   \
    }
EMU_WGMMA(64)
EMU_WGMMA(128)
EMU_WGMMA(256)
inline void wgmma_fence(int line = __builtin_LINE()) {
    if (!emu::without(line))
        emu::group_together("wgmma_fence", line, nullptr, [](emu::Warpgroup& w, void**) { w.fenced = true; });
}
inline void wgmma_commit(int line = __builtin_LINE()) {
    if (!emu::without(line))
        emu::group_together("wgmma_commit", line, nullptr, [](emu::Warpgroup& w, void**) { ++w.open; });
}
template <int newest>
void wgmma_wait(int line = __builtin_LINE()) {
    if (!emu::without(line))
        emu::group_together("wgmma_wait", line, nullptr, [](emu::Warpgroup& w, void**) {
            emu::finish_groups(w, newest);
            if (w.open > newest) emu::race_wgmma_over(w.open - newest);
            if (newest == 0) w.fenced = false;
        });
}
template <int registers>
void setmaxnreg_inc() {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "a multiple of 8 from 24 to 256");
}
template <int registers>
void setmaxnreg_dec() {
    setmaxnreg_inc<registers>();
}
inline void fence_async_shared() {}
