// Queries against keys. After `layout.cu`, in front of `values.cu`.
//
// Keys are rebuilt from their digits and the basis, turned to the tokens' positions and compared with
// the queries; nothing of a key ever leaves its warp.

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

// What all warps of a block share and is computed of what was given.
__device__ __forceinline__ void share_computed(
    u8* shared, float size, float growth, float scaling) {
    const u32* speeds = reinterpret_cast<const u32*>(shared + AT_SPEED);
    each<HALF>([&](int i) { reinterpret_cast<float*>(shared + AT_RATE)[i] = radians(speeds[i]); });
    each<256>([&](int i) { reinterpret_cast<float*>(shared + AT_SCALE)[i] *= size; });
    prepare_queries(shared, growth, scaling * LOG2_E);
}
