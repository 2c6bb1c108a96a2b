// What the blocks of one KV head found, and the exact vectors, in one softmax. After `softmax.cu`, in
// front of `parts.cu`.
//
// Every block has a part of the packed vectors and every so many-th of the exact ones. It writes what
// it found to memory and says so. Where a card promises to run all blocks at once, the first of a
// head wait until all of them have written, and make slices of 16 columns of the output; elsewhere
// the last one to write makes them all, which takes longer, and none waits.
//
// Set by the launcher, beside what `softmax.cu` wants: DIM, WARPS, EXACT_KEY_TYPE, EXACT_VALUE_TYPE
// (as QUERY_TYPE), WAITS (all blocks run at once).

constexpr int THREADS = WARPS * 32;
constexpr int SLICE = 16;
constexpr int SLICES = (VALUE_DIM + SLICE - 1) / SLICE;
// lanes to a column of the output, and rows to each of them
constexpr int LANES = 8;
constexpr int EACH_ROWS = ROWS / LANES;
// parts that a thread fetches at once
constexpr int BATCH = 16;

// What a block found, in numbers: of each query maximum, total and sum of weights; sums of
// coordinates; sums of exact values.
constexpr int AT_SUMS = (3 * GROUPED + 3) / 4 * 4;
constexpr int AT_EXACT_SUMS = AT_SUMS + GROUPED * ROWS;
constexpr int FOUND = AT_EXACT_SUMS + GROUPED * VALUE_DIM;
// read by the launcher
extern "C" __constant__ const int found_numbers = FOUND;

// in the end, in shared memory: sums of coordinates and of exact values, totals and sums of weights;
// shares of the parts come after them, of whole batches
constexpr int SUMS = GROUPED * (ROWS + SLICE);
constexpr int AT_TOTALS = SUMS;
constexpr int AT_SHARES = AT_TOTALS + 2 * GROUPED;

// [H_kv, room, D]; the first `count` are there, of which a block has its own
struct Exact {
    const void *keys, *values;
    int room, count, part, num_parts;
    __device__ int own_count() const { return (count - part + num_parts - 1) / num_parts; }
    __device__ long long place(int head, int own) const {
        return static_cast<long long>(head) * room + part + num_parts * own;
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
    const int own_room = (exact.room - exact.part + exact.num_parts - 1) / exact.num_parts;
    for (int own = threadIdx.x / 32; own < own_room; own += WARPS)
        if (at < num_bytes) expect(from + exact.place(head, own) * num_bytes);
    if (exact.part >= SLICES) return;
    for (int row = threadIdx.x; row < ROWS; row += THREADS)
        expect(rows + row * VALUE_DIM + exact.part * SLICE);
}

// a vector, in a warp
constexpr int PER_LANE = (DIM + 31) / 32;
struct Vector {
    float numbers[PER_LANE];
};

__device__ __forceinline__ Vector load_key(const Exact& exact, int head, int own) {
    const int lane = threadIdx.x % 32;
    Vector key;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        const int column = lane + 32 * i;
        const bool is_there = column < DIM && exact.part + exact.num_parts * own < exact.room;
        key.numbers[i] =
            is_there ? number<EXACT_KEY_TYPE>(exact.keys, exact.place(head, own) * DIM + column) : 0.f;
    }
    return key;
}

// Binary logits of the block's own exact vectors, the first key of each warp loaded before.
// [GROUPED, own_count]
__device__ __forceinline__ void compare_exactly(
    const void* query, const Exact& exact, int head, Vector key, float scaling, float softcap,
    float* logits) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, count = exact.own_count();
    for (int own = warp; own < count; own += WARPS) {
        if (own != warp) key = load_key(exact, head, own);
#pragma unroll 4
        for (int q = 0; q < GROUPED; q++) {
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                const int column = lane + 32 * i;
                if (column < DIM) sum += number<QUERY_TYPE>(query, q * DIM + column) * key.numbers[i];
            }
#pragma unroll
            for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
            if (lane == 0) logits[q * count + own] = capped(sum * scaling * LOG2_E, softcap);
        }
    }
}

// a thread's column of some of the block's own exact values
struct ExactValues {
    static constexpr int COUNT = 8;
    float numbers[COUNT];
    __device__ __forceinline__ void load(const Exact& exact, int head, int first) {
        const int last = exact.own_count() - 1, column = threadIdx.x % VALUE_DIM;
        if (last < 0) return;
#pragma unroll
        for (int j = 0; j < COUNT; j++)
            numbers[j] = number<EXACT_VALUE_TYPE>(
                exact.values, exact.place(head, min(first + j, last)) * VALUE_DIM + column);
    }
};

// Weighted sums of the block's own exact values, the first of them loaded before. [GROUPED, VALUE_DIM]
__device__ __forceinline__ void add_exact(
    const Exact& exact, int head, const float* weights, ExactValues values, float* sums) {
    constexpr int AT_ONCE = THREADS / VALUE_DIM;
    static_assert(AT_ONCE > 0);
    const int count = exact.own_count(), column = threadIdx.x % VALUE_DIM;
    const int first_query = threadIdx.x / VALUE_DIM;
    float found[(GROUPED + AT_ONCE - 1) / AT_ONCE] = {};
    for (int first = 0; first < count; first += ExactValues::COUNT) {
        if (first) values.load(exact, head, first);
#pragma unroll
        for (int i = 0; i * AT_ONCE < GROUPED; i++) {
            const float* own = weights + min(first_query + i * AT_ONCE, GROUPED - 1) * count + first;
#pragma unroll
            for (int j = 0; j < ExactValues::COUNT; j++)
                if (first + j < count) found[i] += own[j] * values.numbers[j];
        }
    }
#pragma unroll
    for (int i = 0; i * AT_ONCE < GROUPED; i++) {
        const int q = first_query + i * AT_ONCE;
        if (first_query < AT_ONCE && q < GROUPED) sums[q * VALUE_DIM + column] = found[i];
    }
}

#if WAITS
// The block has written what it found. True: it goes on, and all blocks of its head have written. A
// counter is 0 again when the last of those that go on has passed.
__device__ __forceinline__ bool all_have_written(u32* counter, int part, int num_parts) {
    const int joining = min(num_parts, SLICES);
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile(
            "fence.acq_rel.gpu;\n\tred.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(counter)
            : "memory");
        u32 count = 0;
        while (part < joining && count < num_parts)
            asm volatile(
                "ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
        if (part < joining) {
            u32 before;
            asm volatile(
                "atom.relaxed.gpu.global.add.u32 %0, [%1], 1;"
                : "=r"(before) : "l"(counter) : "memory");
            if (before == num_parts + joining - 1) *counter = 0;
        }
    }
    __syncthreads();
    return part < joining;
}
#else
// The block has written what it found. True: it was the last one of its head. A counter is 0 again
// after that.
__device__ __forceinline__ bool all_have_written(u32* counter, int, int num_parts) {
    bool is_last = false;
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 before;
        asm volatile(
            "fence.acq_rel.gpu;\n\tatom.relaxed.gpu.global.add.u32 %0, [%1], 1;\n\t"
            "fence.acq_rel.gpu;"
            : "=r"(before) : "l"(counter) : "memory");
        is_last = before == num_parts - 1;
        if (is_last) *counter = 0;
    }
    return __syncthreads_or(is_last);
}
#endif

__host__ __device__ constexpr int whole_batches(int num_parts) {
    return (num_parts + BATCH - 1) / BATCH * BATCH;
}

// what each part counts among all, and totals: a warp does some queries
__device__ __forceinline__ void weigh_parts(const float* found, int num_parts, float* last) {
    const int lane = threadIdx.x % 32, room = whole_batches(num_parts);
    for (int q = threadIdx.x / 32; q < GROUPED; q += WARPS) {
        // of the first 32 parts, all is fetched before any of it is waited for
        const float* own = found + min(lane, num_parts - 1) * FOUND + q;
        const float maximum = own[0], own_total = own[GROUPED], own_sum = own[2 * GROUPED];
        float highest = maximum, total = 0.f, weight_sum = 0.f;
        for (int part = lane + 32; part < num_parts; part += 32)
            highest = fmaxf(highest, found[part * FOUND + q]);
        for (int step = 16; step; step /= 2)
            highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
        for (int part = lane; part < room; part += 32) {
            const bool is_first = part == lane;
            const float* its = found + min(part, num_parts - 1) * FOUND + q;
            const float own_share = exp2_of((is_first ? maximum : its[0]) - highest);
            const float share = part < num_parts ? own_share : 0.f;
            last[AT_SHARES + q * room + part] = share;
            total += share * (is_first ? own_total : its[GROUPED]);
            weight_sum += share * (is_first ? own_sum : its[2 * GROUPED]);
        }
        for (int step = 16; step; step /= 2) {
            total += __shfl_xor_sync(~0u, total, step);
            weight_sum += __shfl_xor_sync(~0u, weight_sum, step);
        }
        if (lane == 0) last[AT_TOTALS + q] = total, last[AT_TOTALS + GROUPED + q] = weight_sum;
    }
}

// of four sums that stand side by side: the query, and where they are in what a block found
__device__ __forceinline__ int place_of(int item, int slice, int& q) {
    const int i = 4 * item, exact = i - GROUPED * ROWS;
    q = exact < 0 ? i / ROWS : exact / SLICE;
    return exact < 0 ? AT_SUMS + i : AT_EXACT_SUMS + q * VALUE_DIM + slice * SLICE + exact % SLICE;
}

__device__ __forceinline__ void fetch_batch(
    const float* from, int first, int num_parts, float4 (&batch)[BATCH]) {
#pragma unroll
    for (int j = 0; j < BATCH; j++)
        batch[j] = *reinterpret_cast<const float4*>(from + min(first + j, num_parts - 1) * FOUND);
}

// A slice of the outputs of a head. `found`: of its first part; `last`: shared.
__device__ __forceinline__ void join_slice(
    const float* found, int num_parts, int slice, const float* rows, const float* offset, float* last,
    void* out, int head) {
    const int slot = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int column = slice * SLICE + slot % SLICE;
    const bool is_there = column < VALUE_DIM;
    float4 batch[BATCH];
    int q;
    if (threadIdx.x < SUMS / 4)
        fetch_batch(found + place_of(threadIdx.x, slice, q), 0, num_parts, batch);
    float own_rows[EACH_ROWS];
#pragma unroll
    for (int i = 0; i < EACH_ROWS; i++)
        own_rows[i] = is_there ? rows[(lane + LANES * i) * VALUE_DIM + column] : 0.f;
    const float added = is_there ? offset[column] : 0.f;
    weigh_parts(found, num_parts, last);
    __syncthreads();
    for (int item = threadIdx.x; item < SUMS / 4; item += THREADS) {
        const float* from = found + place_of(item, slice, q);
        float4 sum = {};
        for (int first = 0; first < num_parts; first += BATCH) {
            if (first || item >= THREADS) fetch_batch(from, first, num_parts, batch);
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                const float share = last[AT_SHARES + q * whole_batches(num_parts) + first + j];
                sum.x += share * batch[j].x, sum.y += share * batch[j].y;
                sum.z += share * batch[j].z, sum.w += share * batch[j].w;
            }
        }
        reinterpret_cast<float4*>(last)[item] = sum;
    }
    __syncthreads();
    for (q = slot / SLICE; q < GROUPED; q += THREADS / LANES / SLICE) {
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < EACH_ROWS; i++) sum += last[q * ROWS + lane + LANES * i] * own_rows[i];
#pragma unroll
        for (int step = LANES / 2; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        sum += last[GROUPED * ROWS + q * SLICE + slot % SLICE] + last[AT_TOTALS + GROUPED + q] * added;
        const long long vector = head * GROUPED + q;
        if (is_there && lane == 0)
            store<QUERY_TYPE>(out, vector * VALUE_DIM + column, sum / last[AT_TOTALS + q]);
    }
}
