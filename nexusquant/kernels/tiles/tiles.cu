// Packed codes to digits in the registers of tensor cores. After `types.cu`, in front of `softmax.cu`
// and `rebuild.cu`.
//
// A warp takes 16 * M_TILES vectors at a time. The digits of their coordinates are put together right
// in the registers in which tensor cores want them, one coordinate a byte, in half steps. Coordinates
// times the whole numbers of the basis are whole numbers, so the vectors come out without rounding.
// `terms.py` says which coordinate is where, `fragments.py` in which order the rows of the basis
// come.
//
// No headers: all types and instructions that it needs are plain C++ and inline PTX.
//
// Set by the launcher: HALF, DIM, KEY_ROOM and KEY_IS_EVEN (most bytes of a vector, and whether they
// are an even number: few programs for many widths), KEY_ROWS, KEY_DIGITS, M_TILES, WARPS.

constexpr int PAGE = 64;
constexpr int TOKENS = 16 * M_TILES;
constexpr int CHUNKS = HALF / 8;
// a product takes two registers of coordinates, of which eight groups fill four
constexpr int K_TILES = 2 * KEY_ROWS;
constexpr int BASIS_BYTES = CHUNKS * K_TILES * 512;
// of each column: factor, and what is added
constexpr int COLUMN_BYTES = HALF * 16;
// whole numbers on top of this are float32 numbers when their bits are read so
constexpr int WHOLE = 0x4B400000;

__host__ __device__ constexpr int up(int size) { return (size + 15) / 16 * 16; }

__device__ __forceinline__ u32 half2_of(float low, float high) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// of a phase, which is a share of a turn in 32 bits: the angle, between minus a half turn and a half
__device__ __forceinline__ float radians(u32 phase) {
    return static_cast<float>(static_cast<int>(phase)) * (6.2831853f / 4294967296.f);
}

__device__ __forceinline__ void sine_cosine(float angle, float& sine, float& cosine) {
    asm("sin.approx.ftz.f32 %0, %1;" : "=f"(sine) : "f"(angle));
    asm("cos.approx.ftz.f32 %0, %1;" : "=f"(cosine) : "f"(angle));
}

__device__ __forceinline__ void multiply_add(
    int (&sums)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <int ALIGNMENT>
__device__ __forceinline__ u32 read16(const u8* from) {
    if (ALIGNMENT % 2 == 0) return *reinterpret_cast<const u16*>(from);
    return from[0] | from[1] << 8;
}

__device__ __forceinline__ void copy_ahead(u32 place, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(global));
}

__device__ __forceinline__ void copy_ahead(void* shared, const void* global) {
    copy_ahead(static_cast<u32>(__cvta_generic_to_shared(shared)), global);
}

__device__ __forceinline__ void copy_word_ahead(void* shared, const void* global) {
    u32 place = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(place), "l"(global));
}

// 255 in the bytes whose highest bit is set
__device__ __forceinline__ u32 filled(u32 bytes) {
    u32 all;
    asm("prmt.b32 %0, %1, %1, 0xBA98;" : "=r"(all) : "r"(bytes));
    return all;
}

// Where a lane finds its two groups of each row, taken apart once: of words and single bits the
// places in a vector, the bits of words that are there, of single bits those that are all there is,
// and what they count.
struct Places {
    u32 words[KEY_ROWS][4][2], masks[KEY_ROWS][4], singles[KEY_ROWS][2];
    u32 pairs[KEY_ROWS], units[KEY_ROWS];
};

// a number that stays in its register: made anew for every tile, it would cost more
__device__ __forceinline__ u32 kept(u32 x) {
    asm volatile("" : "+r"(x));
    return x;
}

// A lane's entries of the table of places, as they are given: loaded early, taken apart when there is
// time to wait for them.
struct GivenPlaces {
    uint4 rows[KEY_ROWS];
};

__device__ __forceinline__ GivenPlaces load_places(const uint4* table, int t) {
    GivenPlaces given;
#pragma unroll
    for (int r = 0; r < KEY_ROWS; r++) given.rows[r] = table[4 * r + t];
    return given;
}

__device__ __forceinline__ Places read_places(const GivenPlaces& given) {
    Places own;
#pragma unroll
    for (int r = 0; r < KEY_ROWS; r++) {
        const uint4 place = given.rows[r];
        const u32 there = place.z >> 16;
#pragma unroll
        for (int d = 0; d < (KEY_DIGITS >> 4 * r & 15); d++) {
            own.words[r][d][0] = kept(place.x >> 8 * d & 255);
            own.words[r][d][1] = kept(place.y >> 8 * d & 255);
            own.masks[r][d] = kept((there >> d & 1) * 0x0000FFFFu | (there >> 4 + d & 1) * 0xFFFF0000u);
        }
        own.singles[r][0] = kept(place.z & 255), own.singles[r][1] = kept(place.z >> 8 & 255);
        own.pairs[r] = kept((there >> 8 & 1) * 0x00000505u | (there >> 9 & 1) * 0x05050000u);
        own.units[r] = place.w;
    }
    return own;
}

// Bytes of one row's groups in front of their half steps, which are their lowest bits; the lowest bits
// of the fields, every other place.
template <int R>
__device__ __forceinline__ u32 read_fields(const u8* row, const Places& own, u32 (&fields)[4]) {
    constexpr int AT = KEY_IS_EVEN ? 2 : 1;
    u32 lowest = 0;
#pragma unroll
    for (int d = 0; d < (KEY_DIGITS >> 4 * R & 15); d++) {
        u32 words = read16<AT>(row + own.words[R][d][0]) | read16<AT>(row + own.words[R][d][1]) << 16;
        words &= own.masks[R][d];
        if (d == 0) lowest = words & 0x55555555u;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int right = 2 * (i - d) - 1;
            const u32 moved = right > 0 ? words >> right : words << -right;
            fields[i] |= moved & 0x03030303u << 2 * d + 1;
        }
    }
    u32 bytes = row[own.singles[R][0]] | static_cast<u32>(row[own.singles[R][1]]) << 16;
    // four of them in a byte; what is above them is shifted out
    bytes |= bytes << 4;
#pragma unroll
    for (int i = 0; i < 4; i++) fields[i] |= filled(bytes << 7 - i) & own.units[R];
    // of single bits that are all there is, two neighbours make one
    return lowest | (bytes ^ bytes >> 1) & own.pairs[R];
}

// Two rows of a tile, g and g + 8. Coordinates are twice their fields, and one more where the sum of
// the group's fields is odd; the first of a group where it is even.
template <int R = 0>
__device__ __forceinline__ void split_vectors(
    const u8* row, const u8* other, const Places& places, u32 (&a)[K_TILES][4]) {
    u32 fields[2][4] = {};
    u32 odd = read_fields<R>(row, places, fields[0]);
    odd |= read_fields<R>(other, places, fields[1]) << 1;
    odd ^= odd >> 8;
    odd ^= odd >> 4;
    odd ^= odd >> 2;
#pragma unroll
    for (int part = 0; part < 2; part++) {
        const u32 halves = (odd >> part & 0x00010001u) * 0x0101u;
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[2 * R + i / 2][part + i % 2 * 2] =
                fields[part][i] | (i == 0 ? halves ^ 0x00010001u : halves);
    }
    if constexpr (R + 1 < KEY_ROWS) split_vectors<R + 1>(row, other, places, a);
}

// Eight pairs of columns of all vectors of a warp; rows g and g + 8 of a tile, pairs 2t and 2t + 1.
__device__ __forceinline__ void rebuild_columns(
    const u8* basis, const u8* columns, const u32 (&a)[M_TILES][K_TILES][4], int chunk, int lane,
    float (&left)[M_TILES][4], float (&right)[M_TILES][4]) {
    const uint4* rows = reinterpret_cast<const uint4*>(basis) + lane + chunk * K_TILES * 32;
    int of_left[M_TILES][4], of_right[M_TILES][4];
#pragma unroll
    for (int m = 0; m < M_TILES; m++) {
#pragma unroll
        for (int i = 0; i < 4; i++) of_left[m][i] = of_right[m][i] = WHOLE;
    }
#pragma unroll
    for (int k = 0; k < K_TILES; k++) {
        uint4 b = rows[k * 32];
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
            const u32(&digits)[4] = a[m][k];
            multiply_add(of_left[m], digits[0], digits[1], digits[2], digits[3], b.x, b.y);
            multiply_add(of_right[m], digits[0], digits[1], digits[2], digits[3], b.z, b.w);
        }
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        // factors are powers of two: nothing is rounded here
        const float4 of_pair =
            *(reinterpret_cast<const float4*>(columns) + 8 * chunk + 2 * (lane % 4) + j);
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int i = 2 * h + j;
                left[m][i] = __int_as_float(of_left[m][i]) * of_pair.x + of_pair.y;
                right[m][i] = __int_as_float(of_right[m][i]) * of_pair.z + of_pair.w;
            }
        }
    }
}

