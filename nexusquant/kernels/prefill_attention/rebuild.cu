// Packed vectors of a range of every head, rebuilt in 16 bits. Comes after `tiles.cu`.
//
// For prompts: attention with many queries goes over a stretch of the text at a time, which is
// rebuilt into a small workspace and forgotten again.
//
// Set by the launcher, beside what `tiles.cu` wants: HAS_MEAN, HAS_TURN (keys are turned to their
// positions), IS_WHOLE, OUT_TYPE (1 float16, 2 bfloat16).

constexpr int STAGE = up(TOKENS * KEY_ROOM + 16);
constexpr int AT_COLUMNS = BASIS_BYTES;
constexpr int AT_MEAN = AT_COLUMNS + COLUMN_BYTES;
constexpr int AT_STAGE = up(AT_MEAN + 2 * HALF * 4);
// read by the launcher
extern "C" __constant__ const int shared_bytes = AT_STAGE + WARPS * STAGE;

__device__ __forceinline__ u16 narrow(float value) {
    u16 bits;
    if (OUT_TYPE == 1) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    else asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// One warp's vectors: rows `row[m][h]` of the result, -1 for those that are not there.
__device__ __forceinline__ void rebuild_tile(
    const u8* shared, const u32 (&a)[M_TILES][K_TILES][4], const u32 (&position)[M_TILES][2],
    const float (&scale)[M_TILES][2], const int (&row)[M_TILES][2], int lane, const int* columns,
    const u32* speeds, float growth, u16* out) {
    const float* means = reinterpret_cast<const float*>(shared + AT_MEAN);
#pragma unroll 1
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        float left[M_TILES][4], right[M_TILES][4];
        rebuild_columns(shared, shared + AT_COLUMNS, a, chunk, lane, left, right);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int pair = 8 * chunk + 2 * (lane % 4) + i % 2, h = i / 2;
            const int at_left = columns[pair], at_right = columns[HALF + pair];
            const float size = speeds[pair] ? growth : 1.f;
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
                float x = left[m][i] * scale[m][h], y = right[m][i] * scale[m][h];
                if (HAS_MEAN) x += means[pair], y += means[HALF + pair];
                if (HAS_TURN) {
                    float sine, cosine;
                    sine_cosine(radians(position[m][h] * speeds[pair]), sine, cosine);
                    float turned = x * cosine - y * sine;
                    y = (y * cosine + x * sine) * size, x = turned * size;
                }
                if (row[m][h] < 0) continue;
                u16* target = out + static_cast<long long>(row[m][h]) * DIM;
                if (at_left >= 0) target[at_left] = narrow(x);
                if (at_right >= 0) target[at_right] = narrow(y);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) rebuild_vectors(
    int key_bytes, const u8* codes, const u8* code_scales, const int* page_table, int table_width,
    const long long* lengths, const long long* positions, int positions_width, int first_position,
    const u8* basis, const u8* column_factors, const uint4* places, const float* sizes,
    const float* mean, const int* columns, const u32* speeds,
    const float* scales, float growth, int first, int count, const int* starts, u16* out) {
    extern __shared__ __align__(16) u8 shared[];
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, head = blockIdx.x;
    const int* table = page_table + head * table_width;
    const int end = min(static_cast<int>(lengths[head]), first + count);
    const u8* own_basis = basis + static_cast<long long>(head) * BASIS_BYTES;
    for (int i = thread * 16; i < BASIS_BYTES; i += WARPS * 512)
        copy_ahead(shared + i, own_basis + i);
    const u8* own_columns = column_factors + static_cast<long long>(head) * COLUMN_BYTES;
    for (int i = thread * 16; i < COLUMN_BYTES; i += WARPS * 512)
        copy_ahead(shared + AT_COLUMNS + i, own_columns + i);
    const Places own_places = read_places(load_places(places, lane % 4));
    float* own_means = reinterpret_cast<float*>(shared + AT_MEAN);
    for (int i = thread; i < 2 * HALF; i += WARPS * 32)
        own_means[i] = HAS_MEAN && columns[i] >= 0 ? mean[head * DIM + columns[i]] : 0.f;
    asm volatile("cp.async.commit_group;\n\tcp.async.wait_group 0;");
    __syncthreads();

    u8* stage = shared + AT_STAGE + warp * STAGE;
    const int step = gridDim.y * WARPS * TOKENS;
    for (int index = first + (blockIdx.y * WARPS + warp) * TOKENS; index < end; index += step) {
        const long long slot = static_cast<long long>(table[index / PAGE]) * PAGE + index % PAGE;
        const u8* from = codes + slot * key_bytes;
        __syncwarp();
        for (int i = lane * 16; i < TOKENS * key_bytes; i += 512) copy_ahead(stage + i, from + i);
        asm volatile("cp.async.commit_group;\n\tcp.async.wait_group 0;");
        __syncwarp();
        u32 a[M_TILES][K_TILES][4], position[M_TILES][2];
        float scale[M_TILES][2];
        int row[M_TILES][2];
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
            const u8* own_row = stage + (16 * m + lane / 4) * key_bytes;
            split_vectors(own_row, own_row + 8 * key_bytes, own_places, a[m]);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int own = 16 * m + 8 * h + lane / 4, at = index + own;
                row[m][h] = at < end ? starts[head] + at - first : -1;
                long long place = static_cast<long long>(head) * positions_width + at;
                position[m][h] = IS_WHOLE ? first_position + at : at < end ? positions[place] : 0;
                const float sign = position[m][h] & 1 ? -1.f : 1.f;
                scale[m][h] = sizes[head] * scales[code_scales[slot + own]] * sign;
            }
        }
        rebuild_tile(shared, a, position, scale, row, lane, columns, speeds, growth, out);
    }
}
