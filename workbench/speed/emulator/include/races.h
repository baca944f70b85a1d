// Races in shared memory: two threads touch the same byte, one of them writes, and nothing that they wait for lies
// between.
//
// Only in libraries that are compiled with WORKBENCH_RACES. There the compiler calls before each load and store
// (source.py), and for each byte of shared memory its last write and its last readers are kept. What happened before
// what is known by vector clocks: a thread that arrives at a barrier hands on what it knows, a thread that has waited
// there has learned it. __syncthreads needs no clocks: it begins an epoch, and what is of an older one is over. Copies
// and products that go on by themselves are parties of their own: a load of the TMA belongs to its mbarrier, a wgmma to
// its warpgroup, and who has not waited for them knows nothing of them.
//
// Source: Flanagan and Freund 2009 (FastTrack) for epochs beside clocks.
#pragma once
#include "shared.h"

#if WORKBENCH_RACES
#if defined(__clang__)
#define EMU_UNSEEN __attribute__((no_sanitize("coverage")))
#else
#define EMU_UNSEEN __attribute__((no_sanitize_thread))
#endif
extern "C" __attribute__((visibility("hidden"))) const unsigned char __ehdr_start[];  // where the library begins
#else
#define EMU_UNSEEN
#endif

namespace emu {

#if WORKBENCH_RACES

constexpr unsigned WARPGROUPS = MOST_THREADS / 128, MBARRIERS = 64, ENGINES = MBARRIERS + WARPGROUPS;
constexpr unsigned PARTIES = MOST_THREADS + ENGINES;  // threads, then mbarriers, then warpgroups
constexpr unsigned READERS = 3;  // of a byte that are kept; of more than two, which one wrote last does not matter
constexpr uint32_t UNDER_WAY = ~0u;  // clock of a copy that its thread has not waited for
constexpr uint32_t LINE = 1u << 31;  // a place is a line of the source, or else an offset in the library

enum Kind : unsigned char { PLAIN, ATOMIC, COPY, BULK, WGMMA };
struct Access {
    uint32_t epoch, clock, place;
    uint16_t who;  // a party
    Kind kind;
};
struct Cell {  // one byte of shared memory
    Access write, read[READERS];
};
struct Clock {  // of each party: up to where what it did is over for the owner of this clock
    uint32_t of[PARTIES];
};

static Cell* shadow;
static Clock *clocks, *barrier_clocks, *arrived_clocks, *complete_clocks;
static uint32_t epoch, block_epoch;
static volatile bool watching;  // the calls that look at it are put in after the optimiser has gone over the code
static bool clocks_used;

struct Unseen {  // while one of these is there, the emulator itself is at work
    bool before = watching;
    EMU_UNSEEN Unseen() { watching = false; }
    EMU_UNSEEN ~Unseen() { watching = before; }
};

EMU_UNSEEN static void race_begin_block() {
    auto reserve = [](size_t bytes) {
        return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    };
    if (!shadow) {
        shadow = static_cast<Cell*>(reserve((workbench_shared_back - workbench_shared_start) * sizeof(Cell)));
        clocks = static_cast<Clock*>(reserve((MOST_THREADS + 16 + 2 * MBARRIERS) * sizeof(Clock)));
        barrier_clocks = clocks + MOST_THREADS, arrived_clocks = barrier_clocks + 16;
        complete_clocks = arrived_clocks + MBARRIERS;
        clocks_used = true;
    }
    if (clocks_used) {
        memset(clocks, 0, thread_count * sizeof(Clock));
        memset(barrier_clocks, 0, (16 + 2 * MBARRIERS) * sizeof(Clock));
        for (unsigned t = 0; t < thread_count; ++t) clocks[t].of[t] = 1;
    }
    clocks_used = false, watching = false;
    block_epoch = ++epoch;
}
static void race_watch(bool on) { watching = on; }

// ---- what a race is called -------------------------------------------------------------------------------------

EMU_UNSEEN static const char* race_text(const char* format, ...) {  // one of four texts that live for a while
    static char texts[4][160];
    static unsigned next;
    char* text = texts[next++ % 4];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof texts[0], format, list);
    va_end(list);
    return text;
}
EMU_UNSEEN static const char* race_thread(unsigned t) {
    const uint3 i = threads[t].index;
    return race_text("thread (%u, %u, %u)", i.x, i.y, i.z);
}
EMU_UNSEEN static const char* race_where(const unsigned char* at) {  // "tile[3][5]"
    for (unsigned i = 0; i < array_count; ++i) {
        const Array& a = arrays[i];
        if (at < a.start || at >= a.end) continue;
        size_t index = (at - a.start) / a.element;
        const char* text = "";
        for (unsigned axis = a.axes; axis-- > 0; index /= a.extent[axis])
            text = race_text("[%zu]%s", axis ? index % a.extent[axis] : index, text);
        return race_text("%s%s", a.name, text);
    }
    if (at >= dynamic_shared && at < dynamic_shared + request->shared)
        return race_text("%s[%td]", dynamic_name, (at - dynamic_shared) / dynamic_element);
    return "shared memory";
}
[[noreturn]] EMU_UNSEEN static void race(const Access& then, bool wrote, unsigned t, bool writes, uint32_t place,
                                         const unsigned char* at) {
    watching = false;
    current = t, threadIdx = threads[t].index;
    report->places[0] = place, report->places[1] = then.place;
    const char *now = writes ? "writes" : "reads", *what = race_where(at);
    // {0} and {1} become the lines
    switch (then.kind) {
        case COPY:
            violation("race", "%s %s{0}, where a copy of %s{1} may not have arrived: it was not waited for", now, what,
                      then.who == t ? "its own" : race_thread(then.who));
        case BULK:
            violation("race", "%s %s{0}, where a TMA load{1} may not have arrived: nobody told this thread", now, what);
        case WGMMA:
            violation("race", "%s %s{0}, which a wgmma{1} of threads %u to %u may still be reading", now, what,
                      (then.who - MOST_THREADS - MBARRIERS) * 128, (then.who - MOST_THREADS - MBARRIERS) * 128 + 127);
        default:
            violation("race", "%s %s{0}, which %s %s{1}, and no barrier lies between", now, what,
                      race_thread(then.who), wrote ? "wrote" : "read");
    }
}

// ---- accesses --------------------------------------------------------------------------------------------------

EMU_UNSEEN static inline bool over(const Access& then, unsigned t) {  // for thread t
    if (then.epoch < block_epoch) return true;  // of another block, or none
    if (then.kind <= ATOMIC && (then.who == t || then.epoch < epoch)) return true;
    return then.clock != UNDER_WAY && clocks[t].of[then.who] >= then.clock;
}
// Thread t reads or writes `bytes` bytes; `mine` is what will be known of it.
EMU_UNSEEN static void race_access(unsigned t, const void* address, size_t bytes, bool writes, const Access& mine) {
    const auto* at = static_cast<const unsigned char*>(address);
    if (at < workbench_shared_start || at >= workbench_shared_back) return;
    Cell* cell = shadow + (at - workbench_shared_start);
    for (size_t i = 0; i < bytes; ++i, ++cell) {
        if (!over(cell->write, t)) race(cell->write, true, t, writes, mine.place, at + i);
        const bool plain = mine.kind != ATOMIC;
        for (Access& one : cell->read) {  // atomic operations stand here, too: they race with all but each other
            const bool atomic = one.kind == ATOMIC;
            if ((writes ? plain || !atomic : atomic) && !over(one, t)) race(one, atomic, t, writes, mine.place, at + i);
            if (writes && plain) one.epoch = 0;
        }
        if (writes && plain) {
            cell->write = mine;
            continue;
        }
        unsigned slot = mine.who % READERS;
        for (unsigned k = 0; k < READERS; ++k)
            if (over(cell->read[k], t)) slot = k;
        cell->read[slot] = mine;
    }
}
EMU_UNSEEN static void race_plain(unsigned t, const void* at, size_t bytes, bool writes, uint32_t place, Kind kind) {
    race_access(t, at, bytes, writes, {epoch, clocks[t].of[t], place, uint16_t(t), kind});
}
// What the compiler calls; `from` is where the call returns to.
EMU_UNSEEN static inline void race_touched(const void* at, size_t bytes, bool writes, const void* from) {
    const auto* byte = static_cast<const unsigned char*>(at);
    if (!watching || byte < workbench_shared_start || byte >= workbench_shared_back) return;
    watching = false;
    race_plain(current, at, bytes, writes, uint32_t(static_cast<const unsigned char*>(from) - __ehdr_start - 1), PLAIN);
    watching = true;
}
EMU_UNSEEN static void race_atomic(const void* at, size_t bytes, int line) {
    race_plain(current, at, bytes, true, LINE | line, ATOMIC);
}
EMU_UNSEEN static void race_write(const void* at, size_t bytes, int line) {
    race_plain(current, at, bytes, true, LINE | line, PLAIN);
}
EMU_UNSEEN static void race_read(unsigned t, const void* at, size_t bytes, int line) {
    race_plain(t, at, bytes, false, LINE | line, PLAIN);
}
EMU_UNSEEN static void race_copy(const void* to, size_t bytes, int line) {  // a cp.async sets out
    race_access(current, to, bytes, true, {epoch, UNDER_WAY, LINE | line, uint16_t(current), COPY});
}
EMU_UNSEEN static void race_copied(const void* to, size_t bytes) {  // its thread has waited for it
    Cell* cell = shadow + (static_cast<const unsigned char*>(to) - workbench_shared_start);
    for (size_t i = 0; i < bytes; ++i, ++cell) {
        Access& write = cell->write;
        if (write.kind != COPY || write.who != current) continue;
        write.kind = PLAIN, write.epoch = epoch, write.clock = clocks[current].of[current];
    }
}
EMU_UNSEEN static void race_bulk(const void* to, size_t bytes, unsigned mbarrier, unsigned phase, int line) {
    clocks_used = true;
    race_access(current, to, bytes, true, {epoch, phase + 1, LINE | line, uint16_t(MOST_THREADS + mbarrier), BULK});
}
EMU_UNSEEN static void race_wgmma(const void* at, size_t bytes, unsigned group, int line) {  // number of its group
    clocks_used = true;
    const uint16_t who = MOST_THREADS + MBARRIERS + current / 128;
    race_access(current, at, bytes, false, {epoch, group + 1, LINE | line, who, WGMMA});
}
EMU_UNSEEN static void race_wgmma_over(unsigned groups) {  // so many are over, for all of the warpgroup
    const unsigned warpgroup = current / 128;
    for (unsigned t = warpgroup * 128; t < warpgroup * 128 + 128; ++t) {
        uint32_t& known = clocks[t].of[MOST_THREADS + MBARRIERS + warpgroup];
        if (known < groups) known = groups;
    }
}

// ---- what orders them ------------------------------------------------------------------------------------------

EMU_UNSEEN static void learn(Clock& own, const Clock& other) {
    for (unsigned i = 0; i < thread_count; ++i) own.of[i] = own.of[i] < other.of[i] ? other.of[i] : own.of[i];
    for (unsigned i = MOST_THREADS; i < PARTIES; ++i) own.of[i] = own.of[i] < other.of[i] ? other.of[i] : own.of[i];
}
EMU_UNSEEN static void hand_on(unsigned t, Clock& to) {  // what thread t knows; what it does next is later
    clocks_used = true;
    learn(to, clocks[t]);
    ++clocks[t].of[t];
}
EMU_UNSEEN static void race_syncthreads() {
    ++epoch;
    if (!clocks_used) return;
    Clock& all = clocks[0];
    for (unsigned i = MOST_THREADS; i < PARTIES; ++i) {
        for (unsigned t = 1; t < thread_count; ++t)
            if (all.of[i] < clocks[t].of[i]) all.of[i] = clocks[t].of[i];
        for (unsigned t = 1; t < thread_count; ++t) clocks[t].of[i] = all.of[i];
    }
}
EMU_UNSEEN static void race_syncwarp(unsigned mask) {
    static Clock all;
    const unsigned first = current / 32 * 32;
    memset(&all, 0, sizeof all);
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) hand_on(first + i, all);
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) learn(clocks[first + i], all);
}
inline void race_arrive(unsigned barrier) { hand_on(current, barrier_clocks[barrier]); }
inline void race_leave(unsigned t, unsigned barrier) { learn(clocks[t], barrier_clocks[barrier]); }
inline void race_mbarrier_arrive(unsigned m) { hand_on(current, arrived_clocks[m]); }
EMU_UNSEEN static void race_mbarrier_flip(unsigned m, unsigned phase) {
    learn(complete_clocks[m], arrived_clocks[m]);
    complete_clocks[m].of[MOST_THREADS + m] = phase;  // its loads of the phase that is over
}
inline void race_mbarrier_leave(unsigned m) { learn(clocks[current], complete_clocks[m]); }

#else

struct Unseen {
    ~Unseen() {}
};
static void race_begin_block() {}
static void race_watch(bool) {}
inline void race_atomic(const void*, size_t, int) {}
inline void race_write(const void*, size_t, int) {}
inline void race_read(unsigned, const void*, size_t, int) {}
inline void race_copy(const void*, size_t, int) {}
inline void race_copied(const void*, size_t) {}
inline void race_bulk(const void*, size_t, unsigned, unsigned, int) {}
inline void race_wgmma(const void*, size_t, unsigned, int) {}
inline void race_wgmma_over(unsigned) {}
inline void race_syncthreads() {}
inline void race_syncwarp(unsigned) {}
inline void race_arrive(unsigned) {}
inline void race_leave(unsigned, unsigned) {}
inline void race_mbarrier_arrive(unsigned) {}
inline void race_mbarrier_flip(unsigned, unsigned) {}
inline void race_mbarrier_leave(unsigned) {}

#endif

}  // namespace emu

// ---- what the compiler calls -----------------------------------------------------------------------------------

#if WORKBENCH_RACES
#define EMU_CALLED extern "C" __attribute__((visibility("hidden"), noinline, used)) EMU_UNSEEN void
#define EMU_RETURNS __builtin_return_address(0)
#define EMU_TOUCH(name, bytes, writes) \
    EMU_CALLED name(void* at) { emu::race_touched(at, bytes, writes, EMU_RETURNS); }
#if defined(__clang__)
#define EMU_SIZE(bytes)                                    \
    EMU_TOUCH(__sanitizer_cov_load##bytes, bytes, false) \
    EMU_TOUCH(__sanitizer_cov_store##bytes, bytes, true)
#else
#define EMU_SIZE(bytes)                                       \
    EMU_TOUCH(__tsan_read##bytes, bytes, false)             \
    EMU_TOUCH(__tsan_write##bytes, bytes, true)             \
    EMU_TOUCH(__tsan_unaligned_read##bytes, bytes, false) \
    EMU_TOUCH(__tsan_unaligned_write##bytes, bytes, true)
EMU_CALLED __tsan_read_range(void* at, size_t bytes) { emu::race_touched(at, bytes, false, EMU_RETURNS); }
EMU_CALLED __tsan_write_range(void* at, size_t bytes) { emu::race_touched(at, bytes, true, EMU_RETURNS); }
EMU_CALLED __tsan_init() {}
EMU_CALLED __tsan_func_entry(void*) {}
EMU_CALLED __tsan_func_exit(void*) {}
#endif
EMU_SIZE(1)
EMU_SIZE(2)
EMU_SIZE(4)
EMU_SIZE(8)
EMU_SIZE(16)
#endif
