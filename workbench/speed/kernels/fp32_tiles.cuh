// Four floats at once: what the vectorised rungs of the fp32 ladder load and store.
#pragma once

// Elements column to column + 3 of a row; zeros beyond the matrix. Rows begin at multiples of four floats, so what
// follows the last element of a row is padding that can be read but must not be used.
__device__ __forceinline__ float4 load_4(const float* matrix, int row, int rows, int column, int columns) {
    if (row >= rows || column >= columns) return make_float4(0, 0, 0, 0);
    float4 v = *reinterpret_cast<const float4*>(matrix + (size_t)row * ((columns + 3) / 4 * 4) + column);
    if (column + 1 >= columns) v.y = 0;
    if (column + 2 >= columns) v.z = 0;
    if (column + 3 >= columns) v.w = 0;
    return v;
}

// The same of C, whose rows have no gaps: one store where it is aligned and whole, else one for each element.
__device__ __forceinline__ void store_4(float* matrix, int row, int rows, int column, int columns,
                                        const float (&v)[4]) {
    if (row >= rows) return;
    float* to = matrix + (size_t)row * columns + column;
    if (columns % 4 == 0) {
        if (column < columns) *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (column + i < columns) to[i] = v[i];
    }
}
