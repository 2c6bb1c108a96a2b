// What the blocks of one KV head found, in one softmax. After `exact.cu`, in front of `layout.cu`.
//
// Every block writes what it found to memory and says so. Where a card promises to run all blocks at
// once, the first of a head wait for all of them, and each makes its shares of the output: 16 columns
// of half of the queries, if there are several. Elsewhere the last one to write makes all of it, which
// takes longer, and none waits.
//
// Most of what stands here is run once by each warp, from a cold instruction cache: it counts how long
// it is, so only what has to be on its way at once is unrolled.
//
// Set by the launcher, beside what those want: WAITS (all blocks run at once).

// The output of a head in shares: columns and queries of each. Parts are added up once for a share.
constexpr int COLUMNS = WAITS ? SLICE : EXACT_ROOM;
constexpr int QUERY_SETS = WAITS && GROUPED > 1 ? 2 : 1;
constexpr int SHARED_QUERIES = (GROUPED + QUERY_SETS - 1) / QUERY_SETS;
constexpr int SHARES = WAITS ? SLICES * QUERY_SETS : 1;
// lanes to a column of the output, and rows to each of them
constexpr int LANES = 8;
constexpr int EACH_ROWS = ROWS / LANES;
// parts that a thread fetches at once; two threads have the same sums, each of every other part
constexpr int BATCH = 8;

// What a warp, and then a block, found of each query: sums of coordinates, and after them total, sum
// of weights and maximum; of a block also the maximum of its exact vectors, to which their sums are
// held.
constexpr int SUMS = ROWS + 4;
// of a block, in numbers
constexpr int AT_EXACT_SUMS = GROUPED * SUMS;
constexpr int FOUND = AT_EXACT_SUMS + GROUPED * EXACT_ROOM;
// read by the launcher
extern "C" __constant__ const int found_numbers = FOUND;
// in the end, in shared memory: sums of all blocks, of which exact values have some columns
constexpr int JOINED = SHARED_QUERIES * (SUMS + COLUMNS);

// The columns of its first slice of what sums of coordinates are multiplied by, for a block, on their
// way from memory.
__device__ __forceinline__ void expect_rows(const float* rows, int part) {
    if (part >= SHARES) return;
    const float* own = rows + part % SLICES * SLICE;
    each<ROWS>([&](int row) { expect(own + row * VALUE_DIM); });
}

// Every launch moves a head's counter by as much, whatever its number of blocks: one for each block,
// and what is missing by the first.
constexpr u32 OF_LAUNCH = 1u << 16;

// The block has written what it found. True: it goes on, and all blocks of its head have written.
__device__ __forceinline__ bool all_have_written(u32* counter, int part, int num_parts) {
    bool goes_on = part < SHARES;
    __syncthreads();
    if (threadIdx.x == 0) {
        const u32 own = part == 0 ? OF_LAUNCH - (num_parts - 1) : 1;
        u32 count;
        asm volatile(
            "fence.acq_rel.gpu;\n\tatom.acquire.gpu.global.add.u32 %0, [%1], %2;"
            : "=r"(count) : "l"(counter), "r"(own) : "memory");
        const u32 all = count / OF_LAUNCH * OF_LAUNCH + OF_LAUNCH;
        count += own;
        if (!WAITS) goes_on = count == all;
        while (WAITS && goes_on && static_cast<int>(count - all) < 0)
            asm volatile(
                "ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    }
    return __syncthreads_or(threadIdx.x == 0 && goes_on);
}

// Sums of all parts, weighed; two threads make four at a time, each of every other part.
// [SHARED_QUERIES, SUMS] and [SHARED_QUERIES, COLUMNS]
__device__ __forceinline__ void add_parts(
    const float* found, int num_parts, int first_query, int first_column, float* joined) {
    constexpr int ITEMS = JOINED / 4;
    const int own = threadIdx.x % 2;
#pragma unroll 1
    for (int begin = 0; begin < ITEMS; begin += THREADS / 2) {
        const int item = begin + threadIdx.x / 2, at = 4 * min(item, ITEMS - 1);
        const int exact = at - SHARED_QUERIES * SUMS;
        const int i = exact < 0 ? at / SUMS : exact / COLUMNS, q = min(first_query + i, GROUPED - 1);
        const float* from = found + (exact < 0 ? q * SUMS + at % SUMS
                                               : AT_EXACT_SUMS + q * EXACT_ROOM + first_column +
                                                     exact % COLUMNS);
        const float* maxima = found + q * SUMS + ROWS + 2;
        float4 sum = {};
        float highest = NOTHING;
#pragma unroll 1
        for (int first = own; first - own < num_parts; first += 2 * BATCH) {
            // of what is left, own ones
            const int there = item < ITEMS ? (num_parts - first + 1) / 2 : 0;
            const float *own_maxima = maxima + first * FOUND, *own_from = from + first * FOUND;
            float2 states[BATCH];
            float4 batch[BATCH];
#pragma unroll
            for (int j = 0; j < BATCH; j++)
                if (j < there)
                    states[j] = *reinterpret_cast<const float2*>(own_maxima + 2 * j * FOUND);
#pragma unroll
            for (int j = 0; j < BATCH; j++)
                if (j < there) batch[j] = *reinterpret_cast<const float4*>(own_from + 2 * j * FOUND);
            float higher = highest;
#pragma unroll
            for (int j = 0; j < BATCH; j++)
                if (j < there) higher = fmaxf(higher, states[j].x);
            higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, 1));
            const float shrink = exp2_of(highest - higher);
            sum.x *= shrink, sum.y *= shrink, sum.z *= shrink, sum.w *= shrink;
            highest = higher;
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                if (j >= there) continue;
                const float share = exp2_of((exact < 0 ? states[j].x : states[j].y) - highest);
                sum.x += share * batch[j].x, sum.y += share * batch[j].y;
                sum.z += share * batch[j].z, sum.w += share * batch[j].w;
            }
        }
        sum.x += __shfl_xor_sync(~0u, sum.x, 1), sum.y += __shfl_xor_sync(~0u, sum.y, 1);
        sum.z += __shfl_xor_sync(~0u, sum.z, 1), sum.w += __shfl_xor_sync(~0u, sum.w, 1);
        if (own == 0 && item < ITEMS) reinterpret_cast<float4*>(joined)[item] = sum;
    }
}

// a lane's rows, which are pairs, of a slice of the output
struct Slice {
    float2 rows[EACH_ROWS / 2];
    float added;

    __device__ __forceinline__ void load(const float* all_rows, const float* offset, int column) {
        const float* own = all_rows + 2 * (threadIdx.x % LANES) * VALUE_DIM + column;
#pragma unroll
        for (int i = 0; i < EACH_ROWS / 2; i++, own += 2 * LANES * VALUE_DIM) {
            rows[i] = {};
            if (column < VALUE_DIM) rows[i] = {own[0], own[VALUE_DIM]};
        }
        added = column < VALUE_DIM ? offset[column] : 0.f;
    }
};

// A share of the output of a head. `found`: of its first part; `joined`: shared.
__device__ __forceinline__ void join(
    const float* found, int num_parts, int share, const float* rows, const float* offset,
    float* joined, void* out, int head) {
    const int slot = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int first_query = share / SLICES * SHARED_QUERIES;
    const int first_column = WAITS ? share % SLICES * SLICE : 0;
    int column = first_column + slot % SLICE;
    Slice slice;
    slice.load(rows, offset, column);
    add_parts(found, num_parts, first_query, first_column, joined);
    __syncthreads();
#pragma unroll 1
    for (int at = 0; at < COLUMNS; at += SLICE, column += SLICE) {
        if (at) slice.load(rows, offset, column);
#pragma unroll 1
        for (int i = slot / SLICE; i < SHARED_QUERIES; i += THREADS / LANES / SLICE) {
            const float* own = joined + i * SUMS;
            const float2* sums = reinterpret_cast<const float2*>(own) + lane;
            float2 both = {};
#pragma unroll
            for (int r = 0; r < EACH_ROWS / 2; r++) {
                both.x += sums[LANES * r].x * slice.rows[r].x;
                both.y += sums[LANES * r].y * slice.rows[r].y;
            }
            float sum = both.x + both.y;
#pragma unroll
            for (int step = LANES / 2; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
            sum += joined[SHARED_QUERIES * SUMS + i * COLUMNS + at + slot % SLICE];
            sum += own[ROWS + 1] * slice.added;
            const int q = first_query + i;
            const long long place = (head * GROUPED + q) * static_cast<long long>(VALUE_DIM) + column;
            if (q < GROUPED && column < VALUE_DIM && lane == 0)
                store<QUERY_TYPE>(out, place, __fdividef(sum, own[ROWS]));
        }
    }
}
