// What the parts of an attention and their joining share. After `tiles.cu`, in front of `join.cu`.
//
// Set by the launcher: VALUE_DIM, VALUE_ROWS, N_TILES, GROUPED, HAS_SOFTCAP, and of the
// query QUERY_TYPE (0 float32, 1 float16, 2 bfloat16).

constexpr int QUERIES = 8 * N_TILES;
// sixteens of a value's coordinates and parities
constexpr int V_TILES = 4 * VALUE_ROWS + (VALUE_ROWS + 1) / 2;
constexpr int ROWS = 16 * V_TILES;
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

// of a binary logit that was made without a cap, the one with it
__device__ __forceinline__ float capped(float logit, float softcap) {
    if (!HAS_SOFTCAP) return logit;
    float raised = exp2_of(logit * 2.f / softcap);
    return (1.f - 2.f / (1.f + raised)) * softcap * LOG2_E;
}
