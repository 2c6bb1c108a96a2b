// Packed codes to digits in the registers of tensor cores. After `types.cu`, in front of `parts.cu`
// and `rebuild.cu`.
//
// A warp takes 16 * M_TILES vectors at a time. The digits of their coordinates are put together right
// in the registers in which tensor cores want them, one coordinate a byte. Coordinates times the
// whole numbers of the basis are whole numbers, so the vectors come out without rounding.
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
// registers of coordinates and of parities, five for eight groups; a product takes two
constexpr int SLOTS = 5 * KEY_ROWS;
constexpr int K_TILES = (SLOTS + 1) / 2;
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

__device__ __forceinline__ void copy_ahead(void* shared, const void* global) {
    u32 place = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(global));
}

// of the lowest bits of two groups, their parities: once, and sixteen times
__device__ __forceinline__ u32 parities(u32 lowest) {
    u32 odd = lowest ^ lowest >> 8;
    odd ^= odd >> 4;
    odd ^= odd >> 2;
    odd = (odd ^ odd >> 1) & 0x00010001u;
    return odd | odd << 12;
}

// one row of a tile; `part` 0: of rows 0-7, 1: of rows 8-15
__device__ __forceinline__ void split_vector(
    const u8* row, const uint4 (&places)[KEY_ROWS], u32 (&a)[K_TILES][4], int part) {
    constexpr int AT = KEY_IS_EVEN ? 2 : 1;
    int slot = 0;
#define PUT(BYTES) a[slot / 2][part + slot % 2 * 2] = (BYTES), slot++;
#pragma unroll
    for (int r = 0; r < KEY_ROWS; r++) {
        const uint4 own = places[r];
        u32 fields[4] = {}, lowest = 0;
#pragma unroll
        for (int d = 0; d < 4; d++) {
            if (d >= (KEY_DIGITS >> 4 * r & 15)) break;
            u32 words = read16<AT>(row + (own.x >> 8 * d & 255))
                | read16<AT>(row + (own.y >> 8 * d & 255)) << 16;
            words &= (own.z >> 16 + d & 1) * 0x0000FFFFu | (own.z >> 20 + d & 1) * 0xFFFF0000u;
            if (d == 0) lowest = words & 0x55555555u;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const u32 moved = i > d ? words >> 2 * (i - d) : words << 2 * (d - i);
                fields[i] |= moved & 0x03030303u << 2 * d;
            }
        }
        u32 bytes = row[own.z & 255] | static_cast<u32>(row[own.z >> 8 & 255]) << 16;
        bytes = (bytes | bytes << 4) & 0x0F0F0F0Fu;
        lowest |= bytes & ((own.z >> 24 & 1) * 0x0000FFFFu | (own.z >> 25 & 1) * 0xFFFF0000u);
#pragma unroll
        for (int i = 0; i < 4; i++) fields[i] |= (bytes >> i & 0x01010101u) * 255u & own.w;
#pragma unroll
        for (int i = 0; i < 4; i++) PUT(fields[i])
        PUT(parities(lowest))
    }
    if (SLOTS % 2) PUT(0)
#undef PUT
}

// where a lane finds what it takes apart
__device__ __forceinline__ void read_places(
    const uint4* places, int t, uint4 (&own)[KEY_ROWS]) {
#pragma unroll
    for (int r = 0; r < KEY_ROWS; r++) own[r] = places[4 * r + t];
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

