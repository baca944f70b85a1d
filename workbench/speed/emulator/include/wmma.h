// nvcuda::wmma (mma.h) for 16x16x16 on the CPU. Which lane holds which element is left open by CUDA; here lane l holds
// elements 8l to 8l + 7 in the order of rows.
#pragma once
#include "cuda.h"

namespace nvcuda {
namespace wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    static_assert(M == 16 && N == 16 && K == 16, "only 16x16x16 is modelled");
    static constexpr int num_elements = 8;
    T x[8];
};
template <class F, class T>
void fill_fragment(F& f, T value) {
    for (auto& x : f.x) x = value;
}

namespace detail {
inline bool column_major(const row_major*) { return false; }
inline bool column_major(const col_major*) { return true; }
template <class T>
void take(T* x, const T* from, unsigned pitch, bool columns) {
    for (unsigned i = 0; i < 8; ++i) {
        const unsigned row = (emu::lane() * 8 + i) / 16, column = (emu::lane() * 8 + i) % 16;
        x[i] = from[columns ? column * pitch + row : row * pitch + column];
    }
}
template <class T>
void put(const T* x, T* to, unsigned pitch, bool columns) {
    for (unsigned i = 0; i < 8; ++i) {
        const unsigned row = (emu::lane() * 8 + i) / 16, column = (emu::lane() * 8 + i) % 16;
        to[columns ? column * pitch + row : row * pitch + column] = x[i];
    }
}
template <class T, class D>
struct Parts {
    D* d;
    const T *a, *b;
    const D* c;
};
template <class T, class D>
void multiply(void** arguments, unsigned mask) {
    if (mask != ~0u) emu::violation("warp", "wmma needs all 32 lanes");
    D a[16][16], b[16][16], d[16][16] = {};
    for (unsigned lane = 0; lane < 32; ++lane)
        for (unsigned i = 0; i < 8; ++i) {
            const auto& p = *static_cast<Parts<T, D>*>(arguments[lane]);
            a[lane / 2][lane % 2 * 8 + i] = p.a[i], b[lane / 2][lane % 2 * 8 + i] = p.b[i];
        }
    for (unsigned i = 0; i < 16; ++i)
        for (unsigned k = 0; k < 16; ++k)
            for (unsigned j = 0; j < 16; ++j) d[i][j] += a[i][k] * b[k][j];
    for (unsigned lane = 0; lane < 32; ++lane)
        for (unsigned i = 0; i < 8; ++i) {
            const auto& p = *static_cast<Parts<T, D>*>(arguments[lane]);
            p.d[i] = p.c[i] + d[lane / 2][lane % 2 * 8 + i];
        }
}
}  // namespace detail

// Loads and stores go lane by lane: all lanes come to them, but that orders no memory (__syncwarp does).
template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& f, const T* from, unsigned pitch) {
    detail::take(f.x, from, pitch, detail::column_major(static_cast<Layout*>(nullptr)));
}
template <class T>
void load_matrix_sync(fragment<accumulator, 16, 16, 16, T>& f, const T* from, unsigned pitch, layout_t layout) {
    detail::take(f.x, from, pitch, layout == mem_col_major);
}
template <class T>
void store_matrix_sync(T* to, const fragment<accumulator, 16, 16, 16, T>& f, unsigned pitch, layout_t layout) {
    detail::put(f.x, to, pitch, layout == mem_col_major);
}
template <class D, class T, class LA, class LB>
void mma_sync(fragment<accumulator, 16, 16, 16, D>& d, const fragment<matrix_a, 16, 16, 16, T, LA>& a,
              const fragment<matrix_b, 16, 16, 16, T, LB>& b, const fragment<accumulator, 16, 16, 16, D>& c,
              int line = __builtin_LINE()) {
    detail::Parts<T, D> p{d.x, a.x, b.x, c.x};
    emu::together(~0u, "mma_sync", line, &p, detail::multiply<T, D>);
}

}  // namespace wmma
}  // namespace nvcuda
