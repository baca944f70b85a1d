// The operands of a launch between pages that may not be touched, the signals that follow when they are, and the loop
// over the blocks.
#pragma once
#include "fibers.h"
#include "shared.h"

namespace emu {

// ---- operands between guards -----------------------------------------------------------------------------------

static void place(unsigned i) {
    const Operand& o = request->operands[i];
    const size_t pages = (o.bytes + PAGE - 1) / PAGE * PAGE + (o.bytes == 0) * PAGE;
    unsigned char* start = nullptr;
    size_t guard = 0;
    for (size_t size : {GUARD, SMALL_GUARD}) {
        void* all =
            mmap(nullptr, pages + 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == MAP_FAILED) continue;
        start = static_cast<unsigned char*>(all) + size, guard = size;
        break;
    }
    if (!start || mprotect(start, pages, PROT_READ | PROT_WRITE))
        violation("memory", "there is none for the %llu bytes of %s", (unsigned long long)o.bytes, o.name);
    memset(start, POISON, pages);
    // Against the upper guard, or the lower one: an operand is seldom whole pages, and either end can be run over.
    const bool high = request->schedule != 1 && request->schedule != 4;
    unsigned char* base = high ? start + pages - (o.bytes + 15) / 16 * 16 : start;
    if (!o.output || o.keep) memcpy(base, o.data, o.bytes);
    if (!o.output) mprotect(start, pages, PROT_READ);
    placed[i] = {base, start, start + pages, guard, &o};
}
static void check_slack() {  // the bytes of its pages that do not belong to an operand, nor to an array
    check_shared();
    for (unsigned i = 0; i < request->count; ++i) {
        const Placed& p = placed[i];
        if (!p.operand->output) continue;
        const auto check = [&p](const unsigned char* from, const unsigned char* to) {
            const long long element = p.operand->element;
            for (; from < to; ++from)
                if (*from != POISON)
                    violation("out of bounds", "%swrote %s[%lld], outside its %llu elements",
                              request->precise ? "" : "somebody ", p.operand->name,
                              (from - p.base) / element - (from < p.base && (p.base - from) % element),
                              (unsigned long long)(p.operand->bytes / p.operand->element));
        };
        check(p.start, p.base);
        check(p.base + p.operand->bytes, p.end);
    }
}
static void collect(bool whole) {
    for (unsigned i = 0; i < request->count; ++i) {
        const Operand& o = request->operands[i];
        Placed& p = placed[i];
        if (!p.start) continue;
        if (o.output && whole) memcpy(o.data, p.base, o.bytes);
        munmap(p.start - p.guard, p.end - p.start + 2 * p.guard);
        p.start = nullptr;
    }
}

// ---- signals ---------------------------------------------------------------------------------------------------

static void on_signal(int number, siginfo_t* info, void* context) {
    if (!running) _exit(128 + number);
    const auto* at = static_cast<unsigned char*>(info->si_addr);
    if (number == SIGALRM)
        violation("time limit", "no end after %.1f s; this thread was running", request->limit_ms / 1e3);
    if (number == SIGFPE) violation("arithmetic", "divided a whole number by zero");
    if (number == SIGILL || number == SIGTRAP)
        violation("out of bounds", "went beyond the end of an array of known size");
    const char* did = "accessed";
#if defined(__x86_64__)
    did = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2 ? "wrote" : "read";
#endif
    (void)context;
    for (unsigned i = 0; i < request->count; ++i) {
        const Placed& p = placed[i];
        if (!p.start || at < p.start - p.guard || at >= p.end + p.guard) continue;
        const Operand& o = *p.operand;
        const long long index =
            (at - p.base) / (long long)o.element - (at < p.base && (at - p.base) % (long long)o.element != 0);
        if (at >= p.base && at < p.base + o.bytes)
            violation("out of bounds", "wrote %s[%lld], an input", o.name, index);
        violation("out of bounds", "%s %s[%lld], outside its %llu elements", did, o.name, index,
                  (unsigned long long)(o.bytes / o.element));
    }
    if (at >= workbench_shared_front && at < workbench_shared_back + SHARED_GUARD) stray(at, did);
    if (at >= stacks && at < stacks + MOST_THREADS * STACK)
        violation("stack", "needs more than %zu KB of stack", STACK >> 10);
    if (info->si_code == SI_KERNEL || !at)
        violation("out of bounds", "accessed an address that is misaligned or no memory at all");
    violation("out of bounds", "%s memory that belongs to no operand (address %p)", did, (const void*)at);
}

// Each kernel is a library with handlers and stacks of its own; one process loads several.
static void prepare_process() {
    auto reserve = [](size_t bytes) {
        return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    };
    if (!threads) {
        threads = static_cast<Thread*>(reserve(MOST_THREADS * sizeof(Thread)));
        stacks = static_cast<unsigned char*>(reserve(MOST_THREADS * STACK));
        for (unsigned i = 0; i < MOST_THREADS; ++i) mprotect(stacks + i * STACK, PAGE, PROT_NONE);
        auto* copies = static_cast<Copy*>(reserve(MOST_THREADS * MOST_COPIES * sizeof(Copy)));
        auto* groups = static_cast<unsigned*>(reserve(MOST_THREADS * MOST_GROUPS * sizeof(unsigned)));
        for (unsigned i = 0; i < MOST_THREADS; ++i)
            threads[i].copies = copies + i * MOST_COPIES, threads[i].groups = groups + i * MOST_GROUPS;
        signal_stack = reserve(SIGNAL_STACK);
        mprotect(workbench_shared_front, SHARED_GUARD, PROT_NONE);
        mprotect(workbench_shared_back, SHARED_GUARD, PROT_NONE);
    }
    stack_t alternative{};
    alternative.ss_sp = signal_stack, alternative.ss_size = SIGNAL_STACK;
    sigaltstack(&alternative, nullptr);
    struct sigaction action{};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGALRM}) sigaction(number, &action, nullptr);
}

static void set_timer(unsigned ms) {
    itimerval timer{};
    timer.it_value.tv_sec = ms / 1000, timer.it_value.tv_usec = ms % 1000 * 1000;
    setitimer(ITIMER_REAL, &timer, nullptr);
}

static void run_grid() {
    const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
    const bool back = request->schedule == 1 || request->schedule == 4;
    for (unsigned n = 0; n < blocks; ++n) {
        const unsigned b = back ? blocks - 1 - n : n;
        blockIdx = dim3(b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y);
        run_block();
        check_slack();
    }
}

}  // namespace emu
