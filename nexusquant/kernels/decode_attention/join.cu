// The parts of one KV head's attention, and the vectors that are held exactly, in one softmax; a
// block makes 32 values of its outputs. Comes after `softmax.cu`.
//
// Little is computed here and much is waited for: what does not come from the parts is fetched and
// compared before they are done, where a card can start a kernel before the last one's end.
//
// Set by the launcher, beside what `softmax.cu` wants: DIM, EXACT_KEY_TYPE, EXACT_VALUE_TYPE (as
// QUERY_TYPE).

constexpr int JOIN_WARPS = 16;
constexpr int JOIN_THREADS = 32 * JOIN_WARPS;
constexpr int WIDTH = 32;
constexpr int PER_LANE = (DIM + 31) / 32;
constexpr int OWN_ROWS = (ROWS + JOIN_WARPS - 1) / JOIN_WARPS;
// sums over all parts that a thread makes, and the parts that it fetches at once
constexpr int OWN_SUMS = (GROUPED * ROWS + JOIN_THREADS - 1) / JOIN_THREADS;
constexpr int BATCH = OWN_SUMS > 2 ? 8 : 16;
constexpr int AT_TOTAL = GROUPED * ROWS;
constexpr int AT_SUMS = AT_TOTAL + 2 * GROUPED;
constexpr int AT_SHARES = AT_SUMS + JOIN_WARPS * GROUPED * WIDTH;
// read by the launcher: bytes beside those of shares and weights
extern "C" __constant__ const int join_bytes = AT_SHARES * 4;

struct Exact {
    const void *keys, *values;  // [H_kv, room, D]
    int room, count;
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
        for (int e = warp; e < exact.count; e += JOIN_WARPS) {
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
    for (int q = warp; q < GROUPED; q += JOIN_WARPS) {
        const int first = head * parts.count * QUERIES + q;
        // all is fetched before any of it is waited for, of up to 32 parts
        const int own = first + min(lane, parts.count - 1) * QUERIES;
        const float maximum = parts.maxima[own], own_total = parts.totals[own];
        const float own_sum = parts.weight_sums[own];
        float highest = maximum, total = 0.f, weight_sum = 0.f;
        for (int i = lane + 32; i < parts.count; i += 32)
            highest = fmaxf(highest, parts.maxima[first + i * QUERIES]);
        for (int i = lane; i < num_exact; i += 32)
            highest = fmaxf(highest, logits[q * num_exact + i]);
        for (int step = 16; step; step /= 2)
            highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
        for (int i = lane; i < parts.count; i += 32) {
            const bool is_first = i == lane;
            const int place = first + i * QUERIES;
            const float share = exp2_of((is_first ? maximum : parts.maxima[place]) - highest);
            shares[q * parts.count + i] = share;
            total += share * (is_first ? own_total : parts.totals[place]);
            weight_sum += share * (is_first ? own_sum : parts.weight_sums[place]);
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

// a batch of parts' sums on their way into registers
__device__ __forceinline__ void fetch_batch(
    const Parts& parts, int head, int batch, float (&values)[OWN_SUMS][BATCH]) {
    const float* from =
        parts.weighted + static_cast<long long>(head) * parts.count * QUERIES * ROWS + threadIdx.x;
#pragma unroll
    for (int s = 0; s < OWN_SUMS; s++) {
        const bool is_sum = threadIdx.x + s * JOIN_THREADS < GROUPED * ROWS;
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const int p = batch + j;
            const bool is_there = is_sum && p < parts.count;
            values[s][j] = is_there ? from[p * QUERIES * ROWS + s * JOIN_THREADS] : 0.f;
        }
    }
}

// sums over all parts. [GROUPED, ROWS]
__device__ __forceinline__ void add_parts(
    const Parts& parts, int head, const float* shares, float (&values)[OWN_SUMS][BATCH],
    float* digits) {
    float sums[OWN_SUMS] = {};
    for (int batch = 0; batch < parts.count; batch += BATCH) {
        if (batch) fetch_batch(parts, head, batch, values);
#pragma unroll
        for (int s = 0; s < OWN_SUMS; s++) {
            const int q = min((threadIdx.x + s * JOIN_THREADS) / ROWS, GROUPED - 1);
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                const int p = min(batch + j, parts.count - 1);
                sums[s] += shares[q * parts.count + p] * values[s][j];
            }
        }
    }
#pragma unroll
    for (int s = 0; s < OWN_SUMS; s++) {
        const int i = threadIdx.x + s * JOIN_THREADS;
        if (i < GROUPED * ROWS) digits[i] = sums[s];
    }
}

extern "C" __global__ void __launch_bounds__(JOIN_WARPS * 32) join_parts(
    const void* query, float* maxima, float* totals, float* weight_sums, float* weighted,
    int num_parts, const float* rows, const float* offset, const void* exact_keys,
    const void* exact_values, int exact_room, const long long* num_exact, float scaling,
    float softcap, void* out) {
    extern __shared__ __align__(16) float shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.x;
    const int column = blockIdx.y * WIDTH + lane;
    const bool is_there = column < VALUE_DIM;
    const int count = num_exact ? static_cast<int>(*num_exact) : exact_room;
    const Exact exact = {exact_keys, exact_values, exact_room, count};
    const Parts parts = {maxima, totals, weight_sums, weighted, num_parts};
    float *digits = shared, *total = shared + AT_TOTAL, *sums = shared + AT_SUMS;
    float *shares = shared + AT_SHARES, *weights = shares + GROUPED * num_parts;

    float own_rows[OWN_ROWS];
#pragma unroll
    for (int i = 0; i < OWN_ROWS; i++) {
        const int row = warp + i * JOIN_WARPS;
        own_rows[i] = is_there && row < ROWS ? rows[row * VALUE_DIM + column] : 0.f;
    }
    compare_exactly(query, exact, head, scaling, softcap, weights);
    __syncthreads();
    wait_for_the_last();
    float values[OWN_SUMS][BATCH];
    fetch_batch(parts, head, 0, values);
    weigh_all(parts, head, count, weights, shares, total);
    __syncthreads();
    add_parts(parts, head, shares, values, digits);
    float own[GROUPED] = {};
#pragma unroll 4
    for (int e = warp; e < count; e += JOIN_WARPS) {
        const long long vector = static_cast<long long>(head) * exact_room + e;
        const float value =
            is_there ? number<EXACT_VALUE_TYPE>(exact_values, vector * VALUE_DIM + column) : 0.f;
#pragma unroll
        for (int q = 0; q < GROUPED; q++) own[q] += weights[q * count + e] * value;
    }
    __syncthreads();
#pragma unroll
    for (int q = 0; q < GROUPED; q++) {
#pragma unroll
        for (int i = 0; i < OWN_ROWS; i++)
            own[q] += digits[q * ROWS + (warp + i * JOIN_WARPS) % ROWS] * own_rows[i];
        sums[(warp * GROUPED + q) * WIDTH + lane] = own[q];
    }
    __syncthreads();
    if (!is_there) return;
    for (int q = warp; q < GROUPED; q += JOIN_WARPS) {
        float sum = total[GROUPED + q] * offset[column];
#pragma unroll
        for (int w = 0; w < JOIN_WARPS; w++) sum += sums[(w * GROUPED + q) * WIDTH + lane];
        const long long vector = head * GROUPED + q;
        store<QUERY_TYPE>(out, vector * VALUE_DIM + column, sum / total[q]);
    }
}
