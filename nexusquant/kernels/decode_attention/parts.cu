// Attention of one token's queries over packed pages, in parts of the text. Comes after `tiles.cu`,
// `softmax.cu` and `join.cu`.
//
// `reference.py` says what the parts have to give together. Keys are rebuilt from their digits and
// the basis (in shared memory, for all warps of a block), turned to the tokens' positions and
// compared with the queries; nothing of a key ever leaves its warp. The weighted sum of values
// stays in coordinates until the parts are joined (`join.cu`). Coordinates of values are float16
// numbers: put under the exponent of 1024, bits are a number where they stand, so that masks and a
// subtraction make two of them.
//
// Set by the launcher, beside what those want: VALUE_BYTES, VALUE_DIGITS, VALUE_ODD, VALUE_MIXED,
// HAS_MEAN, IS_WHOLE.

constexpr int KEY_STAGE = up(TOKENS * KEY_ROOM + 16);
constexpr int VALUE_STAGE = up(TOKENS * VALUE_BYTES + 16);
constexpr int STAGE = KEY_STAGE + VALUE_STAGE + 2 * TOKENS;
// what `weigh_exact` says, and then everything else
constexpr int AT_BASIS = up(2 * GROUPED * 4);
constexpr int AT_QUERY = AT_BASIS + BASIS_BYTES;
constexpr int AT_MEAN = AT_QUERY + CHUNKS * N_TILES * 256;
constexpr int AT_COLUMNS = AT_MEAN + (HAS_MEAN ? CHUNKS * N_TILES * 256 : 0);
constexpr int AT_SPEED = AT_COLUMNS + COLUMN_BYTES;
constexpr int AT_RATE = AT_SPEED + HALF * 4;
constexpr int AT_SCALE = AT_RATE + HALF * 4;
// as they are given, of the block's head
constexpr int QUERY_BYTES = GROUPED * DIM * (QUERY_TYPE == 0 ? 4 : 2);
constexpr int AT_GIVEN_QUERY = AT_SCALE + 2 * 256 * 4;
constexpr int AT_GIVEN_MEAN = AT_GIVEN_QUERY + QUERY_BYTES;
constexpr int AT_GIVEN_COLUMNS = AT_GIVEN_MEAN + (HAS_MEAN ? DIM * 4 : 0);
constexpr int AT_STAGE = up(AT_GIVEN_COLUMNS + 2 * HALF * 4);
__host__ __device__ constexpr int most(int one, int other) { return one > other ? one : other; }
// of a warp: two stages, and in the end what it found
constexpr int OF_WARP = up(most(2 * STAGE, GROUPED * SUMS * 4));
// logits of exact vectors come after everything
constexpr int AT_LOGITS = up(most(AT_STAGE + WARPS * OF_WARP, JOINED * 4));
// read by the launcher, which adds those
extern "C" __constant__ const int shared_bytes = AT_LOGITS;

__device__ __forceinline__ void multiply_add(
    float (&sums)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// of each half: a b - c d
__device__ __forceinline__ u32 products_less(u32 a, u32 b, u32 c, u32 d) {
    u32 result;
    asm("{.reg .b32 other;\n\tmul.rn.f16x2 other, %3, %4;\n\tneg.f16x2 other, other;\n\t"
        "fma.rn.f16x2 %0, %1, %2, other;}"
        : "=r"(result) : "r"(a), "r"(b), "r"(c), "r"(d));
    return result;
}

// a b + c d
__device__ __forceinline__ u32 products_and(u32 a, u32 b, u32 c, u32 d) {
    u32 result;
    asm("{.reg .b32 other;\n\tmul.rn.f16x2 other, %3, %4;\n\tfma.rn.f16x2 %0, %1, %2, other;}"
        : "=r"(result) : "r"(a), "r"(b), "r"(c), "r"(d));
    return result;
}

__device__ __forceinline__ u32 transposed(u32 tile) {
    u32 other;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(other) : "r"(tile));
    return other;
}

// coordinates `i` of two groups from their lower digits and, moved up by two bits, their upper ones
template <int I>
__device__ __forceinline__ u32 field(u32 lower, u32 upper) {
    u32 number, mask = 0x000C000Cu << 2 * I;
    asm("lop3.b32 %0, %1, %2, 0x64006400, 0xEA;"
        : "=r"(number) : "r"(lower), "n"(0x00030003u << 2 * I));
    number |= upper & mask;
    asm("sub.rn.f16x2 %0, %0, %1;" : "+r"(number) : "r"(0x64006400u));
    return number;
}

// 1 where an odd number of the lowest bits of eight digits is set, of each half of two words
__device__ __forceinline__ void find_parities(u32 near, u32 far, u32& of_near, u32& of_far) {
    u32 odd = near & 0x55555555u | far << 1 & 0xAAAAAAAAu;
    odd ^= odd >> 8;
    odd ^= odd >> 4;
    odd ^= odd >> 2;
    of_near = (odd & 0x00010001u) * 0x3C00u, of_far = (odd >> 1 & 0x00010001u) * 0x3C00u;
}

// the bits of a byte of each half, two places apart
__device__ __forceinline__ u32 spread(u32 bytes) {
    bytes = (bytes | bytes << 4) & 0x0F0F0F0Fu;
    bytes = (bytes | bytes << 2) & 0x33333333u;
    return (bytes | bytes << 1) & 0x55555555u;
}

struct Pages {
    const u8 *key_codes, *key_scales, *value_codes, *value_scales;
    int key_bytes;
    const int* table;
    const long long* positions;  // of this head
    int first_position;
    int length;
};

// `count` bytes, MOST of them at most, by a warp
template <int MOST>
__device__ __forceinline__ void copy_all(u8* target, const u8* from, int count, int lane) {
    const u8* own = from + lane * 16;
#pragma unroll
    for (int i = 0; i < MOST; i += 512)
        if (i + lane * 16 < count) copy_ahead(target + lane * 16 + i, own + i);
}

// words by a block
template <int BYTES>
__device__ __forceinline__ void copy_words(u8* target, const void* from) {
    each<BYTES / 4>([&](int i) {
        copy_word_ahead(target + 4 * i, static_cast<const u8*>(from) + 4 * i);
    });
}

// sixteens of bytes by a block
template <int BYTES>
__device__ __forceinline__ void copy_wide(u8* target, const u8* from) {
    each<BYTES / 16>([&](int i) { copy_ahead(target + 16 * i, from + 16 * i); });
}

// codes and scales of a tile into a stage of shared memory
__device__ __forceinline__ void fetch(const Pages& pages, int page, int tile, u8* stage, int lane) {
    long long first = static_cast<long long>(page) * PAGE + tile * TOKENS % PAGE;
    copy_all<TOKENS * KEY_ROOM>(
        stage, pages.key_codes + first * pages.key_bytes, TOKENS * pages.key_bytes, lane);
    u8* target = stage + KEY_STAGE;
    copy_all<TOKENS * VALUE_BYTES>(
        target, pages.value_codes + first * VALUE_BYTES, TOKENS * VALUE_BYTES, lane);
    if (lane < 2 * M_TILES) {
        const u8* scales = lane < M_TILES ? pages.key_scales : pages.value_scales;
        int at = lane % M_TILES * 16;
        copy_ahead(target + VALUE_STAGE + lane / M_TILES * TOKENS + at, scales + first + at);
    }
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

// queries, and what they are of the mean, as the right-hand sides of products
__device__ __forceinline__ void prepare_queries(
    u8* shared, float growth, float scaling) {
    const u8* query = shared + AT_GIVEN_QUERY;
    const float* mean = reinterpret_cast<const float*>(shared + AT_GIVEN_MEAN);
    const int* columns = reinterpret_cast<const int*>(shared + AT_GIVEN_COLUMNS);
    const u32* speeds = reinterpret_cast<const u32*>(shared + AT_SPEED);
    each<CHUNKS * N_TILES * 32>([&](int i) {
        int lane = i % 32, n = i / 32 % N_TILES, chunk = i / 32 / N_TILES;
        int lane_query = 8 * n + lane / 4;
        u32 of_query[2], of_mean[2];
        float along[2], across[2], left[2], right[2];
        for (int j = 0; j < 2; j++) {
            int pair = 8 * chunk + 2 * (lane % 4) + j;
            int at_left = columns[pair], at_right = columns[HALF + pair];
            bool is_there = lane_query < GROUPED;
            const int own = lane_query * DIM;
            const bool is_left = is_there && at_left >= 0, is_right = is_there && at_right >= 0;
            left[j] = is_left ? number<QUERY_TYPE>(query, own + at_left) : 0.f;
            right[j] = is_right ? number<QUERY_TYPE>(query, own + at_right) : 0.f;
            const float size = speeds[pair] ? scaling * growth : scaling;
            left[j] *= size, right[j] *= size;
            if (HAS_MEAN) {
                float m_left = at_left >= 0 ? mean[at_left] : 0.f;
                float m_right = at_right >= 0 ? mean[at_right] : 0.f;
                along[j] = left[j] * m_left + right[j] * m_right;
                across[j] = right[j] * m_left - left[j] * m_right;
            }
        }
        of_query[0] = half2_of(left[0], left[1]), of_query[1] = half2_of(right[0], right[1]);
        reinterpret_cast<u32*>(shared + AT_QUERY)[2 * i] = of_query[0];
        reinterpret_cast<u32*>(shared + AT_QUERY)[2 * i + 1] = of_query[1];
        if (HAS_MEAN) {
            of_mean[0] = half2_of(along[0], along[1]), of_mean[1] = half2_of(across[0], across[1]);
            reinterpret_cast<u32*>(shared + AT_MEAN)[2 * i] = of_mean[0];
            reinterpret_cast<u32*>(shared + AT_MEAN)[2 * i + 1] = of_mean[1];
        }
    });
}

// Products of the queries with the keys of a tile: without scale, and with the mean. Angles are those
// of the tile's first position, exact in whole numbers however far into the text, and what is left.
__device__ __forceinline__ void compare(
    const u8* shared, const u32 (&a)[M_TILES][K_TILES][4], const u32 (&position)[M_TILES][2],
    u32 first, int lane, float (&products)[M_TILES][N_TILES][4], float (&of_mean)[M_TILES][N_TILES][4]) {
    const u32* speeds = reinterpret_cast<const u32*>(shared + AT_SPEED) + 2 * (lane % 4);
    const float* rates = reinterpret_cast<const float*>(shared + AT_RATE) + 2 * (lane % 4);
    float offset[M_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; m++) {
        offset[m][0] = static_cast<float>(static_cast<int>(position[m][0] - first));
        offset[m][1] = static_cast<float>(static_cast<int>(position[m][1] - first));
    }
    const uint2* queries = reinterpret_cast<const uint2*>(shared + AT_QUERY) + lane;
    const uint2* means = reinterpret_cast<const uint2*>(shared + AT_MEAN) + lane;
#pragma unroll 8
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        float left[M_TILES][4], right[M_TILES][4];
        rebuild_columns(shared + AT_BASIS, shared + AT_COLUMNS, a, chunk, lane, left, right);
        uint2 speed = *reinterpret_cast<const uint2*>(speeds + 8 * chunk);
        float2 rate = *reinterpret_cast<const float2*>(rates + 8 * chunk);
        const float base[2] = {radians(first * speed.x), radians(first * speed.y)};
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
            float sine[4], cosine[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                sine_cosine(
                    offset[m][i / 2] * (i % 2 ? rate.y : rate.x) + base[i % 2], sine[i], cosine[i]);
            u32 turns[4], keys[4];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const u32 along = half2_of(cosine[2 * h], cosine[2 * h + 1]);
                const u32 across = half2_of(sine[2 * h], sine[2 * h + 1]);
                const u32 lefts = half2_of(left[m][2 * h], left[m][2 * h + 1]);
                const u32 rights = half2_of(right[m][2 * h], right[m][2 * h + 1]);
                keys[h] = products_less(lefts, along, rights, across);
                keys[2 + h] = products_and(rights, along, lefts, across);
                turns[h] = along, turns[2 + h] = across;
            }
#pragma unroll
            for (int n = 0; n < N_TILES; n++) {
                if (HAS_MEAN) {
                    uint2 c = means[(chunk * N_TILES + n) * 32];
                    multiply_add(of_mean[m][n], turns[0], turns[1], turns[2], turns[3], c.x, c.y);
                }
                uint2 b = queries[(chunk * N_TILES + n) * 32];
                multiply_add(products[m][n], keys[0], keys[1], keys[2], keys[3], b.x, b.y);
            }
        }
    }
}

// A warp's softmax over its tokens, before the division; queries 2t and 2t + 1 of each eight.
struct Softmax {
    float maximum[N_TILES][2], total[N_TILES][2], weight_sum[N_TILES][2];
    float sums[V_TILES][N_TILES][4];
};

__device__ __forceinline__ void clear(Softmax& softmax) {
#pragma unroll
    for (int n = 0; n < N_TILES; n++) {
        softmax.maximum[n][0] = softmax.maximum[n][1] = NOTHING;
        softmax.total[n][0] = softmax.total[n][1] = 0.f;
        softmax.weight_sum[n][0] = softmax.weight_sum[n][1] = 0.f;
#pragma unroll
        for (int v = 0; v < V_TILES; v++) {
#pragma unroll
            for (int i = 0; i < 4; i++) softmax.sums[v][n][i] = 0.f;
        }
    }
}

// The softmax's step. With the values' scales in the maximum, no weight overflows float16.
__device__ __forceinline__ void add_tile(
    const u8* stage, const float* own_scales, const u32 (&value_places)[VALUE_ROWS], int first,
    int length, float softcap, int g, int t,
    const u32 (&position)[M_TILES][2], float (&products)[M_TILES][N_TILES][4],
    const float (&of_mean)[M_TILES][N_TILES][4], Softmax& softmax) {
    const u8* codes = stage + KEY_STAGE + VALUE_STAGE;
    float exponent[M_TILES][2], sign[M_TILES][2];
    float highest[N_TILES][2];
#pragma unroll
    for (int n = 0; n < N_TILES; n++) highest[n][0] = highest[n][1] = NOTHING;
#pragma unroll
    for (int m = 0; m < M_TILES; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = 16 * m + 8 * h + g;
            sign[m][h] = position[m][h] & 1 ? -1.f : 1.f;
            float scale = own_scales[codes[row]] * sign[m][h];
            exponent[m][h] = own_scales[256 + codes[TOKENS + row]];
            bool is_there = first + row < length;
            float least = fmaxf(exponent[m][h], -14.f);
#pragma unroll
            for (int n = 0; n < N_TILES; n++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float logit = products[m][n][2 * h + j] * scale + of_mean[m][n][2 * h + j];
                    logit = is_there ? capped(logit, softcap) : NOTHING * 2.f;
                    products[m][n][2 * h + j] = logit;
                    highest[n][j] = fmaxf(highest[n][j], logit + least);
                }
            }
        }
    }
    bool is_higher = false;
#pragma unroll
    for (int n = 0; n < N_TILES; n++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
            for (int step = 4; step < 32; step *= 2)
                highest[n][j] = fmaxf(highest[n][j], __shfl_xor_sync(~0u, highest[n][j], step));
            is_higher |= highest[n][j] > softmax.maximum[n][j];
        }
    }
    if (__any_sync(~0u, is_higher)) {
#pragma unroll
        for (int n = 0; n < N_TILES; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float higher = fmaxf(softmax.maximum[n][j], highest[n][j]);
                float shrink = exp2_of(softmax.maximum[n][j] - higher);
                softmax.maximum[n][j] = higher;
                softmax.total[n][j] *= shrink, softmax.weight_sum[n][j] *= shrink;
#pragma unroll
                for (int v = 0; v < V_TILES; v++)
                    softmax.sums[v][n][j] *= shrink, softmax.sums[v][n][2 + j] *= shrink;
            }
        }
    }
#pragma unroll
    for (int m = 0; m < M_TILES; m++) {
        u32 weights[N_TILES][2];
#pragma unroll
        for (int n = 0; n < N_TILES; n++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float pair[2];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float above = products[m][n][2 * h + j] - softmax.maximum[n][j];
                    softmax.total[n][j] += exp2_of(above);
                    pair[j] = exp2_of(above + exponent[m][h]) * sign[m][h];
                    softmax.weight_sum[n][j] += pair[j];
                }
                weights[n][h] = transposed(half2_of(pair[0], pair[1]));
            }
        }
        add_values(
            stage + KEY_STAGE + 16 * m * VALUE_BYTES, t, value_places, weights, softmax.sums);
    }
}

// What a warp's softmax comes to, of all its lanes, where all warps find it. [GROUPED, SUMS]
__device__ __forceinline__ void store_softmax(float* found, Softmax& softmax) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < N_TILES; n++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float total = softmax.total[n][j], weight_sum = softmax.weight_sum[n][j];
#pragma unroll
            for (int step = 4; step < 32; step *= 2) {
                total += __shfl_xor_sync(~0u, total, step);
                weight_sum += __shfl_xor_sync(~0u, weight_sum, step);
            }
            const int lane_query = 8 * n + 2 * t + j;
            if (lane_query >= GROUPED) continue;
            float* own = found + lane_query * SUMS;
#pragma unroll
            for (int v = 0; v < V_TILES; v++) {
                own[16 * v + g] = softmax.sums[v][n][j];
                own[16 * v + 8 + g] = softmax.sums[v][n][2 + j];
            }
            if (g == 0)
                own[ROWS] = total, own[ROWS + 1] = weight_sum, own[ROWS + 2] = softmax.maximum[n][j];
        }
    }
}

// What the warps of a block found, in one. `warps`: of the first one; `exact`: see `weigh_exact`.
// [GROUPED, SUMS]
__device__ __forceinline__ void add_warps(const float* warps, const float* exact, float* found) {
    each<GROUPED * SUMS / 4>([&](int item) {
        const int q = 4 * item / SUMS, at = 4 * item % SUMS;
        const float* of_query = warps + q * SUMS;
        float maxima[WARPS], highest = exact[q];
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            maxima[w] = of_query[w * (OF_WARP / 4) + ROWS + 2];
            highest = fmaxf(highest, maxima[w]);
        }
        float4 sum = {};
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float4 own = *reinterpret_cast<const float4*>(of_query + w * (OF_WARP / 4) + at);
            const float share = exp2_of(maxima[w] - highest);
            sum.x += own.x * share, sum.y += own.y * share;
            sum.z += own.z * share, sum.w += own.w * share;
        }
        if (at == ROWS) {
            sum.x += exact[GROUPED + q] * exp2_of(exact[q] - highest);
            sum.z = highest, sum.w = exact[q];
        }
        reinterpret_cast<float4*>(found)[item] = sum;
    });
}

// What all warps of a block share. What is computed with comes first, on its way all at once: each
// step that waits for the one before it would wait for memory anew;
__device__ __forceinline__ void share_given(
    u8* shared, const void* query, const float* mean, const int* columns, const u32* speeds,
    const float* scales, int head) {
    copy_words<QUERY_BYTES>(
        shared + AT_GIVEN_QUERY, static_cast<const u8*>(query) + head * QUERY_BYTES);
    if (HAS_MEAN) copy_words<DIM * 4>(shared + AT_GIVEN_MEAN, mean + head * DIM);
    copy_words<2 * HALF * 4>(shared + AT_GIVEN_COLUMNS, columns);
    copy_words<HALF * 4>(shared + AT_SPEED, speeds);
    copy_words<512 * 4>(shared + AT_SCALE, scales);
}

// then the basis;
__device__ __forceinline__ void share_basis(
    u8* shared, const u8* basis, const u8* column_factors, int head) {
    copy_wide<BASIS_BYTES>(shared + AT_BASIS, basis + static_cast<long long>(head) * BASIS_BYTES);
    copy_wide<COLUMN_BYTES>(
        shared + AT_COLUMNS, column_factors + static_cast<long long>(head) * COLUMN_BYTES);
}

// and at last what is computed of what was given.
__device__ __forceinline__ void share_computed(
    u8* shared, float size, float growth, float scaling) {
    const u32* speeds = reinterpret_cast<const u32*>(shared + AT_SPEED);
    each<HALF>([&](int i) { reinterpret_cast<float*>(shared + AT_RATE)[i] = radians(speeds[i]); });
    each<256>([&](int i) { reinterpret_cast<float*>(shared + AT_SCALE)[i] *= size; });
    prepare_queries(shared, growth, scaling * LOG2_E);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) attend(
    const void* query, int key_bytes, const u8* key_codes, const u8* key_scales,
    const u8* value_codes, const u8* value_scales, const int* page_table, int table_width,
    const long long* lengths, const long long* positions, int positions_width, int first_position,
    const u8* basis, const u8* column_factors, const uint4* places, const float* sizes,
    const float* mean, const int* columns, const u32* speeds, const float* scales, float growth,
    const u32* value_places, float scaling, float softcap, const float* rows, const float* offset,
    const void* exact_keys, const void* exact_values, int exact_room, const long long* num_exact,
    u32 of_part, float* found, u32* counters, void* out) {
    extern __shared__ __align__(16) u8 shared[];
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int g = lane / 4, t = lane % 4;
    const int head = blockIdx.x, part = blockIdx.y, num_parts = gridDim.y;
    const int count = num_exact ? static_cast<int>(*num_exact) : exact_room;
    const Exact exact = {exact_keys, exact_values, exact_room, count, part, num_parts};
    const int* table = page_table + head * table_width;
    const long long length = lengths[head];
    // where its pages are is asked for as soon as their number is known
#pragma unroll 1
    for (int i = thread * 32; i < table_width; i += THREADS * 32) expect(table + i);
    share_given(shared, query, mean, columns, speeds, scales, head);
    asm volatile("cp.async.commit_group;");
    share_basis(shared, basis, column_factors, head);
    const Vector first_key = load_key(exact, head, warp);
    const float size = sizes[head];
    const GivenPlaces key_places = load_places(places, t);
    u32 own_value_places[VALUE_ROWS];
#pragma unroll
    for (int r = 0; r < VALUE_ROWS; r++) own_value_places[r] = value_places[8 * r + g];
    expect_last(exact, head, rows);
    const Pages pages = {
        key_codes, key_scales, value_codes, value_scales, key_bytes, table,
        positions + static_cast<long long>(head) * positions_width, first_position,
        static_cast<int>(length)};
    const int num_tiles = (pages.length + TOKENS - 1) / TOKENS;
    // no division waits for the number of tiles
    const int begin = __umulhi(num_tiles, part * of_part);
    const int end = part + 1 == num_parts ? num_tiles : __umulhi(num_tiles, (part + 1) * of_part);
    constexpr int PER_PAGE = PAGE / TOKENS;

    u8* stages = shared + AT_STAGE + warp * OF_WARP;
    int tile = begin + warp;
    auto position_of = [&](int of_tile) {
        int index = of_tile * TOKENS + lane % TOKENS;
        if (IS_WHOLE) return pages.first_position + index;
        return index < pages.length ? static_cast<int>(pages.positions[index]) : 0;
    };
    int page_next = 0, position_next = 0;
    if (tile < end) {
        fetch(pages, pages.table[tile / PER_PAGE], tile, stages, lane);
        position_next = position_of(tile);
        if (tile + WARPS < end) page_next = pages.table[(tile + WARPS) / PER_PAGE];
    }
    asm volatile("cp.async.commit_group;");

    // while the first codes are on their way
    const Places own_places = read_places(key_places);
    asm volatile("cp.async.wait_group 1;");
    __syncthreads();
    share_computed(shared, size, growth, scaling);
    float* logits = reinterpret_cast<float*>(shared + AT_LOGITS);
    compare_exactly(shared + AT_GIVEN_QUERY, exact, head, first_key, scaling, softcap, logits);
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();

    float* states = reinterpret_cast<float*>(shared);
    // it has no more tiles than the others, and all read this at the end
    if (warp == WARPS - 1) weigh_exact(exact, logits, states);
    const float* own_scales = reinterpret_cast<const float*>(shared + AT_SCALE);
    Softmax softmax;
    clear(softmax);

    int at_next = 0;
#pragma unroll 1
    for (; tile < end; tile += WARPS) {
        u8* stage = stages + at_next;
        at_next = STAGE - at_next;
        int own_position = position_next;
        int next = tile + WARPS;
        if (next < end) {
            fetch(pages, page_next, next, stages + at_next, lane);
            position_next = position_of(next);
            if (next + WARPS < end) page_next = pages.table[(next + WARPS) / PER_PAGE];
        }
        asm volatile("cp.async.commit_group;");
        asm volatile("cp.async.wait_group 1;");
        __syncwarp();

        u32 a[M_TILES][K_TILES][4];
        u32 position[M_TILES][2];
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
            const u8* row = stage + (16 * m + g) * key_bytes;
            split_vectors(row, row + 8 * key_bytes, own_places, a[m]);
#pragma unroll
            for (int h = 0; h < 2; h++)
                position[m][h] = __shfl_sync(~0u, own_position, 16 * m + 8 * h + g);
        }
        float products[M_TILES][N_TILES][4] = {}, of_mean[M_TILES][N_TILES][4] = {};
        const u32 first_position_of_tile = __shfl_sync(~0u, own_position, 0);
        compare(shared, a, position, first_position_of_tile, lane, products, of_mean);

        add_tile(
            stage, own_scales, own_value_places, tile * TOKENS, pages.length, softcap, g, t,
            position, products, of_mean, softmax);
        __syncwarp();
    }

    ExactValues values;
    values.load(exact, head, 0);
    float* of_head = found + static_cast<long long>(head) * num_parts * FOUND;
    float* own = of_head + part * FOUND;
    store_softmax(reinterpret_cast<float*>(stages), softmax);
    __syncthreads();
    add_warps(reinterpret_cast<const float*>(shared + AT_STAGE), states, own);
    add_exact(exact, head, logits, states, values, own + AT_EXACT_SUMS);
    if (!all_have_written(counters + head, part, num_parts)) return;
    float* joined = reinterpret_cast<float*>(shared);
    for (int share = WAITS ? part : 0; share < SHARES; share += num_parts) {
        if (share >= num_parts) __syncthreads();
        join(of_head, num_parts, share, rows, offset, joined, out, head);
    }
}
