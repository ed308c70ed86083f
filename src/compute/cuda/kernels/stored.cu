// Kernels over elements as they are stored; one PTX module a dtype, chosen by F64, F32, F16, BF16, E4M3 or E5M2.
//
// No header, no approximate instruction, no fused operation that is not written down, no atomic on floats: what a kernel computes
// is the same on every GPU, and what `tests/gpu` computes on the processor.

typedef unsigned long long u64;
typedef unsigned int u32;

#if defined(F64)
typedef u64 word;
__device__ __forceinline__ double value(word w) { return __longlong_as_double((long long)w); }
#elif defined(F32)
typedef u32 word;
__device__ __forceinline__ double value(word w) { return (double)__uint_as_float(w); }
#define SIGN 0x80000000u
#define INFINITE 0x7f800000u
#define NORMAL 0x00800000u
#elif defined(BF16)
typedef unsigned short word;
__device__ __forceinline__ double value(word w) { return (double)__uint_as_float((u32)w << 16); }
#define SIGN 0x8000u
#define INFINITE 0x7f80u
#define NORMAL 0x0080u
#else
// Halves are widened by the hardware's own, exact conversion.
__device__ __forceinline__ double of_half(u32 bits) {
    float wide;
    asm("{ cvt.f32.f16 %0, %1; }" : "=f"(wide) : "h"((unsigned short)bits));
    return (double)wide;
}
#if defined(F16)
typedef unsigned short word;
__device__ __forceinline__ double value(word w) { return of_half(w); }
#define SIGN 0x8000u
#define INFINITE 0x7c00u
#define NORMAL 0x0400u
#elif defined(E5M2)
typedef unsigned char word;
__device__ __forceinline__ double value(word w) { return of_half((u32)w << 8); }
#elif defined(E4M3)
typedef unsigned char word;
// The bits of a half whose exponent is biased by 8 more; 0x7f is the one NaN.
__device__ __forceinline__ double value(word w) {
    u32 magnitude = w & 0x7fu;
    u32 half = ((u32)(w & 0x80u) << 8) | (magnitude == 0x7fu ? 0x7e00u : magnitude << 7);
    return __dmul_rn(of_half(half), 256.0);
}
#else
#error "no dtype"
#endif
#endif

#define FULL 0xffffffffu

// Elements of a block of the norm pass, and of a histogram.
#define BLOCK (1ull << 20)

#if defined(SIGN)
// What the norm pass of the processor gathers of 2^20 elements: see src/analysis/statistics/sums.rs.
struct Record {
    double l1, square, sum;
    u32 nan, positive_infinity, negative_infinity, zero, subnormal, negative;
    // Of the finite elements, in an order of unsigned integers; 1 to 0 where there is none.
    u32 smallest, largest;
    // Some element has other bits than the first.
    u32 differs, padding;
};

__device__ __forceinline__ u32 sum_of_warp(u32 count) {
    for (int width = 16; width > 0; width >>= 1) count += __shfl_down_sync(FULL, count, width);
    return count;
}

__device__ __forceinline__ double halve(double lane) {
    for (int width = 16; width > 0; width >>= 1) lane = __dadd_rn(lane, __shfl_down_sync(FULL, lane, width));
    return lane;
}

struct Lane {
    Record r;
    word first;
    double pivot;

    __device__ __forceinline__ void add(word w) {
        u32 bits = w, magnitude = bits & (SIGN - 1u);
        bool negative = (bits & SIGN) != 0u;
        r.differs |= (w != first);
        if (magnitude < INFINITE) {
            double x = value(w);
            r.l1 = __dadd_rn(r.l1, fabs(x));
            r.square = __dadd_rn(r.square, __dmul_rn(x, x));
            r.sum = __dadd_rn(r.sum, __dadd_rn(x, -pivot));
            r.zero += magnitude == 0u;
            r.subnormal += magnitude != 0u && magnitude < NORMAL;
            r.negative += negative && magnitude != 0u;
            u32 key = negative ? (SIGN - 1u) - magnitude : SIGN + magnitude;
            r.smallest = key < r.smallest ? key : r.smallest;
            r.largest = key > r.largest ? key : r.largest;
        } else {
            r.nan += magnitude > INFINITE;
            r.positive_infinity += magnitude == INFINITE && !negative;
            r.negative_infinity += magnitude == INFINITE && negative;
        }
    }
};

// A warp for each 2^20 elements: element i goes to lane i mod 32, lanes are joined by halving, as on the processor.
extern "C" __global__ void __launch_bounds__(128)
norms(const word *__restrict__ data, u64 count, double pivot, Record *__restrict__ records) {
    u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u64 block = thread >> 5;
    u32 lane = threadIdx.x & 31u;
    u64 start = block * BLOCK;
    if (start >= count) return;
    u64 end = start + BLOCK < count ? start + BLOCK : count;
    Lane own;
    own.r = Record{0.0, 0.0, 0.0, 0u, 0u, 0u, 0u, 0u, 0u, FULL, 0u, 0u, 0u};
    own.first = data[start];
    own.pivot = pivot;
    u64 at = start + lane;
    for (; at + 96u < end; at += 128u) {
        word a = data[at], b = data[at + 32u], c = data[at + 64u], d = data[at + 96u];
        own.add(a);
        own.add(b);
        own.add(c);
        own.add(d);
    }
    for (; at < end; at += 32u) own.add(data[at]);
    Record r = own.r;
    r.l1 = halve(r.l1);
    r.square = halve(r.square);
    r.sum = halve(r.sum);
    r.nan = sum_of_warp(r.nan);
    r.positive_infinity = sum_of_warp(r.positive_infinity);
    r.negative_infinity = sum_of_warp(r.negative_infinity);
    r.zero = sum_of_warp(r.zero);
    r.subnormal = sum_of_warp(r.subnormal);
    r.negative = sum_of_warp(r.negative);
    r.differs = sum_of_warp(r.differs);
    for (int width = 16; width > 0; width >>= 1) {
        u32 smaller = __shfl_down_sync(FULL, r.smallest, width), larger = __shfl_down_sync(FULL, r.largest, width);
        r.smallest = smaller < r.smallest ? smaller : r.smallest;
        r.largest = larger > r.largest ? larger : r.largest;
    }
    if (lane == 0u) records[block] = r;
}
#elif !defined(F64)
// How often each byte occurs, for each 2^20 of them: integers only.
extern "C" __global__ void __launch_bounds__(256)
histogram(const word *__restrict__ data, u64 count, u32 *__restrict__ histograms) {
    __shared__ u32 bins[256];
    bins[threadIdx.x] = 0u;
    __syncthreads();
    u64 start = (u64)blockIdx.x * BLOCK;
    u64 end = start + BLOCK < count ? start + BLOCK : count;
    for (u64 at = start + threadIdx.x; at < end; at += 256u) atomicAdd(&bins[data[at]], 1u);
    __syncthreads();
    histograms[(u64)blockIdx.x * 256u + threadIdx.x] = bins[threadIdx.x];
}
#endif

// `count` elements in f64, times a power of two: of rows of `width` the `columns` from `first` on, row after row.
extern "C" __global__ void __launch_bounds__(256)
widen(const word *__restrict__ from, u64 count, u32 columns, u32 width, u32 first, double scale, double *__restrict__ to) {
    u64 step = (u64)gridDim.x * 256u;
    for (u64 at = (u64)blockIdx.x * 256u + threadIdx.x; at < count; at += step) {
        u64 row = at / columns, column = at - row * columns;
        to[at] = __dmul_rn(value(from[row * width + first + column]), scale);
    }
}

// Four neighbours, read at once where they are aligned.
struct __align__(sizeof(word) == 8 ? 16 : 4 * sizeof(word)) Quad { word of[4]; };

__device__ __forceinline__ Quad quad(const word *from, u64 at, bool aligned, u32 present) {
    if (aligned) return *(const Quad *)(from + at);
    Quad q = {{0, 0, 0, 0}};
    for (u32 i = 0; i < 4u; i++)
        if (i < present) q.of[i] = from[at + i];
    return q;
}

// Columns of a part of `rows_dot`, and rows of the parts of `columns_combine` are the caller's.
#define PART 4096u

// Rows of a warp of `rows_dot`, which reads x once for all of them: of a matrix of two bytes an element, x is four times a row.
#define ROWS 4u

// Partial dot products of rows with x: part p of row r, of columns 4096·p on, goes to partials[p·rows + r]. Lane l of the row's warp
// takes the groups of four columns l, l + 32, …, one sum for each place in a group.
extern "C" __global__ void __launch_bounds__(128)
rows_dot(const word *__restrict__ matrix, u32 rows, u32 columns, const double *__restrict__ x, double *__restrict__ partials) {
    u32 row = (blockIdx.x * 4u + (threadIdx.x >> 5)) * ROWS, lane = threadIdx.x & 31u;
    if (row >= rows) return;
    bool aligned = (columns & 3u) == 0u;
    u32 first = blockIdx.y * PART;
    u32 last = columns - first < PART ? columns : first + PART;
    double sums[ROWS][4] = {};
    for (u32 column = first + 4u * lane; column < last; column += 128u) {
        u32 present = last - column < 4u ? last - column : 4u;
        Quad q[ROWS];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            // Behind the last row that row again, which is not written: a load that depends on nothing can go ahead.
            u32 own = row + r < rows ? row + r : rows - 1u;
            q[r] = quad(matrix, (u64)own * columns + column, aligned, present);
        }
#pragma unroll
        for (u32 i = 0; i < 4u; i++) {
            if (i >= present) continue;
            double factor = x[column + i];
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) sums[r][i] = __fma_rn(value(q[r].of[i]), factor, sums[r][i]);
        }
    }
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
        double sum = __dadd_rn(__dadd_rn(sums[r][0], sums[r][1]), __dadd_rn(sums[r][2], sums[r][3]));
        for (int width = 16; width > 0; width >>= 1) sum = __dadd_rn(sum, __shfl_down_sync(FULL, sum, width));
        if (lane == 0u && row + r < rows) partials[(u64)blockIdx.y * rows + row + r] = sum;
    }
}

// Partial combinations of rows with the factors x: part p, of rows p·step on, goes to partials[p·columns + c]. A thread for four
// columns, rows in order.
extern "C" __global__ void __launch_bounds__(128)
columns_combine(const word *__restrict__ matrix, u32 rows, u32 columns, u32 step, const double *__restrict__ x,
                double *__restrict__ partials) {
    u32 column = (blockIdx.x * 128u + threadIdx.x) * 4u;
    if (column >= columns) return;
    bool aligned = (columns & 3u) == 0u;
    u32 present = columns - column < 4u ? columns - column : 4u;
    u32 first = blockIdx.y * step;
    u32 last = rows - first < step ? rows : first + step;
    double sums[4] = {0.0, 0.0, 0.0, 0.0};
    u32 row = first;
    // Four loads on their way at once.
    for (; row + 4u <= last; row += 4u) {
        Quad q[4];
#pragma unroll
        for (u32 k = 0; k < 4u; k++) q[k] = quad(matrix, (u64)(row + k) * columns + column, aligned, present);
#pragma unroll
        for (u32 k = 0; k < 4u; k++) {
            double factor = x[row + k];
#pragma unroll
            for (u32 i = 0; i < 4u; i++) sums[i] = __fma_rn(value(q[k].of[i]), factor, sums[i]);
        }
    }
    for (; row < last; row++) {
        Quad q = quad(matrix, (u64)row * columns + column, aligned, present);
        double factor = x[row];
        for (u32 i = 0; i < 4u; i++) sums[i] = __fma_rn(value(q.of[i]), factor, sums[i]);
    }
    for (u32 i = 0; i < 4u; i++)
        if (i < present) partials[(u64)blockIdx.y * columns + column + i] = sums[i];
}

// Vectors that a block kernel has room for. The matrix is read once for all of them.
#define VECTORS 8u

// Rows of a block of `rows_block`, two for each thread, and the columns that it holds at a time.
#define LINES 256u
#define STRIP (sizeof(word) == 8u ? 16u : 32u)

// Partial products of rows with `vectors` vectors, which lie side by side: part p of row r and vector v, of columns step·p on, goes to
// partials[(p·rows + r)·vectors + v]. A thread for a row, its products in the order of the columns.
extern "C" __global__ void __launch_bounds__(128)
rows_block(const word *__restrict__ matrix, u32 rows, u32 columns, u32 step, u32 vectors, const double *__restrict__ x,
           double *__restrict__ partials) {
    // Neighbouring threads read neighbouring columns; a row has one group more than it needs, so that rows lie in different banks.
    __shared__ Quad tile[LINES][STRIP / 4u + 1u];
    __shared__ double factors[STRIP][VECTORS];
    bool aligned = (columns & 3u) == 0u;
    u32 first_row = blockIdx.x * LINES;
    u32 first = blockIdx.y * step;
    u32 last = columns - first < step ? columns : first + step;
    double sums[2][VECTORS] = {};
    for (u32 at = first; at < last; at += STRIP) {
        for (u32 i = threadIdx.x; i < STRIP * VECTORS; i += 128u) {
            u32 column = i / VECTORS, v = i % VECTORS;
            factors[column][v] = at + column < last && v < vectors ? x[(u64)(at + column) * vectors + v] : 0.0;
        }
#pragma unroll 8
        for (u32 i = threadIdx.x; i < LINES * (STRIP / 4u); i += 128u) {
            u32 row = i / (STRIP / 4u), group = i % (STRIP / 4u), column = at + 4u * group;
            Quad q = {{0, 0, 0, 0}};
            if (first_row + row < rows && column < last)
                q = quad(matrix, (u64)(first_row + row) * columns + column, aligned, last - column < 4u ? last - column : 4u);
            tile[row][group] = q;
        }
        __syncthreads();
#pragma unroll 1
        for (u32 group = 0u; group < STRIP / 4u; group++) {
            Quad upper = tile[threadIdx.x][group], lower = tile[threadIdx.x + 128u][group];
#pragma unroll
            for (u32 i = 0u; i < 4u; i++) {
                double a = value(upper.of[i]), b = value(lower.of[i]);
#pragma unroll
                for (u32 v = 0u; v < VECTORS; v++) {
                    double factor = factors[4u * group + i][v];
                    sums[0][v] = __fma_rn(a, factor, sums[0][v]);
                    sums[1][v] = __fma_rn(b, factor, sums[1][v]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 half = 0u; half < 2u; half++) {
        u32 row = first_row + threadIdx.x + 128u * half;
#pragma unroll
        for (u32 v = 0u; v < VECTORS; v++)
            if (row < rows && v < vectors) partials[((u64)blockIdx.y * rows + row) * vectors + v] = sums[half][v];
    }
}

// Rows whose factors a block of `columns_block` holds at a time.
#define HELD 32u

// Partial combinations of rows with `vectors` factors each: part p of column c and vector v, of rows step·p on, goes to
// partials[(p·columns + c)·vectors + v]. A thread for four columns, rows in order.
extern "C" __global__ void __launch_bounds__(128)
columns_block(const word *__restrict__ matrix, u32 rows, u32 columns, u32 step, u32 vectors, const double *__restrict__ x,
              double *__restrict__ partials) {
    __shared__ double factors[HELD][VECTORS];
    bool aligned = (columns & 3u) == 0u;
    u32 column = (blockIdx.x * 128u + threadIdx.x) * 4u;
    u32 present = column < columns ? (columns - column < 4u ? columns - column : 4u) : 0u;
    u32 first = blockIdx.y * step;
    u32 last = rows - first < step ? rows : first + step;
    double sums[4][VECTORS] = {};
    for (u32 at = first; at < last; at += HELD) {
        u32 count = last - at < HELD ? last - at : HELD;
        for (u32 i = threadIdx.x; i < HELD * VECTORS; i += 128u) {
            u32 row = i / VECTORS, v = i % VECTORS;
            factors[row][v] = row < count && v < vectors ? x[(u64)(at + row) * vectors + v] : 0.0;
        }
        __syncthreads();
        if (present > 0u) {
            u32 row = 0u;
            // Four loads on their way at once.
#pragma unroll 1
            for (; row + 4u <= count; row += 4u) {
                Quad q[4];
#pragma unroll
                for (u32 k = 0u; k < 4u; k++) q[k] = quad(matrix, (u64)(at + row + k) * columns + column, aligned, present);
#pragma unroll
                for (u32 k = 0u; k < 4u; k++)
#pragma unroll
                    for (u32 i = 0u; i < 4u; i++) {
                        double a = value(q[k].of[i]);
#pragma unroll
                        for (u32 v = 0u; v < VECTORS; v++) sums[i][v] = __fma_rn(a, factors[row + k][v], sums[i][v]);
                    }
            }
#pragma unroll 1
            for (; row < count; row++) {
                Quad q = quad(matrix, (u64)(at + row) * columns + column, aligned, present);
#pragma unroll
                for (u32 i = 0u; i < 4u; i++) {
                    double a = value(q.of[i]);
#pragma unroll
                    for (u32 v = 0u; v < VECTORS; v++) sums[i][v] = __fma_rn(a, factors[row][v], sums[i][v]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 i = 0u; i < 4u; i++)
#pragma unroll
        for (u32 v = 0u; v < VECTORS; v++)
            if (i < present && v < vectors) partials[((u64)blockIdx.y * columns + column + i) * vectors + v] = sums[i][v];
}
