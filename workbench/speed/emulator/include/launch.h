// What Python calls: WORKBENCH_KERNEL(name) makes a function that launches the kernel as a request says.
#pragma once
#include "guards.h"
#include "machine_emulated.h"
#include "races.h"

namespace emu {

template <class T>
struct Bare {
    using type = T;
};
template <class T>
struct Bare<const T> {
    using type = T;
};
template <unsigned... I>
struct Indices {};
template <unsigned N, unsigned... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <unsigned... I>
struct Count<0, I...> {
    using type = Indices<I...>;
};

template <class... P, unsigned... I>
void call(void (*kernel)(P...), void** a, Indices<I...>) {
    kernel(*static_cast<typename Bare<P>::type*>(a[I])...);
}
template <class... P>
constexpr unsigned parameters(void (*)(P...)) {
    return sizeof...(P);
}
template <class... P>
void spread(void (*kernel)(P...), void** a) {
    call(kernel, a, typename Count<sizeof...(P)>::type());
}

static void launch() {
    static void* pointers[16];
    static CUtensorMap maps[16];
    unsigned n = 0;
    for (unsigned i = 0; i < request->count; ++i) {
        const Operand& o = request->operands[i];
        place(i);
        if (o.rows) {
            maps[i] = {placed[i].base, o.rows, o.columns, o.pitch, o.element, o.box_rows, o.box_columns, {}};
            arguments[n++] = &maps[i];
        } else {
            pointers[i] = placed[i].base;
            arguments[n++] = &pointers[i];
        }
    }
    arguments[n++] = const_cast<int32_t*>(&request->M);
    arguments[n++] = const_cast<int32_t*>(&request->N);
    arguments[n++] = const_cast<int32_t*>(&request->K);
    gridDim = dim3(request->grid[0], request->grid[1], request->grid[2]);
    blockDim = dim3(request->block[0], request->block[1], request->block[2]);
    thread_count = blockDim.x * blockDim.y * blockDim.z;
    random_state = request->seed * 0x9E3779B97F4A7C15ULL + 0x1234567 + request->schedule;
    run_grid();
}

}  // namespace emu

#define WORKBENCH_KERNEL(name)                                                      \
    static void workbench_body(void** a) { emu::spread(name, a); }                  \
    extern "C" unsigned workbench_parameters() { return emu::parameters(name); }    \
    extern "C" void workbench_emulate(emu::Request* request, emu::Report* report) { \
        emu::request = request, emu::report = report, emu::body = workbench_body;   \
        emu::prepare_process();                                                     \
        memset(static_cast<void*>(report), 0, sizeof *report);                      \
        emu::running = true;                                                        \
        emu::set_timer(request->limit_ms);                                          \
        const bool whole = setjmp(emu::stop) == 0;                                  \
        if (whole) emu::launch();                                                   \
        emu::running = false;                                                       \
        emu::set_timer(0);                                                          \
        emu::collect(true);                                                         \
    }
