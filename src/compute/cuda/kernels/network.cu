// Kernels that networks are made of, over buffers of one number type; one PTX module each, chosen by F32 or F64.
//
// Sums are in f64 and of a fixed shape; functions are evaluated in f64. As in stored.cu: no header, nothing approximate, nothing fused
// that is not written down, no atomic. `logarithm`, `logarithm_of_one_plus` and `complement_of_erf` are those of FreeBSD's msun:
//
// Copyright (C) 1993, 2004 by Sun Microsystems, Inc. All rights reserved. Developed at SunPro/SunSoft, a Sun Microsystems, Inc.
// business. Permission to use, copy, modify, and distribute this software is freely granted, provided that this notice is preserved.

typedef unsigned long long u64;
typedef unsigned int u32;

#if defined(F64)
typedef double real;
typedef float other;
#elif defined(F32)
typedef float real;
typedef double other;
#else
#error "no type"
#endif

#define FULL 0xffffffffu
#define EACH(at, count)                                                                                                          \
    for (u64 at = (u64)blockIdx.x * 256u + threadIdx.x; at < count; at += (u64)gridDim.x * 256u)

__device__ __forceinline__ u32 high_word(double x) { return (u32)((u64)__double_as_longlong(x) >> 32); }
__device__ __forceinline__ double with_high_word(double x, u32 high) {
    return __longlong_as_double((long long)(((u64)high << 32) | ((u64)__double_as_longlong(x) & 0xffffffffull)));
}
__device__ __forceinline__ double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }
__device__ __forceinline__ double not_a_number() { return __longlong_as_double(0x7ff8000000000000ll); }

// s, R of log(1 + f) = f - f^2/2 + s·(f^2/2 + R).
__device__ __forceinline__ double log_series(double f, double half_square) {
    double s = f / (2.0 + f), z = s * s, w = z * z;
    double even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    double odd = z * (6.666666666666735130e-01 + w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
    return s * (half_square + (odd + even));
}
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10

__device__ double logarithm(double x) {
    if (x != x) return x;
    if (x < 0.0) return not_a_number();
    if (x == 0.0) return -infinity();
    if (x == infinity()) return x;
    int k = 0;
    if (high_word(x) < 0x00100000u) {
        k = -54;
        x *= 18014398509481984.0;
    }
    u32 high = high_word(x) + (0x3ff00000u - 0x3fe6a09eu);
    k += (int)(high >> 20) - 0x3ff;
    x = with_high_word(x, (high & 0x000fffffu) + 0x3fe6a09eu);
    double f = x - 1.0, half_square = 0.5 * f * f, dk = (double)k;
    return log_series(f, half_square) + dk * LN2_LOW - half_square + f + dk * LN2_HIGH;
}

// For x from 0 to 1.
__device__ double logarithm_of_one_plus(double x) {
    if (high_word(x) < 0x3ca00000u) return x;
    if (high_word(x) < 0x3fda827au) {
        double half_square = 0.5 * x * x;
        return log_series(x, half_square) - half_square + x;
    }
    double u = 1.0 + x, c = (x - (u - 1.0)) / u;
    u32 high = high_word(u) + (0x3ff00000u - 0x3fe6a09eu);
    double dk = (double)((int)(high >> 20) - 0x3ff);
    double f = with_high_word(u, (high & 0x000fffffu) + 0x3fe6a09eu) - 1.0, half_square = 0.5 * f * f;
    return log_series(f, half_square) + (dk * LN2_LOW + c) - half_square + f + dk * LN2_HIGH;
}

__device__ double hyperbolic_tangent(double x) {
    double magnitude = fabs(x), result;
    if (magnitude > 20.0) {
        result = 1.0;
    } else {
        double grown = expm1(2.0 * magnitude);
        result = grown / (grown + 2.0);
    }
    return x < 0.0 ? -result : (x != x ? x : result);
}

__device__ double erfc_tail(u32 high, double x) {
    if (high < 0x3ff40000u) {
        double s = fabs(x) - 1.0;
        double p = -2.36211856075265944077e-03 + s * (4.14856118683748331666e-01 + s * (-3.72207876035701323847e-01 + s * (3.18346619901161753674e-01 + s * (-1.10894694282396677476e-01 + s * (3.54783043256182359371e-02 + s * -2.16637559486879084300e-03)))));
        double q = 1.0 + s * (1.06420880400844228286e-01 + s * (5.40397917702171048937e-01 + s * (7.18286544141962662868e-02 + s * (1.26171219808761642112e-01 + s * (1.36370839120290507362e-02 + s * 1.19844998467991074170e-02)))));
        return 1.0 - 8.45062911510467529297e-01 - p / q;
    }
    x = fabs(x);
    double s = 1.0 / (x * x), r, b;
    if (high < 0x4006db6du) {
        r = -9.86494403484714822705e-03 + s * (-6.93858572707181764372e-01 + s * (-1.05586262253232909814e+01 + s * (-6.23753324503260060396e+01 + s * (-1.62396669462573470355e+02 + s * (-1.84605092906711035994e+02 + s * (-8.12874355063065934246e+01 + s * -9.81432934416914548592e+00))))));
        b = 1.0 + s * (1.96512716674392571292e+01 + s * (1.37657754143519042600e+02 + s * (4.34565877475229228821e+02 + s * (6.45387271733267880336e+02 + s * (4.29008140027567833386e+02 + s * (1.08635005541779435134e+02 + s * (6.57024977031928170135e+00 + s * -6.04244152148580987438e-02)))))));
    } else {
        r = -9.86494292470009928597e-03 + s * (-7.99283237680523006574e-01 + s * (-1.77579549177547519889e+01 + s * (-1.60636384855821916062e+02 + s * (-6.37566443368389627722e+02 + s * (-1.02509513161107724954e+03 + s * -4.83519191608651397019e+02)))));
        b = 1.0 + s * (3.03380607434824582924e+01 + s * (3.25792512996573918826e+02 + s * (1.53672958608443695994e+03 + s * (3.19985821950859553908e+03 + s * (2.55305040643316442583e+03 + s * (4.74528541206955367215e+02 + s * -2.24409524465858183362e+01))))));
    }
    double z = __longlong_as_double(__double_as_longlong(x) & (long long)0xffffffff00000000ull);
    return exp(-z * z - 0.5625) * exp((z - x) * (z + x) + r / b) / x;
}

__device__ double complement_of_erf(double x) {
    u32 high = high_word(x);
    bool negative = high >> 31;
    high &= 0x7fffffffu;
    if (high >= 0x7ff00000u) return x != x ? x : (negative ? 2.0 : 0.0);
    if (high < 0x3feb0000u) {
        if (high < 0x3c700000u) return 1.0 - x;
        double z = x * x;
        double r = 1.28379167095512558561e-01 + z * (-3.25042107247001499370e-01 + z * (-2.84817495755985104766e-02 + z * (-5.77027029648944159157e-03 + z * -2.37630166566501626084e-05)));
        double s = 1.0 + z * (3.97917223959155352819e-01 + z * (6.50222499887672944485e-02 + z * (5.08130628187576562776e-03 + z * (1.32494738004321644526e-04 + z * -3.96022827877536812320e-06))));
        double y = r / s;
        if (negative || high < 0x3fd00000u) return 1.0 - (x + x * y);
        return 0.5 - (x - 0.5 + x * y);
    }
    if (high < 0x403c0000u) return negative ? 2.0 - erfc_tail(high, x) : erfc_tail(high, x);
    return negative ? 2.0 : 0.0;
}

__device__ __forceinline__ double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

// The numbers of the functions are those of src/compute/cuda/network.rs.
__device__ void evaluate(u32 function, double parameter, double x, double *value, double *slope) {
    double one = x != x ? x : 1.0;
    switch (function) {
    case 0u: // relu
        *value = x <= 0.0 ? 0.0 : x;
        *slope = x <= 0.0 ? 0.0 : one;
        return;
    case 1u: // relu6
        *value = x <= 0.0 ? 0.0 : (x >= 6.0 ? 6.0 : x);
        *slope = x <= 0.0 || x >= 6.0 ? 0.0 : one;
        return;
    case 2u: // leaky relu
        *value = x <= 0.0 ? parameter * x : x;
        *slope = x <= 0.0 ? parameter : one;
        return;
    case 3u: // elu
        *value = x <= 0.0 ? parameter * expm1(x) : x;
        *slope = x <= 0.0 ? parameter * exp(x) : one;
        return;
    case 4u: { // gelu by erf
        double distribution = 0.5 * complement_of_erf(-x * 0.70710678118654752440);
        double density = exp(-0.5 * x * x) * 0.3989422804014327;
        *value = x * distribution;
        *slope = distribution + x * density;
        return;
    }
    case 5u: { // gelu by tanh
        double tanh = hyperbolic_tangent(0.7978845608028654 * (x + 0.044715 * x * x * x));
        double inner = 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * x * x);
        *value = 0.5 * x * (1.0 + tanh);
        *slope = 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner;
        return;
    }
    case 6u: { // x·sigmoid(parameter·x)
        double gate = sigmoid(parameter * x);
        *value = x * gate;
        *slope = gate + parameter * x * gate * (1.0 - gate);
        return;
    }
    case 7u: { // tanh
        double tanh = hyperbolic_tangent(x);
        *value = tanh;
        *slope = 1.0 - tanh * tanh;
        return;
    }
    case 8u: { // sigmoid
        double gate = sigmoid(x);
        *value = gate;
        *slope = gate * (1.0 - gate);
        return;
    }
    case 9u: // softplus
        *value = (x > 0.0 ? x : (x != x ? x : 0.0)) + logarithm_of_one_plus(exp(-fabs(x)));
        *slope = sigmoid(x);
        return;
    case 10u: // exp
        *value = exp(x);
        *slope = *value;
        return;
    case 11u: // logarithm
        *value = logarithm(x);
        *slope = 1.0 / x;
        return;
    default: { // parameter·tanh(x/parameter)
        double tanh = hyperbolic_tangent(x / parameter);
        *value = parameter * tanh;
        *slope = 1.0 - tanh * tanh;
        return;
    }
    }
}

extern "C" __global__ void __launch_bounds__(256)
map(u32 function, double parameter, u64 count, const real *__restrict__ x, real *__restrict__ y, u32 wanted, real *__restrict__ slopes) {
    EACH(at, count) {
        double value, slope;
        evaluate(function, parameter, (double)x[at], &value, &slope);
        y[at] = (real)value;
        if (wanted) slopes[at] = (real)slope;
    }
}

__device__ __forceinline__ real combined(u32 operation, real x, real y) {
    return operation == 0u ? x + y : (operation == 1u ? x - y : x * y);
}

extern "C" __global__ void __launch_bounds__(256)
zip(u32 operation, u64 count, const real *__restrict__ x, const real *__restrict__ y, real *__restrict__ z) {
    EACH(at, count) z[at] = combined(operation, x[at], y[at]);
}

extern "C" __global__ void __launch_bounds__(256)
broadcast(u32 operation, u64 count, u32 places, u64 inner, const real *__restrict__ v, real *__restrict__ y) {
    EACH(at, count) y[at] = combined(operation, y[at], v[at / inner % places]);
}

// Partial sums of a spread: part p, of the elements p·1024 on that have place j, goes to partials[p·places + j].
extern "C" __global__ void __launch_bounds__(256)
reduce(u64 each, u32 places, u64 inner, const real *__restrict__ x, double *__restrict__ partials) {
    u32 place = blockIdx.x * 256u + threadIdx.x;
    if (place >= places) return;
    u64 first = (u64)blockIdx.y * 1024u;
    u64 last = each - first < 1024u ? each : first + 1024u;
    double sum = 0.0;
    for (u64 at = first; at < last; at++) {
        u64 outer = at / inner;
        sum += (double)x[(outer * places + place) * inner + (at - outer * inner)];
    }
    partials[(u64)blockIdx.y * places + place] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
reduce_fold(u64 places, u32 parts, const double *__restrict__ partials, real *__restrict__ v) {
    EACH(at, places) {
        double sum = 0.0;
        for (u32 part = 0u; part < parts; part++) sum += partials[(u64)part * places + at];
        v[at] = (real)((double)v[at] + sum);
    }
}

// A warp for each row: lane l takes elements l, l + 32, …, and lanes are joined by halving, so that all have the sum.
#define ROW()                                                                                                                    \
    u64 row = ((u64)blockIdx.x * 256u + threadIdx.x) >> 5;                                                                        \
    u32 lane = threadIdx.x & 31u;                                                                                                \
    if (row >= rows) return;

__device__ __forceinline__ double of_first(double x) {
    long long bits = __double_as_longlong(x);
    u32 low = __shfl_sync(FULL, (u32)bits, 0), high = __shfl_sync(FULL, (u32)(bits >> 32), 0);
    return __longlong_as_double((long long)(((u64)high << 32) | low));
}

__device__ __forceinline__ double sum_of_row(double own) {
    for (int width = 16; width > 0; width >>= 1) own = own + __shfl_down_sync(FULL, own, width);
    return of_first(own);
}

extern "C" __global__ void __launch_bounds__(256, 4)
softmax(u64 rows, u32 columns, u32 logarithmic, const real *__restrict__ x, real *__restrict__ y) {
    ROW()
    x += row * columns;
    y += row * columns;
    double largest = -infinity();
    for (u32 at = lane; at < columns; at += 32u) largest = (double)x[at] > largest ? (double)x[at] : largest;
    for (int width = 16; width > 0; width >>= 1) {
        double next = __shfl_down_sync(FULL, largest, width);
        largest = next > largest ? next : largest;
    }
    largest = of_first(largest);
    double sum = 0.0;
    for (u32 at = lane; at < columns; at += 32u) sum += exp((double)x[at] - largest);
    sum = sum_of_row(sum);
    if (logarithmic) {
        double shift = largest + logarithm(sum);
        for (u32 at = lane; at < columns; at += 32u) y[at] = (real)((double)x[at] - shift);
    } else {
        for (u32 at = lane; at < columns; at += 32u) y[at] = (real)(exp((double)x[at] - largest) / sum);
    }
}

extern "C" __global__ void __launch_bounds__(256)
softmax_product(u64 rows, u32 columns, const real *__restrict__ p, const real *__restrict__ x, real *__restrict__ y) {
    ROW()
    p += row * columns;
    x += row * columns;
    y += row * columns;
    double mean = 0.0;
    for (u32 at = lane; at < columns; at += 32u) mean += (double)p[at] * (double)x[at];
    mean = sum_of_row(mean);
    for (u32 at = lane; at < columns; at += 32u) y[at] = (real)((double)p[at] * ((double)x[at] - mean));
}

extern "C" __global__ void __launch_bounds__(256)
normalize(u64 rows, u32 columns, u32 centred, double epsilon, const real *__restrict__ x, real *__restrict__ y, real *__restrict__ inverse) {
    ROW()
    x += row * columns;
    y += row * columns;
    double count = (double)columns, mean = 0.0, square = 0.0;
    if (centred) {
        for (u32 at = lane; at < columns; at += 32u) mean += (double)x[at];
        mean = sum_of_row(mean) / count;
    }
    for (u32 at = lane; at < columns; at += 32u) {
        double d = (double)x[at] - mean;
        square += d * d;
    }
    square = sum_of_row(square) / count;
    double scale = 1.0 / sqrt(square + epsilon);
    for (u32 at = lane; at < columns; at += 32u) y[at] = (real)(((double)x[at] - mean) * scale);
    if (lane == 0u) inverse[row] = (real)scale;
}

extern "C" __global__ void __launch_bounds__(256)
normalize_product(u64 rows, u32 columns, u32 centred, const real *__restrict__ normal, const real *__restrict__ inverse,
                  const real *__restrict__ x, real *__restrict__ y) {
    ROW()
    normal += row * columns;
    x += row * columns;
    y += row * columns;
    double count = (double)columns, mean = 0.0, along = 0.0;
    if (centred) {
        for (u32 at = lane; at < columns; at += 32u) mean += (double)x[at];
        mean = sum_of_row(mean) / count;
    }
    for (u32 at = lane; at < columns; at += 32u) along += (double)normal[at] * (double)x[at];
    along = sum_of_row(along) / count;
    double scale = (double)inverse[row];
    for (u32 at = lane; at < columns; at += 32u)
        y[at] = (real)(scale * ((double)x[at] - mean - (double)normal[at] * along));
}

// The first of the largest; a NaN is larger than all.
__device__ __forceinline__ bool is_larger(double x, u32 x_at, double y, u32 y_at) {
    bool x_nan = x != x, y_nan = y != y;
    if (x_nan || y_nan) return x_nan && (!y_nan || x_at < y_at);
    return x > y || (x == y && x_at < y_at);
}

extern "C" __global__ void __launch_bounds__(256)
argmax(u64 rows, u32 columns, const real *__restrict__ x, u32 *__restrict__ index) {
    ROW()
    x += row * columns;
    double best = -infinity();
    u32 place = FULL;
    for (u32 at = lane; at < columns; at += 32u) {
        double value = (double)x[at];
        if (is_larger(value, at, best, place)) {
            best = value;
            place = at;
        }
    }
    for (int width = 16; width > 0; width >>= 1) {
        double next = __shfl_down_sync(FULL, best, width);
        u32 next_place = __shfl_down_sync(FULL, place, width);
        if (is_larger(next, next_place, best, place)) {
            best = next;
            place = next_place;
        }
    }
    if (lane == 0u) index[row] = (u32)(row * columns) + place;
}

extern "C" __global__ void __launch_bounds__(256)
gather(u64 count, u32 width, const u32 *__restrict__ index, const real *__restrict__ x, real *__restrict__ y) {
    EACH(at, count) {
        u64 row = at / width;
        y[at] = x[(u64)index[row] * width + (at - row * width)];
    }
}

// Segment s holds the numbers order[starts[s]] to order[starts[s + 1]] of the rows of x that go to row rows[s] of y, ascending.
extern "C" __global__ void __launch_bounds__(256)
scatter_add(u64 count, u32 width, const u32 *__restrict__ starts, const u32 *__restrict__ order, const u32 *__restrict__ rows,
            const real *__restrict__ x, real *__restrict__ y) {
    EACH(at, count) {
        u64 segment = at / width;
        u32 column = (u32)(at - segment * width);
        real *to = y + (u64)rows[segment] * width + column;
        real sum = *to;
        for (u32 i = starts[segment]; i < starts[segment + 1u]; i++) sum = sum + x[(u64)order[i] * width + column];
        *to = sum;
    }
}

#define WINDOW                                                                                                                   \
    u32 batch, u32 channels, u32 groups, u32 height, u32 width, u32 kernel_height, u32 kernel_width, u32 stride_y, u32 stride_x,  \
        u32 padding_y, u32 padding_x, u32 dilation_y, u32 dilation_x, u32 places_y, u32 places_x

extern "C" __global__ void __launch_bounds__(256)
im2col(u64 count, WINDOW, real outside, const real *__restrict__ x, real *__restrict__ y) {
    u32 each = channels / groups;
    EACH(at, count) {
        u64 rest = at;
        u32 v = (u32)(rest % kernel_width);
        rest /= kernel_width;
        u32 u = (u32)(rest % kernel_height);
        rest /= kernel_height;
        u32 channel = (u32)(rest % each);
        rest /= each;
        u32 q = (u32)(rest % places_x);
        rest /= places_x;
        u32 p = (u32)(rest % places_y);
        rest /= places_y;
        u32 image = (u32)(rest % batch), group = (u32)(rest / batch);
        // Beyond the left edge wraps to beyond the right one.
        u32 i = p * stride_y + u * dilation_y - padding_y, j = q * stride_x + v * dilation_x - padding_x;
        bool inside = i < height && j < width;
        y[at] = inside ? x[(((u64)image * groups + group) * each + channel) * height * width + (u64)i * width + j] : outside;
    }
}

extern "C" __global__ void __launch_bounds__(256, 4)
col2im(u64 count, WINDOW, const real *__restrict__ x, real *__restrict__ y) {
    u32 each = channels / groups, taps = kernel_height * kernel_width;
    u64 patches = (u64)places_y * places_x, row = (u64)each * taps;
    EACH(at, count) {
        u64 rest = at;
        u32 j = (u32)(rest % width);
        rest /= width;
        u32 i = (u32)(rest % height);
        rest /= height;
        u32 channel = (u32)(rest % channels), image = (u32)(rest / channels);
        u32 group = channel / each;
        channel -= group * each;
        const real *from = x + ((u64)group * batch + image) * patches * row + (u64)channel * taps;
        real sum = y[at];
        // Patches in order; a pixel lies under at most one tap of each.
        for (u32 p = 0u; p < places_y; p++) {
            u32 down = i + padding_y - p * stride_y;
            if (i + padding_y < p * stride_y || down % dilation_y != 0u || down / dilation_y >= kernel_height) continue;
            for (u32 q = 0u; q < places_x; q++) {
                u32 right = j + padding_x - q * stride_x;
                if (j + padding_x < q * stride_x || right % dilation_x != 0u || right / dilation_x >= kernel_width) continue;
                sum = sum + from[((u64)p * places_x + q) * row + down / dilation_y * kernel_width + right / dilation_x];
            }
        }
        y[at] = sum;
    }
}

// Sizes of y, last axis first, and how far apart in x neighbours along each are.
extern "C" __global__ void __launch_bounds__(256)
permute(u64 count, u32 a, u32 b, u32 c, u32 d, u32 e, u32 f, u32 g, u32 sa, u32 sb, u32 sc, u32 sd, u32 se, u32 sf, u32 sg, u32 sh,
        const real *__restrict__ x, real *__restrict__ y) {
    EACH(at, count) {
        u32 rest = (u32)at, from = rest % a * sa;
        rest /= a;
        from += rest % b * sb;
        rest /= b;
        from += rest % c * sc;
        rest /= c;
        from += rest % d * sd;
        rest /= d;
        from += rest % e * se;
        rest /= e;
        from += rest % f * sf;
        rest /= f;
        from += rest % g * sg;
        from += rest / g * sh;
        y[at] = x[from];
    }
}

extern "C" __global__ void __launch_bounds__(256)
copy_strip(u64 count, u32 columns, u32 from_width, u32 from, u32 to_width, u32 to, const real *__restrict__ x, real *__restrict__ y) {
    EACH(at, count) {
        u64 row = at / columns, column = at - row * columns;
        y[row * to_width + to + column] = x[row * from_width + from + column];
    }
}

// From the other type to this one.
extern "C" __global__ void __launch_bounds__(256)
convert(u64 count, const other *__restrict__ x, real *__restrict__ y) {
    EACH(at, count) y[at] = (real)x[at];
}
