// What the parts of an attention and their joining share. After `tiles.cu`, in front of `exact.cu`.
//
// Set by the launcher: WARPS, VALUE_DIM, VALUE_ROWS, N_TILES, GROUPED, HAS_SOFTCAP, and of the
// query QUERY_TYPE (0 float32, 1 float16, 2 bfloat16).

constexpr int THREADS = WARPS * 32;
// sixteens of a value's coordinates and parities
constexpr int V_TILES = 4 * VALUE_ROWS + (VALUE_ROWS + 1) / 2;
constexpr int ROWS = 16 * V_TILES;
// the output is made in slices of its columns, which may reach past the last; lanes to a column
constexpr int LANES = 8;
constexpr int SLICE = THREADS / LANES;
constexpr int SLICES = (VALUE_DIM + SLICE - 1) / SLICE;
constexpr int EXACT_ROOM = SLICES * SLICE;
constexpr float NOTHING = -1e30f;
constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// A number as it is stored, to be understood when it is there: what is computed with it at once would
// wait for it, and so would all loads after that.
template <int TYPE>
__device__ __forceinline__ u32 stored(const void* data, long long index) {
    return TYPE == 0 ? static_cast<const u32*>(data)[index] : static_cast<const u16*>(data)[index];
}

template <int TYPE>
__device__ __forceinline__ float number_of(u32 bits) {
    if (TYPE == 0) return __uint_as_float(bits);
    if (TYPE == 2) return __uint_as_float(bits << 16);
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<u16>(bits)));
    return value;
}

template <int TYPE>
__device__ __forceinline__ float number(const void* data, long long index) {
    return number_of<TYPE>(stored<TYPE>(data, index));
}

template <int TYPE>
__device__ __forceinline__ void store(void* data, long long index, float value) {
    u16 bits;
    if (TYPE == 0) {
        static_cast<float*>(data)[index] = value;
        return;
    }
    if (TYPE == 1) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    else asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    static_cast<u16*>(data)[index] = bits;
}

__device__ __forceinline__ void multiply_add(
    float (&sums)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// on its way from memory
__device__ __forceinline__ void expect(const void* from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// of a binary logit that was made without a cap, the one with it
__device__ __forceinline__ float capped(float logit, float softcap) {
    if (!HAS_SOFTCAP) return logit;
    float raised = exp2_of(logit * 2.f / softcap);
    return (1.f - 2.f / (1.f + raised)) * softcap * LOG2_E;
}

// `work` on each of COUNT things, by a block
template <int COUNT, class Work>
__device__ __forceinline__ void each(Work work) {
#pragma unroll
    for (int first = 0; first < COUNT; first += THREADS) {
        const int i = first + static_cast<int>(threadIdx.x);
        if (first + THREADS <= COUNT || i < COUNT) work(i);
    }
}
