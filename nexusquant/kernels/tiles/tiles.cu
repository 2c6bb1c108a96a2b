// Packed codes to digits in the registers of tensor cores. After `types.cu`, in front of `parts.cu`
// and `rebuild.cu`.
//
// A warp takes 16 * M_TILES vectors at a time. Their codes are split right in the registers in
// which tensor cores want them: four digits, one a byte, with a shift and a mask. Digits times the
// whole numbers of the basis are whole numbers, so the vectors come out without rounding.
// `terms.py` says which digit is where, `fragments.py` in which order the rows of the basis come.
//
// No headers: all types and instructions that it needs are plain C++ and inline PTX.
//
// Set by the launcher: HALF, DIM, KEY_BYTES, KEY_WORDS, KEY_SINGLES, KEY_W8, KEY_W4, KEY_S16,
// KEY_S8, KEY_WIDE, M_TILES, WARPS.

constexpr int PAGE = 64;
constexpr int TOKENS = 16 * M_TILES;
constexpr int CHUNKS = HALF / 8;
// registers of digits and of parities that each load is split into; a product takes two
constexpr int SLOTS = 5 * KEY_W8 + 3 * KEY_W4 + 10 * KEY_S16 + 6 * KEY_S8;
constexpr int K_TILES = (SLOTS + 1) / 2;
constexpr int LOADS = KEY_W8 + KEY_W4 + KEY_S16 + KEY_S8;
constexpr int BASIS_BYTES = CHUNKS * K_TILES * 512;
// what each digit of a load counts, for the four lanes of a row
constexpr int UNITS_BYTES = LOADS * 4 * 8;
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
__device__ __forceinline__ u32 read32(const u8* from) {
    if (ALIGNMENT % 4 == 0) return *reinterpret_cast<const u32*>(from);
    if (ALIGNMENT % 2 == 0) {
        const u16* parts = reinterpret_cast<const u16*>(from);
        return parts[0] | static_cast<u32>(parts[1]) << 16;
    }
    return from[0] | from[1] << 8 | from[2] << 16 | static_cast<u32>(from[3]) << 24;
}

__device__ __forceinline__ void copy_ahead(void* shared, const void* global) {
    u32 place = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(global));
}

// parities of the lowest bits of eight digits, of two words: once, and sixteen times
__device__ __forceinline__ u32 word_parities(u32 words) {
    u32 odd = words & 0x55555555u;
    odd ^= odd >> 8;
    odd ^= odd >> 4;
    odd = (odd ^ odd >> 2) & 0x00010001u;
    return odd | odd << 12;
}

__device__ __forceinline__ u32 byte_parities(u32 bytes) {
    u32 odd = bytes ^ bytes >> 4;
    odd ^= odd >> 2;
    return (odd ^ odd >> 1) & 0x01010101u;
}

// a digit of every byte; the digits of some words count 4, 16 or 64
template <bool IS_WIDE>
__device__ __forceinline__ u32 word_digits(u32 words, uint2 units) {
    u32 digits = words & 0x03030303u;
    return IS_WIDE ? (digits & 0xFFFFu) * units.x + (digits & 0xFFFF0000u) * units.y : digits;
}

// a bit of every byte, as what it counts
__device__ __forceinline__ u32 single_bits(u32 bytes, uint2 units) {
    return (bytes & 0x01010101u) * 255u & units.x;
}

// one row of a tile; `part` 0: of rows 0-7, 1: of rows 8-15
__device__ __forceinline__ void split_vector(
    const u8* row, int t, const uint2* units, u32 (&a)[K_TILES][4], int part) {
    constexpr int AT = KEY_BYTES % 4 == 0 ? 4 : KEY_BYTES % 2 == 0 ? 2 : 1;
    constexpr int SINGLES_AT = 2 * KEY_WORDS % 4 == 0 ? AT : AT < 2 ? AT : 2;
    int slot = 0, load = 0;
#define PUT(DIGITS) a[slot / 2][part + slot % 2 * 2] = (DIGITS), slot++;
#pragma unroll
    for (int r = 0; r < KEY_W8; r++, load++) {
        u32 words = read32<AT>(row + 16 * r + 4 * t);
        if (r < KEY_WIDE) {
            uint2 own = units[4 * load + t];
            _Pragma("unroll") for (int i = 0; i < 4; i++)
                PUT(word_digits<true>(words >> 2 * i, own))
        } else {
            _Pragma("unroll") for (int i = 0; i < 4; i++)
                PUT(word_digits<false>(words >> 2 * i, uint2()))
        }
        PUT(word_parities(words))
    }
    if (KEY_W4) {
        // lanes 2 and 3 take the upper digits of the same words
        u32 words = read32<AT>(row + 16 * KEY_W8 + 4 * (t % 2));
        u32 own = words >> 4 * (t / 2);
        if (KEY_W8 < KEY_WIDE) {
            PUT(word_digits<true>(own, units[4 * load + t]))
            PUT(word_digits<true>(own >> 2, units[4 * load + t]))
        } else {
            PUT(word_digits<false>(own, uint2()))
            PUT(word_digits<false>(own >> 2, uint2()))
        }
        PUT(word_parities(words))
        load++;
    }
    const u8* singles = row + 2 * KEY_WORDS;
#pragma unroll
    for (int r = 0; r < KEY_S16; r++, load++) {
        u32 bytes = read32<SINGLES_AT>(singles + 16 * r + 4 * t);
        uint2 own = units[4 * load + t];
        _Pragma("unroll") for (int i = 0; i < 8; i++) PUT(single_bits(bytes >> i, own))
        u32 odd = byte_parities(bytes);
        PUT(odd)
        PUT(odd << 4)
    }
    if (KEY_S8) {
        u32 bytes = read32<SINGLES_AT>(singles + 16 * KEY_S16 + 4 * (t % 2));
        uint2 own = units[4 * load + t];
        u32 half = bytes >> 4 * (t / 2);
        _Pragma("unroll") for (int i = 0; i < 4; i++) PUT(single_bits(half >> i, own))
        u32 odd = byte_parities(bytes);
        PUT(odd)
        PUT(odd << 4)
    }
    if (SLOTS % 2) PUT(0)
#undef PUT
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

