// The three functions of vecmath.h, written once for a float and for vectors of them. Not a header to include alone:
// the including file has opened a namespace (and perhaps a target) and defined F, a float or a GCC vector of
// floats, and I, as many int32_t. They work in place: to pass a wide vector by value has a different ABI on
// every target. No templates: a template keeps the target of the place that defines it.
// It may have defined TIMES_POWER_OF_2(p, n) as well: p * 2^n for a whole number n, rounded once.

// exp x = 2^n exp r, |r| <= ln 2 / 2. Where no instruction applies 2^n, two factors reach infinity and the subnormals.
static inline void exp_in(F &x) {
    x = x > F{} + 89.0f ? F{} + 89.0f : x;
    x = x < F{} - 104.0f ? F{} - 104.0f : x;
    const F magic = F{} + 12582912.0f; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const F shifted = x * 1.44269504f + magic;
    const F n = shifted - magic;
    const F r = (x - n * 0.693359375f) - n * -2.12194440e-4f; // ln 2 in two parts; the first product is exact
    F p = r * 0.00019908117f + 0.0013934013f;
    p = p * r + 0.008333285f;
    p = p * r + 0.041666463f;
    p = p * r + 0.16666667f;
    p = p * r + 0.5f;
    p = (p * (r * r) + r) + 1.0f;
#ifdef TIMES_POWER_OF_2
    x = TIMES_POWER_OF_2(p, n);
#else
    I whole;
    memcpy(&whole, &shifted, sizeof whole);
    whole -= 0x4b400000; // the bits of magic
    const I half = whole >> 1;
    const I first = ((half + 127) & 255) << 23, second = ((whole - half + 127) & 255) << 23; // masked for NaN's sake
    F scale;
    memcpy(&scale, &first, sizeof scale);
    p = p * scale;
    memcpy(&scale, &second, sizeof scale);
    x = p * scale;
#endif
}

static inline void sigmoid_in(F &x) {
    const F zero = F{}, one = F{} + 1.0f;
    F e = x > zero ? -x : x;
    exp_in(e); // of -|x|: never overflows
    x = (x > zero ? one : e) / (one + e);
}

// x + x^3 q(x^2) near 0, 1 - 2 / (exp 2|x| + 1) elsewhere
static inline void tanh_in(F &x) {
    const F zero = F{}, size = x < zero ? -x : x, z = x * x;
    F q = z * -0.006283665f + 0.021121453f;
    q = q * z - 0.053876318f;
    q = q * z + 0.13332933f;
    q = q * z - 0.3333333f;
    const F small = x + x * z * q;
    F e = size + size;
    exp_in(e);
    const F large = 1.0f - 2.0f / (e + 1.0f);
    x = size < F{} + 0.55f ? small : x < zero ? -large : large;
}
