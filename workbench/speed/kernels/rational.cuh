// A rational function of degrees 5 and 4 whose denominator is at least 1, and its derivatives.
#pragma once

// P(x) = p0 + p1 x + ... + p5 x^5 over 1 + |q0 x + q1 x^2 + q2 x^3 + q3 x^4| (Yang and Wang 2024, equation 11), or with
// `terms` over 1 + |q0 x| + ... + |q3 x^4| (their published kernels).
template <bool terms> struct Rational {
    float p[6], q[4];

    // Of a group; the absolute values of q are taken where they are used, their signs are needed for the gradient.
    __device__ __forceinline__ Rational(const float* __restrict__ P, const float* __restrict__ Q, int group) {
#pragma unroll
        for (int i = 0; i < 6; ++i) p[i] = P[6 * group + i];
#pragma unroll
        for (int i = 0; i < 4; ++i) q[i] = Q[4 * group + i];
    }
    __device__ __forceinline__ float size(float v) const { return terms ? fabsf(v) : v; }
    __device__ __forceinline__ static float sign(float v) { return v > 0 ? 1.0f : v < 0 ? -1.0f : 0.0f; }
    __device__ __forceinline__ float numerator(float x) const {
        return p[0] + x * (p[1] + x * (p[2] + x * (p[3] + x * (p[4] + x * p[5]))));
    }
    __device__ __forceinline__ float inner(float x) const {
        x = size(x);
        return x * (size(q[0]) + x * (size(q[1]) + x * (size(q[2]) + x * size(q[3]))));
    }
    __device__ __forceinline__ float value(float x) const { return numerator(x) / (1 + fabsf(inner(x))); }

    // The derivative with respect to x times `g`; the derivatives with respect to p and q times `g` are added to `sums`.
    // An absolute value counts as flat where it is 0.
    __device__ __forceinline__ float backward(float x, float g, float (&sums)[10]) const {
        const float q_x = inner(x), one_over = 1 / (1 + fabsf(q_x)), a = size(x);
        const float rise = p[1] + x * (2 * p[2] + x * (3 * p[3] + x * (4 * p[4] + x * (5 * p[5]))));
        const float fall = size(q[0]) + a * (2 * size(q[1]) + a * (3 * size(q[2]) + a * (4 * size(q[3]))));
        const float to_p = g * one_over, to_q = -to_p * numerator(x) * one_over;
        const float turned = sign(terms ? x : q_x);
        float power = 1, power_a = a;
#pragma unroll
        for (int i = 0; i < 6; ++i, power *= x) sums[i] += to_p * power;
#pragma unroll
        for (int i = 0; i < 4; ++i, power_a *= a) sums[6 + i] += to_q * power_a * (terms ? sign(q[i]) : turned);
        return to_p * rise + to_q * fall * turned;
    }
};
