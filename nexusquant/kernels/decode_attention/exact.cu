// The exact vectors: sinks and the newest, as they are. After `softmax.cu`, in front of `join.cu`.
//
// Each block of a KV head has every so many-th of them. Their keys are compared before the tiles, a few
// by the last warps alone, which have the fewest tiles, and their values added up after them.
//
// Set by the launcher, beside what `softmax.cu` wants: DIM, EXACT_KEY_TYPE, EXACT_VALUE_TYPE (as
// QUERY_TYPE).

// So many last warps compare a few vectors: where tiles do not come out even, those have one less.
constexpr int FEW_WARPS = WARPS / 4 + 1;

// [H_kv, room, D]; the first `count` are there, of which a block has every so many-th
struct Exact {
    const void *keys, *values;
    int room, count, part, num_parts;
    __device__ int index(int own) const { return part + num_parts * own; }
    __device__ bool has(int own) const { return index(own) < count; }
    // that compare them
    __device__ int num_warps() const { return has(WARPS) ? WARPS : FEW_WARPS; }
    __device__ bool has_room(int own) const { return index(own) < room; }
    __device__ long long place(int head, int own) const {
        return static_cast<long long>(head) * room + index(own);
    }
};

// the last warp has the first vector
__device__ __forceinline__ int first_exact() { return WARPS - 1 - threadIdx.x / 32; }

// A block's own vectors on their way from memory: they are needed late.
__device__ __forceinline__ void expect_exact(const Exact& exact, int head) {
    constexpr int OF_KEY = DIM * (EXACT_KEY_TYPE == 0 ? 4 : 2);
    constexpr int OF_VALUE = VALUE_DIM * (EXACT_VALUE_TYPE == 0 ? 4 : 2);
    const int lane = threadIdx.x % 32, at = lane % 16 * 128;
    const int num_bytes = lane < 16 ? OF_KEY : OF_VALUE;
    const u8* from = static_cast<const u8*>(lane < 16 ? exact.keys : exact.values) + at;
#pragma unroll 1
    for (int own = threadIdx.x / 32; exact.has_room(own); own += WARPS)
        if (at < num_bytes) expect(from + exact.place(head, own) * num_bytes);
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
    const int lane = threadIdx.x % 32, num_warps = exact.num_warps();
#pragma unroll 1
    for (int own = first_exact(); exact.has(own); own += num_warps) {
        const Vector next = load_key(exact, head, own + num_warps);
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
        key = next;
    }
}

// lanes to a query, where a warp has several for each
__host__ __device__ constexpr int lanes_each(int lanes) {
    return lanes == 1 || lanes * GROUPED <= 32 ? lanes : lanes_each(lanes / 2);
}

// Of each query the maximum of the block's own exact logits, and their total, by a warp. [2, GROUPED]
__device__ __forceinline__ void weigh_exact(
    const Exact& exact, const float* logits, float* of_exact) {
    constexpr int EACH = lanes_each(32);
    const int own = threadIdx.x % EACH;
#pragma unroll 1
    for (int first = 0; first < GROUPED; first += 32 / EACH) {
        const int q = min(first + static_cast<int>(threadIdx.x) % 32 / EACH, GROUPED - 1);
        float highest = NOTHING, total = 0.f;
#pragma unroll 1
        for (int i = own; exact.has(i); i += EACH)
            highest = fmaxf(highest, logits[i * GROUPED + q]);
#pragma unroll
        for (int step = EACH / 2; step; step /= 2)
            highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
#pragma unroll 1
        for (int i = own; exact.has(i); i += EACH)
            total += exp2_of(logits[i * GROUPED + q] - highest);
#pragma unroll
        for (int step = EACH / 2; step; step /= 2) total += __shfl_xor_sync(~0u, total, step);
        if (own == 0) of_exact[q] = highest, of_exact[GROUPED + q] = total;
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

// Weighted sums of the block's own exact values, the first of them loaded before. `of_exact`: see
// `weigh_exact`. [GROUPED, EXACT_ROOM]
__device__ __forceinline__ void add_exact(
    const Exact& exact, int head, const float* logits, const float* of_exact, ExactValues values,
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
                found[i] += exp2_of(logits[(first + j) * GROUPED + q] - of_exact[q]) * value;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        const int q = first_query + i * AT_ONCE;
        if (first_query < AT_ONCE && q < GROUPED) sums[q * EXACT_ROOM + column] = found[i];
    }
}
