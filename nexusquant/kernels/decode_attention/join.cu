// The parts of one KV head's attention, and the vectors that are held exactly, in one softmax.
// Comes between `tiles.cu` and `parts.cu`.
//
// The block that is done last with a head joins all of its parts: no second kernel has to wait for
// the first. Little is computed here and much is waited for, so loads are under way early.
//
// Set by the launcher, beside what `parts.cu` wants: VALUE_DIM, EXACT_KEY_TYPE and
// EXACT_VALUE_TYPE (0 float32, 1 float16, 2 bfloat16; as QUERY_TYPE).

constexpr int THREADS = WARPS * 32;
constexpr int QUERIES = 8 * N_TILES;
// sixteens of digits of a value
constexpr int V_TILES = 4 * VALUE_W8 + (VALUE_W8 + 1) / 2 + 4 * VALUE_S8 + (VALUE_S8 + 1) / 2;
constexpr int ROWS = 16 * V_TILES;
constexpr float NOTHING = -1e30f;
constexpr float LOG2_E = 1.4426950408889634f;

constexpr int PER_LANE = (DIM + 31) / 32;
// threads side by side that make a column each, and how many of them share the queries
constexpr int COLUMN_THREADS = VALUE_DIM <= THREADS ? (VALUE_DIM + 31) / 32 * 32 : THREADS;
constexpr int QUERY_THREADS = THREADS / COLUMN_THREADS;
constexpr int OWN_QUERIES = (GROUPED + QUERY_THREADS - 1) / QUERY_THREADS;
constexpr int AT_DIGITS = up(ROWS * VALUE_DIM * 4);
constexpr int AT_TOTAL = AT_DIGITS + GROUPED * ROWS * 4;
constexpr int AT_SHARES = AT_TOTAL + 2 * GROUPED * 4;

__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <int TYPE>
__device__ __forceinline__ float number(const void* data, long long index) {
    if (TYPE == 0) return static_cast<const float*>(data)[index];
    u16 bits = static_cast<const u16*>(data)[index];
    if (TYPE == 2) return __uint_as_float(static_cast<u32>(bits) << 16);
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
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

struct Exact {
    const void *keys, *values;  // [H_kv, room, D]
    int room, count;
};

struct Parts {
    float *maxima, *totals, *weight_sums, *weighted;
    int count;
};

// binary logits of a head's exact vectors. [GROUPED, count]
__device__ __forceinline__ void compare_exactly(
    const void* query, const Exact& exact, int head, float scaling, float softcap, float* logits) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const long long first = static_cast<long long>(head) * exact.room * DIM;
    for (int q = 0; q < GROUPED; q += 4) {
        float own[4][PER_LANE];
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                bool is_there = lane + 32 * i < DIM && q + j < GROUPED;
                int place = (head * GROUPED + q + j) * DIM + lane + 32 * i;
                own[j][i] = is_there ? number<QUERY_TYPE>(query, place) * scaling : 0.f;
            }
        }
#pragma unroll 4
        for (int e = warp; e < exact.count; e += WARPS) {
            float sums[4] = {};
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                bool is_there = lane + 32 * i < DIM;
                long long place = first + static_cast<long long>(e) * DIM + lane + 32 * i;
                float key = is_there ? number<EXACT_KEY_TYPE>(exact.keys, place) : 0.f;
#pragma unroll
                for (int j = 0; j < 4; j++) sums[j] += own[j][i] * key;
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int step = 16; step; step /= 2) sums[j] += __shfl_xor_sync(~0u, sums[j], step);
                if (lane == 0 && q + j < GROUPED)
                    logits[(q + j) * exact.count + e] = capped(sums[j] * LOG2_E, softcap);
            }
        }
    }
}

// what each part counts, and the weights of exact vectors: a warp does some queries
__device__ __forceinline__ void weigh_all(
    const Parts& parts, int head, int num_exact, float* logits, float* shares, float* totals) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int q = warp; q < GROUPED; q += WARPS) {
        const int first = head * parts.count * QUERIES + q;
        float highest = NOTHING, total = 0.f, weight_sum = 0.f;
        for (int i = lane; i < parts.count; i += 32)
            highest = fmaxf(highest, parts.maxima[first + i * QUERIES]);
        for (int i = lane; i < num_exact; i += 32)
            highest = fmaxf(highest, logits[q * num_exact + i]);
        for (int step = 16; step; step /= 2)
            highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
        for (int i = lane; i < parts.count; i += 32) {
            float share = exp2_of(parts.maxima[first + i * QUERIES] - highest);
            shares[q * parts.count + i] = share;
            total += share * parts.totals[first + i * QUERIES];
            weight_sum += share * parts.weight_sums[first + i * QUERIES];
        }
        for (int i = lane; i < num_exact; i += 32) {
            float weight = exp2_of(logits[q * num_exact + i] - highest);
            logits[q * num_exact + i] = weight;
            total += weight;
        }
        for (int step = 16; step; step /= 2) {
            total += __shfl_xor_sync(~0u, total, step);
            weight_sum += __shfl_xor_sync(~0u, weight_sum, step);
        }
        if (lane == 0) totals[q] = total, totals[GROUPED + q] = weight_sum;
    }
}

// All of a head's parts to its output; the block's shared memory is free for it.
__device__ __forceinline__ void join_head(
    u8* shared, const void* query, const Parts& parts, const Exact& exact, int head,
    const float* rows, const float* offset, float scaling, float softcap, void* out) {
    const int thread = threadIdx.x;
    float* own_rows = reinterpret_cast<float*>(shared);
    float* digits = reinterpret_cast<float*>(shared + AT_DIGITS);
    float* totals = reinterpret_cast<float*>(shared + AT_TOTAL);
    float* shares = reinterpret_cast<float*>(shared + AT_SHARES);
    float* weights = shares + GROUPED * parts.count;
    for (int i = thread * 4; i < ROWS * VALUE_DIM; i += THREADS * 4)
        copy_ahead(own_rows + i, rows + i);
    asm volatile("cp.async.commit_group;");
    compare_exactly(query, exact, head, scaling, softcap, weights);
    __syncthreads();
    weigh_all(parts, head, exact.count, weights, shares, totals);
    __syncthreads();
    for (int i = thread; i < GROUPED * ROWS; i += THREADS) {
        const int q = i / ROWS;
        const long long first = static_cast<long long>(head) * parts.count * QUERIES * ROWS + i;
        float sum = 0.f;
#pragma unroll 8
        for (int p = 0; p < parts.count; p++)
            sum += shares[q * parts.count + p] * parts.weighted[first + p * QUERIES * ROWS];
        digits[i] = sum;
    }
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
    for (int column = thread % COLUMN_THREADS; column < VALUE_DIM; column += COLUMN_THREADS) {
        if (thread / COLUMN_THREADS >= QUERY_THREADS) break;
        const int first_query = thread / COLUMN_THREADS;
        float sums[OWN_QUERIES] = {};
#pragma unroll 8
        for (int e = 0; e < exact.count; e++) {
            const long long vector = static_cast<long long>(head) * exact.room + e;
            const float value = number<EXACT_VALUE_TYPE>(exact.values, vector * VALUE_DIM + column);
#pragma unroll
            for (int j = 0; j < OWN_QUERIES; j++) {
                const int q = first_query + j * QUERY_THREADS;
                if (q < GROUPED) sums[j] += weights[q * exact.count + e] * value;
            }
        }
#pragma unroll 8
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int j = 0; j < OWN_QUERIES; j++) {
                const int q = first_query + j * QUERY_THREADS;
                if (q < GROUPED) sums[j] += digits[q * ROWS + r] * own_rows[r * VALUE_DIM + column];
            }
        }
#pragma unroll
        for (int j = 0; j < OWN_QUERIES; j++) {
            const int q = first_query + j * QUERY_THREADS;
            if (q >= GROUPED) continue;
            const float result = (sums[j] + totals[GROUPED + q] * offset[column]) / totals[q];
            const long long vector = head * GROUPED + q;
            store<QUERY_TYPE>(out, vector * VALUE_DIM + column, result);
        }
    }
}

