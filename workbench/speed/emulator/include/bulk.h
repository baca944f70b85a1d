// Barriers in shared memory (mbarrier), and the copies that announce themselves there (TMA).
#pragma once
#include "fibers.h"
#include "races.h"

struct alignas(64) CUtensorMap {  // ours holds in the open what the driver's encodes
    const unsigned char* base;
    unsigned rows, columns, pitch, element, box_rows, box_columns;
    unsigned char opaque[128 - 8 - 6 * 4];
};

namespace emu {

struct Bulk {
    unsigned char* to;
    CUtensorMap map;
    int x, y;
    unsigned barrier;
};
constexpr unsigned MOST_BULKS = 64;
static Bulk bulks[MOST_BULKS];
static unsigned bulk_count;
static void forget_bulk() { bulk_count = 0; }

static unsigned find_mbarrier(const void* address, const char* what, int line) {
    race_atomic(address, sizeof(uint64_t), line);
    for (unsigned i = 0; i < mbarrier_count; ++i)
        if (mbarriers[i].address == address) return i;
    self().line = line;
    violation("mbarrier", "%s in line %d on an mbarrier that nobody has initialised", what, line);
}
static void flip_if_complete(unsigned b) {
    MBarrier& m = mbarriers[b];
    if (m.pending || m.bytes) return;
    m.pending = m.count, ++m.phase;
    race_mbarrier_flip(b, m.phase);
    for (unsigned i = 0; i < thread_count; ++i) {
        Thread& t = threads[i];
        if (t.state == WAITS_MBARRIER && t.barrier == b && (m.phase & 1) != t.parity) set_ready(i);
    }
}
static void arrive(unsigned b, int line) {
    race_mbarrier_arrive(b);
    if (--mbarriers[b].pending < 0)
        violation("mbarrier", "more arrivals in line %d than the mbarrier was made for", line);
    flip_if_complete(b);
}

// Offset of a byte in a box with rows of 128 bytes: its 16-byte chunk number, xor the row modulo 8 (128-byte swizzle).
inline unsigned swizzled(unsigned offset) { return offset ^ (offset >> 7 & 7) << 4; }

static void land(const Bulk& b) {
    const Unseen unseen;
    const unsigned width = b.map.box_columns * b.map.element;
    for (unsigned r = 0; r < b.map.box_rows; ++r)
        for (unsigned c = 0; c < b.map.box_columns; ++c) {
            const unsigned offset = r * width + c * b.map.element;
            unsigned char* to = b.to + (width == 128 ? swizzled(offset) : offset);
            const int64_t row = int64_t(b.y) + r, column = int64_t(b.x) + c;
            if (row < 0 || column < 0 || row >= b.map.rows || column >= b.map.columns)
                memset(to, 0, b.map.element);
            else
                memcpy(to, b.map.base + row * b.map.pitch + column * b.map.element, b.map.element);
        }
    mbarriers[b.barrier].bytes -= int64_t(width) * b.map.box_rows;
    flip_if_complete(b.barrier);
}
static bool land_one() {
    if (!bulk_count) return false;
    const bool newest = request->schedule == 4;  // they may land in any order
    const Bulk b = bulks[newest ? bulk_count - 1 : 0];
    if (!newest) memmove(bulks, bulks + 1, (bulk_count - 1) * sizeof *bulks);
    --bulk_count;
    land(b);
    return true;
}

}  // namespace emu

using mbarrier = uint64_t;

inline void mbarrier_init(mbarrier* m, unsigned count, int line = __builtin_LINE()) {
    using namespace emu;
    race_write(m, sizeof *m, line);
    for (unsigned i = 0; i < mbarrier_count; ++i)
        if (mbarriers[i].address == m) violation("mbarrier", "an mbarrier is initialised twice");
    if (mbarrier_count == 64) violation("mbarrier", "more than 64 mbarriers are not modelled");
    mbarriers[mbarrier_count++] = {m, int64_t(count), int64_t(count), 0, 0};
}
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(mbarrier* m, int line = __builtin_LINE()) {
    if (emu::without(line)) return;
    emu::arrive(emu::find_mbarrier(m, "arrival", line), line);
}
inline void mbarrier_expect(mbarrier* m, unsigned bytes, int line = __builtin_LINE()) {
    if (emu::without(line)) return;
    const unsigned b = emu::find_mbarrier(m, "arrival", line);
    emu::mbarriers[b].bytes += bytes;
    emu::arrive(b, line);
}
inline void mbarrier_wait(mbarrier* m, unsigned parity, int line = __builtin_LINE()) {
    if (emu::without(line)) return;
    const unsigned b = emu::find_mbarrier(m, "wait", line);
    if ((emu::mbarriers[b].phase & 1) == parity) {
        emu::self().barrier = b, emu::self().parity = parity;
        emu::wait(emu::WAITS_MBARRIER, "mbarrier_wait", line);
    }
    emu::race_mbarrier_leave(b);
}
inline void tma_load_2d(void* to, const CUtensorMap* map, mbarrier* m, int x, int y, int line = __builtin_LINE()) {
    using namespace emu;
    const unsigned width = map->box_columns * map->element;
    if (reinterpret_cast<uintptr_t>(to) % (width == 128 ? 1024 : 128))
        violation("alignment", "a TMA load in line %d writes to an address that is no multiple of %d", line,
                  width == 128 ? 1024 : 128);
    if (bulk_count == MOST_BULKS) violation("TMA", "more than %u loads under way are not modelled", MOST_BULKS);
    const Bulk b{static_cast<unsigned char*>(to), *map, x, y, find_mbarrier(m, "TMA load", line)};
    race_bulk(to, size_t(width) * map->box_rows, b.barrier, mbarriers[b.barrier].phase, line);
    // Bulk copies are the slowest thing of the machine: they land when nothing else can move, but for one schedule.
    if (request->schedule == 1 || (request->schedule == 2 && !late()))
        land(b);
    else
        bulks[bulk_count++] = b;
}
inline void tma_prefetch(const CUtensorMap*) {}
