// Attention of one token's queries over packed pages, in parts of the text. Comes after all others.
//
// `reference.py` says what the parts have to give together. A block makes a part: its warps take tiles
// of the text in turns, each with a softmax of its own.
//
// Set by the launcher, beside what those want: IS_WHOLE.

__device__ __forceinline__ u32 transposed(u32 tile) {
    u32 other;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(other) : "r"(tile));
    return other;
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

// What the warps of a block found, in one. `warps`: of the first one; `of_exact`: see `weigh_exact`.
// [GROUPED, SUMS]
__device__ __forceinline__ void add_warps(const float* warps, const float* of_exact, float* found) {
    each<GROUPED * SUMS / 4>([&](int item) {
        const int q = 4 * item / SUMS, at = 4 * item % SUMS;
        const float* of_query = warps + q * SUMS;
        float maxima[WARPS], highest = of_exact[q];
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            maxima[w] = of_query[w * (FOUND_BYTES / 4) + ROWS + 2];
            highest = fmaxf(highest, maxima[w]);
        }
        float4 sum = {};
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float* from = of_query + w * (FOUND_BYTES / 4) + at;
            const float4 own = *reinterpret_cast<const float4*>(from);
            const float share = exp2_of(maxima[w] - highest);
            sum.x += own.x * share, sum.y += own.y * share;
            sum.z += own.z * share, sum.w += own.w * share;
        }
        if (at == ROWS) {
            sum.x += of_exact[GROUPED + q] * exp2_of(of_exact[q] - highest);
            sum.z = highest, sum.w = of_exact[q];
        }
        reinterpret_cast<float4*>(found)[item] = sum;
    });
}

// Parameters stand in the order in which they are needed: the constant cache fetches them by the line.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) attend(
    const long long* lengths, const int* page_table, u32 table_width, u32 key_bytes,
    const void* query, const float* mean, const int* columns, const u32* speeds, const float* scales,
    const u8* basis, const u8* column_factors, const void* exact_keys, const void* exact_values,
    int exact_room, u32 positions_width, const long long* num_exact, const float* sizes,
    const uint4* places, const u32* value_places, const u8* key_codes, const u8* key_scales,
    const u8* value_codes, const u8* value_scales, const long long* positions, u32 first_position,
    float growth, float scaling, float softcap, const float* rows, const float* offset, float* found,
    u32* counters, void* out) {
    extern __shared__ __align__(16) u8 shared[];
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int g = lane / 4, t = lane % 4;
    const int head = blockIdx.x, part = blockIdx.y, num_parts = gridDim.y;
    // All tiles in turns: where the first one is can be asked for before their number is known.
    const u32 stride = num_parts * WARPS;
    u32 tile = part + num_parts * warp;
    Pages pages = {
        key_codes, key_scales, value_codes, value_scales, key_bytes, page_table, head * table_width,
        table_width, positions, head * positions_width, first_position};
    const u32 page = pages.page(tile);
    u32 page_next = pages.page(tile + stride);
    pages.length = static_cast<u32>(lengths[head]);
    share_given(shared, query, mean, columns, speeds, scales, head);
    asm volatile("cp.async.commit_group;");
    share_basis(shared, basis, column_factors, head);
    const int count = num_exact ? static_cast<int>(*num_exact) : exact_room;
    const Exact exact = {exact_keys, exact_values, exact_room, count, part, num_parts};
    const Vector first_key = load_key(exact, head, first_exact());
    const float size = sizes[head];
    const GivenPlaces key_places = load_places(places, t);
    u32 own_value_places[VALUE_ROWS];
#pragma unroll
    for (int r = 0; r < VALUE_ROWS; r++) own_value_places[r] = value_places[8 * r + g];
    expect_exact(exact, head);

    const u32 num_tiles = (pages.length + TOKENS - 1) / TOKENS;
    u8* stages = shared + AT_STAGE + warp * 2 * STAGE;
    u32 position_next = 0;
    if (tile < num_tiles) {
        fetch(pages, page, tile, stages, lane);
        position_next = pages.position(tile * TOKENS + lane % TOKENS);
    }
    asm volatile("cp.async.commit_group;");

    // while the first codes are on their way
    const Places own_places = read_places(key_places);
    asm volatile("cp.async.wait_group 1;");
    __syncthreads();
    share_computed(shared, size, growth, scaling);
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();

    float* logits = reinterpret_cast<float*>(shared + AT_LOGITS);
    float* of_exact = reinterpret_cast<float*>(shared);
    const int num_exact_warps = exact.num_warps();
    if (first_exact() < num_exact_warps) {
        compare_exactly(shared + AT_GIVEN_QUERY, exact, head, first_key, scaling, softcap, logits);
        asm volatile("barrier.sync 1, %0;" ::"r"(num_exact_warps * 32) : "memory");
        if (warp == WARPS - 1) weigh_exact(exact, logits, of_exact);
    }
    const float* own_scales = reinterpret_cast<const float*>(shared + AT_SCALE);
    Softmax softmax;
    clear(softmax);

    int at_next = 0;
#pragma unroll 1
    for (; tile < num_tiles; tile += stride) {
        u8* stage = stages + at_next;
        at_next = STAGE - at_next;
        const u32 own_position = position_next, next = tile + stride;
        if (next < num_tiles) {
            fetch(pages, page_next, next, stages + at_next, lane);
            position_next = pages.position(next * TOKENS + lane % TOKENS);
            page_next = pages.page(next + stride);
        }
        asm volatile("cp.async.commit_group;");
        asm volatile("cp.async.wait_group 1;");
        __syncwarp();

        u32 a[M_TILES][K_TILES][4];
        u32 position[M_TILES][2];
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
            const u8* row = stage + 16 * m * KEY_ROOM + g * key_bytes;
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
    if (IS_FOUND_LARGE) __syncthreads();
    u8* at_own = IS_FOUND_LARGE ? shared + AT_FOUND + warp * FOUND_BYTES : stages;
    store_softmax(reinterpret_cast<float*>(at_own), softmax);
    __syncthreads();
    add_warps(reinterpret_cast<const float*>(shared + AT_FOUND), of_exact, own);
    add_exact(exact, head, logits, of_exact, values, own + AT_EXACT_SUMS);
    const u32 num_written = say_written(counters + head, part, num_parts);
    // while others write
    Slice slice;
    const int first_share = WAITS ? part : 0;
    slice.load(rows, offset, first_column_of(first_share));
    if (!all_have_written(num_written, counters + head, part, num_parts)) return;
    float* joined = reinterpret_cast<float*>(shared);
    for (int share = first_share; share < SHARES; share += num_parts) {
        if (share != first_share) {
            __syncthreads();
            slice.load(rows, offset, first_column_of(share));
        }
        join(of_head, num_parts, share, slice, rows, offset, joined, out, head);
    }
}
