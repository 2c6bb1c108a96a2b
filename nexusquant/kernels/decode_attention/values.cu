// Values, weighed. After `keys.cu`, in front of `parts.cu`.
//
// The sum of values stays in coordinates until the parts are joined (`join.cu`). Coordinates are
// float16 numbers below the smallest normal one, which tensor cores take like any other: their bits,
// wherever they stand below an exponent of 0, are whole numbers of 2^-24. So masks make two of them.
//
// Set by the launcher, beside what those want: VALUE_DIGITS, VALUE_ODD, VALUE_MIXED.

// coordinates `i` of two groups from their lower digits and, moved up by two bits, their upper ones
template <int I>
__device__ __forceinline__ u32 field(u32 lower, u32 upper) {
    return lower & 0x00030003u << 2 * I | upper & 0x000C000Cu << 2 * I;
}

// 1 where an odd number of the lowest bits of eight digits is set, of each half of two words
__device__ __forceinline__ void find_parities(u32 near, u32 far, u32& of_near, u32& of_far) {
    u32 odd = near & 0x55555555u | far << 1 & 0xAAAAAAAAu;
    odd ^= odd >> 8;
    odd ^= odd >> 4;
    odd ^= odd >> 2;
    of_near = odd & 0x00010001u, of_far = odd >> 1 & 0x00010001u;
}

// the bits of a byte of each half, two places apart
__device__ __forceinline__ u32 spread(u32 bytes) {
    bytes = (bytes | bytes << 4) & 0x0F0F0F0Fu;
    bytes = (bytes | bytes << 2) & 0x33333333u;
    return (bytes | bytes << 1) & 0x55555555u;
}

// A row of eight groups of two tokens' values: lower digits, and upper ones moved up by two bits.
template <int R>
__device__ __forceinline__ void read_pair(
    const u8* one, const u8* other, u32 place, u32& lower, u32& upper) {
    constexpr int AT = VALUE_BYTES % 2 == 0 ? 2 : 1;
    constexpr int DIGITS = VALUE_DIGITS >> 4 * R & 15;
    constexpr bool IS_ODD = VALUE_ODD >> R & 1;
    // where all groups have a word, there is nothing to mask
    constexpr bool IS_MIXED = VALUE_MIXED >> R & 1;
    const u32 first = place & 255, second = place >> 8 & 255, single = place >> 16 & 255;
    lower = upper = 0;
    if (DIGITS > 0) {
        lower = read16<AT>(one + first) | read16<AT>(other + first) << 16;
        if (IS_MIXED) lower &= 0u - (place >> 24 & 1);
    }
    if (DIGITS > 1) {
        upper = read16<AT>(one + second) | read16<AT>(other + second) << 16;
        if (IS_MIXED) upper &= 0u - (place >> 25 & 1);
    }
    if (IS_ODD) {
        const u32 bits = spread(one[single] | static_cast<u32>(other[single]) << 16);
        if (IS_MIXED) {
            lower |= bits & 0u - (place >> 27 & 1);
            upper |= bits & 0u - (place >> 26 & 1);
        } else if (DIGITS > 0) upper = bits;
        else lower = bits;
    }
}

template <int R>
__device__ __forceinline__ void add_row(
    const u8* const (&tokens)[4], const u32 (&places)[VALUE_ROWS],
    const u32 (&weights)[N_TILES][2], u32 (&parity)[2][2], float (&sums)[V_TILES][N_TILES][4]) {
    u32 near, near_upper, far, far_upper;
    read_pair<R>(tokens[0], tokens[1], places[R], near, near_upper);
    read_pair<R>(tokens[2], tokens[3], places[R], far, far_upper);
    find_parities(near, far, parity[R % 2][0], parity[R % 2][1]);
#define ADD(TILE, A0, A1, A2, A3)                                                               \
    _Pragma("unroll") for (int n = 0; n < N_TILES; n++)                                         \
        multiply_add(sums[TILE][n], A0, A1, A2, A3, weights[n][0], weights[n][1]);
#define ADD_FIELDS(I)                                                                           \
    ADD(4 * R + I, field<I>(near, near_upper << 2), field<I>(near >> 8, near_upper >> 6),       \
        field<I>(far, far_upper << 2), field<I>(far >> 8, far_upper >> 6))
    ADD_FIELDS(0) ADD_FIELDS(1) ADD_FIELDS(2) ADD_FIELDS(3)
    if (R % 2 == 1 || R == VALUE_ROWS - 1) {
        if (R % 2 == 0) parity[1][0] = parity[1][1] = 0;
        ADD(4 * VALUE_ROWS + R / 2, parity[0][0], parity[1][0], parity[0][1], parity[1][1])
    }
#undef ADD_FIELDS
#undef ADD
}

// weighted coordinates of 16 tokens' values onto the sums
__device__ __forceinline__ void add_values(
    const u8* rows, int t, const u32 (&places)[VALUE_ROWS], const u32 (&weights)[N_TILES][2],
    float (&sums)[V_TILES][N_TILES][4]) {
    const u8* const tokens[4] = {
        rows + 2 * t * VALUE_BYTES, rows + (2 * t + 1) * VALUE_BYTES,
        rows + (2 * t + 8) * VALUE_BYTES, rows + (2 * t + 9) * VALUE_BYTES};
    u32 parity[2][2];
    static_assert(VALUE_ROWS <= 4);
    add_row<0>(tokens, places, weights, parity, sums);
    if constexpr (VALUE_ROWS > 1) add_row<1>(tokens, places, weights, parity, sums);
    if constexpr (VALUE_ROWS > 2) add_row<2>(tokens, places, weights, parity, sums);
    if constexpr (VALUE_ROWS > 3) add_row<3>(tokens, places, weights, parity, sums);
}
