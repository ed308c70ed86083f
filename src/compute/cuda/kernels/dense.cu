// Kernels over buffers of one number type; one PTX module each, chosen by F32 or F64.
//
// As in stored.cu: no header, nothing approximate, nothing fused that is not written down, no atomic on floats.

typedef unsigned long long u64;
typedef unsigned int u32;

#if defined(F64)
typedef double real;
__device__ __forceinline__ real fused(real a, real b, real c) { return __fma_rn(a, b, c); }
__device__ __forceinline__ real times(real a, real b) { return __dmul_rn(a, b); }
__device__ __forceinline__ real plus(real a, real b) { return __dadd_rn(a, b); }
#elif defined(F32)
typedef float real;
__device__ __forceinline__ real fused(real a, real b, real c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ real times(real a, real b) { return __fmul_rn(a, b); }
__device__ __forceinline__ real plus(real a, real b) { return __fadd_rn(a, b); }
#else
#error "no type"
#endif

#define FULL 0xffffffffu
#define TILE 32u
#define DEPTH 16u

// C = alpha·op(A)·op(B) + beta·C, row-major, for gridDim.z triples: A as stored has leading dimension k, or m where it is
// transposed; B has n, or k. Every element of C adds its products in the order of k, each fused with the sum. 256 threads, four
// elements each.
extern "C" __global__ void __launch_bounds__(256)
gemm(u32 m, u32 n, u32 k, u32 transpose_a, u32 transpose_b, real alpha, const real *__restrict__ a, const real *__restrict__ b,
     real beta, real *__restrict__ c) {
    __shared__ real left[DEPTH][TILE + 1u];
    __shared__ real right[DEPTH][TILE + 1u];
    a += (u64)blockIdx.z * m * k;
    b += (u64)blockIdx.z * k * n;
    c += (u64)blockIdx.z * m * n;
    u32 column = threadIdx.x & 15u, row = threadIdx.x >> 4;
    u32 first_row = blockIdx.x * TILE, first_column = blockIdx.y * TILE;
    real sums[2][2] = {{0, 0}, {0, 0}};
    for (u32 first = 0u; first < k; first += DEPTH) {
        for (u32 i = threadIdx.x; i < DEPTH * TILE; i += 256u) {
            // Neighbouring threads read neighbouring elements, however the matrix is stored.
            u32 deep = transpose_a ? i / TILE : i % DEPTH, across = transpose_a ? i % TILE : i / DEPTH;
            u32 at = first + deep, r = first_row + across;
            real x = 0;
            if (at < k && r < m) x = transpose_a ? a[(u64)at * m + r] : a[(u64)r * k + at];
            left[deep][across] = x;
            deep = transpose_b ? i % DEPTH : i / TILE;
            across = transpose_b ? i / DEPTH : i % TILE;
            at = first + deep;
            u32 q = first_column + across;
            real y = 0;
            if (at < k && q < n) y = transpose_b ? b[(u64)q * k + at] : b[(u64)at * n + q];
            right[deep][across] = y;
        }
        __syncthreads();
        u32 depth = k - first < DEPTH ? k - first : DEPTH;
        for (u32 deep = 0u; deep < depth; deep++) {
            real l0 = left[deep][row], l1 = left[deep][row + 16u];
            real r0 = right[deep][column], r1 = right[deep][column + 16u];
            sums[0][0] = fused(l0, r0, sums[0][0]);
            sums[0][1] = fused(l0, r1, sums[0][1]);
            sums[1][0] = fused(l1, r0, sums[1][0]);
            sums[1][1] = fused(l1, r1, sums[1][1]);
        }
        __syncthreads();
    }
    for (u32 i = 0u; i < 2u; i++)
        for (u32 j = 0u; j < 2u; j++) {
            u32 r = first_row + row + 16u * i, q = first_column + column + 16u * j;
            if (r < m && q < n) {
                real *to = c + (u64)r * n + q;
                real product = times(alpha, sums[i][j]);
                *to = beta == (real)0 ? product : plus(product, times(beta, *to));
            }
        }
}

extern "C" __global__ void __launch_bounds__(256)
axpy(u64 count, real alpha, const real *__restrict__ x, real *__restrict__ y) {
    u64 step = (u64)gridDim.x * 256u;
    for (u64 at = (u64)blockIdx.x * 256u + threadIdx.x; at < count; at += step) y[at] = plus(y[at], times(alpha, x[at]));
}

extern "C" __global__ void __launch_bounds__(256)
scale(u64 count, real alpha, real *__restrict__ x) {
    u64 step = (u64)gridDim.x * 256u;
    for (u64 at = (u64)blockIdx.x * 256u + threadIdx.x; at < count; at += step) x[at] = times(x[at], alpha);
}

// The sum of a block's 256 values, in thread 0: warps by halving, then the warps.
__device__ __forceinline__ double sum_of_block(double value) {
    __shared__ double warps[8];
    for (int width = 16; width > 0; width >>= 1) value = __dadd_rn(value, __shfl_down_sync(FULL, value, width));
    if ((threadIdx.x & 31u) == 0u) warps[threadIdx.x >> 5] = value;
    __syncthreads();
    double sum = 0.0;
    if (threadIdx.x == 0u)
        for (u32 i = 0u; i < 8u; i++) sum = __dadd_rn(sum, warps[i]);
    return sum;
}

// The first stage of a dot product in f64: elements 4096·b on of x·y go to partials[b]. Thread t takes t, t + 256, ….
extern "C" __global__ void __launch_bounds__(256)
dot(u64 count, const real *__restrict__ x, const real *__restrict__ y, double *__restrict__ partials) {
    u64 first = (u64)blockIdx.x * 4096u;
    u64 last = count - first < 4096u ? count : first + 4096u;
    double sum = 0.0;
    for (u64 at = first + threadIdx.x; at < last; at += 256u) sum = __fma_rn((double)x[at], (double)y[at], sum);
    sum = sum_of_block(sum);
    if (threadIdx.x == 0u) partials[blockIdx.x] = sum;
}

#if defined(F64)
// The second stage: one block. Thread t takes t, t + 256, ….
extern "C" __global__ void __launch_bounds__(256)
total(u64 count, const double *__restrict__ partials, double *__restrict__ sum) {
    double own = 0.0;
    for (u64 at = threadIdx.x; at < count; at += 256u) own = __dadd_rn(own, partials[at]);
    own = sum_of_block(own);
    if (threadIdx.x == 0u) *sum = own;
}

// y = scale · (the sum of `parts` vectors of `count` numbers, in order), added to y where `adds`.
extern "C" __global__ void __launch_bounds__(256)
fold(u64 count, u32 parts, double scale, u32 adds, const double *__restrict__ partials, double *__restrict__ y) {
    u64 step = (u64)gridDim.x * 256u;
    for (u64 at = (u64)blockIdx.x * 256u + threadIdx.x; at < count; at += step) {
        double sum = 0.0;
        // Eight loads on their way at once; the sums are in order all the same.
#pragma unroll 8
        for (u32 part = 0u; part < parts; part++) sum = __dadd_rn(sum, partials[(u64)part * count + at]);
        sum = __dmul_rn(sum, scale);
        y[at] = adds ? __dadd_rn(y[at], sum) : sum;
    }
}
#endif
