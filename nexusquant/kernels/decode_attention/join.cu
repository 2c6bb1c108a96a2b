// What the blocks of one KV head found, in one softmax. After `exact.cu`, in front of `layout.cu`.
//
// Every block writes what it found to memory and says so. Where a card promises to run all blocks at
// once, the first of a head wait for all of them, and each makes its shares of the output: a slice of
// columns of some of the queries. Elsewhere the last one to write makes all of it, which takes longer,
// and none waits.
//
// Most of what stands here is run once by each warp, from a cold instruction cache: it counts how long
// it is, so only what has to be on its way at once is unrolled.
//
// Set by the launcher, beside what those want: WAITS (all blocks run at once), MOST_PARTS (blocks of a
// head that do).

__host__ __device__ constexpr int most(int one, int other) { return one > other ? one : other; }
__host__ __device__ constexpr int least(int one, int other) { return one < other ? one : other; }

// The output of a head in shares: columns and queries of each. A share reads all that was found of its
// queries, so it has as few of them as there are blocks for.
constexpr int COLUMNS = WAITS ? SLICE : EXACT_ROOM;
constexpr int MOST_SETS = WAITS ? most(1, least(GROUPED, MOST_PARTS / SLICES)) : 1;
constexpr int SHARED_QUERIES = (GROUPED + MOST_SETS - 1) / MOST_SETS;
constexpr int SHARES = WAITS ? SLICES * ((GROUPED + SHARED_QUERIES - 1) / SHARED_QUERIES) : 1;
// read by the launcher
extern "C" __constant__ const int num_shares = SHARES;

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
// four at a time, by threads that each take every so many-th part, some parts at once
constexpr int FOURS = JOINED / 4;
constexpr int SPLIT = FOURS * 4 <= THREADS ? 4 : 2;
constexpr int BATCH = 16 / SPLIT;
constexpr int EACH_ROWS = ROWS / LANES;

// Every launch moves a head's counter by as much, whatever its number of blocks: one for each block,
// and what is missing by the first.
constexpr u32 OF_LAUNCH = 1u << 16;
__device__ __forceinline__ u32 of_block(int part, int num_parts) {
    return part == 0 ? OF_LAUNCH - (num_parts - 1) : 1;
}

// The block has written what it found; tells thread 0 what the counter was.
__device__ __forceinline__ u32 say_written(u32* counter, int part, int num_parts) {
    u32 count = 0;
    __syncthreads();
    if (threadIdx.x == 0)
        asm volatile(
            "fence.acq_rel.gpu;\n\tatom.acquire.gpu.global.add.u32 %0, [%1], %2;"
            : "=r"(count) : "l"(counter), "r"(of_block(part, num_parts)) : "memory");
    return count;
}

// True: the block goes on, and all blocks of its head have written.
__device__ __forceinline__ bool all_have_written(u32 count, u32* counter, int part, int num_parts) {
    bool goes_on = part < SHARES;
    if (threadIdx.x == 0) {
        const u32 all = count / OF_LAUNCH * OF_LAUNCH + OF_LAUNCH;
        count += of_block(part, num_parts);
        if (!WAITS) goes_on = count == all;
        while (WAITS && goes_on && static_cast<int>(count - all) < 0)
            asm volatile(
                "ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    }
    return __syncthreads_or(threadIdx.x == 0 && goes_on);
}

// Sums of all parts, weighed. [SHARED_QUERIES, SUMS] and [SHARED_QUERIES, COLUMNS]
__device__ __forceinline__ void add_parts(
    const float* found, int num_parts, int first_query, int first_column, float* joined) {
    const int own = threadIdx.x % SPLIT;
#pragma unroll 1
    for (int begin = 0; begin < FOURS; begin += THREADS / SPLIT) {
        const int four = begin + threadIdx.x / SPLIT, at = 4 * min(four, FOURS - 1);
        const int exact = at - SHARED_QUERIES * SUMS;
        const int i = exact < 0 ? at / SUMS : exact / COLUMNS, q = min(first_query + i, GROUPED - 1);
        const float* from = found + (exact < 0 ? q * SUMS + at % SUMS
                                               : AT_EXACT_SUMS + q * EXACT_ROOM + first_column +
                                                     exact % COLUMNS);
        const float* maxima = found + q * SUMS + ROWS + 2;
        float4 sum = {};
        float highest = NOTHING;
#pragma unroll 1
        for (int first = own; first - own < num_parts; first += SPLIT * BATCH) {
            // of what is left, own ones
            const int there = four < FOURS ? (num_parts - first + SPLIT - 1) / SPLIT : 0;
            const float *own_maxima = maxima + first * FOUND, *own_from = from + first * FOUND;
            float2 states[BATCH];
            float4 batch[BATCH];
#pragma unroll
            for (int j = 0; j < BATCH; j++)
                if (j < there)
                    states[j] = *reinterpret_cast<const float2*>(own_maxima + SPLIT * j * FOUND);
#pragma unroll
            for (int j = 0; j < BATCH; j++)
                if (j < there)
                    batch[j] = *reinterpret_cast<const float4*>(own_from + SPLIT * j * FOUND);
            float higher = highest;
#pragma unroll
            for (int j = 0; j < BATCH; j++)
                if (j < there) higher = fmaxf(higher, states[j].x);
#pragma unroll
            for (int step = 1; step < SPLIT; step *= 2)
                higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, step));
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
#pragma unroll
        for (int step = 1; step < SPLIT; step *= 2) {
            sum.x += __shfl_xor_sync(~0u, sum.x, step), sum.y += __shfl_xor_sync(~0u, sum.y, step);
            sum.z += __shfl_xor_sync(~0u, sum.z, step), sum.w += __shfl_xor_sync(~0u, sum.w, step);
        }
        if (own == 0 && four < FOURS) reinterpret_cast<float4*>(joined)[four] = sum;
    }
}

__device__ __forceinline__ int first_column_of(int share) { return share % SLICES * COLUMNS; }

// a thread's column of a slice of the output, and of what sums are multiplied by its rows, in pairs
struct Slice {
    int column;
    float2 rows[EACH_ROWS / 2];
    float added;

    __device__ __forceinline__ void load(const float* all_rows, const float* offset, int first) {
        column = first + threadIdx.x / LANES;
        const float* own = all_rows + 2 * (threadIdx.x % LANES) * VALUE_DIM + column;
#pragma unroll
        for (int i = 0; i < EACH_ROWS / 2; i++, own += 2 * LANES * VALUE_DIM) {
            rows[i] = {};
            if (column < VALUE_DIM) rows[i] = {own[0], own[VALUE_DIM]};
        }
        added = column < VALUE_DIM ? offset[column] : 0.f;
    }
};

// A share of the output of a head. `found`: of its first part; `slice`: loaded before; `joined`: shared.
__device__ __forceinline__ void join(
    const float* found, int num_parts, int share, Slice slice, const float* rows,
    const float* offset, float* joined, void* out, int head) {
    const int lane = threadIdx.x % LANES, first_query = share / SLICES * SHARED_QUERIES;
    const int first_column = first_column_of(share);
    add_parts(found, num_parts, first_query, first_column, joined);
    __syncthreads();
#pragma unroll 1
    for (int at = 0; at < COLUMNS; at += SLICE) {
        if (at) slice.load(rows, offset, first_column + at);
#pragma unroll 1
        for (int i = 0; i < SHARED_QUERIES; i++) {
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
            sum += joined[SHARED_QUERIES * SUMS + i * COLUMNS + at + threadIdx.x / LANES];
            sum += own[ROWS + 1] * slice.added;
            const int q = first_query + i;
            const long long place =
                (head * GROUPED + q) * static_cast<long long>(VALUE_DIM) + slice.column;
            if (q < GROUPED && slice.column < VALUE_DIM && lane == 0)
                store<QUERY_TYPE>(out, place, __fdividef(sum, own[ROWS]));
        }
    }
}
