// name: stream
// idea: Read memory and do next to nothing: the bandwidth that no product of a row can beat.
// op: sum of X[n]
// bits: 32
// packing: none
// tolerance: 1e-3
// gain: none: this is the roof
// reference: McCalpin 1995, Memory Bandwidth and Machine Balance in Current High Performance Computers
#include "cpu/vectors.h"

// The sum of n floats, n a multiple of 64
extern "C" float total(const float* x, long n) {
    Floats sum[4] = {};
    for (long i = 0; i < n; i += 64)
        for (int v = 0; v < 4; ++v) sum[v] += load<Floats>(x + i + 16 * v);
    Floats all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    float lanes[16], result = 0;
    std::memcpy(lanes, &all, sizeof lanes);
    for (float lane : lanes) result += lane;
    return result;
}

// Nothing: what a call alone costs
extern "C" void nothing() {}
