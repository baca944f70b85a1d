// Runs the blocks of a CUDA kernel on the CPU: one fiber for each thread of a block, one block after the other.
//
// A fiber runs until it has to wait (for a barrier, for the other lanes of its warp, for an mbarrier); then the
// schedule picks another that can go on. What waits for nothing that can still happen is a deadlock, and is reported
// with block, thread and line. Every operand lies between pages that may not be touched, so an access beyond its end
// stops the run with the block and the thread that made it. The first violation ends the launch.
#pragma once
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

// Elsewhere, or if asked, the C library switches: some fifty times slower, because it saves the signal mask each time.
#if defined(__x86_64__) && defined(__linux__) && !defined(WORKBENCH_UCONTEXT)
#define EMU_ASSEMBLY 1
#else
#define EMU_ASSEMBLY 0
#endif
#include <ucontext.h>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
static dim3 gridDim, blockDim, blockIdx;
static uint3 threadIdx;
static const int warpSize = 32;

namespace emu {

constexpr unsigned MOST_THREADS = 1024, MOST_SHARED = 227 << 10, MARGIN = 1024;
#if defined(__x86_64__)
constexpr size_t PAGE = 4096;
#else
constexpr size_t PAGE = 64 << 10;  // the largest that is in use
#endif
constexpr size_t STACK = 256 << 10, SIGNAL_STACK = 64 << 10;
// Addresses on each side of an operand that nobody may touch: any 32-bit index of elements of up to 16 bytes stays in
// them. Where the system does not give that many, an access is caught that is less far off.
constexpr size_t GUARD = size_t(32) << 30, SMALL_GUARD = 1 << 20;
constexpr unsigned char POISON = 0xFF;  // NaN in every float type, -1 as a whole number
// What Python hands over and gets back; child.py holds the same structures.
struct Operand {
    char name[16];
    void* data;  // the caller's bytes
    uint64_t bytes;
    uint32_t element;        // bytes of one element
    uint32_t output;         // 1: a result
    uint32_t rows, columns;  // of a matrix handed over as a TMA descriptor, else 0
    uint32_t pitch;          // bytes from row to row
    uint32_t box_rows, box_columns;
    uint32_t keep;  // 1: the caller's bytes are what a result starts from (zeros for sums)
};
struct Request {
    Operand* operands;
    uint32_t count;
    int32_t M, N, K;
    uint32_t grid[3], block[3], shared;
    uint32_t schedule;  // 0 forward, 1 reverse, 2 random, 3 greedy, 4 greedy-reverse
    uint64_t seed;
    const int32_t* without;  // lines whose synchronisation is left out
    uint32_t without_count;
    uint32_t limit_ms;
    uint32_t precise;  // look at the bytes around the results after each switch, not only after each block
};
struct Report {
    char kind[32];  // "" where all went well
    char text[480];
    uint32_t block[3], thread[3];
    int32_t line;  // of the last synchronisation that the thread came to, 0: none
    uint64_t switches;
    uint32_t places[2];  // of a race: where the thread was, and the one before (races.h)
};

enum State : unsigned char { READY, WAITS_BLOCK, WAITS_WARP, WAITS_MBARRIER, ENDED };

struct Copy {
    void* to;
    const void* from;
    unsigned bytes, zeros;  // copied, then zeros
};
constexpr unsigned MOST_COPIES = 512, MOST_GROUPS = 64;

struct Thread {
    void* sp;
    uint3 index;
    State state;
    int line;          // where it waits, or last did
    const char* what;  // for what
    unsigned barrier;  // which named barrier or mbarrier
    unsigned parity;
    Copy* copies;  // cp.async in flight, oldest first: MOST_COPIES of them
    unsigned copy_count;
    unsigned* groups;  // copies in each committed group, oldest first: MOST_GROUPS
    unsigned group_count;
#if !EMU_ASSEMBLY
    ucontext_t context;
#endif
};

struct Meeting {  // of the lanes of a warp, or the warps of a warpgroup, in one instruction
    void* arguments[128];
    uint64_t arrived[2], wanted[2];
    const char* what;
    int line;
};
struct Barrier {
    unsigned arrived, wanted;
    int line;
};
struct MBarrier {
    const void* address;
    int64_t count, pending, bytes;
    unsigned phase;
};
struct Placed {
    unsigned char *base, *start, *end;  // of the operand; of the pages that may be touched
    size_t guard;  // bytes on each side
    const Operand* operand;
};
static const Request* request;
static Report* report;
static Thread* threads;  // MOST_THREADS of them
static unsigned char* stacks;
static unsigned thread_count, current, ended, landing;
static uint64_t ready[MOST_THREADS / 64];
static void* scheduler_sp;
static jmp_buf stop;
static Barrier barriers[16];
static Meeting meetings[MOST_THREADS / 32][4], group_meetings[MOST_THREADS / 128];
static MBarrier mbarriers[64];
static unsigned mbarrier_count;
static Placed placed[16];
static uint64_t random_state;
static void (*body)(void**);
static void* arguments[24];
static volatile bool running;  // a kernel: a signal is its fault
static void* signal_stack;
#if !EMU_ASSEMBLY
static ucontext_t scheduler_context;
#endif

inline Thread& self() { return threads[current]; }
inline uint64_t draw() {  // xorshift64*
    random_state ^= random_state >> 12, random_state ^= random_state << 25, random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1DULL;
}

static void fill_report(const char* kind, const char* format, va_list list) {
    snprintf(report->kind, sizeof report->kind, "%s", kind);
    vsnprintf(report->text, sizeof report->text, format, list);
    const unsigned block[3] = {blockIdx.x, blockIdx.y, blockIdx.z};
    const unsigned thread[3] = {threadIdx.x, threadIdx.y, threadIdx.z};
    memcpy(report->block, block, sizeof block), memcpy(report->thread, thread, sizeof thread);
    report->line = threads[current].line;
}
[[noreturn]] __attribute__((format(printf, 2, 3))) static void violation(const char* kind, const char* format, ...) {
    va_list list;
    va_start(list, format);
    fill_report(kind, format, list);
    va_end(list);
    running = false;
    longjmp(stop, 1);
}

// Late: an asynchronous copy lands when somebody waits for it; early: at once. A hazard shows in one of the two.
inline bool late() {
    switch (request->schedule) {
        case 0:
        case 3: return true;
        case 1:
        case 4: return false;
        default: return draw() >> 63;
    }
}

// Whether the synchronisation of this line is left out, to see that this is noticed.
inline bool without(int line) {
    for (unsigned i = 0; i < request->without_count; ++i)
        if (request->without[i] == line) return true;
    return false;
}

// ---- switching -------------------------------------------------------------------------------------------------

#if EMU_ASSEMBLY
extern "C" __attribute__((visibility("hidden"))) void workbench_switch(void** from, void* to);
asm(R"(
.text
.hidden workbench_switch
.type workbench_switch, @function
workbench_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size workbench_switch, .-workbench_switch
)");
static void to_scheduler() { workbench_switch(&self().sp, scheduler_sp); }
static void to_thread() { workbench_switch(&scheduler_sp, self().sp); }
#else
static void to_scheduler() { swapcontext(&self().context, &scheduler_context); }
static void to_thread() { swapcontext(&scheduler_context, &self().context); }
#endif

inline void set_ready(unsigned i) {
    threads[i].state = READY;
    ready[i / 64] |= 1ULL << i % 64;
}
static void wait(State state, const char* what, int line) {
    Thread& me = self();
    me.state = state, me.what = what, me.line = line;
    ready[current / 64] &= ~(1ULL << current % 64);
    to_scheduler();
}
static void yield() { to_scheduler(); }

static void enter() {
    body(arguments);
    self().state = ENDED;
    ready[current / 64] &= ~(1ULL << current % 64);
    ++ended;
    to_scheduler();
    abort();  // an ended thread is never picked
}

static void prepare(unsigned i) {
    Thread& t = threads[i];
    t.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    t.line = 0, t.what = "", t.copy_count = t.group_count = 0;
    // Not all at one place of their pages: the tops of a thousand stacks would share a few lines of the cache.
    unsigned char* top = stacks + (i + 1) * STACK - i % 61 * 320;
#if EMU_ASSEMBLY
    void** sp = reinterpret_cast<void**>(top) - 1;
    *sp = nullptr;                            // where enter() would return to
    *--sp = reinterpret_cast<void*>(&enter);  // where the first switch returns to
    sp -= 6;                                  // six registers
    memset(sp, 0, 6 * sizeof *sp);
    t.sp = sp;
#else
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = top - STACK + PAGE;
    t.context.uc_stack.ss_size = STACK - PAGE;
    t.context.uc_link = nullptr;
    makecontext(&t.context, enter, 0);
#endif
    set_ready(i);
}

// ---- schedules -------------------------------------------------------------------------------------------------

static int up_from(unsigned first) {  // the first ready thread from `first` on, or -1
    for (unsigned w = first / 64, cut = first % 64; w * 64 < thread_count; ++w, cut = 0)
        if (uint64_t bits = ready[w] >> cut << cut) return w * 64 + __builtin_ctzll(bits);
    return -1;
}
static int down_from(int last) {
    for (int w = last / 64, cut = 63 - last % 64; last >= 0 && w >= 0; --w, cut = 0)
        if (uint64_t bits = ready[w] << cut >> cut) return w * 64 + 63 - __builtin_clzll(bits);
    return -1;
}
static int pick() {
    int next;
    switch (request->schedule) {
        case 0: next = current + 1 < thread_count ? up_from(current + 1) : -1; return next < 0 ? up_from(0) : next;
        case 1: next = down_from(int(current) - 1); return next < 0 ? down_from(thread_count - 1) : next;
        case 2: next = up_from(draw() % thread_count); return next < 0 ? up_from(0) : next;
        case 3: return up_from(0);  // the first warps run as far as they can
        default: return down_from(thread_count - 1);
    }
}

static bool land_one();  // a bulk copy that is under way; false: none is (bulk.h)
static void forget_bulk();
static void forget_warpgroups();  // machine_emulated.h

[[noreturn]] static void deadlock() {
    unsigned first = 0, waiting = 0;
    for (unsigned i = thread_count; i-- > 0;)
        if (threads[i].state != ENDED) first = i, ++waiting;
    const Thread& t = threads[first];
    current = first, threadIdx = t.index;
    int other = -1;  // a thread that waits elsewhere says more than one that ended
    for (unsigned i = 0; i < thread_count; ++i)
        if (threads[i].state != ENDED && threads[i].line != t.line) {
            other = i;
            break;
        }
    if (other >= 0) {
        const Thread& o = threads[other];
        violation("deadlock", "waits for ever in %s (line %d), while thread (%u, %u, %u) waits in %s (line %d)", t.what,
                  t.line, o.index.x, o.index.y, o.index.z, o.what, o.line);
    }
    if (ended)
        violation("deadlock", "waits in %s (line %d), which %u of %u threads never reach: they have ended", t.what,
                  t.line, ended, thread_count);
    violation("deadlock", "waits for ever in %s (line %d), as do %u other threads", t.what, t.line, waiting - 1);
}

static void check_slack();   // guards.h
static void poison_shared();  // shared.h
static void check_margin();
static void race_begin_block();  // races.h
static void race_watch(bool on);

static void run_block() {
    poison_shared(), race_begin_block();
    memset(barriers, 0, sizeof barriers), memset(meetings, 0, sizeof meetings);
    memset(group_meetings, 0, sizeof group_meetings), memset(ready, 0, sizeof ready);
    mbarrier_count = ended = 0, forget_bulk(), forget_warpgroups();
    for (unsigned i = 0; i < thread_count; ++i) prepare(i);
    current = request->schedule == 0 ? thread_count - 1 : 0;
    while (ended < thread_count) {
        const int next = pick();
        if (next < 0) {
            if (land_one()) continue;
            deadlock();
        }
        current = next, threadIdx = threads[next].index;
        race_watch(true);
        to_thread();
        race_watch(false);
        ++report->switches;
        check_margin();
        if (request->precise) check_slack();
    }
}

}  // namespace emu
