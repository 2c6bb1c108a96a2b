// What the blocks of one KV head found, and the exact vectors, in one softmax. After `softmax.cu`, in
// front of `parts.cu`.
//
// Every block has a part of the packed vectors and every so many-th of the exact ones. It writes what
// it found to memory and says so. Where a card promises to run all blocks at once, those of a head
// wait for each other, and each makes its share of the output: 16 columns of half of the queries.
// Elsewhere the last one to write makes all of it, which takes longer, and none waits.
//
// Set by the launcher, beside what `softmax.cu` wants: DIM, WARPS, EXACT_KEY_TYPE, EXACT_VALUE_TYPE
// (as QUERY_TYPE), WAITS (all blocks run at once).

// Most of what stands here is run once by each warp, from a cold instruction cache: it counts how long
// it is, so only what has to be on its way at once is unrolled.

constexpr int THREADS = WARPS * 32;
constexpr int SLICE = 16;
constexpr int SLICES = (VALUE_DIM + SLICE - 1) / SLICE;
// The output of a head in shares: columns and queries of each. Parts are added up once for a share.
constexpr int COLUMNS = WAITS ? SLICE : SLICES * SLICE;
constexpr int QUERY_SETS = WAITS && GROUPED > 1 ? 2 : 1;
constexpr int SHARED_QUERIES = (GROUPED + QUERY_SETS - 1) / QUERY_SETS;
constexpr int SHARES = WAITS ? SLICES * QUERY_SETS : 1;
// lanes to a column of the output, and rows to each of them
constexpr int LANES = 8;
constexpr int EACH_ROWS = ROWS / LANES;
// parts that a thread fetches at once, of which two have the same sums
constexpr int BATCH = 8;

// What a warp, and then a block, found of each query: sums of coordinates, and after them total, sum
// of weights, maximum, and maximum of the block's exact vectors, to which their sums are held.
constexpr int SUMS = ROWS + 4;
// of a block, in numbers
constexpr int AT_EXACT_SUMS = GROUPED * SUMS;
constexpr int FOUND = AT_EXACT_SUMS + GROUPED * VALUE_DIM;
// read by the launcher
extern "C" __constant__ const int found_numbers = FOUND;
// in the end, in shared memory: sums of all blocks, of which exact values have some columns
constexpr int JOINED = SHARED_QUERIES * (SUMS + COLUMNS);

// `work` on each of COUNT things, by a block
template <int COUNT, class Work>
__device__ __forceinline__ void each(Work work) {
#pragma unroll
    for (int first = 0; first < COUNT; first += THREADS) {
        const int i = first + static_cast<int>(threadIdx.x);
        if (first + THREADS <= COUNT || i < COUNT) work(i);
    }
}

// [H_kv, room, D]; the first `count` are there, of which a block has every so many-th
struct Exact {
    const void *keys, *values;
    int room, count, part, num_parts;
    __device__ int index(int own) const { return part + num_parts * own; }
    __device__ bool has(int own) const { return index(own) < count; }
    __device__ bool has_room(int own) const { return index(own) < room; }
    __device__ long long place(int head, int own) const {
        return static_cast<long long>(head) * room + index(own);
    }
};

__device__ __forceinline__ void expect(const void* from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// What is needed in the end on its way from memory: own exact vectors, and of the rows that sums of
// coordinates are multiplied by the columns of the block's first slice.
__device__ __forceinline__ void expect_last(const Exact& exact, int head, const float* rows) {
    constexpr int OF_KEY = DIM * (EXACT_KEY_TYPE == 0 ? 4 : 2);
    constexpr int OF_VALUE = VALUE_DIM * (EXACT_VALUE_TYPE == 0 ? 4 : 2);
    const int lane = threadIdx.x % 32, at = lane % 16 * 128;
    const int num_bytes = lane < 16 ? OF_KEY : OF_VALUE;
    const u8* from = static_cast<const u8*>(lane < 16 ? exact.keys : exact.values) + at;
#pragma unroll 1
    for (int own = threadIdx.x / 32; exact.has_room(own); own += WARPS)
        if (at < num_bytes) expect(from + exact.place(head, own) * num_bytes);
    if (exact.part < SHARES) {
        const float* own_rows = rows + exact.part % SLICES * SLICE;
        each<ROWS>([&](int row) { expect(own_rows + row * VALUE_DIM); });
    }
}

// a vector as it is stored, in a warp
constexpr int PER_LANE = (DIM + 31) / 32;
struct Vector {
    u32 numbers[PER_LANE];
};

__device__ __forceinline__ Vector load_key(const Exact& exact, int head, int own) {
    const int lane = threadIdx.x % 32;
    const long long first = exact.place(head, own) * DIM;
    Vector key;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        const int column = lane + 32 * i;
        key.numbers[i] = 0;
        if (column < DIM && exact.has_room(own))
            key.numbers[i] = stored<EXACT_KEY_TYPE>(exact.keys, first + column);
    }
    return key;
}

// Binary logits of the block's own exact vectors, the first key of each warp loaded before.
// [own, GROUPED]
__device__ __forceinline__ void compare_exactly(
    const void* query, const Exact& exact, int head, Vector key, float scaling, float softcap,
    float* logits) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
    for (int own = warp; exact.has(own); own += WARPS) {
        if (own != warp) key = load_key(exact, head, own);
#pragma unroll 4
        for (int q = 0; q < GROUPED; q++) {
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                const int column = lane + 32 * i;
                if (column < DIM)
                    sum += number<QUERY_TYPE>(query, q * DIM + column) *
                           number_of<EXACT_KEY_TYPE>(key.numbers[i]);
            }
#pragma unroll
            for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
            if (lane == 0) logits[own * GROUPED + q] = capped(sum * scaling * LOG2_E, softcap);
        }
    }
}

// a thread's column of some of the block's own exact values, as they are stored
struct ExactValues {
    static constexpr int COUNT = 8;
    u32 numbers[COUNT];
    __device__ __forceinline__ void load(const Exact& exact, int head, int first) {
        long long at = exact.place(head, first) * VALUE_DIM + threadIdx.x % VALUE_DIM;
#pragma unroll
        for (int j = 0; j < COUNT; j++, at += exact.num_parts * VALUE_DIM) {
            numbers[j] = 0;
            if (exact.has(first + j)) numbers[j] = stored<EXACT_VALUE_TYPE>(exact.values, at);
        }
    }
};

// Of each query the maximum of the block's own exact logits, and their total; by a warp. [2, GROUPED]
__device__ __forceinline__ void weigh_exact(
    const Exact& exact, const float* logits, float* states) {
    static_assert(GROUPED <= 32);
    const int q = threadIdx.x % 32;
    if (q >= GROUPED) return;
    float highest = NOTHING, total = 0.f;
#pragma unroll 1
    for (int own = 0; exact.has(own); own++) highest = fmaxf(highest, logits[own * GROUPED + q]);
#pragma unroll 1
    for (int own = 0; exact.has(own); own++) total += exp2_of(logits[own * GROUPED + q] - highest);
    states[q] = highest, states[GROUPED + q] = total;
}

// Weighted sums of the block's own exact values, the first of them loaded before. [GROUPED, VALUE_DIM]
__device__ __forceinline__ void add_exact(
    const Exact& exact, int head, const float* logits, const float* maxima, ExactValues values,
    float* sums) {
    constexpr int COUNT = ExactValues::COUNT, AT_ONCE = THREADS / VALUE_DIM;
    static_assert(AT_ONCE > 0);
    constexpr int PASSES = (GROUPED + AT_ONCE - 1) / AT_ONCE;
    const int column = threadIdx.x % VALUE_DIM, first_query = threadIdx.x / VALUE_DIM;
    float found[PASSES] = {};
#pragma unroll 1
    for (int first = 0; exact.has(first); first += COUNT) {
        if (first) values.load(exact, head, first);
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            if (!exact.has(first + j)) continue;
            const float value = number_of<EXACT_VALUE_TYPE>(values.numbers[j]);
#pragma unroll
            for (int i = 0; i < PASSES; i++) {
                const int q = min(first_query + i * AT_ONCE, GROUPED - 1);
                found[i] += exp2_of(logits[(first + j) * GROUPED + q] - maxima[q]) * value;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        const int q = first_query + i * AT_ONCE;
        if (first_query < AT_ONCE && q < GROUPED) sums[q * VALUE_DIM + column] = found[i];
    }
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
                                               : AT_EXACT_SUMS + q * VALUE_DIM + first_column +
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
